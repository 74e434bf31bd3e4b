//! The judges: what clients were told, held against what was committed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::mvccpb::{Event, KeyValue};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use tonic::{Code, Status};

use super::bounds;
use super::model::{self, Change, Evaluation, History, State};
use super::record::{Answer, Ask, Committed, Heard, Op, Records, Watch};

/// A run that is over.
pub struct Run {
    pub committed: Vec<Committed>,
    /// What the engine saw to be wrong.
    pub wrong: Vec<String>,
    pub records: Records,
    pub placement: Arc<Placement>,
    pub troubled: bool,
    /// Revisions at which no key may have a lease: all had run out long before.
    pub leaseless: Vec<i64>,
}

/// A promise that was broken.
#[derive(Debug)]
pub struct Violation {
    /// When it showed.
    pub tick: u64,
    pub what: String,
}

/// Revisions that somebody was shown, by when.
#[derive(Default)]
struct Shown(BTreeMap<u64, i64>);

impl Shown {
    /// In any order of ticks; looked at only when all are in.
    fn add(&mut self, tick: u64, revision: i64) {
        let entry = self.0.entry(tick).or_default();
        *entry = (*entry).max(revision);
    }

    fn finish(&mut self) {
        let mut highest = 0;
        for revision in self.0.values_mut() {
            highest = highest.max(*revision);
            *revision = highest;
        }
    }

    /// The highest that was shown before.
    fn before(&self, tick: u64) -> i64 {
        self.0.range(..tick).next_back().map_or(0, |(_, revision)| *revision)
    }
}

/// A compaction that was asked for.
struct Compaction {
    revision: i64,
    begin: u64,
    /// When it was acknowledged.
    done: Option<u64>,
}

struct Judge<'a> {
    run: &'a Run,
    committed: &'a [Committed],
    groups: BTreeMap<GroupName, History>,
    compactions: Vec<Compaction>,
    /// When each revision was committed.
    ticks: HashMap<(GroupName, i64), &'a Committed>,
    by_group: BTreeMap<GroupName, Shown>,
    by_proxy: HashMap<usize, Shown>,
    anywhere: Shown,
    /// Which operation a revision is of.
    claimed: HashMap<(GroupName, i64), usize>,
    violations: Vec<Violation>,
}

/// Everything that is wrong, in the order in which it showed.
pub fn check(run: &Run) -> Vec<Violation> {
    let mut committed = run.committed.clone();
    bounds::settle(&mut committed, &run.records, &run.placement);
    let compactions = run.records.ops.iter().filter_map(|op| match (&op.ask, &op.outcome) {
        (Ask::Compact(ask), outcome) => {
            let done = matches!(outcome, Some(Ok(_))).then_some(op.end.tick);
            Some(Compaction { revision: ask.revision, begin: op.begin.tick, done })
        }
        _ => None,
    });
    let mut judge = Judge {
        run,
        committed: &committed,
        compactions: compactions.collect(),
        groups: run.placement.groups().map(|(group, _)| (group.clone(), History::default())).collect(),
        ticks: HashMap::new(),
        by_group: run.placement.groups().map(|(group, _)| (group.clone(), Shown::default())).collect(),
        by_proxy: HashMap::new(),
        anywhere: Shown::default(),
        claimed: HashMap::new(),
        violations: Vec::new(),
    };
    for what in &run.wrong {
        judge.violations.push(Violation { tick: 0, what: what.clone() });
    }
    for (tick, what) in &run.records.wrong {
        judge.violations.push(Violation { tick: *tick, what: what.clone() });
    }
    for committed in &committed {
        let history = judge.groups.get_mut(&committed.group).expect("of a group");
        history.push(committed.revision, committed.changes.clone());
        judge.ticks.insert((committed.group.clone(), committed.revision), committed);
    }
    judge.collect();
    for (index, op) in run.records.ops.iter().enumerate() {
        judge.op(index, op);
    }
    judge.explain();
    judge.leases();
    for watch in &run.records.watches {
        judge.watch(watch);
    }
    judge.violations.sort_by_key(|violation| violation.tick);
    judge.violations
}

/// The keys of a request.
fn span(key: &Bytes, end: &Bytes) -> KeyRange {
    KeyRange::from_wire(key.clone(), end.clone())
}

