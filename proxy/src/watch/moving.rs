//! How a [`WatchStream`]'s watchers come to the groups that have their keys, and go from group to group.
//!
//! A group that gives keys away ends the watchers on them in band, and says up to where all was sent: only from there may
//! the next group be asked, which may have forgotten what is older. So where another table says that keys are elsewhere,
//! who has them not yet ended is waited for, some time; a group that is away cannot say anything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use kubebrain_shared::placement::Document;
use kubebrain_shared::revision::Revision;
use tokio::time::sleep;

use super::group_stream::GroupStream;
use super::merge::Merge;
use super::stream::WatchStream;
use super::watcher::{Merged, MergedLane, ONLY_PART, Route, Watcher};
use crate::group::Group;
use crate::table::Table;

/// How long a group that loses keys is waited for, after the table has come that says so. It ends its watchers before
/// anybody may be told of that table.
const LEAVE_WAIT: Duration = Duration::from_secs(1);

/// Where a watcher stands: everything at or below was seen.
pub(super) struct Stand {
    /// By all that it was served by.
    delivered: Revision,
    /// By each group, where it was served by some.
    groups: Vec<GroupStand>,
    /// What waits of groups' events and was not sent.
    waiting: Vec<VecDeque<(Revision, Bytes)>>,
    /// The same, of groups that there are no more.
    gone: VecDeque<(Revision, Bytes)>,
}

struct GroupStand {
    group: Arc<Group>,
    closed: Revision,
    /// It has lost keys of the watcher's.
    loses: bool,
}

impl Stand {
    /// Of a watcher that begins.
    pub(super) fn at(delivered: Revision) -> Self {
        Self { delivered, groups: Vec::new(), waiting: Vec::new(), gone: VecDeque::new() }
    }

    /// From above where a group is asked. What it gains it has nothing of up to where the losers have closed; and where one
    /// has closed less than it could have, the gainer may have forgotten what is missing, and says so.
    fn start(&self, group: &Group) -> Revision {
        let own = self.groups.iter().find(|was| was.group.is_same(group));
        let lost = self.groups.iter().filter(|was| was.loses).map(|was| was.closed).min();
        match (own, lost) {
            (Some(own), _) if own.loses => own.closed,
            (Some(own), Some(lost)) => own.closed.min(lost),
            (Some(own), None) => own.closed,
            (None, lost) => lost.unwrap_or(self.delivered),
        }
    }
}

/// True where both give all keys to the same groups, and a group's part of a range by the one is its part by the other.
fn is_same(one: &Document, other: &Document) -> bool {
    one.id() == other.id() && (one.number() > 0 || one.table().owns_alike(other.table()))
}

impl WatchStream {
    /// Opens what serves a watcher from where it stands, by the newest table.
    pub(super) fn place(&mut self, id: i64, mut watcher: Watcher, stand: &Stand) {
        let table = self.core.table();
        let owners = table.owners(&watcher.span());
        watcher.document = table.document().clone();
        watcher.route = match &owners[..] {
            [group] => self.direct(id, group, &watcher, stand),
            groups => self.merged(groups, &watcher, stand),
        };
        self.watchers.insert(id, watcher);
    }

    fn direct(&mut self, id: i64, group: &Arc<Group>, watcher: &Watcher, stand: &Stand) -> Route {
        // what waits in a merge was not sent yet
        let start = if stand.waiting.is_empty() { stand.start(group) } else { stand.delivered };
        let part = self.next_part();
        self.clients.insert(part, id);
        let name = group.name().clone();
        let new = || GroupStream::new(Arc::clone(&self.core), Arc::clone(group), None);
        let stream = self.shared.entry(name.clone()).or_insert_with(new);
        stream.add(part, Arc::clone(&watcher.create), start);
        Route::Direct { group: name, part }
    }

    fn merged(&self, groups: &[Arc<Group>], watcher: &Watcher, stand: &Stand) -> Route {
        let id = watcher.document.id();
        let lane = |group: &Arc<Group>| {
            let mut stream = GroupStream::new(Arc::clone(&self.core), Arc::clone(group), Some(id));
            stream.add(ONLY_PART, Arc::clone(&watcher.create), stand.start(group));
            MergedLane { stream, notified: false }
        };
        let unordered = self.core.config.planted(|seams| seams.merge_without_watermark);
        let merge = match stand.groups.is_empty() {
            true => Merge::new(groups.len(), stand.delivered, unordered),
            false => {
                Merge::resume(groups.iter().map(|group| stand.lane(group)).collect(), stand.leftover(groups))
            }
        };
        Route::Merged(Box::new(Merged { merge, lanes: groups.iter().map(lane).collect() }))
    }

