//! The judge of rounds sees each broken promise: a short history in which all is well, and one fault at a time in it.

use std::sync::Arc;

use bytes::Bytes;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kubebrain_proto::etcdserverpb::request_op::Request;
use kubebrain_proto::mvccpb::Event;
use kubebrain_shared::group::GroupName;
use tokio::time::Instant;
use tonic::Status;

use crate::faults::one_group;
use crate::traffic::put;
use kit::judge::check::{Run, check};
use kit::judge::model::{self, Evaluation, History};
use kit::judge::readback::Readback;
use kit::judge::record::{Answer, Ask, Committed, Heard, Moment, Op, Records, Watch};

/// Indices of what [`Story::told`] asks.
const UPDATE: usize = 1;
const PAIR: usize = 2;
const UNKNOWN: usize = 3;
const LIST: usize = 5;
const PAST: usize = 6;
/// And of what its watcher hears: three responses with events, then a progress.
const PROGRESS: usize = 4;

/// Of a lease.
const LEASE: i64 = 77;

struct Story {
    history: History,
    run: Run,
    tick: u64,
}

fn unchanged(key: &str, modified: i64, success: Vec<Request>) -> Ask {
    let compare = pb::Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Mod as i32,
        key: key.to_owned().into(),
        target_union: Some(TargetUnion::ModRevision(modified)),
        ..Default::default()
    };
    let success = success.into_iter().map(|request| pb::RequestOp { request: Some(request) }).collect();
    Ask::Txn(pb::TxnRequest { compare: vec![compare], success, failure: Vec::new() })
}

fn all(revision: i64) -> Ask {
    let (key, range_end) = (Bytes::from("\0"), Bytes::from("\0"));
    Ask::Range(pb::RangeRequest { key, range_end, revision, ..Default::default() })
}

impl Story {
    fn told() -> Self {
        let run = Run {
            committed: Vec::new(),
            wrong: Vec::new(),
            records: Records::default(),
            placement: Arc::new(one_group()),
            troubled: true,
            leaseless: Vec::new(),
        };
        let mut story = Self { history: History::default(), run, tick: 0 };
        let delete = pb::DeleteRangeRequest { key: "/a".into(), prev_kv: true, ..Default::default() };
        story.writes(1, Ask::Put(put("/a", "1".into())), true);
        story.writes(2, unchanged("/a", 2, vec![Request::RequestPut(put("/a", "2".into()))]), true);
        let pair = vec![Request::RequestDeleteRange(delete), Request::RequestPut(put("/b", "3".into()))];
        story.writes(3, unchanged("/a", 3, pair), true);
        let pair =
            vec![Request::RequestPut(put("/c", "4".into())), Request::RequestPut(put("/d", "5".into()))];
        story.writes(4, unchanged("/c", 0, pair), false);
        let lost = Ask::Put(put("/e", "6".into()));
        story.op(lost, Err(Status::unavailable("etcdserver: request timed out")));
        for revision in [0, 3] {
            let Ask::Range(ask) = all(revision) else { unreachable!("it is a range") };
            let at = if revision == 0 { 5 } else { revision };
            let answer = pb::RangeResponse { header: header(5), ..model::range(&story.history.at(at), &ask) };
            story.op(Ask::Range(ask), Ok(Answer::Range(answer)));
        }
        story.watches();
        story
    }

    fn moment(&mut self) -> Moment {
        self.tick += 1;
        Moment { tick: self.tick, at: Instant::now() }
    }

    fn op(&mut self, ask: Ask, outcome: Result<Answer, Status>) {
        let (begin, end) = (self.moment(), self.moment());
        self.run.records.ops.push(Op { client: 0, proxy: 0, begin, end, ask, outcome: Some(outcome) });
    }

    /// Commits it one after `now`.
    fn writes(&mut self, now: i64, ask: Ask, acknowledged: bool) {
        let mut evaluation = Evaluation::new(&self.history, now);
        let answer = match &ask {
            Ask::Put(put) => Answer::Put(evaluation.put(put)),
            Ask::Txn(txn) => Answer::Txn(evaluation.txn(txn)),
            other => panic!("{other} is no write"),
        };
        let changes = evaluation.into_changes();
        self.history.push(now + 1, changes.clone());
        self.commits(now + 1, changes);
        let unknown = Err(Status::unavailable("etcdserver: request timed out"));
        self.op(ask, if acknowledged { Ok(answer) } else { unknown });
    }

