//! What etcd would answer, naively: every revision's whole state is kept, and every request is worked out from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kubebrain_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use kubebrain_proto::etcdserverpb::request_op::Request as Op;
use kubebrain_proto::etcdserverpb::response_op::Response as Done;
use kubebrain_proto::mvccpb::{Event, KeyValue};

/// Live keys at one revision.
pub type State = BTreeMap<Bytes, KeyValue>;

/// A key and what it became; `None` is deleted.
pub type Change = (Bytes, Option<KeyValue>);

/// Every revision of one group, or of a whole store.
#[derive(Clone, Debug, Default)]
pub struct History {
    revisions: BTreeMap<i64, Vec<Change>>,
    states: BTreeMap<i64, Arc<State>>,
}

/// True if `key` is in the range that a request names.
pub fn within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

impl History {
    /// Adds the next revision.
    pub fn push(&mut self, revision: i64, changes: Vec<Change>) {
        let mut state = State::clone(&self.at(revision));
        for (key, kv) in &changes {
            match kv {
                Some(kv) => drop(state.insert(key.clone(), kv.clone())),
                None => drop(state.remove(key)),
            }
        }
        self.revisions.insert(revision, changes);
        self.states.insert(revision, Arc::new(state));
    }

    /// The state after everything at or below `revision`.
    pub fn at(&self, revision: i64) -> Arc<State> {
        self.states.range(..=revision).next_back().map(|(_, state)| Arc::clone(state)).unwrap_or_default()
    }

    /// What a revision changed.
    pub fn changes(&self, revision: i64) -> Option<&Vec<Change>> {
        self.revisions.get(&revision)
    }

    /// All revisions from `first` on.
    pub fn from(&self, first: i64) -> impl Iterator<Item = (i64, &Vec<Change>)> {
        self.revisions.range(first.max(0)..).map(|(revision, changes)| (*revision, changes))
    }

    /// The events of a revision that a watcher wants.
    pub fn events(&self, revision: i64, create: &pb::WatchCreateRequest) -> Vec<Event> {
        let Some(changes) = self.changes(revision) else { return Vec::new() };
        let before = self.at(revision - 1);
        let wanted = changes.iter().filter(|(key, kv)| {
            let filter = if kv.is_some() { 0 } else { 1 };
            within(key, &create.key, &create.range_end) && !create.filters.contains(&filter)
        });
        let event = |(key, kv): &Change| Event {
            r#type: i32::from(kv.is_none()),
            kv: Some(kv.clone().unwrap_or_else(|| KeyValue {
                key: key.clone(),
                mod_revision: revision,
                ..KeyValue::default()
            })),
            prev_kv: before.get(key).filter(|_| create.prev_kv).cloned(),
        };
        wanted.map(event).collect()
    }
}

