//! [`Unplaced`]: whom a group waits for that has heard of no placement which names it.

use parking_lot::Mutex;

use super::group::GroupState;

/// A sentence for people, as it was said last.
#[derive(Debug, Default)]
pub(crate) struct Unplaced(Mutex<String>);

impl GroupState {
    /// Why nothing is served, for people; `None` of a group that a placement names, or that goes by what is recorded as its
    /// own.
    pub fn unplaced(&self) -> Option<String> {
        let held = self.held.load();
        if held.names(&self.group) {
            return None;
        }
        let waits = self.unplaced.0.lock().clone();
        Some(match held.document().number() {
            _ if !waits.is_empty() => waits,
            0 => format!("group {} has no placement yet", self.group),
            number => format!(
                "placement number {number} does not name group {}: it serves nothing until one does",
                self.group
            ),
        })
    }

    /// It waits for this, as a sentence; true where that is news.
    pub fn waits_for(&self, what: &str) -> bool {
        let mut said = self.unplaced.0.lock();
        let is_news = *said != what;
        what.clone_into(&mut said);
        is_news
    }
}