    fn commits(&mut self, revision: i64, changes: Vec<model::Change>) {
        let (group, at) = (GroupName::parse("default").expect("a name"), Instant::now());
        self.run.committed.push(Committed { group, revision, changes, tick: u64::MAX, at });
    }

    fn watches(&mut self) {
        let create = pb::WatchCreateRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            start_revision: 2,
            prev_kv: true,
            ..Default::default()
        };
        let asked = self.moment();
        let created = Some((self.moment(), 5));
        let mut heard = Vec::new();
        for revision in 2..=5 {
            let events = self.history.events(revision, &create);
            let response = pb::WatchResponse { header: header(5), events, ..Default::default() };
            heard.push((self.moment(), Heard::Events(response)));
        }
        heard.push((self.moment(), Heard::Progress { revision: 5, manual: true }));
        let target = Some(5);
        let watch = Watch { client: 9, proxy: 0, stream: 1, create, asked, created, heard, target };
        self.run.records.watches.push(watch);
    }

    fn outcome(&mut self, op: usize) -> &mut Result<Answer, Status> {
        self.run.records.ops[op].outcome.as_mut().expect("it was waited for")
    }

    fn heard(&mut self) -> &mut Vec<(Moment, Heard)> {
        &mut self.run.records.watches[0].heard
    }

    fn events(&mut self, response: usize) -> &mut Vec<Event> {
        match &mut self.heard()[response].1 {
            Heard::Events(response) => &mut response.events,
            other => panic!("{other:?}"),
        }
    }

    fn list(&mut self, op: usize) -> &mut pb::RangeResponse {
        match self.outcome(op) {
            Ok(Answer::Range(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// As if the write without an answer had not happened.
    fn without_the_unknown(&mut self) {
        self.run.committed.pop();
        self.events(3).clear();
        self.heard().remove(3);
        self.list(LIST).kvs.truncate(1);
        self.list(LIST).count = 1;
    }
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..Default::default() })
}

#[test]
fn the_judge_sees_each_broken_promise() {
    type Fault = fn(&mut Story);
    let cases: [(&str, Fault, &str); 22] = [
        ("all is well", |_| {}, ""),
        ("a write without an answer that did not happen", Story::without_the_unknown, ""),
        ("a lost write", |story| drop(story.run.committed.remove(UPDATE)), "not what was committed"),
        ("another value", |story| story.run.committed[0].changes[0].1 = None, "not what was committed"),
        (
            "half of a transaction",
            |story| drop(story.run.committed[PAIR].changes.pop()),
            "not what was committed",
        ),
        (
            "half of one without an answer",
            |story| drop(story.run.committed[UNKNOWN].changes.pop()),
            "nobody asked for",
        ),
        (
            "one without an answer, twice",
            |story| {
                let again = story.run.committed[UNKNOWN].changes.clone();
                story.commits(6, again);
            },
            "nobody asked for",
        ),
        (
            "a revision twice",
            |story| {
                let Ok(Answer::Txn(answer)) = story.outcome(PAIR) else { unreachable!("a transaction") };
                answer.header = header(3);
            },
            "not what was committed at its revision",
        ),
        (
            "the same write, acknowledged twice",
            |story| {
                let again = story.run.records.ops[UPDATE].clone();
                let (begin, end) = (story.moment(), story.moment());
                story.run.records.ops.push(Op { begin, end, ..again });
            },
            "another one has this revision",
        ),
        (
            "a compare that did not hold",
            |story| {
                let Ok(Answer::Txn(answer)) = story.outcome(UPDATE) else { unreachable!("a transaction") };
                answer.succeeded = false;
            },
            "not what was committed",
        ),
        (
            "an error without a reason",
            |story| *story.outcome(UNKNOWN) = Err(Status::internal("?")),
            "refused without a reason",
        ),
        (
            "a surely refused write that happened",
            |story| *story.outcome(UNKNOWN) = Err(Status::resource_exhausted("?")),
            "nobody asked for",
        ),
        ("an old list", |story| story.list(LIST).header = header(3), "had shown"),
        ("a list that lacks a key", |story| drop(story.list(LIST).kvs.pop()), "wrong content"),
        ("another past", |story| story.list(PAST).kvs[0].value = "1".into(), "wrong content"),
        (
            "an event twice",
            |story| {
                let again = story.heard()[1].clone();
                story.heard().insert(2, again);
            },
            "event of 3 after 3",
        ),
        ("a missing event", |story| drop(story.heard().remove(1)), "where 3 is due"),
        (
            "a missing last event",
            |story| {
                story.heard().truncate(3);
            },
            "never heard of 5",
        ),
        ("half of a revision", |story| drop(story.events(2).pop()), "missing or out of order"),
        ("another past value", |story| story.events(1)[0].prev_kv = None, "missing or out of order"),
        (
            "a progress too early",
            |story| {
                let early = story.heard().remove(PROGRESS);
                story.heard().insert(PROGRESS - 1, early);
            },
            "progress 5 before events of 5",
        ),
        (
            "a progress that falls",
            |story| {
                let moment = story.moment();
                story.heard().push((moment, Heard::Progress { revision: 4, manual: false }));
            },
            "progress 4 after 5",
        ),
    ];
    for (name, fault, expected) in cases {
        let mut story = Story::told();
        fault(&mut story);
        let violations = check(&story.run);
        match expected {
            "" => assert!(violations.is_empty(), "{name}: {violations:#?}"),
            expected => assert!(
                violations.iter().any(|violation| violation.what.contains(expected)),
                "{name}: {violations:#?}"
            ),
        }
    }
}

#[test]
fn a_history_that_goes_back_is_seen() {
    let (story, placement) = (Story::told(), one_group());
    let create = pb::WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let events = |revision| story.history.events(revision, &create);
    let mut read = Readback::default();
    read.take(&placement, [events(2), events(3)].concat());
    read.take(&placement, events(4));
    assert!(read.wrong.is_empty(), "{:?}", read.wrong);
    let shown = |committed: &[Committed]| -> Vec<_> {
        committed.iter().map(|committed| (committed.revision, committed.changes.clone())).collect()
    };
    assert_eq!(shown(&read.committed), shown(&story.run.committed[..3]));
    read.take(&placement, events(4));
    assert_eq!(read.wrong, ["the history has 4 after 4"]);
}

/// A lease of a minute that was granted just now, and a key that hangs on it.
fn leased(story: &mut Story) {
    let lease = pb::LeaseGrantResponse { header: header(5), id: LEASE, ttl: 60, ..Default::default() };
    let ask = Ask::Grant(pb::LeaseGrantRequest { id: LEASE, ttl: 60 });
    story.op(ask, Ok(Answer::Grant(lease)));
    let hung = pb::PutRequest { lease: LEASE, ..put("/leased", "7".into()) };
    story.writes(5, Ask::Put(hung), true);
}

/// Its key is deleted, by nobody, and a watcher hears of it.
fn expired(story: &mut Story) {
    let gone = vec![(Bytes::from("/leased"), None)];
    story.history.push(7, gone.clone());
    story.commits(7, gone);
    let watched = pb::WatchCreateRequest { start_revision: 6, ..story.run.records.watches[0].create.clone() };
    let asked = story.moment();
    let created = Some((story.moment(), 7));
    let hear = |story: &mut Story, revision| {
        let events = story.history.events(revision, &watched);
        let response = pb::WatchResponse { header: header(revision), events, ..Default::default() };
        (story.moment(), Heard::Events(response))
    };
    let heard = vec![hear(story, 6), hear(story, 7)];
    let watch =
        Watch { client: 8, proxy: 0, stream: 1, create: watched, asked, created, heard, target: None };
    story.run.records.watches.push(watch);
}

#[test]
fn the_judge_knows_how_long_a_lease_lives() {
    type Told = fn(&mut Story);
    let cases: [(&str, Told, &str); 7] = [
        ("a lease that lives", |_| {}, ""),
        ("one that ends before its time", expired, "nobody asked for"),
        (
            "one that was revoked",
            |story| {
                let revoked = pb::LeaseRevokeResponse { header: header(7) };
                let ask = Ask::Revoke(pb::LeaseRevokeRequest { id: LEASE });
                story.op(ask, Ok(Answer::Revoke(revoked)));
                expired(story);
            },
            "",
        ),
        (
            "one that is renewed as if it were gone",
            |story| {
                let alive = pb::LeaseKeepAliveResponse { header: header(6), id: LEASE, ttl: 0 };
                let ask = Ask::KeepAlive(pb::LeaseKeepAliveRequest { id: LEASE });
                story.op(ask, Ok(Answer::KeepAlive(alive)));
            },
            "a lease that lives is not known",
        ),
        (
            "one that is asked for as if it were gone",
            |story| {
                let gone = pb::LeaseTimeToLiveResponse {
                    header: header(6),
                    id: LEASE,
                    ttl: -1,
                    ..Default::default()
                };
                let ask = Ask::TimeToLive(pb::LeaseTimeToLiveRequest { id: LEASE, keys: false });
                story.op(ask, Ok(Answer::TimeToLive(gone)));
            },
            "a lease that lives is not known",
        ),
        (
            "one that is put as if it were gone",
            |story| {
                let hung = pb::PutRequest { lease: LEASE, ..put("/leased", "8".into()) };
                story.op(Ask::Put(hung), Err(Status::not_found("etcdserver: requested lease not found")));
            },
            "refused without a reason",
        ),
        ("one that does not end", |story| story.run.leaseless.push(6), "which has long run out"),
    ];
    for (name, told, expected) in cases {
        let mut story = Story::told();
        leased(&mut story);
        told(&mut story);
        let violations = check(&story.run);
        match expected {
            "" => assert!(violations.is_empty(), "{name}: {violations:#?}"),
            expected => assert!(
                violations.iter().any(|violation| violation.what.contains(expected)),
                "{name}: {violations:#?}"
            ),
        }
    }
}

#[test]
fn a_write_is_there_when_somebody_was_shown_it() {
    for (lists, watches) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut story = Story::told();
        // What was shown before it began was told to have been made by it.
        let late = story.run.records.ops.remove(PAIR);
        let (begin, end) = (story.moment(), story.moment());
        if !lists {
            story.run.records.ops.retain(|op| !matches!(op.ask, Ask::Range(_)));
        }
        if !watches {
            story.run.records.watches.clear();
        }
        story.run.records.ops.push(Op { begin, end, ..late });
        let violations = check(&story.run);
        let seen = violations.iter().any(|violation| violation.what.contains("committed before it began"));
        assert_eq!(seen, lists || watches, "{lists} {watches}: {violations:#?}");
    }
}

