//! [`Window`]: the most recent events of a group, whole revisions, bounded in bytes.

use std::collections::VecDeque;

use super::event::{Event, RevisionEvents};

/// What a cursor finds.
#[derive(Debug)]
pub(crate) enum Replay {
    /// The events from the asked revision on that are kept, oldest first. Empty: nothing since.
    Events(Vec<RevisionEvents>),
    /// The asked revision has left the window: the reader goes to history.
    Evicted,
}

/// The most recent events, as many as fit into its bytes.
#[derive(Debug)]
pub(crate) struct Window {
    recent: VecDeque<RevisionEvents>,
    bytes: usize,
    bytes_max: usize,
    /// Every event from this revision on is here.
    from: u64,
}

impl Window {
    /// Empty, for events above `closed`.
    pub(crate) fn new(bytes_max: usize, closed: u64) -> Self {
        Self { recent: VecDeque::new(), bytes: 0, bytes_max, from: closed + 1 }
    }

    /// Adds the next revision.
    pub(crate) fn push(&mut self, events: RevisionEvents) {
        debug_assert!(self.recent.back().is_none_or(|last| last.revision < events.revision));
        self.bytes += size(&events);
        self.recent.push_back(events);
        while self.bytes > self.bytes_max && self.recent.len() > 1 {
            if let Some(oldest) = self.recent.pop_front() {
                self.bytes -= size(&oldest);
                self.from = oldest.revision + 1;
            }
        }
    }

    /// Bytes of the events that are kept.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Events at or above `revision` that `wanted` keeps, at most about `bytes_max` of them and whole revisions.
    /// The number is the revision to go on from.
    pub(crate) fn replay(
        &self,
        revision: u64,
        bytes_max: usize,
        mut wanted: impl FnMut(u64, &Event) -> bool,
    ) -> (Replay, u64) {
        if revision < self.from {
            return (Replay::Evicted, revision);
        }
        let start = self.recent.partition_point(|events| events.revision < revision);
        let (mut found, mut bytes, mut next) = (Vec::new(), 0, revision);
        for events in self.recent.range(start..) {
            if bytes >= bytes_max {
                break;
            }
            next = events.revision + 1;
            let before = bytes;
            bytes += events
                .events
                .iter()
                .filter(|event| wanted(events.revision, event))
                .map(Event::bytes)
                .sum::<usize>();
            if bytes > before {
                found.push(events.clone());
            }
        }
        let end = self.recent.back().map_or(revision, |last| last.revision + 1);
        (Replay::Events(found), if bytes < bytes_max { next.max(end).max(revision) } else { next })
    }

    /// The revision after the newest event.
    pub(crate) fn end(&self) -> u64 {
        self.recent.back().map_or(self.from, |last| last.revision + 1)
    }
}

fn size(events: &RevisionEvents) -> usize {
    events.events.iter().map(Event::bytes).sum::<usize>() + 64
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::events::event::Prior;

    fn event(key: &'static str) -> Event {
        let key = Bytes::from_static(key.as_bytes());
        Event { kv: key.clone(), key, deleted: false, prior: Prior::None }
    }

    fn window(bytes_max: usize) -> Window {
        let mut window = Window::new(bytes_max, 1);
        for (revision, key) in [(2, "a"), (3, "b"), (5, "a")] {
            window.push(RevisionEvents { revision, events: [event(key)].into() });
        }
        window
    }

    fn revisions(replay: Replay) -> Option<Vec<u64>> {
        match replay {
            Replay::Events(events) => Some(events.iter().map(|events| events.revision).collect()),
            Replay::Evicted => None,
        }
    }

    #[test]
    fn a_cursor_reads_on_from_where_it_was() {
        let window = window(1 << 20);
        let (replay, next) = window.replay(2, 1, |_, event| event.key == "a");
        assert_eq!((revisions(replay), next), (Some(vec![2]), 3));
        let (replay, next) = window.replay(3, 1 << 20, |_, event| event.key == "a");
        assert_eq!((revisions(replay), next), (Some(vec![5]), 6));
        let (replay, next) = window.replay(6, 1, |_, _| true);
        assert_eq!((revisions(replay), next), (Some(vec![]), 6));
        let (replay, next) = window.replay(9, 1, |_, _| true);
        assert_eq!((revisions(replay), next), (Some(vec![]), 9), "a cursor in the future stays there");
    }

    #[test]
    fn what_has_left_is_said_to_be_evicted() {
        let window = window(1);
        assert_eq!(window.from, 4);
        assert_eq!(revisions(window.replay(3, 1, |_, _| true).0), None);
        assert_eq!(revisions(window.replay(4, 1, |_, _| true).0), Some(vec![5]));
    }
}
