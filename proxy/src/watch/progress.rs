//! [`Manual`]: a client's question for the progress of its whole stream.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use kubebrain_shared::revision::Revision;
use tokio::time::{Sleep, sleep};

/// How long watchers that have answered are held back for those that have not, so that both stand at one revision.
/// Once per question: a stuck group costs the others no more than this.
const HOLD: Duration = Duration::from_millis(100);

/// A question under way.
pub(super) struct Manual {
    /// Every watcher has to close this first.
    pub(super) target: Revision,
    /// It was asked again meanwhile.
    pub(super) again: bool,
    hold: Option<Pin<Box<Sleep>>>,
}

/// How far one watcher is, for an answer about progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct WatcherProgress {
    /// Where its client wants to begin; zero for now.
    pub(super) named: Revision,
    pub(super) delivered: Revision,
    pub(super) told: Revision,
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Somebody has not closed this yet.
    Wait(Revision),
    /// No answer: there is no watcher, or one was to begin above.
    Drop,
    Answer(Revision),
}

impl Manual {
    pub(super) fn new(target: Revision) -> Self {
        Self { target, again: false, hold: Some(Box::pin(sleep(HOLD))) }
    }

    pub(super) fn is_holding(&self) -> bool {
        self.hold.is_some()
    }

    /// True when the hold has just ended.
    pub(super) fn poll_hold(&mut self, cx: &mut Context<'_>) -> bool {
        let over = self.hold.as_mut().is_some_and(|hold| matches!(hold.as_mut().poll(cx), Poll::Ready(())));
        if over {
            self.hold = None;
        }
        over
    }
}

/// The least that every watcher stands at, if that is at least what was asked for and what any of them was told: an
/// answer that is below what one watcher knows already would go back for it.
pub(super) fn judge(target: Revision, watchers: impl IntoIterator<Item = WatcherProgress>) -> Verdict {
    let mut all = watchers.into_iter();
    let Some(first) = all.next() else { return Verdict::Drop };
    let together = all.fold(first, |all, one| WatcherProgress {
        named: all.named.max(one.named),
        delivered: all.delivered.min(one.delivered),
        told: all.told.max(one.told),
    });
    let needed = target.max(together.told);
    if together.delivered < needed {
        Verdict::Wait(needed)
    } else if together.delivered < together.named {
        Verdict::Drop
    } else {
        Verdict::Answer(together.delivered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_the_least_of_all_and_never_below_what_one_was_told() {
        let r = Revision::new;
        let watcher = |named, delivered, told| WatcherProgress {
            named: r(named),
            delivered: r(delivered),
            told: r(told),
        };
        for (name, target, watchers, expected) in [
            ("no watcher", 5, vec![], Verdict::Drop),
            ("one behind", 5, vec![watcher(1, 9, 9), watcher(1, 4, 4)], Verdict::Wait(r(9))),
            ("not asked for more", 5, vec![watcher(1, 7, 3), watcher(1, 5, 4)], Verdict::Answer(r(5))),
            ("one was told more", 5, vec![watcher(1, 8, 8), watcher(1, 6, 2)], Verdict::Wait(r(8))),
            ("one begins above", 5, vec![watcher(6, 5, 0), watcher(1, 5, 5)], Verdict::Drop),
            ("all begin now", 5, vec![watcher(0, 5, 0), watcher(0, 5, 0)], Verdict::Answer(r(5))),
            ("now was before", 7, vec![watcher(0, 5, 0)], Verdict::Wait(r(7))),
            (
                "one has begun since it was asked",
                5,
                vec![watcher(1, 5, 5), watcher(0, 7, 7)],
                Verdict::Wait(r(7)),
            ),
            ("one now, one above", 5, vec![watcher(0, 5, 0), watcher(6, 5, 0)], Verdict::Drop),
            (
                "not created yet counts as start - 1",
                5,
                vec![watcher(4, 3, 0), watcher(1, 9, 0)],
                Verdict::Wait(r(5)),
            ),
        ] {
            assert_eq!(judge(r(target), watchers), expected, "{name}");
        }
    }
}