/// A range over a state; the answer has no header.
pub fn range(state: &State, request: &pb::RangeRequest) -> pb::RangeResponse {
    let all = live(state, &request.key, &request.range_end);
    let count = all.len() as i64;
    if request.count_only {
        return pb::RangeResponse { count, ..<_>::default() };
    }
    let mut kvs: Vec<KeyValue> = all.into_iter().filter(|kv| passes(request, kv)).collect();
    let target = request.sort_target();
    match request.sort_order() {
        SortOrder::Descend => kvs.sort_by(|a, b| by(target, b, a)),
        SortOrder::None | SortOrder::Ascend => kvs.sort_by(|a, b| by(target, a, b)),
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let more = kvs.len() > limit;
    kvs.truncate(limit);
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    pb::RangeResponse { header: None, kvs, more, count }
}

/// True if an answer is one that etcd may give: where a sort leaves ties, their order is free, and so is who of them
/// falls to the limit.
pub fn range_agrees(state: &State, request: &pb::RangeRequest, answer: &pb::RangeResponse) -> bool {
    let expected = range(state, request);
    if (expected.count, expected.more, expected.kvs.len()) != (answer.count, answer.more, answer.kvs.len()) {
        return false;
    }
    let target = request.sort_target();
    if target == SortTarget::Key {
        return expected.kvs == answer.kvs;
    }
    let whole = |kv: &KeyValue| match request.keys_only {
        true => state.get(&kv.key).cloned().unwrap_or_default(),
        false => kv.clone(),
    };
    let rank = |kvs: &[KeyValue]| -> Vec<KeyValue> { kvs.iter().map(whole).collect() };
    let (ours, theirs) = (rank(&expected.kvs), rank(&answer.kvs));
    let same_order = ours.iter().zip(&theirs).all(|(ours, theirs)| by(target, ours, theirs).is_eq());
    let real = theirs.iter().zip(&answer.kvs).all(|(whole, given)| {
        let mut live = whole.clone();
        if request.keys_only {
            live.value = Bytes::new();
        }
        live == *given && state.get(&given.key) == Some(whole) && passes(request, whole)
    });
    let mut keys: Vec<_> = theirs.iter().map(|kv| &kv.key).collect();
    keys.sort();
    keys.dedup();
    same_order && real && keys.len() == theirs.len()
}

fn live(state: &State, start: &[u8], end: &[u8]) -> Vec<KeyValue> {
    let entries = state.range::<[u8], _>((std::ops::Bound::Included(start), std::ops::Bound::Unbounded));
    entries.filter(|(key, _)| within(key, start, end)).map(|(_, kv)| kv.clone()).collect()
}

fn by(target: SortTarget, a: &KeyValue, b: &KeyValue) -> std::cmp::Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}

fn passes(request: &pb::RangeRequest, kv: &KeyValue) -> bool {
    let inside =
        |low: i64, high: i64, number: i64| (low <= 0 || number >= low) && (high <= 0 || number <= high);
    inside(request.min_mod_revision, request.max_mod_revision, kv.mod_revision)
        && inside(request.min_create_revision, request.max_create_revision, kv.create_revision)
}

/// Works out one write: on the state at `now`, under the revision `now + 1`.
pub struct Evaluation<'a> {
    history: &'a History,
    before: Arc<State>,
    state: State,
    now: i64,
    changes: Vec<Change>,
}

impl<'a> Evaluation<'a> {
    /// The store stands at `now`.
    pub fn new(history: &'a History, now: i64) -> Self {
        let before = history.at(now);
        Self { history, state: State::clone(&before), before, now, changes: Vec::new() }
    }

    /// What changes.
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// What a header shows at this point.
    pub fn shown(&self) -> i64 {
        self.now + i64::from(!self.changes.is_empty())
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { revision: self.shown(), ..<_>::default() })
    }

    /// A put of a key; `ignore_value` and `ignore_lease` keep what is there.
    pub fn put(&mut self, put: &pb::PutRequest) -> pb::PutResponse {
        let old = self.state.get(&put.key).cloned();
        let revision = self.now + 1;
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: old.as_ref().map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: old.as_ref().map_or(0, |old| old.version) + 1,
            value: match (&old, put.ignore_value) {
                (Some(old), true) => old.value.clone(),
                _ => put.value.clone(),
            },
            lease: match (&old, put.ignore_lease) {
                (Some(old), true) => old.lease,
                _ => put.lease,
            },
        };
        self.state.insert(put.key.clone(), kv.clone());
        self.changes.push((put.key.clone(), Some(kv)));
        pb::PutResponse { header: self.header(), prev_kv: old.filter(|_| put.prev_kv) }
    }

    /// A deletion.
    pub fn delete(&mut self, delete: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let gone = live(&self.state, &delete.key, &delete.range_end);
        for kv in &gone {
            self.state.remove(&kv.key);
            self.changes.push((kv.key.clone(), None));
        }
        let deleted = gone.len() as i64;
        pb::DeleteRangeResponse {
            header: self.header(),
            deleted,
            prev_kvs: if delete.prev_kv { gone } else { Vec::new() },
        }
    }

    /// A transaction.
    pub fn txn(&mut self, txn: &pb::TxnRequest) -> pb::TxnResponse {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let responses: Vec<_> = ops
            .iter()
            .map(|op| pb::ResponseOp { response: op.request.as_ref().map(|op| self.one(op)) })
            .collect();
        pb::TxnResponse { header: self.header(), succeeded, responses }
    }

    /// Which branch a transaction takes.
    pub fn branch<'b>(&self, txn: &'b pb::TxnRequest) -> &'b [pb::RequestOp] {
        if txn.compare.iter().all(|compare| self.holds(compare)) { &txn.success } else { &txn.failure }
    }

    fn one(&mut self, op: &Op) -> Done {
        match op {
            Op::RequestRange(range) => {
                let answer = match range.revision {
                    ..=0 => self::range(&self.state, range),
                    revision => self::range(&self.history.at(revision), range),
                };
                Done::ResponseRange(pb::RangeResponse { header: self.header(), ..answer })
            }
            Op::RequestPut(put) => Done::ResponsePut(self.put(put)),
            Op::RequestDeleteRange(delete) => Done::ResponseDeleteRange(self.delete(delete)),
            // etcd leaves this header empty.
            Op::RequestTxn(txn) => {
                Done::ResponseTxn(pb::TxnResponse { header: Some(<_>::default()), ..self.txn(txn) })
            }
        }
    }

    /// Judged on the state before the transaction.
    fn holds(&self, compare: &pb::Compare) -> bool {
        let found = live(&self.before, &compare.key, &compare.range_end);
        if found.is_empty() {
            return compare.target() != CompareTarget::Value && held(compare, &KeyValue::default());
        }
        found.iter().all(|kv| held(compare, kv))
    }
}

