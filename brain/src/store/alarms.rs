//! Alarms, raised and ended by hand.

use kubebrain_shared::fault::Fault;

use super::Store;
use crate::lead::command::Command;
use crate::state::alarm::Alarm;

impl Store {
    /// Alarms that stand.
    pub fn alarms(&self) -> Vec<Alarm> {
        self.state.alarms.standing()
    }

    /// Raises an alarm, durably. False if it stood already.
    ///
    /// # Errors
    /// [`Fault::TooManyRequests`] above the bound on alarms, [`Fault::Timeout`].
    pub async fn raise_alarm(&self, alarm: Alarm) -> Result<bool, Fault> {
        self.ask(|reply| Command::Raise { alarm, reply }).await
    }

    /// Ends an alarm, durably. False if it did not stand. Where its cause stays, the next write raises it again.
    ///
    /// # Errors
    /// [`Fault::Timeout`].
    pub async fn disarm(&self, alarm: Alarm) -> Result<bool, Fault> {
        self.ask(|reply| Command::Disarm { alarm, reply }).await
    }
}