    /// Another table: watchers whose groups are others now go on there.
    pub(super) fn reroute(&mut self) {
        let table = self.core.table();
        let all: Vec<i64> = self.watchers.keys().copied().collect();
        let moving: Vec<i64> = all.into_iter().filter(|id| !self.stays(*id, &table)).collect();
        let (ready, leaving): (Vec<i64>, Vec<i64>) =
            moving.into_iter().partition(|id| self.has_left(*id, &table));
        self.move_all(&ready, &table);
        if leaving.is_empty() {
            self.leaving = None;
        } else if self.leaving.is_none() {
            self.leaving = Some(Box::pin(sleep(LEAVE_WAIT)));
        }
        self.judge_progress();
    }

    /// A group does not serve a watcher's keys any more: it goes on elsewhere, if it is known where.
    pub(super) fn move_on(&mut self, id: i64) {
        let table = self.core.table();
        if self.watchers.contains_key(&id) && !self.stays(id, &table) && self.has_left(id, &table) {
            self.move_all(&[id], &table);
            self.judge_progress();
        }
    }

    /// Who was waited for has not come; true if something was done.
    pub(super) fn poll_leaving(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(Poll::Ready(())) = self.leaving.as_mut().map(|leaving| leaving.as_mut().poll(cx)) else {
            return false;
        };
        self.leaving = None;
        let table = self.core.table();
        let all: Vec<i64> = self.watchers.keys().copied().collect();
        let late: Vec<i64> = all.into_iter().filter(|id| !self.stays(*id, &table)).collect();
        self.move_all(&late, &table);
        self.judge_progress();
        true
    }

    /// True if a watcher is where its keys are.
    fn stays(&self, id: i64, table: &Table) -> bool {
        let Some(watcher) = self.watchers.get(&id) else { return true };
        let owners = table.owners(&watcher.span());
        match (&watcher.route, &owners[..]) {
            (Route::Merged(merged), owners) => {
                let lanes = merged.lanes.iter().map(|lane| lane.stream.group());
                is_same(&watcher.document, table.document())
                    && owners.len() == merged.lanes.len()
                    && lanes.zip(owners).all(|(group, owner)| Arc::ptr_eq(group, owner))
            }
            (Route::Direct { group, .. }, [owner]) => {
                owner.name() == group
                    && self.shared.get(group).is_some_and(|stream| Arc::ptr_eq(stream.group(), owner))
            }
            (Route::Direct { .. }, _) => false,
        }
    }

    /// True if every group that has lost keys of a watcher has ended it, or is reached by other connections now: of the old
    /// ones nothing is waited for.
    fn has_left(&self, id: i64, table: &Table) -> bool {
        let Some(watcher) = self.watchers.get(&id) else { return true };
        let waits = |stream: &GroupStream, part| {
            let group = stream.group();
            let replaced = table.group(group.name()).is_some_and(|now| !Arc::ptr_eq(now, group));
            !replaced && !stream.has_ended(part) && loses(watcher, table, group)
        };
        match &watcher.route {
            Route::Merged(merged) => !merged.lanes.iter().any(|lane| waits(&lane.stream, ONLY_PART)),
            Route::Direct { group, part } => {
                self.shared.get(group).is_none_or(|stream| !waits(stream, *part))
            }
        }
    }

    fn move_all(&mut self, ids: &[i64], table: &Table) {
        let mut moved = Vec::new();
        for id in ids {
            if let Some(mut watcher) = self.watchers.remove(id) {
                let stand = self.stand(&mut watcher, table);
                self.detach(&watcher.route);
                moved.push((*id, watcher, stand));
            }
        }
        // after all of them left: a group with new brains gets a new group stream
        for (id, watcher, stand) in moved {
            self.place(id, watcher, &stand);
        }
    }

    fn stand(&self, watcher: &mut Watcher, table: &Table) -> Stand {
        let mut stand = Stand::at(self.delivered(watcher));
        let lost = |group: &Group| loses(watcher, table, group);
        match &watcher.route {
            Route::Direct { group, .. } => {
                if let Some(stream) = self.shared.get(group) {
                    let (group, loses) = (Arc::clone(stream.group()), lost(stream.group()));
                    stand.groups.push(GroupStand { group, closed: stand.delivered, loses });
                }
            }
            Route::Merged(merged) => {
                for lane in &merged.lanes {
                    let group = Arc::clone(lane.stream.group());
                    let closed = lane.stream.closed(ONLY_PART).unwrap_or(stand.delivered);
                    stand.groups.push(GroupStand { loses: lost(&group), group, closed });
                }
            }
        }
        if let Route::Merged(merged) = &mut watcher.route {
            stand.waiting = (0..merged.lanes.len()).map(|lane| merged.merge.take_events(lane)).collect();
            stand.gone = merged.merge.take_events(merged.lanes.len());
        }
        stand
    }
}

