//! The stand-in's state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::mvccpb::{Event, KeyValue};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::metadata;
use kubebrain_shared::placement::Document;
use kubebrain_shared::range::KeyRange;
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::Status;

pub(crate) struct Brain {
    pub(crate) name: GroupName,
    pub(crate) state: Mutex<State>,
    /// Rises with every change, also of what is stuck.
    pub(crate) changed: watch::Sender<u64>,
    /// While true: no fence answers, no watch stream says anything.
    stuck: AtomicBool,
}

pub(crate) struct State {
    /// What it goes by.
    pub(crate) document: Document,
    /// What it has agreed to beyond: it serves what is its own by both.
    pub(crate) adopted: Option<Document>,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    /// All events, in order.
    pub(crate) history: Vec<Event>,
    pub(crate) leases: BTreeMap<i64, i64>,
    /// Of those, the ones that hold no key yet.
    pub(crate) offered: BTreeSet<i64>,
    pub(crate) holders: BTreeMap<i64, BTreeSet<String>>,
    /// What arrived: path, floor, part.
    pub(crate) seen: Vec<(String, Option<String>, Option<String>)>,
    /// The next answers to this path: refusals and raw bodies.
    pub(crate) planned: Vec<(&'static str, Planned)>,
    /// Watch streams opened before this number are cut.
    pub(crate) generation: u64,
    /// Responses with events, by watch stream.
    pub(crate) sent: BTreeMap<u64, usize>,
    /// How long a watch stream sleeps before it says something.
    pub(crate) watch_delay: Option<tokio::time::Duration>,
    /// How often each watcher was to be told its progress unasked.
    pub(crate) notices: u64,
    /// Alarms that stand, by member and kind.
    pub(crate) alarms: BTreeSet<(u64, i32)>,
    /// Which store it says that it has.
    pub(crate) store: u64,
    /// It says what it is once, and nothing new: a stream that is late.
    pub(crate) is_late: bool,
    /// Its answers to fences say what it goes by.
    pub(crate) tells_fences: bool,
    /// Streams for watches end before they begin.
    pub(crate) refuses_watches: bool,
    /// It has not heard of a placement.
    pub(crate) is_unplaced: bool,
    /// Creates of watchers that arrived.
    pub(crate) creates: usize,
}

pub(crate) enum Planned {
    NotOwner,
    /// Applied, then the answer is lost.
    Lost,
    /// This frame and good trailers.
    Raw(bytes::Bytes),
    Fail(Fault),
    /// There is never an answer.
    Silence,
    /// Somebody writes this key after the request has arrived and before it is carried out.
    WriteFirst(&'static str),
}

impl Brain {
    pub(crate) fn new(name: GroupName, document: Document) -> Self {
        let state = State {
            document,
            adopted: None,
            revision: 1,
            compacted: -1,
            history: Vec::new(),
            leases: BTreeMap::new(),
            offered: BTreeSet::new(),
            holders: BTreeMap::new(),
            seen: Vec::new(),
            planned: Vec::new(),
            generation: 0,
            sent: BTreeMap::new(),
            watch_delay: None,
            notices: 0,
            alarms: BTreeSet::new(),
            store: 7,
            is_late: false,
            tells_fences: false,
            refuses_watches: false,
            is_unplaced: false,
            creates: 0,
        };
        Self { name, state: Mutex::new(state), changed: watch::Sender::new(0), stuck: AtomicBool::new(false) }
    }

    pub(crate) fn touch(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    pub(crate) fn stick(&self, stuck: bool) {
        self.stuck.store(stuck, Ordering::Relaxed);
        self.touch();
    }

    /// Cuts every watch stream.
    pub(crate) fn cut_watches(&self) {
        self.state.lock().generation += 1;
        self.touch();
    }

    /// Periodic progress is due.
    pub(crate) fn notify(&self) {
        self.state.lock().notices += 1;
        self.touch();
    }

    pub(crate) fn plan(&self, path: &'static str, planned: Planned) {
        self.state.lock().planned.push((path, planned));
    }

    pub(crate) fn replace_placement(&self, document: Document) {
        self.commit(document);
        self.cut_watches();
    }

    /// It agrees to give away what is another group's by this one: its watchers there end.
    pub(crate) fn adopt(&self, document: &Document) {
        self.state.lock().adopted = Some(document.clone());
        self.touch();
    }

    /// It goes by this one.
    pub(crate) fn commit(&self, document: Document) {
        let mut state = self.state.lock();
        state.advance(document.revision().to_wire());
        state.compacted = state.compacted.max(document.compacted());
        (state.document, state.adopted) = (document, None);
        drop(state);
        self.touch();
    }

    /// Behind the proxy's back.
    pub(crate) fn write(&self, key: &str, value: &str) -> i64 {
        let revision = self.state.lock().put(&pb::PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..Default::default()
        });
        self.touch();
        revision.expect("a legal put")
    }

    pub(crate) fn revision(&self) -> i64 {
        self.state.lock().revision
    }

    pub(crate) fn count(&self, path: &str) -> usize {
        self.state.lock().seen.iter().filter(|(seen, ..)| seen == path).count()
    }

