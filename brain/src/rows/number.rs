//! [`BatchNumber`]: where a batch stands in its group's log.

use std::fmt;

/// Batches are numbered from 1 without gaps, takeovers among them. A revision and a nonce are other numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BatchNumber(pub(crate) u64);

impl BatchNumber {
    /// The one after it.
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The one before it.
    pub(crate) const fn before(self) -> Self {
        Self(self.0 - 1)
    }
}

impl fmt::Display for BatchNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
