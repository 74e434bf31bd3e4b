//! [`Window`]: the most recent events of a group, whole revisions, bounded in bytes.
//!
//! Each natural kind has a lane of its own, and where there is no room those of the kind with the most bytes go first. So no
//! kind pushes out another one that has less than an eighth of the window, as long as eight have more: a flood of events
//! sends slow watchers of events to history, and nobody else.
//!
//! Invariants: of each kind the events from some revision on are here, all of them; a revision that changed several kinds
//! is in the lane of each.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use kubebrain_shared::placement;
use kubebrain_shared::range::KeyRange;

use super::event::{Event, RevisionEvents};

/// Kinds with a lane of their own. The others share one.
const LANES_MAX: usize = 256;

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
    /// What all kinds begin with, without the slash.
    prefix: Bytes,
    /// Their keys.
    kinds: KeyRange,
    /// By what the kind's keys begin with behind the prefix; empty for keys outside of it.
    places: HashMap<Bytes, usize>,
    /// The first one is of the kinds that have none of their own.
    lanes: Vec<Lane>,
    bytes: usize,
    bytes_max: usize,
    /// Nothing before this was ever here.
    begun: u64,
    /// The revision after the newest event.
    end: u64,
}

#[derive(Debug)]
struct Lane {
    recent: VecDeque<RevisionEvents>,
    bytes: usize,
    /// Every event of its kinds from this revision on is here.
    from: u64,
}

/// Which lanes have the events of a range.
#[derive(Clone, Copy)]
enum Scope {
    /// None yet: no event of the kind was here.
    Nothing,
    Lane(usize),
    All,
}

impl Window {
    /// Empty, for events above `closed`, with Kubernetes' usual prefix.
    pub(crate) fn new(bytes_max: usize, closed: u64) -> Self {
        Self::of(Bytes::from_static(b"/registry"), bytes_max, closed)
    }

    fn of(prefix: Bytes, bytes_max: usize, closed: u64) -> Self {
        let begun = closed + 1;
        Self {
            kinds: KeyRange::prefix([&prefix[..], b"/"].concat().into()),
            prefix,
            places: HashMap::new(),
            lanes: vec![Lane::new(begun)],
            bytes: 0,
            bytes_max,
            begun,
            end: begun,
        }
    }

    /// Begins anew after `closed`.
    pub(crate) fn reset(&mut self, bytes_max: usize, closed: u64) {
        *self = Self::of(self.prefix.clone(), bytes_max, closed);
    }

    /// Kinds begin with this from now on, without the slash.
    pub(crate) fn set_prefix(&mut self, prefix: &Bytes) {
        if self.prefix == *prefix {
            return;
        }
        let (from, end) = (self.from(Scope::All), self.end);
        let kept: Vec<_> = self.merged(Scope::All, from).cloned().collect();
        *self = Self::of(prefix.clone(), self.bytes_max, from - 1);
        kept.into_iter().for_each(|events| self.push(events));
        self.end = end;
    }

