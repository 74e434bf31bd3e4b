//! [`Merge`]: the events of several groups, put into the order of their revisions.
//!
//! Plain state: no I/O, no time. A lane's events arrive in order and its closed revision never falls. Nothing above the
//! watermark leaves, because a lane that is behind may still bring something below it.

use std::collections::VecDeque;

use bytes::Bytes;
use kubebrain_shared::revision::Revision;

/// The lanes of one watcher.
#[derive(Debug)]
pub(super) struct Merge {
    lanes: Vec<Lane>,
    /// Planted fault: events leave as they arrive.
    unordered: bool,
}

#[derive(Debug)]
struct Lane {
    closed: Revision,
    events: VecDeque<(Revision, Bytes)>,
    bytes: usize,
}

/// Whole revisions, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) events: Vec<Bytes>,
    /// Everything at or below it has left with or before this batch.
    pub(super) revision: Revision,
}

impl Merge {
    /// All lanes begin with `closed`: what is at or below it is not wanted.
    pub(super) fn new(lanes: usize, closed: Revision, unordered: bool) -> Self {
        let lane = || Lane { closed, events: VecDeque::new(), bytes: 0 };
        Self { lanes: std::iter::repeat_with(lane).take(lanes).collect(), unordered }
    }

    /// Goes on with other lanes: each from what it has closed, and with events that wait. A lane behind them all keeps what
    /// waits of lanes that there are no more.
    pub(super) fn resume(
        lanes: Vec<(Revision, VecDeque<(Revision, Bytes)>)>,
        gone: Vec<(Revision, Bytes)>,
    ) -> Self {
        let lane = |(closed, mut events): (Revision, VecDeque<(Revision, Bytes)>)| {
            events.retain(|(revision, _)| *revision <= closed); // the rest comes again
            Lane { closed, bytes: events.iter().map(|(_, event)| event.len()).sum(), events }
        };
        let mut lanes: Vec<Lane> = lanes.into_iter().map(lane).collect();
        if !gone.is_empty() {
            lanes.push(lane((Revision::MAX, gone.into())));
        }
        Self { lanes, unordered: false }
    }

    /// What waits of one lane.
    pub(super) fn take_events(&mut self, lane: usize) -> VecDeque<(Revision, Bytes)> {
        self.lanes.get_mut(lane).map(|lane| std::mem::take(&mut lane.events)).unwrap_or_default()
    }