fn held(compare: &pb::Compare, kv: &KeyValue) -> bool {
    let order = match (&compare.target(), &compare.target_union) {
        (CompareTarget::Version, Some(TargetUnion::Version(number))) => kv.version.cmp(number),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(number))) => kv.create_revision.cmp(number),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(number))) => kv.mod_revision.cmp(number),
        (CompareTarget::Lease, Some(TargetUnion::Lease(number))) => kv.lease.cmp(number),
        (CompareTarget::Value, Some(TargetUnion::Value(value))) => kv.value.cmp(value),
        _ => panic!("the model is asked only what tests ask"),
    };
    match compare.result() {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
    }
}

/// A transaction's answer without what is not compared: who answered, and headers of nested transactions.
pub fn plain(mut answer: pb::TxnResponse) -> pb::TxnResponse {
    answer.header = bare(answer.header);
    for response in &mut answer.responses {
        response.response = response.response.take().map(|done| match done {
            Done::ResponseTxn(inner) => Done::ResponseTxn(pb::TxnResponse { header: None, ..plain(inner) }),
            other => other,
        });
    }
    answer
}

/// True if two plain answers differ in no more than the order of ties in sorted ranges, and in who falls to a limit
/// among them.
pub fn txn_agrees(expected: &pb::TxnResponse, given: &pb::TxnResponse) -> bool {
    let alike =
        |(expected, given): (&pb::ResponseOp, &pb::ResponseOp)| match (&expected.response, &given.response) {
            (Some(Done::ResponseRange(expected)), Some(Done::ResponseRange(given))) => {
                let whole =
                    |range: &pb::RangeResponse| (range.header, range.count, range.more, range.kvs.len());
                let mut ours = expected.kvs.clone();
                let mut theirs = given.kvs.clone();
                ours.sort_by(|a, b| a.key.cmp(&b.key));
                theirs.sort_by(|a, b| a.key.cmp(&b.key));
                whole(expected) == whole(given) && (expected.more || ours == theirs)
            }
            (Some(Done::ResponseTxn(expected)), Some(Done::ResponseTxn(given))) => {
                txn_agrees(expected, given)
            }
            (expected, given) => expected == given,
        };
    let lengths = expected.responses.len() == given.responses.len();
    lengths
        && (&expected.header, expected.succeeded) == (&given.header, given.succeeded)
        && expected.responses.iter().zip(&given.responses).all(alike)
}

/// A header with its revision only.
pub fn bare(header: Option<pb::ResponseHeader>) -> Option<pb::ResponseHeader> {
    header.map(|header| pb::ResponseHeader { revision: header.revision, ..<_>::default() })
}
