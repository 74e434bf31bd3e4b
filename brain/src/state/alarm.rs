//! [`Alarms`]: what an operator has to look at, until it is disarmed. Kept in one small row of the group.
//!
//! * `NoSpace` is raised by the first write that would pass the quota, or by hand. While it stands, puts, transactions
//!   with puts and new leases are refused; reads, deletions, compaction and the end of leases go on.
//! * `Corrupt` is raised by hand only: one brain has nobody to compare itself with. While it stands, keys and leases are
//!   not changed; reads go on, as in etcd.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use kubebrain_shared::fault::Fault;
use parking_lot::Mutex;

use crate::rows::codec::{AlarmRow, AlarmsRow};

/// A member's name for an alarm is a client's choice: so there is a bound on how many there are.
const ALARMS_MAX: usize = 256;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// The quota is used up.
    NoSpace,
    /// What is stored is not to be trusted.
    Corrupt,
}

/// An alarm that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// The member that it is about.
    pub member: u64,
    /// What is wrong.
    pub kind: AlarmKind,
}

/// Changed by the writer, read by everybody.
#[derive(Debug, Default)]
pub struct Alarms {
    standing: Mutex<BTreeSet<Alarm>>,
    /// Whether one of `Corrupt` stands: every read looks.
    corrupt: AtomicBool,
}

impl AlarmKind {
    const fn number(self) -> u32 {
        match self {
            Self::NoSpace => 1,
            Self::Corrupt => 2,
        }
    }

    fn of(number: u32) -> Option<Self> {
        [Self::NoSpace, Self::Corrupt].into_iter().find(|kind| kind.number() == number)
    }
}

impl Alarms {
    pub(crate) fn of(row: &AlarmsRow) -> Self {
        let alarm = |row: &AlarmRow| Some(Alarm { member: row.member, kind: AlarmKind::of(row.kind)? });
        let standing: BTreeSet<_> = row.alarms.iter().filter_map(alarm).collect();
        let corrupt = standing.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt);
        Self { standing: Mutex::new(standing), corrupt: AtomicBool::new(corrupt) }
    }

    /// Those of a row stand, and no others.
    pub(crate) fn replace(&self, row: &AlarmsRow) {
        let other = Self::of(row);
        let corrupt = other.is_corrupt();
        *self.standing.lock() = other.standing.into_inner();
        self.corrupt.store(corrupt, Ordering::Relaxed);
    }

    pub(crate) fn row(&self) -> AlarmsRow {
        let row = |alarm: &Alarm| AlarmRow { member: alarm.member, kind: alarm.kind.number() };
        AlarmsRow { alarms: self.standing.lock().iter().map(row).collect() }
    }

    /// Those that stand.
    pub fn standing(&self) -> Vec<Alarm> {
        self.standing.lock().iter().copied().collect()
    }

    /// True if one of this kind stands.
    pub fn has(&self, kind: AlarmKind) -> bool {
        self.standing.lock().iter().any(|alarm| alarm.kind == kind)
    }

    /// True if one of [`AlarmKind::Corrupt`] stands.
    pub fn is_corrupt(&self) -> bool {
        self.corrupt.load(Ordering::Relaxed)
    }

    /// False if it stood already.
    ///
    /// # Errors
    /// [`Fault::TooManyRequests`] above the bound.
    pub(crate) fn raise(&self, alarm: Alarm) -> Result<bool, Fault> {
        let mut standing = self.standing.lock();
        if standing.len() >= ALARMS_MAX && !standing.contains(&alarm) {
            return Err(Fault::TooManyRequests);
        }
        if alarm.kind == AlarmKind::Corrupt {
            self.corrupt.store(true, Ordering::Relaxed);
        }
        Ok(standing.insert(alarm))
    }

    /// False if it did not stand.
    pub(crate) fn disarm(&self, alarm: Alarm) -> bool {
        let mut standing = self.standing.lock();
        let stood = standing.remove(&alarm);
        let corrupt = standing.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt);
        self.corrupt.store(corrupt, Ordering::Relaxed);
        stood
    }

    /// Refuses changes of keys and leases while what is there is not to be trusted.
    ///
    /// # Errors
    /// [`Fault::Corrupt`].
    pub(crate) fn trusted(&self) -> Result<(), Fault> {
        match self.is_corrupt() {
            true => Err(Fault::Corrupt),
            false => Ok(()),
        }
    }
}