    /// Events of one lane, in order; what they close is said by [`Merge::close`].
    pub(super) fn push(&mut self, lane: usize, events: Vec<(Revision, Bytes)>) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.bytes += events.iter().map(|(_, event)| event.len()).sum::<usize>();
            lane.events.extend(events);
        }
    }

    /// Nothing at or below `closed` will arrive on this lane.
    pub(super) fn close(&mut self, lane: usize, closed: Revision) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.closed = lane.closed.max(closed);
        }
    }

    /// What every lane has closed.
    pub(super) fn watermark(&self) -> Revision {
        let closed = self.lanes.iter().map(|lane| lane.closed);
        if self.unordered { closed.max() } else { closed.min() }.unwrap_or_default()
    }

    /// Everything at or below it has left.
    pub(super) fn delivered(&self) -> Revision {
        let watermark = self.watermark();
        self.next().filter(|next| *next <= watermark).map_or(watermark, Revision::previous)
    }

    /// The next revisions at or below the watermark, about `bytes_max` of them.
    pub(super) fn take(&mut self, bytes_max: usize) -> Option<Batch> {
        let watermark = self.watermark();
        let mut batch = Batch { events: Vec::new(), revision: Revision::ZERO };
        let mut bytes = 0;
        while let Some(next) = self.next().filter(|next| *next <= watermark)
            && bytes < bytes_max
        {
            batch.revision = next;
            for lane in &mut self.lanes {
                while let Some((_, event)) = lane.events.pop_front_if(|(revision, _)| *revision == next) {
                    bytes += event.len();
                    lane.bytes -= event.len();
                    batch.events.push(event);
                }
            }
        }
        if batch.events.is_empty() {
            return None;
        }
        batch.revision = batch.revision.max(self.delivered());
        Some(batch)
    }

    /// True if [`Merge::take`] has something.
    pub(super) fn has_batch(&self) -> bool {
        self.next().is_some_and(|next| next <= self.watermark())
    }

    /// The highest revision that waits for the watermark.
    pub(super) fn waiting(&self) -> Option<Revision> {
        self.lanes.iter().filter_map(|lane| lane.events.back()).map(|(revision, _)| *revision).max()
    }

    /// The lanes that have not closed `revision`.
    pub(super) fn behind(&self, revision: Revision) -> impl Iterator<Item = usize> {
        let behind = self.lanes.iter().enumerate().filter(move |(_, lane)| lane.closed < revision);
        behind.map(|(index, _)| index)
    }

    /// True while this lane may be read: the slowest lane's events never wait, so somebody always may.
    pub(super) fn has_room(&self, lane: usize, bytes_max: usize) -> bool {
        self.lanes.get(lane).is_some_and(|lane| lane.bytes < bytes_max)
    }

    fn next(&self) -> Option<Revision> {
        self.lanes.iter().filter_map(|lane| lane.events.front()).map(|(revision, _)| *revision).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn r(revision: u64) -> Revision {
        Revision::new(revision)
    }

    #[test]
    fn equal_revisions_of_two_lanes_leave_together() {
        let mut merge = Merge::new(2, r(1), false);
        merge.push(0, vec![(r(2), "a2".into()), (r(5), "a5".into())]);
        merge.close(0, r(5));
        assert_eq!((merge.take(1000), merge.watermark(), merge.waiting()), (None, r(1), Some(r(5))));
        assert_eq!(merge.behind(r(5)).collect::<Vec<_>>(), [1]);
        merge.push(1, vec![(r(5), "b5".into())]);
        merge.close(1, r(5));
        let batch = Batch { events: vec!["a2".into(), "a5".into(), "b5".into()], revision: r(5) };
        assert_eq!(merge.take(1000), Some(batch));
        assert_eq!((merge.delivered(), merge.waiting()), (r(5), None));
    }

    #[test]
    fn a_batch_ends_between_revisions() {
        let mut merge = Merge::new(1, r(0), false);
        merge.push(0, vec![(r(1), "xxxx".into()), (r(1), "yyyy".into()), (r(2), "z".into())]);
        merge.close(0, r(9));
        assert_eq!(merge.take(1).map(|batch| (batch.events.len(), batch.revision)), Some((2, r(1))));
        assert_eq!(merge.delivered(), r(1));
        assert_eq!(merge.take(1).map(|batch| (batch.events.len(), batch.revision)), Some((1, r(9))));
    }

    proptest! {
        /// Each lane's history is fixed; how it arrives is not.
        #[test]
        fn any_interleaving_gives_the_one_order(
            history in prop::collection::vec((0_usize..3, 1_u64..3), 1..60),
            steps in prop::collection::vec((0_usize..3, 1_usize..4, any::<bool>()), 0..200),
        ) {
            let mut revision = 1;
            let mut lanes = vec![VecDeque::new(); 3];
            let mut whole = Vec::new();
            for (index, (lane, gap)) in history.iter().enumerate() {
                revision += gap - 1; // 0: the same revision in another lane
                let event = Bytes::from(format!("{index}"));
                lanes[*lane].push_back((r(revision), event.clone()));
                whole.push((revision, *lane, index));
            }
            whole.sort();
            let last = revision;
            let mut merge = Merge::new(3, r(0), false);
            let mut seen: Vec<usize> = Vec::new();
            let drain = |merge: &mut Merge, seen: &mut Vec<usize>| {
                while let Some(batch) = merge.take(3) {
                    seen.extend(batch.events.iter().map(|event| std::str::from_utf8(event).expect("digits").parse::<usize>().expect("digits")));
                    let due = whole.iter().filter(|(revision, ..)| r(*revision) <= batch.revision).count();
                    assert_eq!(seen.len(), due, "a batch says how far it goes, and goes that far");
                    assert!(batch.revision <= merge.watermark());
                }
            };
            for (lane, count, idle) in steps {
                let mut events = Vec::new();
                while let Some(next) = lanes[lane].front().map(|(revision, _)| *revision) {
                    if events.len() >= count { break }
                    // a response holds whole revisions
                    while let Some(event) = lanes[lane].pop_front_if(|(revision, _)| *revision == next) {
                        events.push(event);
                    }
                }
                let closed = events.last().map(|(revision, _)| *revision);
                merge.push(lane, events);
                if let Some(closed) = closed { merge.close(lane, closed) }
                if idle {
                    let next = lanes[lane].front().map_or(r(last), |(revision, _)| revision.previous());
                    merge.close(lane, next);
                }
                drain(&mut merge, &mut seen);
            }
            for (lane, rest) in lanes.iter_mut().enumerate() {
                let events: Vec<_> = rest.drain(..).collect();
                merge.push(lane, events);
                merge.close(lane, r(last));
            }
            drain(&mut merge, &mut seen);
            let expected: Vec<usize> = whole.iter().map(|(_, _, index)| *index).collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