    pub(crate) fn header(&self, revision: i64) -> Option<pb::ResponseHeader> {
        let member_id = self.name.as_str().bytes().map(u64::from).sum();
        Some(pb::ResponseHeader { cluster_id: 77, member_id, revision, raft_term: 3 })
    }
}

impl State {
    pub(crate) fn advance(&mut self, floor: i64) {
        self.revision = self.revision.max(floor);
    }

    /// Refuses keys that are not this group's; of a part, says which are.
    pub(crate) fn check_owner(
        &self,
        name: &GroupName,
        range: &KeyRange,
        part: Option<&str>,
    ) -> Result<(), Status> {
        let mut documents = std::iter::once(&self.document).chain(&self.adopted);
        match part {
            Some(id) if id != self.document.id().to_string() => Err(metadata::not_owner("another document")),
            Some(_) => match &self.adopted {
                Some(next) if self.document.table().loses(next.table(), name, range) => {
                    Err(metadata::not_owner("changing"))
                }
                _ => Ok(()),
            },
            None if documents
                .all(|document| document.table().owners(range).iter().all(|owner| owner == name)) =>
            {
                Ok(())
            }
            None => Err(metadata::not_owner(format!("{range:?} is not {name}'s"))),
        }
    }

    pub(crate) fn owns(&self, name: &GroupName, key: &[u8], part: bool) -> bool {
        !part || self.document.table().owner(key) == name
    }

    pub(crate) fn get(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        let matches = |event: &&Event| {
            event.kv.as_ref().is_some_and(|kv| kv.key == *key && kv.mod_revision <= revision)
        };
        let last = self.history.iter().rev().find(matches)?;
        if last.r#type == 0 { last.kv.clone() } else { None }
    }

    pub(crate) fn keys(&self, range: &KeyRange, revision: i64) -> Vec<KeyValue> {
        let keys: BTreeSet<_> = self
            .history
            .iter()
            .filter_map(|event| event.kv.as_ref())
            .filter(|kv| range.contains(&kv.key))
            .map(|kv| kv.key.clone())
            .collect();
        keys.iter().filter_map(|key| self.get(key, revision)).collect()
    }

    pub(crate) fn put(&mut self, put: &pb::PutRequest) -> Result<i64, Status> {
        if put.key.is_empty() {
            return Err(Fault::EmptyKey.into());
        }
        let takes = self.leases.contains_key(&put.lease) && !self.offered.contains(&put.lease);
        if put.lease != 0 && !takes {
            return Err(Fault::LeaseNotFound.into());
        }
        let before = self.get(&put.key, self.revision);
        self.revision += 1;
        let (create_revision, version) =
            before.as_ref().map_or((self.revision, 1), |kv| (kv.create_revision, kv.version + 1));
        let kv = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            lease: put.lease,
            mod_revision: self.revision,
            create_revision,
            version,
        };
        self.history.push(Event { r#type: 0, kv: Some(kv), prev_kv: before });
        Ok(self.revision)
    }

    pub(crate) fn delete(&mut self, name: &GroupName, range: &KeyRange, part: bool) -> Vec<KeyValue> {
        let mut gone = self.keys(range, self.revision);
        gone.retain(|kv| self.owns(name, &kv.key, part));
        self.revision += i64::from(!gone.is_empty());
        for kv in &gone {
            let deleted =
                KeyValue { key: kv.key.clone(), mod_revision: self.revision, ..KeyValue::default() };
            self.history.push(Event { r#type: 1, kv: Some(deleted), prev_kv: Some(kv.clone()) });
        }
        gone
    }

    pub(crate) fn range(
        &self,
        name: &GroupName,
        request: &pb::RangeRequest,
        part: bool,
    ) -> Result<(Vec<KeyValue>, bool, i64), Status> {
        if request.key.is_empty() {
            return Err(Fault::EmptyKey.into());
        }
        let at = if request.revision <= 0 { self.revision } else { request.revision };
        if at > self.revision {
            return Err(Fault::FutureRevision.into());
        }
        if at < self.compacted {
            return Err(Fault::Compacted.into());
        }
        let range = KeyRange::from_wire(request.key.clone(), request.range_end.clone());
        let mut kvs = self.keys(&range, at);
        kvs.retain(|kv| self.owns(name, &kv.key, part));
        let count = kvs.len() as i64;
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let more = limit != 0 && kvs.len() > limit && !request.count_only;
        if request.sort_order() == pb::range_request::SortOrder::Descend {
            kvs.reverse();
        }
        if limit != 0 {
            kvs.truncate(limit);
        }
        if request.count_only {
            kvs.clear();
        }
        Ok((kvs, more, count))
    }

    /// One compare of an integer.
    pub(crate) fn compare(&self, compare: &pb::Compare) -> bool {
        use pb::compare::TargetUnion;
        let kv = self.get(&compare.key, self.revision).unwrap_or_default();
        match compare.target_union {
            Some(TargetUnion::Version(version)) => kv.version == version,
            Some(TargetUnion::ModRevision(revision)) => kv.mod_revision == revision,
            Some(TargetUnion::CreateRevision(revision)) => kv.create_revision == revision,
            _ => false,
        }
    }
}

pub(crate) fn text(headers: &HeaderMap, name: &http::HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}
