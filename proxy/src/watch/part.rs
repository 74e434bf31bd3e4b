//! [`PartId`]: what a watcher's part is called on the stream to its group. What its client calls the watcher is another
//! number.

/// Never used again on the same stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PartId(i64);

impl PartId {
    /// The part that a brain knows by this watch id.
    pub(super) const fn from_wire(watch_id: i64) -> Self {
        Self(watch_id)
    }

    /// The watch id that a brain is told.
    pub(super) const fn to_wire(self) -> i64 {
        self.0
    }

    /// The one after it.
    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