impl Ask {
    /// The groups that it concerns.
    pub(super) fn owners(&self, placement: &Placement) -> Vec<GroupName> {
        let mut owners: Vec<GroupName> =
            self.spans().iter().flat_map(|span| placement.owners(span)).collect();
        if owners.is_empty() {
            owners.push(placement.home().clone());
        }
        owners.sort();
        owners.dedup();
        owners
    }

    fn spans(&self) -> Vec<KeyRange> {
        match self {
            Self::Range(ask) | Self::Stream(ask) => vec![span(&ask.key, &ask.range_end)],
            Self::Put(ask) => vec![span(&ask.key, &Bytes::new())],
            Self::Delete(ask) => vec![span(&ask.key, &ask.range_end)],
            Self::Txn(ask) => {
                let mut spans: Vec<_> =
                    ask.compare.iter().map(|compare| span(&compare.key, &compare.range_end)).collect();
                for op in ask.success.iter().chain(&ask.failure) {
                    match &op.request {
                        Some(pb::request_op::Request::RequestPut(put)) => {
                            spans.push(span(&put.key, &Bytes::new()))
                        }
                        Some(pb::request_op::Request::RequestRange(range)) => {
                            spans.push(span(&range.key, &range.range_end))
                        }
                        Some(pb::request_op::Request::RequestDeleteRange(delete)) => {
                            spans.push(span(&delete.key, &delete.range_end));
                        }
                        _ => {}
                    }
                }
                spans
            }
            _ => Vec::new(),
        }
    }

    fn is_serializable(&self) -> bool {
        matches!(self, Self::Range(ask) | Self::Stream(ask) if ask.serializable)
    }

    fn touches_compact_key(&self) -> bool {
        self.spans().iter().any(|span| span.as_one().is_some_and(|key| key[..] == b"compact_rev_key"[..]))
    }

    fn puts(&self) -> Vec<&pb::PutRequest> {
        match self {
            Self::Put(put) => vec![put],
            Self::Txn(txn) => {
                let ops = txn.success.iter().chain(&txn.failure);
                ops.filter_map(|op| match &op.request {
                    Some(pb::request_op::Request::RequestPut(put)) => Some(put),
                    _ => None,
                })
                .collect()
            }
            _ => Vec::new(),
        }
    }

    fn deletes(&self) -> bool {
        match self {
            Self::Delete(_) => true,
            Self::Txn(txn) => txn
                .success
                .iter()
                .chain(&txn.failure)
                .any(|op| matches!(op.request, Some(pb::request_op::Request::RequestDeleteRange(_)))),
            _ => false,
        }
    }
}

