//! [`Pins`]: revisions that reads are at, whose versions the sweep leaves alone.

use std::collections::BTreeMap;

use kubebrain_shared::revision::Revision;
use parking_lot::Mutex;

/// How many reads are at each revision.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<BTreeMap<u64, usize>>);

/// A revision whose versions stay while this lives.
#[derive(Debug)]
pub struct Pin<'a> {
    pins: &'a Pins,
    revision: u64,
}

impl Pins {
    /// Pins the revision that `choose` gives. It is called under the lock that [`Self::lowest_or`] takes, so whatever is
    /// swept meanwhile was chosen to be swept before.
    pub(crate) fn pin(&self, choose: impl FnOnce() -> u64) -> Pin<'_> {
        let mut pins = self.0.lock();
        let revision = choose();
        *pins.entry(revision).or_default() += 1;
        Pin { pins: self, revision }
    }

    /// What `choose` gives, or the lowest pinned revision where that is lower.
    pub(crate) fn lowest_or(&self, choose: impl FnOnce() -> u64) -> u64 {
        let pins = self.0.lock();
        let chosen = choose();
        pins.first_key_value().map_or(chosen, |(pinned, _)| chosen.min(*pinned))
    }
}

impl Pin<'_> {
    /// The pinned revision.
    pub const fn revision(&self) -> Revision {
        Revision::new(self.revision)
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut pins = self.pins.0.lock();
        if let Some(count) = pins.get_mut(&self.revision) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.revision);
            }
        }
    }
}
