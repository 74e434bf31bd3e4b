//! [`Revision`]: a group's logical clock value.

use std::fmt;

/// A revision of one group: every write gets the next one. Always in `1 ..= Revision::MAX` where a store has one;
/// [`Revision::ZERO`] stands for "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// Below every revision that a store has.
    pub const ZERO: Self = Self(0);
    /// Of an empty store, as in etcd.
    pub const INITIAL: Self = Self(1);
    /// A floor above this is absurd and refused: 2^62 leaves room to count on for ever.
    pub const MAX: Self = Self(1 << 62);

    /// From an integer that is known to be in range.
    pub const fn new(value: u64) -> Self {
        debug_assert!(value <= Self::MAX.0);
        Self(value)
    }

    /// From a number on the wire; `None` if it is negative or absurd.
    pub fn checked_from(value: i64) -> Option<Self> {
        u64::try_from(value).ok().map(Self).filter(|revision| *revision <= Self::MAX)
    }

    /// The following revision.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The one before; [`Revision::ZERO`] has none and stays.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// As an integer.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// As on the wire.
    pub const fn to_wire(self) -> i64 {
        self.0.cast_signed()
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}
