//! The judge sees each broken promise in a real history: one in which all is well, with one fault put in at a time.

use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::mvccpb::KeyValue;

use kit::judge::check::{Run, check};
use kit::judge::model::{self, History};
use kit::judge::record::{Answer, Ask, Heard, Op};

/// Puts a fault in; false where this history has no place for it.
type Fault = fn(&mut Run) -> bool;

const FAULTS: [(&str, Fault, &[&str]); 13] = [
    ("an old list", old_list, &["had shown"]),
    ("an old list below what its proxy had shown", old_list, &["below what its proxy had shown"]),
    ("a wrong serializable list", wrong_serializable, &["wrong content"]),
    ("another past", another_past, &["wrong content"]),
    ("a lost write", lost_write, &["not what was committed"]),
    ("a write twice", write_twice, &["nobody asked for"]),
    ("a revision twice", revision_twice, &["not what was committed", "another one has this revision"]),
    ("half of a transaction", half_of_one, &["not what was committed", "nobody asked for"]),
    ("a dropped event", dropped_event, &["is due"]),
    ("an event twice", event_twice, &["after"]),
    ("a progress too early", early_progress, &["before events of"]),
    ("a lease that ends too early", early_end, &["nobody asked for"]),
    ("a lease that never ends", no_end, &["which has long run out"]),
];

/// All is well in `run`, and would not be taken to be with any of these in it.
pub(crate) fn must_be_seen(run: &Run, seed: u64) {
    for (name, fault, expected) in FAULTS {
        let mut doctored =
            Run { records: run.records.clone(), committed: run.committed.clone(), ..copy(run) };
        if !fault(&mut doctored) {
            println!("doctored: no place for {name}");
            continue;
        }
        let violations = check(&doctored);
        let seen =
            violations.iter().any(|violation| expected.iter().any(|what| violation.what.contains(what)));
        let all: Vec<_> = violations.iter().take(3).map(|violation| &violation.what).collect();
        assert!(seen, "KUBEBRAIN_SEED={seed}: {name} was not seen: {all:#?}");
    }
}

fn copy(run: &Run) -> Run {
    Run {
        committed: Vec::new(),
        wrong: run.wrong.clone(),
        records: <_>::default(),
        placement: run.placement.clone(),
        troubled: run.troubled,
        leaseless: run.leaseless.clone(),
    }
}

/// Of one group, which is the only one.
fn history(run: &Run) -> History {
    let mut history = History::default();
    for committed in &run.committed {
        history.push(committed.revision, committed.changes.clone());
    }
    history
}

/// The last operation that something can be made of.
fn last<'r, T>(run: &'r mut Run, find: impl FnMut(&'r mut Op) -> Option<T>) -> Option<T> {
    run.records.ops.iter_mut().rev().find_map(find)
}

fn list(op: &mut Op) -> Option<(&pb::RangeRequest, &mut pb::RangeResponse)> {
    match (&op.ask, &mut op.outcome) {
        (Ask::Range(ask), Some(Ok(Answer::Range(answer)))) => Some((ask, answer)),
        _ => None,
    }
}

/// A list answered exactly as it was a hundred revisions before.
fn old_list(run: &mut Run) -> bool {
    let history = history(run);
    let shown: Vec<(usize, u64, i64)> = run
        .records
        .ops
        .iter()
        .filter_map(|op| Some((op.proxy, op.end.tick, op.outcome.as_ref()?.as_ref().ok()?.revision())))
        .collect();
    last(run, |op| {
        let (proxy, begin) = (op.proxy, op.begin.tick);
        let (ask, answer) = list(op).filter(|(ask, _)| ask.revision == 0 && !ask.serializable)?;
        let header = answer.header.as_mut()?;
        let old = header.revision - 100;
        // Something newer was shown before, by the same life of a proxy.
        shown.iter().find(|(by, end, revision)| *by == proxy && *end < begin && *revision > old)?;
        let content = model::range(&history.at(old), ask);
        header.revision = old;
        *answer = pb::RangeResponse { header: answer.header, ..content };
        (old > 1).then_some(())
    })
    .is_some()
}

fn wrong_serializable(run: &mut Run) -> bool {
    last(run, |op| {
        let (_, answer) = list(op).filter(|(ask, _)| ask.serializable)?;
        answer.kvs.pop().map(drop)
    })
    .is_some()
}

fn another_past(run: &mut Run) -> bool {
    last(run, |op| {
        let (_, answer) = list(op).filter(|(ask, _)| ask.revision > 0 && !ask.keys_only)?;
        answer.kvs.first_mut().map(|kv| kv.value = "another".into())
    })
    .is_some()
}

/// A transaction or a put that was acknowledged, and changed something.
fn acknowledged(run: &Run) -> Option<usize> {
    let writes = run.records.ops.iter().rev().filter_map(|op| match (&op.ask, &op.outcome) {
        (Ask::Put(_), Some(Ok(answer))) => Some(answer.revision()),
        _ => None,
    });
    let mut places = writes
        .filter_map(|revision| run.committed.iter().position(|committed| committed.revision == revision));
    places.nth(3)
}

