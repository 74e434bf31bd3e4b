//! [`Unplaced`]: whom a group waits for that has heard of no placement which names it.

use kubebrain_shared::group::GroupName;
use parking_lot::Mutex;

use crate::decide::held::Held;

/// A sentence for people, as it was said last.
#[derive(Debug, Default)]
pub(crate) struct Unplaced(Mutex<String>);

impl Unplaced {
    /// Why nothing is served by what is held; `None` where something may be.
    pub(crate) fn why(&self, held: &Held, group: &GroupName) -> Option<String> {
        if held.names(group) {
            return None;
        }
        let waits = self.0.lock().clone();
        Some(match held.document().number() {
            _ if !waits.is_empty() => waits,
            0 => format!("group {group} has no placement yet"),
            number => {
                format!(
                    "placement number {number} does not name group {group}: it serves nothing until one does"
                )
            }
        })
    }

    /// True where that is news.
    pub(crate) fn says(&self, what: &str) -> bool {
        let mut said = self.0.lock();
        let is_news = *said != what;
        what.clone_into(&mut said);
        is_news
    }
}