/// A write that was answered as not carried out, and is there all the same.
#[test]
fn an_answered_write_explains_no_other_revision() {
    let mut story = Story::told();
    let again = story.run.committed[UPDATE].changes.clone();
    let mut again_kv = again.clone();
    if let Some(kv) = &mut again_kv[0].1 {
        (kv.mod_revision, kv.create_revision, kv.version) = (6, 6, 1);
    }
    story.history.push(6, again_kv.clone());
    story.commits(6, again_kv);
    let begin = story.moment();
    let Ask::Range(everything) = all(0) else { unreachable!("it is a range") };
    let content = model::range(&story.history.at(6), &everything);
    let shown = pb::RangeResponse { header: header(6), ..content };
    story.op(Ask::Range(everything), Ok(Answer::Range(shown)));
    let end = story.moment();
    let ask = unchanged("/a", 0, vec![Request::RequestPut(put("/a", "2".into()))]);
    let failed = pb::TxnResponse { header: header(6), succeeded: false, responses: Vec::new() };
    let outcome = Some(Ok(Answer::Txn(failed)));
    story.run.records.ops.push(Op { client: 0, proxy: 0, begin, end, ask, outcome });
    let violations = check(&story.run);
    assert!(
        violations.iter().any(|violation| violation.what.contains("nobody asked for")),
        "{violations:#?}"
    );
}