fn lost_write(run: &mut Run) -> bool {
    let Some(at) = acknowledged(run) else { return false };
    run.committed.remove(at);
    true
}

fn write_twice(run: &mut Run) -> bool {
    let (Some(at), Some(newest)) = (acknowledged(run), run.committed.last()) else { return false };
    let mut again = run.committed[at].clone();
    again.revision = newest.revision + 1;
    let live = history(run).at(newest.revision);
    for (key, kv) in &mut again.changes {
        let before = live.get(key);
        if let Some(kv) = kv {
            kv.version = before.map_or(1, |before| before.version + 1);
            kv.create_revision = before.map_or(again.revision, |before| before.create_revision);
            kv.mod_revision = again.revision;
        }
    }
    run.committed.push(again);
    true
}

fn revision_twice(run: &mut Run) -> bool {
    let mut first = None;
    last(run, |op| match (&op.ask, &mut op.outcome) {
        (Ask::Put(_), Some(Ok(Answer::Put(answer)))) => {
            let header = answer.header.as_mut()?;
            match first {
                None => {
                    first = Some(header.revision);
                    None
                }
                Some(first) => {
                    header.revision = first;
                    Some(())
                }
            }
        }
        _ => None,
    })
    .is_some()
}

fn half_of_one(run: &mut Run) -> bool {
    let whole = run.committed.iter_mut().rev().find(|committed| committed.changes.len() > 1);
    whole.and_then(|committed| committed.changes.pop()).is_some()
}

/// A watcher that heard of events more than once, and when it did.
fn busy(run: &mut Run) -> Option<(&mut kit::judge::record::Watch, Vec<usize>)> {
    run.records.watches.iter_mut().rev().find_map(|watch| {
        let events = |heard: &Heard| matches!(heard, Heard::Events(response) if !response.fragment);
        let places = watch.heard.iter().enumerate().filter(|(_, (_, heard))| events(heard));
        let places: Vec<usize> = places.map(|(at, _)| at).collect();
        (places.len() > 4).then_some((watch, places))
    })
}

fn dropped_event(run: &mut Run) -> bool {
    let Some((watch, places)) = busy(run) else { return false };
    // Progress after it would tell as well, and sooner.
    let gone = places[1];
    watch.heard.remove(gone);
    let next = watch.heard.iter().skip(gone).position(|(_, heard)| matches!(heard, Heard::Events(_)));
    let next = gone + next.unwrap_or(0);
    watch.heard.drain(gone..next);
    true
}

fn event_twice(run: &mut Run) -> bool {
    let Some((watch, places)) = busy(run) else { return false };
    let again = watch.heard[places[1]].clone();
    watch.heard.insert(places[1] + 1, again);
    true
}

fn early_progress(run: &mut Run) -> bool {
    let Some((watch, places)) = busy(run) else { return false };
    let (moment, heard) = watch.heard[places[2]].clone();
    let Heard::Events(response) = heard else { return false };
    let revision =
        response.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max();
    let early = Heard::Progress { revision: revision.unwrap_or(0), manual: false };
    watch.heard.insert(places[2], (moment, early));
    true
}

/// An hour of a lease whose keys were deleted when it ended.
fn early_end(run: &mut Run) -> bool {
    let history = history(run);
    let ended =
        |revision: i64, key: &bytes::Bytes| history.at(revision - 1).get(key).map(|kv: &KeyValue| kv.lease);
    let leases: Vec<i64> = run
        .committed
        .iter()
        .filter(|committed| committed.changes.iter().all(|(_, kv)| kv.is_none()))
        .filter_map(|committed| {
            ended(committed.revision, &committed.changes[0].0).filter(|lease| *lease != 0)
        })
        .collect();
    let revoked: Vec<i64> = run
        .records
        .ops
        .iter()
        .filter_map(|op| if let Ask::Revoke(ask) = &op.ask { Some(ask.id) } else { None })
        .collect();
    // One key of it was deleted by its name, perhaps: then another lease is looked for.
    let asked = |id: &i64| !revoked.contains(id);
    let leases: Vec<i64> = leases.into_iter().filter(asked).collect();
    last(run, |op| match (&op.ask, &mut op.outcome) {
        (Ask::Grant(_), Some(Ok(Answer::Grant(lease)))) if leases.contains(&lease.id) => {
            lease.ttl = 3600;
            Some(())
        }
        _ => None,
    })
    .is_some()
}

fn no_end(run: &mut Run) -> bool {
    let leased = run.committed.iter().rev().find(|committed| {
        committed.changes.iter().any(|(_, kv)| kv.as_ref().is_some_and(|kv| kv.lease != 0))
    });
    let Some(revision) = leased.map(|committed| committed.revision) else { return false };
    run.leaseless.push(revision);
    true
}
