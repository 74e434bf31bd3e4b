//! Alarms: raised by the first write without room, or by hand.

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use prost::Message;

use super::task::Writer;
use crate::state::alarm::{Alarm, AlarmKind};

impl Writer {
    /// Judges whether `bytes` more may be put.
    ///
    /// # Errors
    /// [`Fault::NoSpace`]; where the quota says so, the alarm is raised in the same batch.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), Fault> {
        if self.state.share.is_closed() {
            return Err(Fault::NoSpace);
        }
        if !self.state.share.exceeded_by(bytes) {
            return Ok(());
        }
        let quota = self.state.share.quota();
        let (used, max) = (quota.used(), quota.bytes_max().unwrap_or(u64::MAX));
        tracing::error!(
            group = %self.state.group, used, max,
            "the quota is used up, puts are refused: delete keys, compact, then disarm the alarm"
        );
        let alarm = Alarm { member: self.state.identity().member, kind: AlarmKind::NoSpace };
        let _bound = self.raise_alarm(alarm);
        Err(Fault::NoSpace)
    }

    /// False if it stood already.
    pub(super) fn raise_alarm(&mut self, alarm: Alarm) -> Result<bool, Fault> {
        let raised = self.state.alarms.raise(alarm)?;
        if raised {
            self.store_alarms();
        }
        Ok(raised)
    }

    /// False if it did not stand.
    pub(super) fn disarm(&mut self, alarm: Alarm) -> bool {
        let disarmed = self.state.alarms.disarm(alarm);
        if disarmed {
            self.store_alarms();
        }
        disarmed
    }

    fn store_alarms(&mut self) {
        self.state.share.set_alarmed(self.state.alarms.has(AlarmKind::NoSpace));
        let (key, row) = (self.state.layout.alarms(), self.state.alarms.row());
        match row.alarms.is_empty() {
            true => self.filling.delete(key),
            false => self.filling.put(key, Bytes::from(row.encode_to_vec())),
        }
    }
}
