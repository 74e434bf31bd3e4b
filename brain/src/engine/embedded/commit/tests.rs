//! The committer on a disk that fails when told to. It runs on the test's own thread: queue first, then run.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::*;

#[derive(Default)]
struct Fake {
    rows: BTreeMap<Bytes, Bytes>,
    /// Sizes of the rounds that were written.
    rounds: Vec<usize>,
    /// What the next write says.
    next: Option<WriteError>,
}

type Outcome = Result<(), CommitError>;

impl Disk for Arc<Mutex<Fake>> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Cause> {
        match key {
            b"unreadable" => Err("a bad block".into()),
            _ => Ok(self.lock().rows.get(key).cloned()),
        }
    }

    fn write(&mut self, rows: &[Row]) -> Result<(), WriteError> {
        let mut fake = self.lock();
        if let Some(error) = fake.next.take() {
            return Err(error);
        }
        fake.rounds.push(rows.len());
        for (key, value) in rows {
            match value {
                Some(value) => drop(fake.rows.insert(key.clone(), value.clone())),
                None => drop(fake.rows.remove(key)),
            }
        }
        Ok(())
    }
}

/// Queues all, runs the committer to its end, and gives the outcomes and its last word.
fn run(disk: &Arc<Mutex<Fake>>, batches: impl IntoIterator<Item = Batch>) -> (Vec<Outcome>, Option<Poison>) {
    let (inbox, orders) = mpsc::channel(1_000);
    let (sender, poison) = watch::channel(None);
    let answers: Vec<_> = batches
        .into_iter()
        .map(|batch| {
            let (answer, outcome) = oneshot::channel();
            inbox.try_send(Order { bytes: batch.size(), batch, answer }).expect("room");
            outcome
        })
        .collect();
    drop(inbox);
    Committer::new(Arc::clone(disk), orders, sender).run();
    let outcomes = answers.into_iter().map(|answer| answer.blocking_recv().expect("answered")).collect();
    let poison = poison.borrow().clone();
    (outcomes, poison)
}

fn claim(key: &'static str, value: &'static str) -> Batch {
    Batch::new().absent(key).put(key, value).clone()
}

#[test]
fn waiting_batches_share_one_write() {
    let disk = Arc::default();
    let (outcomes, poison) = run(&disk, [claim("a", "1"), claim("b", "1"), claim("c", "1")]);
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(disk.lock().rounds, [3]);
    assert_eq!(poison, None);
}

#[test]
fn a_round_is_bounded_by_bytes() {
    let disk = Arc::default();
    let large = |key: &'static str| Batch::new().put(key, vec![1; ROUND_BYTES_MAX / 2]).clone();
    let (outcomes, _) = run(&disk, [large("a"), large("b"), large("c"), large("d"), large("e")]);
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(disk.lock().rounds, [2, 2, 1]);
}

#[test]
fn a_batch_is_judged_after_those_before_it_in_the_round() {
    let disk = Arc::default();
    let batches = [
        claim("a", "1"),
        claim("a", "2"),
        Batch::new().equals("a", "1").put("a", "3").clone(),
        Batch::new().equals("a", "3").delete("a").clone(),
        Batch::new().equals("a", "3").put("b", "1").clone(),
        claim("a", "4"),
    ];
    let (outcomes, _) = run(&disk, batches);
    let ok: Vec<_> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(ok, [true, false, true, true, false, true]);
    assert!(matches!(&outcomes[1], Err(CommitError::Conflict { key }) if key == "a"));
    assert_eq!(disk.lock().rows, BTreeMap::from([("a".into(), "4".into())]));
    assert_eq!(disk.lock().rounds, [1], "one row for one key");
}

#[test]
fn after_a_write_of_unknown_outcome_nothing_is_written() {
    let disk = Arc::new(Mutex::new(Fake {
        next: Some(WriteError::Unknown("sync failed".into())),
        ..Fake::default()
    }));
    let (outcomes, poison) = run(&disk, [claim("a", "1"), claim("a", "2"), claim("b", "1")]);
    assert!(matches!(outcomes[0], Err(CommitError::Unknown(_))), "{outcomes:?}");
    // It was in conflict with a batch that may not be there: all that is sure is that it was not written.
    assert!(matches!(outcomes[1], Err(CommitError::Refused(Refusal::Stopped(_)))), "{outcomes:?}");
    assert!(matches!(outcomes[2], Err(CommitError::Unknown(_))), "{outcomes:?}");
    assert!(poison.expect("poisoned").to_string().contains("sync failed"));
    assert_eq!(disk.lock().rounds, [0; 0]);
}

#[test]
fn a_write_that_did_not_begin_is_refused() {
    let disk = Arc::new(Mutex::new(Fake {
        next: Some(WriteError::Refused("flush failed".into())),
        ..Fake::default()
    }));
    let (outcomes, poison) = run(&disk, [claim("a", "1")]);
    assert!(matches!(outcomes[0], Err(CommitError::Refused(Refusal::Stopped(_)))), "{outcomes:?}");
    assert!(poison.is_some());
}

#[test]
fn rounds_after_a_failed_one_are_refused_though_the_disk_is_well_again() {
    let disk = Arc::new(Mutex::new(Fake {
        next: Some(WriteError::Unknown("sync failed".into())),
        ..Fake::default()
    }));
    let large = Batch::new().put("large", vec![1; ROUND_BYTES_MAX]).clone();
    let (outcomes, _) = run(&disk, [large, claim("a", "1"), Batch::new()]);
    assert!(matches!(outcomes[0], Err(CommitError::Unknown(_))), "{outcomes:?}");
    for outcome in &outcomes[1..] {
        assert!(matches!(outcome, Err(CommitError::Refused(Refusal::Stopped(_)))), "{outcome:?}");
    }
    assert_eq!(disk.lock().rows, BTreeMap::new());
}

#[test]
fn a_condition_that_cannot_be_read_refuses_its_batch_only() {
    let disk = Arc::default();
    let (outcomes, poison) = run(&disk, [claim("unreadable", "1"), claim("a", "1")]);
    assert!(matches!(outcomes[0], Err(CommitError::Refused(Refusal::Unavailable(_)))), "{outcomes:?}");
    assert!(outcomes[1].is_ok());
    assert_eq!(poison, None);
}