    /// Adds the next revision.
    pub(crate) fn push(&mut self, events: RevisionEvents) {
        debug_assert!(self.end <= events.revision);
        self.end = events.revision + 1;
        let mut places: Vec<usize> = Vec::with_capacity(1);
        for event in events.events.iter() {
            let place = self.place_of(&event.key);
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let size = size(&events);
        for place in places {
            let lane = &mut self.lanes[place];
            lane.recent.push_back(events.clone());
            lane.bytes += size;
            self.bytes += size;
        }
        while self.bytes > self.bytes_max
            && let Some(lane) = self.lanes.iter_mut().max_by_key(|lane| lane.bytes)
            && lane.recent.len() > 1
            && let Some(oldest) = lane.recent.pop_front()
        {
            let size = self::size(&oldest);
            lane.bytes -= size;
            lane.from = oldest.revision + 1;
            self.bytes -= size;
        }
    }

    /// Bytes of the events that are kept.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Events of `keys` at or above `revision` that `wanted` keeps, at most about `bytes_max` of them and whole revisions.
    /// The number is the revision to go on from.
    pub(crate) fn replay(
        &self,
        keys: &KeyRange,
        revision: u64,
        bytes_max: usize,
        mut wanted: impl FnMut(u64, &Event) -> bool,
    ) -> (Replay, u64) {
        let scope = self.scope(keys);
        if revision < self.from(scope) {
            return (Replay::Evicted, revision);
        }
        let (mut found, mut bytes, mut next) = (Vec::new(), 0, revision);
        for events in self.merged(scope, revision) {
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
        (Replay::Events(found), if bytes < bytes_max { next.max(self.end) } else { next })
    }

    /// The revision after the newest event.
    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// Every event of the scope from this revision on is here.
    fn from(&self, scope: Scope) -> u64 {
        match scope {
            Scope::Nothing => self.begun,
            Scope::Lane(place) => self.lanes[place].from,
            Scope::All => self.lanes.iter().map(|lane| lane.from).max().unwrap_or(self.begun),
        }
    }

    /// What lies in the scope, by revision, each once.
    fn merged(&self, scope: Scope, revision: u64) -> impl Iterator<Item = &RevisionEvents> {
        let lanes = match scope {
            Scope::Nothing => &[],
            Scope::Lane(place) => &self.lanes[place..=place],
            Scope::All => &self.lanes[..],
        };
        let has_more = |lane: &&Lane| lane.recent.back().is_some_and(|last| last.revision >= revision);
        let since = |lane: &'_ Lane| lane.recent.partition_point(|events| events.revision < revision);
        let mut heads: Vec<_> =
            lanes.iter().filter(has_more).map(|lane| lane.recent.range(since(lane)..).peekable()).collect();
        std::iter::from_fn(move || {
            if let [only] = &mut heads[..] {
                return only.next(); // the most frequent case by far
            }
            let next = heads.iter_mut().filter_map(|head| head.peek().map(|events| events.revision)).min()?;
            let mut found = None;
            for head in &mut heads {
                found = head.next_if(|events| events.revision == next).or(found);
            }
            found
        })
    }

    fn scope(&self, keys: &KeyRange) -> Scope {
        let lane = |kind: &[u8]| match self.places.get(kind) {
            Some(place) => Scope::Lane(*place),
            None if self.places.len() >= LANES_MAX => Scope::Lane(0),
            None => Scope::Nothing,
        };
        match placement::natural_of(&self.prefix, keys) {
            Some(natural) => lane(natural.name),
            None if !self.kinds.intersects(keys) => lane(b""),
            None => Scope::All,
        }
    }

    fn place_of(&mut self, key: &[u8]) -> usize {
        let kind = placement::natural(&self.prefix, key).map_or(&b""[..], |natural| natural.name);
        if let Some(place) = self.places.get(kind) {
            return *place;
        }
        if self.places.len() >= LANES_MAX {
            return 0;
        }
        self.lanes.push(Lane::new(self.begun));
        self.places.insert(Bytes::copy_from_slice(kind), self.lanes.len() - 1);
        self.lanes.len() - 1
    }
}

impl Lane {
    const fn new(begun: u64) -> Self {
        Self { recent: VecDeque::new(), bytes: 0, from: begun }
    }
}

fn size(events: &RevisionEvents) -> usize {
    events.events.iter().map(Event::bytes).sum::<usize>() + 64
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

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

    fn replayed(
        window: &Window,
        revision: u64,
        bytes_max: usize,
        wanted: impl FnMut(u64, &Event) -> bool,
    ) -> (Replay, u64) {
        window.replay(&KeyRange::ALL, revision, bytes_max, wanted)
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
        let (replay, next) = replayed(&window, 2, 1, |_, event| event.key == "a");
        assert_eq!((revisions(replay), next), (Some(vec![2]), 3));
        let (replay, next) = replayed(&window, 3, 1 << 20, |_, event| event.key == "a");
        assert_eq!((revisions(replay), next), (Some(vec![5]), 6));
        let (replay, next) = replayed(&window, 6, 1, |_, _| true);
        assert_eq!((revisions(replay), next), (Some(vec![]), 6));
        let (replay, next) = replayed(&window, 9, 1, |_, _| true);
        assert_eq!((revisions(replay), next), (Some(vec![]), 9), "a cursor in the future stays there");
    }

    #[test]
    fn what_has_left_is_said_to_be_evicted() {
        let window = window(1);
        assert_eq!(window.from(Scope::All), 4);
        assert_eq!(revisions(replayed(&window, 3, 1, |_, _| true).0), None);
        assert_eq!(revisions(replayed(&window, 4, 1, |_, _| true).0), Some(vec![5]));
    }

    fn keys(kind: usize) -> KeyRange {
        match kind {
            0 => KeyRange::prefix(Bytes::from_static(b"mine/")),
            kind => KeyRange::prefix(format!("/registry/kind{kind}/").into()),
        }
    }

    fn changed(revision: u64, kinds: &[usize], bytes: usize) -> RevisionEvents {
        let event = |kind: &usize| {
            let key: Bytes = [&keys(*kind).start()[..], b"x"].concat().into();
            Event { kv: vec![0; bytes].into(), key, deleted: false, prior: Prior::None }
        };
        RevisionEvents { revision, events: kinds.iter().map(event).collect() }
    }

    #[test]
    fn a_flood_of_one_kind_leaves_the_others_what_they_have() {
        let mut window = Window::new(64 << 10, 0);
        window.push(changed(1, &[1], 4 << 10));
        window.push(changed(2, &[2], 1));
        (3..1000).for_each(|revision| window.push(changed(revision, &[3], 1 << 10)));
        let of = |kind| revisions(window.replay(&keys(kind), 1, 1 << 20, |_, _| true).0);
        assert_eq!(of(3), None);
        // What others watch is passed by, not scanned: the events of the flood are not among them.
        assert_eq!((of(1), of(2), of(4)), (Some(vec![1]), Some(vec![2]), Some(vec![])));
        assert_eq!(revisions(replayed(&window, 1, 1 << 20, |_, _| true).0), None, "of all there are not all");
        let before = of_all(&window);
        window.set_prefix(&Bytes::from_static(b"/elsewhere"));
        assert_eq!((of_all(&window), window.end()), (before, 1000));
        let of = |kind| revisions(window.replay(&keys(kind), 1, 1 << 20, |_, _| true).0);
        assert_eq!((of(1), of(2)), (None, None), "all of them are outside now, in one lane");
    }

    fn of_all(window: &Window) -> Option<Vec<u64>> {
        revisions(replayed(window, window.from(Scope::All), 1 << 20, |_, _| true).0)
    }

    #[test]
    fn kinds_beyond_those_with_a_lane_share_one() {
        let mut window = Window::new(1 << 20, 0);
        let last = 2 * LANES_MAX;
        (1..=last).for_each(|kind| window.push(changed(kind as u64, &[kind], 1)));
        for kind in [1, last / 2, last - 1, last] {
            let wanted = keys(kind);
            let found = window.replay(&wanted, 1, 1 << 20, |_, event| wanted.contains(&event.key)).0;
            assert_eq!(revisions(found), Some(vec![kind as u64]));
        }
        assert_eq!(window.lanes.len(), LANES_MAX + 1);
        assert_eq!(of_all(&window).map(|all| all.len()), Some(last));
    }

    proptest! {
        /// A cursor finds all of its events or that they are gone; and gone they are only where the kind has its share.
        #[test]
        fn nothing_is_missing_in_between(
            pushed in prop::collection::vec((prop::collection::vec(0..6_usize, 1..3), 1..3000_usize, 1..3_u64), 1..120),
            bytes_max in 1..40_000_usize,
        ) {
            let mut window = Window::new(bytes_max, 0);
            let mut all: Vec<RevisionEvents> = Vec::new();
            for (kinds, bytes, step) in pushed {
                let revision = all.last().map_or(0, |last| last.revision) + step;
                let events = changed(revision, &kinds, bytes);
                all.push(events.clone());
                window.push(events);
            }
            let end = all.last().map_or(0, |last| last.revision) + 1;
            for range in (0..6).map(keys).chain([KeyRange::ALL]) {
                let is_wanted = |event: &Event| range.contains(&event.key);
                let wanted: Vec<&RevisionEvents> = all.iter().filter(|of| of.events.iter().any(is_wanted)).collect();
                let takes: usize = wanted.iter().map(|events| size(events)).sum();
                for cursor in 1..=end {
                    let (found, next) = window.replay(&range, cursor, usize::MAX, |_, event| is_wanted(event));
                    match revisions(found) {
                        None => prop_assert!(range == KeyRange::ALL || takes > bytes_max / 7 || window.bytes > bytes_max),
                        Some(found) => {
                            let wanted: Vec<u64> =
                                wanted.iter().map(|events| events.revision).filter(|at| *at >= cursor).collect();
                            prop_assert_eq!((found, next), (wanted, end));
                        }
                    }
                }
            }
        }
    }
}
