//! [`Watcher`]: one watcher of a client, and by which group streams it is served.

use std::sync::Arc;

use bytes::Bytes;
use kubebrain_net::metrics::One;
use kubebrain_proto::etcdserverpb::WatchCreateRequest;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Document;
use kubebrain_shared::revision::Revision;

use super::group_stream::GroupStream;
use super::merge::Merge;
use super::part::PartId;
use crate::classify::Span;

/// A watcher as its client has made it, and how far it is.
pub(super) struct Watcher {
    /// With etcd's conventions applied: an empty key is `"\0"`.
    pub(super) create: Arc<WatchCreateRequest>,
    /// The start that the client has named, zero for now: it is told no progress below it.
    pub(super) named: Revision,
    /// The highest revision of an event or progress that it was told.
    pub(super) told: Revision,
    pub(super) route: Route,
    /// By which it was placed.
    pub(super) document: Document,
    pub(super) _counted: One,
}

/// By which streams to groups a watcher is served.
pub(super) enum Route {
    /// One group, on the group stream that all such watchers of the stream share.
    Direct { group: GroupName, part: PartId },
    /// Several groups, each on a group stream of its own.
    Merged(Box<Merged>),
}

pub(super) struct Merged {
    pub(super) merge: Merge,
    pub(super) lanes: Vec<MergedLane>,
}

pub(super) struct MergedLane {
    pub(super) stream: GroupStream,
    /// Its group has sent periodic progress since the last thing that the client was sent.
    pub(super) notified: bool,
}

/// The only part of a merged watcher's group stream.
pub(super) const ONLY_PART: PartId = PartId::from_wire(1);

impl Watcher {
    pub(super) fn span(&self) -> Span {
        Span { key: self.create.key.clone(), end: self.create.range_end.clone() }
    }
}

impl Watcher {
    /// Makes all groups of a watcher over several close this much.
    pub(super) fn ask(&mut self, target: Revision) {
        if let Route::Merged(merged) = &mut self.route {
            merged.lanes.iter_mut().for_each(|lane| lane.stream.ask(target));
        }
    }
}

impl Merged {
    /// Takes what a lane's group stream has closed, and makes those that hold back the rest hurry.
    pub(super) fn settle(&mut self) {
        for (index, lane) in self.lanes.iter().enumerate() {
            if let Some(closed) = lane.stream.closed(ONLY_PART) {
                self.merge.close(index, closed);
            }
        }
    }

    pub(super) fn hurry(&mut self) {
        if let Some(waiting) = self.merge.waiting() {
            for index in self.merge.behind(waiting) {
                if let Some(lane) = self.lanes.get_mut(index) {
                    lane.stream.ask(waiting);
                }
            }
        }
    }

    /// True once after every group has notified.
    pub(super) fn take_notified(&mut self) -> bool {
        let all = self.lanes.iter().all(|lane| lane.notified);
        if all {
            self.reset_notified();
        }
        all
    }

    /// Periodic progress is skipped once after events.
    pub(super) fn reset_notified(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.notified = false);
    }
}

/// A create request as etcd reads it; the reason if it refuses.
pub(super) fn check(mut create: WatchCreateRequest) -> Result<WatchCreateRequest, &'static str> {
    if create.key.is_empty() {
        create.key = Bytes::from_static(b"\0");
    }
    if create.start_revision < 0 {
        return Err("etcdserver: mvcc: required revision has been compacted");
    }
    let end = &create.range_end;
    if !end.is_empty() && end[..] != [0] && create.key >= *end {
        return Err("mvcc: watcher range is empty");
    }
    Ok(create)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creates_are_refused_with_etcds_words() {
        let create = |key: &'static str, end: &'static str, start_revision| WatchCreateRequest {
            key: key.into(),
            range_end: end.into(),
            start_revision,
            ..WatchCreateRequest::default()
        };
        assert_eq!(check(create("", "", 0)).expect("legal").key, "\0");
        assert!(check(create("b", "\0", 5)).is_ok(), "everything from b on");
        assert_eq!(check(create("b", "a", 5)), Err("mvcc: watcher range is empty"));
        assert_eq!(check(create("b", "b", 5)), Err("mvcc: watcher range is empty"));
        let negative = check(create("b", "a", -1));
        assert_eq!(negative, Err("etcdserver: mvcc: required revision has been compacted"));
    }
}