impl Judge<'_> {
    fn wrong(&mut self, tick: u64, what: String) {
        self.violations.push(Violation { tick, what });
    }

    /// The groups that a request concerns.
    fn owners(&self, ask: &Ask) -> Vec<GroupName> {
        ask.owners(&self.run.placement)
    }

    /// What everybody was shown, and when.
    fn collect(&mut self) {
        for op in &self.run.records.ops {
            let Some(Ok(answer)) = &op.outcome else { continue };
            let (tick, revision) = (op.end.tick, answer.revision());
            self.by_proxy.entry(op.proxy).or_default().add(tick, revision);
            self.anywhere.add(tick, revision);
            let groups = match &op.ask {
                // the sync point, and what is advanced for a compaction, concern everybody
                ask if ask.touches_compact_key() => self.groups.keys().cloned().collect(),
                Ask::Compact(ask) => {
                    for shown in self.by_group.values_mut() {
                        shown.add(tick, ask.revision);
                    }
                    continue;
                }
                // these show the proxy's floor, or are pieced together
                Ask::Delete(_) if self.owners(&op.ask).len() > 1 => continue,
                Ask::TimeToLive(_) | Ask::KeepAlive(_) | Ask::Revoke(_) | Ask::Grant(_) => continue,
                ask if ask.is_serializable() => continue,
                ask => self.owners(ask),
            };
            for group in groups {
                self.by_group.entry(group).or_default().add(tick, revision);
            }
        }
        for watch in &self.run.records.watches {
            let shown = self.by_proxy.entry(watch.proxy).or_default();
            if let Some((moment, revision)) = watch.created {
                shown.add(moment.tick, revision);
                self.anywhere.add(moment.tick, revision);
            }
            for (moment, heard) in &watch.heard {
                let revision = match heard {
                    Heard::Events(response) => response.header.as_ref().map_or(0, |header| header.revision),
                    Heard::Progress { revision, .. } => *revision,
                    Heard::Cancelled { .. } => 0,
                };
                shown.add(moment.tick, revision);
                self.anywhere.add(moment.tick, revision);
                let Heard::Events(response) = heard else { continue };
                for kv in response.events.iter().filter_map(|event| event.kv.as_ref()) {
                    let group = self.run.placement.owner(&kv.key);
                    if let Some(shown) = self.by_group.get_mut(group) {
                        shown.add(moment.tick, kv.mod_revision);
                    }
                }
            }
        }
        self.anywhere.finish();
        self.by_group.values_mut().chain(self.by_proxy.values_mut()).for_each(Shown::finish);
    }

    fn op(&mut self, index: usize, op: &Op) {
        match &op.outcome {
            None => {}
            Some(Err(status)) => self.refusal(op, status),
            Some(Ok(answer)) => {
                self.clocks(op, answer);
                self.content(index, op, answer);
            }
        }
    }

    /// Answers never go back.
    fn clocks(&mut self, op: &Op, answer: &Answer) {
        let revision = answer.revision();
        if op.ask.is_serializable() {
            return;
        }
        let floor = self.by_proxy.get(&op.proxy).map_or(0, |shown| shown.before(op.begin.tick));
        if revision < floor {
            self.wrong(op.end.tick, format!("below what its proxy had shown, {floor}: {op}"));
        }
        if matches!(
            op.ask,
            Ask::Grant(_) | Ask::Revoke(_) | Ask::KeepAlive(_) | Ask::TimeToLive(_) | Ask::Compact(_)
        ) {
            return;
        }
        for group in self.owners(&op.ask) {
            let shown = self.by_group[&group].before(op.begin.tick);
            if revision < shown {
                self.wrong(op.end.tick, format!("group {group} had shown {shown} before: {op}"));
            }
        }
    }

    /// The state of all groups.
    fn state(&self, revision: i64) -> State {
        let mut whole = State::new();
        for history in self.groups.values() {
            whole.extend(history.at(revision).iter().map(|(key, kv)| (key.clone(), kv.clone())));
        }
        whole
    }

    fn content(&mut self, index: usize, op: &Op, answer: &Answer) {
        let revision = answer.revision();
        match (&op.ask, answer) {
            (Ask::Range(ask) | Ask::Stream(ask), Answer::Range(answer)) => {
                let at = if ask.revision > 0 { ask.revision } else { revision };
                if at > revision {
                    self.wrong(op.end.tick, format!("read in the future: {op}"));
                }
                if !model::range_agrees(&self.state(at), ask, answer) {
                    let expected = model::range(&self.state(at), ask);
                    self.wrong(
                        op.end.tick,
                        format!("wrong content, expected {expected:?}\nin {op}\nwhich is {answer:?}"),
                    );
                }
                let compacted = self.compactions(op.begin.tick, true);
                if ask.revision > 0 && ask.revision < compacted && !ask.serializable {
                    self.wrong(op.end.tick, format!("compacted at {compacted} before: {op}"));
                }
            }
            (Ask::Put(_), Answer::Put(_)) | (Ask::Txn(_), Answer::Txn(_)) => self.write(index, op, answer),
            (Ask::Delete(ask), Answer::Delete(given)) => match &self.owners(&op.ask)[..] {
                [_] => self.write(index, op, answer),
                groups => self.wide_delete(index, op, ask, given, groups),
            },
            (Ask::KeepAlive(ask), Answer::KeepAlive(given)) if given.ttl <= 0 => {
                self.lease_is_gone(op, ask.id)
            }
            // 0 is less than a second
            (Ask::TimeToLive(ask), Answer::TimeToLive(given)) if given.ttl < 0 => {
                self.lease_is_gone(op, ask.id);
            }
            _ => {}
        }
    }

    /// What a request does at a revision: the answer, and what changes.
    fn evaluate(history: &History, now: i64, ask: &Ask) -> Option<(Answer, Vec<Change>)> {
        let mut evaluation = Evaluation::new(history, now);
        let answer = match ask {
            Ask::Put(put) => Answer::Put(evaluation.put(put)),
            Ask::Delete(delete) => Answer::Delete(evaluation.delete(delete)),
            Ask::Txn(txn) => Answer::Txn(evaluation.txn(txn)),
            _ => return None,
        };
        Some((answer, evaluation.into_changes()))
    }

    fn write(&mut self, index: usize, op: &Op, answer: &Answer) {
        let revision = answer.revision();
        let owners = self.owners(&op.ask);
        let [group] = &owners[..] else { return self.wrong(op.end.tick, format!("not one group's: {op}")) };
        let history = &self.groups[group];
        // at its own revision if it changed something, else at the one shown
        let changed = history.changes(revision).filter(|changes| {
            let evaluated = Self::evaluate(history, revision - 1, &op.ask);
            evaluated.is_some_and(|(expected, made)| made == **changes && same(&expected, answer))
        });
        if changed.is_some() {
            let begun_after = self.ticks[&(group.clone(), revision)].tick < op.begin.tick;
            let other = self.claimed.insert((group.clone(), revision), index);
            if begun_after {
                self.wrong(op.end.tick, format!("committed before it began: {op}"));
            }
            if other.is_some_and(|other| other != index) {
                self.wrong(op.end.tick, format!("another one has this revision: {op}"));
            }
            let shown = self.by_group[group].before(op.begin.tick);
            if revision <= shown {
                self.wrong(op.end.tick, format!("group {group} had shown {shown} before: {op}"));
            }
            return;
        }
        let evaluated = Self::evaluate(history, revision, &op.ask);
        let agrees =
            evaluated.is_some_and(|(expected, changes)| changes.is_empty() && same(&expected, answer));
        if !agrees {
            let committed = history.changes(revision).map(|changes| format!("{changes:?}"));
            let expected = Self::evaluate(history, revision - 1, &op.ask);
            let what = format!(
                "not what was committed at its revision, {committed:?}: {op}\nanswered {answer:?}\nexpected {expected:?}"
            );
            self.wrong(op.end.tick, what);
        }
    }

    /// Over several groups: each deletes at a revision of its own.
    fn wide_delete(
        &mut self,
        index: usize,
        op: &Op,
        ask: &pb::DeleteRangeRequest,
        given: &pb::DeleteRangeResponse,
        groups: &[GroupName],
    ) {
        let revision = given.header.as_ref().map_or(0, |header| header.revision);
        for group in groups {
            let mine = |kv: &&KeyValue| self.run.placement.owner(&kv.key) == group;
            let gone: Vec<KeyValue> = given.prev_kvs.iter().filter(mine).cloned().collect();
            let history = &self.groups[group];
            let found = match gone.is_empty() {
                true => {
                    let empty = |at: i64| {
                        !history.at(at).keys().any(|key| model::within(key, &ask.key, &ask.range_end))
                    };
                    let since = self.by_group[group].before(op.begin.tick);
                    (since..=revision).any(empty).then_some(0)
                }
                false => history.from(0).map(|(at, _)| at).find(|at| {
                    let committed = &self.ticks[&(group.clone(), *at)];
                    let inside =
                        committed.tick > op.begin.tick && committed.tick < op.end.tick && *at <= revision;
                    let evaluated = Self::evaluate(history, at - 1, &op.ask);
                    inside
                        && evaluated.is_some_and(|(answer, changes)| {
                            let same =
                                matches!(&answer, Answer::Delete(expected) if expected.prev_kvs == gone);
                            same && Some(&changes) == history.changes(*at)
                        })
                }),
            };
            match found {
                Some(0) => {}
                Some(at) => {
                    if self.claimed.insert((group.clone(), at), index).is_some() {
                        self.wrong(op.end.tick, format!("another one has {at} of group {group}: {op}"));
                    }
                }
                None => self.wrong(
                    op.end.tick,
                    format!("group {group} did not delete that: {op}\nwhich is {given:?}"),
                ),
            }
        }
        if given.deleted != given.prev_kvs.len() as i64 {
            self.wrong(op.end.tick, format!("counts wrongly: {op}"));
        }
    }

    /// The highest revision that was, or may have been, compacted before.
    fn compactions(&self, tick: u64, surely: bool) -> i64 {
        let asked = self.compactions.iter().filter(|compaction| match surely {
            true => compaction.done.is_some_and(|done| done < tick),
            false => compaction.begin < tick,
        });
        asked.map(|compaction| compaction.revision).max().unwrap_or(-1)
    }

    fn refusal(&mut self, op: &Op, status: &Status) {
        let fault = Fault::of(status);
        let named = match &op.ask {
            Ask::Range(ask) | Ask::Stream(ask) => ask.revision,
            Ask::Compact(ask) => ask.revision,
            _ => 0,
        };
        let crossing = matches!(op.ask, Ask::Txn(_)) && self.owners(&op.ask).len() > 1;
        let legal = match (fault, status.code()) {
            (_, Code::InvalidArgument) if crossing => status.message().contains("one group"),
            (Some(Fault::Compacted), _) => match &op.ask {
                Ask::Compact(_) => {
                    let others =
                        self.run.records.ops.iter().filter(|other| {
                            other.begin.tick < op.end.tick && other.begin.tick != op.begin.tick
                        });
                    others
                        .clone()
                        .any(|other| matches!(&other.ask, Ask::Compact(ask) if ask.revision >= named))
                }
                _ => named > 0 && named < self.compactions(op.end.tick, false),
            },
            (Some(Fault::FutureRevision), _) => named > self.anywhere.before(op.begin.tick),
            (Some(Fault::LeaseNotFound), _) => self.lease_may_be_gone(op),
            (Some(Fault::LeaseExists), _) => matches!(op.ask, Ask::Grant(_)) && self.run.troubled,
            (_, Code::Unavailable) => self.run.troubled,
            (_, Code::Unimplemented) => matches!(op.ask, Ask::Stream(_)),
            _ => false,
        };
        if !legal {
            self.wrong(op.end.tick, format!("refused without a reason: {op}"));
        }
    }

    /// Never granted, revoked, or not renewed for its time.
    fn lease_may_be_gone(&self, op: &Op) -> bool {
        let id = match &op.ask {
            Ask::Put(put) => put.lease,
            Ask::Txn(_) => op.ask.puts().iter().map(|put| put.lease).max().unwrap_or(0),
            Ask::Revoke(revoke) => revoke.id,
            _ => return false,
        };
        self.lease_ends(id, op.end.tick, op.end.at)
    }

    fn lease_is_gone(&mut self, op: &Op, id: i64) {
        if !self.lease_ends(id, op.end.tick, op.end.at) {
            self.wrong(op.end.tick, format!("a lease that lives is not known: {op}"));
        }
    }

    /// Leases end at last.
    fn leases(&mut self) {
        for revision in &self.run.leaseless {
            let state = self.state(*revision);
            for kv in state.values().filter(|kv| kv.lease != 0) {
                let key = kv.key.escape_ascii();
                self.wrong(
                    u64::MAX,
                    format!("{key} has lease {:x} at {revision}, which has long run out", kv.lease),
                );
            }
        }
    }

    /// Whether a lease may have ended by then.
    fn lease_ends(&self, id: i64, tick: u64, at: tokio::time::Instant) -> bool {
        let mut alive = None;
        for op in self.run.records.ops.iter().filter(|op| op.begin.tick < tick) {
            match (&op.ask, &op.outcome) {
                (Ask::Revoke(revoke), _) if revoke.id == id => return true,
                (Ask::Grant(_), Some(Ok(Answer::Grant(lease)))) if lease.id == id => {
                    alive = alive.max(Some(op.begin.at + seconds(lease.ttl)));
                }
                (Ask::KeepAlive(ask), Some(Ok(Answer::KeepAlive(lease))))
                    if ask.id == id && lease.ttl > 0 && op.end.tick < tick =>
                {
                    alive = alive.max(Some(op.begin.at + seconds(lease.ttl)));
                }
                _ => {}
            }
        }
        alive.is_none_or(|alive| at >= alive)
    }

    /// Every revision was asked for by somebody, and nobody's request was carried out twice.
    fn explain(&mut self) {
        let ops = &self.run.records.ops;
        let mut by_value: HashMap<(&Bytes, &Bytes), Vec<usize>> = HashMap::new();
        for (index, op) in ops.iter().enumerate() {
            for put in op.ask.puts() {
                by_value.entry((&put.key, &put.value)).or_default().push(index);
            }
        }
        let deletes: Vec<usize> = (0..ops.len()).filter(|index| ops[*index].ask.deletes()).collect();
        let mut done: HashMap<(GroupName, usize), i64> = HashMap::new();
        for ((group, revision), index) in &self.claimed {
            done.insert((group.clone(), *index), *revision);
        }
        let mut wrong = Vec::new();
        for committed in self.committed {
            let (group, revision) = (&committed.group, committed.revision);
            if self.claimed.contains_key(&(group.clone(), revision)) {
                continue;
            }
            let first = committed.changes.iter().find_map(|(key, kv)| kv.as_ref().map(|kv| (key, &kv.value)));
            let candidates = match first {
                Some(value) => by_value.get(&value).cloned().unwrap_or_default(),
                None => deletes.clone(),
            };
            let history = &self.groups[group];
            let found = candidates.iter().copied().find(|index| {
                let op = &ops[*index];
                // What was answered is claimed already, except where several groups answered together.
                let open = match &op.outcome {
                    Some(Ok(_)) => op.end.tick > committed.tick && self.owners(&op.ask).len() > 1,
                    _ => true,
                };
                let free = !done.contains_key(&(group.clone(), *index));
                let maybe = op.begin.tick < committed.tick && open && free && may_have_happened(op);
                maybe
                    && Self::evaluate(history, revision - 1, &op.ask)
                        .is_some_and(|(_, changes)| changes == committed.changes)
            });
            if let Some(index) = found {
                done.insert((group.clone(), index), revision);
            } else if !self.is_expiry(committed) {
                let asked: Vec<String> = candidates
                    .iter()
                    .filter(|_| first.is_some())
                    .map(|index| ops[*index].to_string())
                    .collect();
                let what = format!(
                    "group {group} committed {revision}, {:?}, that nobody asked for (again); {asked:?}",
                    committed.changes
                );
                wrong.push((committed.tick, what));
            }
        }
        for (tick, what) in wrong {
            self.wrong(tick, what);
        }
    }

    /// All keys of one lease that may have ended.
    fn is_expiry(&self, committed: &Committed) -> bool {
        let before = self.groups[&committed.group].at(committed.revision - 1);
        let gone: Vec<_> = committed.changes.iter().map(|(key, kv)| (key, kv.is_none())).collect();
        let Some(lease) =
            gone.first().and_then(|(key, _)| before.get(*key)).map(|kv| kv.lease).filter(|id| *id != 0)
        else {
            return false;
        };
        let attached: Vec<_> =
            before.values().filter(|kv| kv.lease == lease).map(|kv| (&kv.key, true)).collect();
        attached == gone && self.lease_ends(lease, committed.tick, committed.at)
    }

    fn watch(&mut self, watch: &Watch) {
        let Some((_, created)) = watch.created else {
            if !watch.heard.is_empty() {
                self.wrong(watch.asked.tick, format!("heard before it was created: {watch:?}"));
            }
            return;
        };
        let first = if watch.create.start_revision > 0 { watch.create.start_revision } else { created + 1 };
        let name = format!(
            "{}w{}/p{} stream {}: watch of [{}, {}) from {first}",
            heard_of(watch),
            watch.client,
            watch.proxy,
            watch.stream,
            watch.create.key.escape_ascii(),
            watch.create.range_end.escape_ascii()
        );
        // all revisions that it should hear of, with the events of each group
        let mut due: BTreeMap<i64, Vec<Vec<Event>>> = BTreeMap::new();
        for history in self.groups.values() {
            for (revision, _) in history.from(first) {
                let events = history.events(revision, &watch.create);
                if !events.is_empty() {
                    due.entry(revision).or_default().push(events);
                }
            }
        }
        let mut told = first - 1;
        let mut part: Vec<Event> = Vec::new();
        for (moment, heard) in &watch.heard {
            let tick = moment.tick;
            match heard {
                Heard::Progress { revision, manual } => {
                    if !part.is_empty() {
                        self.wrong(tick, format!("{name}: progress between fragments"));
                    }
                    if *revision < told {
                        self.wrong(
                            tick,
                            format!("{name}: progress {revision} after {told} (manual: {manual})"),
                        );
                    }
                    if *revision < watch.create.start_revision {
                        self.wrong(tick, format!("{name}: progress {revision} below its start"));
                    }
                    if let Some((missed, events)) = due.range(..=*revision).next() {
                        self.wrong(
                            tick,
                            format!("{name}: progress {revision} before events of {missed}: {events:?}"),
                        );
                        return;
                    }
                    told = told.max(*revision);
                }
                Heard::Events(response) => {
                    part.extend(response.events.iter().cloned());
                    if response.fragment {
                        continue;
                    }
                    let header = response.header.as_ref().map_or(0, |header| header.revision);
                    if let Some(what) = self.events(&mut due, &std::mem::take(&mut part), &mut told, tick) {
                        self.wrong(tick, format!("{name}: {what}"));
                        return;
                    }
                    if header < told {
                        self.wrong(tick, format!("{name}: header {header} below its events, {told}"));
                    }
                }
                Heard::Cancelled { compact_revision, reason } => {
                    let legal = *compact_revision > told + 1
                        && *compact_revision <= self.compactions(tick, false)
                        && reason.is_empty();
                    if !legal {
                        self.wrong(
                            tick,
                            format!("{name}: cancelled at {told} with {compact_revision} {reason:?}"),
                        );
                    }
                }
            }
        }
        if let Some(target) = watch.target
            && let Some((missed, _)) = due.range(..=target).next()
        {
            self.wrong(u64::MAX, format!("{name}: never heard of {missed}"));
        }
    }

    /// Takes events of one response off those that are due; what is wrong with them.
    fn events(
        &self,
        due: &mut BTreeMap<i64, Vec<Vec<Event>>>,
        events: &[Event],
        told: &mut i64,
        tick: u64,
    ) -> Option<String> {
        let revision = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        for chunk in events.chunk_by(|a, b| revision(a) == revision(b)) {
            let at = revision(&chunk[0]);
            if at <= *told {
                return Some(format!("event of {at} after {told}: {chunk:?}"));
            }
            let Some((next, groups)) = due.pop_first() else {
                return Some(format!("events that were never committed: {chunk:?}"));
            };
            if next != at {
                return Some(format!("event of {at} where {next} is due: {groups:?}"));
            }
            let compacted = self.compactions(tick, false);
            let mut rest: HashSet<usize> = (0..chunk.len()).collect();
            for expected in &groups {
                let mut from = 0;
                for event in expected {
                    let agrees = |given: &Event| {
                        let mut event = event.clone();
                        // what was there before may be compacted
                        if given.prev_kv.is_none() && at <= compacted {
                            event.prev_kv = None;
                        }
                        event == *given
                    };
                    let Some(position) = (from..chunk.len()).find(|position| agrees(&chunk[*position]))
                    else {
                        return Some(format!(
                            "at {at} {event:?} is missing or out of order in {chunk:?} (compacted {compacted})"
                        ));
                    };
                    rest.remove(&position);
                    from = position + 1;
                }
            }
            if !rest.is_empty() {
                return Some(format!("at {at} more than was committed: {chunk:?}"));
            }
            *told = at;
        }
        None
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.max(0).unsigned_abs())
}