/// True if a group that serves a watcher has to give keys of it away.
fn loses(watcher: &Watcher, table: &Table, group: &Group) -> bool {
    let (before, now) = (watcher.document.table(), table.document().table());
    before.loses(now, group.name(), &watcher.span().range())
}

impl Stand {
    /// A group's lane of the next merge.
    fn lane(&self, group: &Group) -> (Revision, VecDeque<(Revision, Bytes)>) {
        let place = self.groups.iter().position(|was| was.group.is_same(group));
        let events = place.and_then(|place| self.waiting.get(place)).cloned();
        (self.start(group), events.unwrap_or_default())
    }

    /// What waits of groups that serve the watcher no more: nobody else has it.
    fn leftover(&self, groups: &[Arc<Group>]) -> Vec<(Revision, Bytes)> {
        let stays = |was: &GroupStand| groups.iter().any(|group| was.group.is_same(group));
        let left = self.groups.iter().zip(&self.waiting).filter(|(was, _)| !stays(was));
        let mut left: Vec<_> = left.flat_map(|(_, events)| events).chain(&self.gone).cloned().collect();
        left.sort_by_key(|(revision, _)| *revision);
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::testing::name;

    fn group(text: &str) -> Arc<Group> {
        Arc::new(Group::new(name(text), Vec::new(), &Config::default(), &Arc::default()))
    }

    /// Groups as name, closed and whether they lose.
    fn stand(groups: &[(&str, u64, bool)]) -> Stand {
        let delivered = groups.iter().map(|(_, closed, _)| Revision::new(*closed)).min().unwrap_or_default();
        let groups = groups.iter().map(|(name, closed, loses)| GroupStand {
            group: group(name),
            closed: Revision::new(*closed),
            loses: *loses,
        });
        Stand { groups: groups.collect(), ..Stand::at(delivered) }
    }

    #[test]
    fn a_gainer_is_asked_from_where_the_losers_have_closed() {
        for (what, groups, asked, expected) in [
            ("nothing is lost", &[("a", 9, false), ("b", 5, false)][..], "a", 9),
            ("a loser goes on where it is", &[("a", 9, true), ("b", 5, false)], "a", 9),
            ("one that was not asked before", &[("a", 9, true), ("b", 5, false)], "c", 9),
            ("one that is behind the loser", &[("a", 9, true), ("b", 5, false)], "b", 5),
            ("one that is ahead of it", &[("a", 4, true), ("b", 9, false)], "b", 4),
            ("two have lost", &[("a", 9, true), ("b", 7, true), ("d", 3, false)], "c", 7),
            ("nobody knows why", &[("a", 9, false), ("b", 5, false)], "c", 5),
        ] {
            assert_eq!(stand(groups).start(&group(asked)), Revision::new(expected), "{what}");
        }
    }

    #[test]
    fn what_waits_of_a_group_that_is_gone_is_not_lost() {
        let r = Revision::new;
        let waits = |events: &[(u64, &'static str)]| -> VecDeque<_> {
            events
                .iter()
                .map(|(revision, event)| (r(*revision), Bytes::from_static(event.as_bytes())))
                .collect()
        };
        let mut stand = stand(&[("a", 9, true), ("b", 5, false)]);
        stand.waiting = vec![waits(&[(7, "a7"), (9, "a9")]), waits(&[])];
        stand.gone = waits(&[(8, "gone8")]);
        let groups = [group("b"), group("c")];
        let lanes = groups.iter().map(|group| stand.lane(group)).collect();
        let mut merge = Merge::resume(lanes, stand.leftover(&groups));
        assert_eq!((merge.watermark(), merge.take(1000)), (r(5), None), "b is behind");
        merge.push(0, vec![(r(8), "b8".into())]);
        merge.close(0, r(12));
        merge.close(1, r(12));
        let batch = merge.take(1000).expect("all of it");
        assert_eq!(
            (batch.events, batch.revision),
            (vec!["a7".into(), "b8".into(), "gone8".into(), "a9".into()], r(12))
        );
        assert!(merge.take_events(2).is_empty());
    }
}
