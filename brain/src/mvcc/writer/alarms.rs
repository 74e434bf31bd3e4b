//! Alarms: raised by the first write without room, or by hand.

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use prost::Message;

use super::Writer;
use crate::mvcc::alarm::{Alarm, AlarmKind};

impl Writer {
    /// Judges whether `bytes` more may be put.
    ///
    /// # Errors
    /// [`Fault::NoSpace`]; where the quota says so, the alarm is raised in the same batch.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), Fault> {
        if self.shared.share.is_closed() {
            return Err(Fault::NoSpace);
        }
        if !self.shared.share.exceeded_by(bytes) {
            return Ok(());
        }
        let quota = self.shared.share.quota();
        let (used, max) = (quota.used(), quota.bytes_max().unwrap_or(u64::MAX));
        tracing::error!(
            group = %self.shared.group, used, max,
            "the quota is used up, puts are refused: delete keys, compact, then disarm the alarm"
        );
        let alarm = Alarm { member: self.shared.identity().member, kind: AlarmKind::NoSpace };
        let _bound = self.raise_alarm(alarm);
        Err(Fault::NoSpace)
    }

    /// False if it stood already.
    pub(super) fn raise_alarm(&mut self, alarm: Alarm) -> Result<bool, Fault> {
        let raised = self.shared.alarms.raise(alarm)?;
        if raised {
            self.store_alarms();
        }
        Ok(raised)
    }

    /// False if it did not stand.
    pub(super) fn disarm(&mut self, alarm: Alarm) -> bool {
        let disarmed = self.shared.alarms.disarm(alarm);
        if disarmed {
            self.store_alarms();
        }
        disarmed
    }

    fn store_alarms(&mut self) {
        self.shared.share.set_alarmed(self.shared.alarms.has(AlarmKind::NoSpace));
        let (key, row) = (self.shared.layout.alarms(), self.shared.alarms.row());
        match row.alarms.is_empty() {
            true => self.filling.delete(key),
            false => self.filling.put(key, Bytes::from(row.encode_to_vec())),
        }
    }
}