/// Whether the outcome leaves open that it happened.
fn may_have_happened(op: &Op) -> bool {
    match &op.outcome {
        None | Some(Ok(_)) => true,
        Some(Err(status)) => matches!(status.code(), Code::Unavailable),
    }
}

/// Whether an answer is the expected one, whoever gave it.
fn same(expected: &Answer, given: &Answer) -> bool {
    match (expected, given) {
        (Answer::Put(expected), Answer::Put(given)) => {
            *expected == pb::PutResponse { header: model::bare(given.header), ..given.clone() }
        }
        (Answer::Delete(expected), Answer::Delete(given)) => {
            *expected == pb::DeleteRangeResponse { header: model::bare(given.header), ..given.clone() }
        }
        (Answer::Txn(expected), Answer::Txn(given)) => {
            model::plain(expected.clone()) == model::plain(given.clone())
        }
        _ => false,
    }
}

/// What a watcher heard, in short.
fn heard_of(watch: &Watch) -> String {
    let mut text = format!(
        "[asked {} start {} created {:?}",
        watch.asked.tick,
        watch.create.start_revision,
        watch.created.map(|(moment, revision)| (moment.tick, revision))
    );
    for (moment, heard) in watch.heard.iter().skip(watch.heard.len().saturating_sub(20)) {
        text += &match heard {
            Heard::Progress { revision, manual } => {
                format!(" {}:{}{revision}", moment.tick, if *manual { "m" } else { "p" })
            }
            Heard::Events(response) => {
                let revisions: Vec<_> = response
                    .events
                    .iter()
                    .filter_map(|event| event.kv.as_ref())
                    .map(|kv| kv.mod_revision)
                    .collect();
                format!(" {}:{revisions:?}", moment.tick)
            }
            Heard::Cancelled { compact_revision, .. } => format!(" {}:x{compact_revision}", moment.tick),
        };
    }
    text + "] "
}
