//! What every engine must do, as tests. [`suite`] makes one test of each check, on stores that an [`Open`] gives by
//! name: the same name is the same store again, opened anew if that means something. A check opens a name of its own,
//! and has dropped the engine and its snapshots before it opens that name again.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use tokio::task::JoinSet;

use crate::engine::{
    Batch, CommitError, Condition, Engine, PAGE_BYTES_MAX, Page, Refusal, Snapshot, Span, Write,
};

/// Makes a test of each check; `$open` is an [`Open`], made in the test's own async function.
#[macro_export]
#[doc(hidden)]
macro_rules! engine_contract {
    ($open:expr) => {
        $crate::engine_contract! { $open;
            a_key_reads_as_it_was_last_written,
            many_keys_are_read_in_the_order_asked,
            scans_are_ordered_and_half_open,
            pages_join_without_gap_or_repeat,
            pages_are_bounded_by_bytes,
            unusual_bytes_are_ordered_as_bytes,
            absent_holds_only_where_nothing_is_stored,
            equals_holds_only_for_the_very_value,
            conditions_are_judged_before_the_writes_of_their_batch,
            a_conflict_writes_nothing,
            a_batch_without_writes_only_judges,
            the_last_write_to_a_key_in_a_batch_stays,
            keys_that_cannot_be_stored_are_refused,
            a_snapshot_stays_as_it_was,
            snapshots_show_a_batch_whole_or_not_at_all,
            one_of_many_claims_on_a_key_wins,
            counting_under_equals_loses_no_step,
            nothing_passes_a_fence_that_has_changed,
            large_values_and_long_batches_fit,
            partitions_cut_inside_the_range_in_order,
            a_dropped_commit_is_whole_or_absent,
            everything_committed_is_there_after_reopening,
            any_history_reads_as_in_the_model,
        }
    };
    ($open:expr; $($check:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $check() {
            let open = $open;
            $crate::engine::contract::$check(&open).await;
        }
    )* };
}
pub use crate::engine_contract as suite;

/// Opens a store by name.
pub trait Open<E>: Sync {
    /// Opens it.
    fn open(&self, name: &str) -> impl Future<Output = Arc<E>> + Send;
}

impl<E, F, O> Open<E> for F
where
    F: Fn(String) -> O + Sync,
    O: Future<Output = Arc<E>> + Send,
{
    fn open(&self, name: &str) -> impl Future<Output = Arc<E>> + Send {
        self(name.to_owned())
    }
}

pub async fn a_key_reads_as_it_was_last_written<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("get").await;
    assert_eq!(get(&*engine, "a").await, None);
    put(&*engine, "a", "1").await;
    assert_eq!(get(&*engine, "a").await, Some("1".into()));
    put(&*engine, "a", "2").await;
    put(&*engine, "ab", "3").await;
    assert_eq!(get(&*engine, "a").await, Some("2".into()));
    commit(&*engine, Batch::new().delete("a").delete("never")).await.expect("deletes");
    assert_eq!(get(&*engine, "a").await, None);
    assert_eq!(get(&*engine, "ab").await, Some("3".into()), "a key below another is its own");
}

pub async fn many_keys_are_read_in_the_order_asked<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("get_many").await;
    for key in ["a", "b", "c", "d", "e", "f"] {
        put(&*engine, key, key).await;
    }
    let snapshot = engine.snapshot().await.expect("snapshot");
    for keys in [&["c", "x", "a", "c"][..], &["f", "e", "y", "d", "c", "b", "a"][..], &[][..]] {
        let expected: Vec<_> = keys.iter().map(|key| (*key < "x").then(|| Bytes::from(*key))).collect();
        let found =
            snapshot.get_many(keys.iter().map(|key| Bytes::from(*key)).collect()).await.expect("reads");
        assert_eq!(found, expected, "{keys:?}");
    }
}

pub async fn scans_are_ordered_and_half_open<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("scan").await;
    for key in ["c", "a", "bb", "b", "d"] {
        put(&*engine, key, key).await;
    }
    let cases: [(&str, Span, &[&str]); 9] = [
        ("everything", Span::ALL, &["a", "b", "bb", "c", "d"]),
        ("start included", Span::from("b"), &["b", "bb", "c", "d"]),
        ("end excluded", Span::new("a", "c"), &["a", "b", "bb"]),
        ("bounds that are no keys", Span::new("aa", "bz"), &["b", "bb"]),
        ("one key", Span::new("b", "b\0"), &["b"]),
        ("nothing between", Span::new("c\0", "d"), &[]),
        ("past the end", Span::from("e"), &[]),
        ("empty", Span::new("b", "b"), &[]),
        ("inverted", Span::new("d", "a"), &[]),
    ];
    let snapshot = engine.snapshot().await.expect("snapshot");
    for (name, span, expected) in cases {
        let page = snapshot.scan(span, 100).await.expect("scan");
        assert_eq!(keys(&page), expected, "{name}");
        assert_eq!(page.next, None, "{name}");
        assert!(page.rows.iter().all(|(key, value)| key == value), "{name}");
    }
}

pub async fn pages_join_without_gap_or_repeat<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("pages").await;
    let mut batch = Batch::new();
    for number in 0..50 {
        batch.put(format!("k{number:02}"), "v");
    }
    commit(&*engine, &mut batch).await.expect("rows");
    let snapshot = engine.snapshot().await.expect("snapshot");
    for limit in [1, 2, 7, 25, 49, 50, 51] {
        let span = Span::new("k00", "k49");
        let (rows, pages) = read_all(&*snapshot, span, limit).await;
        assert_eq!(rows.len(), 49, "limit {limit}");
        assert!(rows.windows(2).all(|pair| pair[0].0 < pair[1].0), "limit {limit}");
        assert!(pages.iter().all(|rows| *rows <= limit), "limit {limit}: {pages:?}");
    }
    let none = snapshot.scan(Span::from("k10"), 0).await.expect("scan");
    assert_eq!(none, Page { rows: Vec::new(), next: Some("k10".into()) }, "a limit of 0 gets nowhere");
}

pub async fn pages_are_bounded_by_bytes<E: Engine>(open: &impl Open<E>) {
    const VALUE_BYTES: usize = 1 << 20;
    let engine = open.open("bytes").await;
    let mut batch = Batch::new();
    for number in 0..20 {
        batch.put(format!("k{number:02}"), vec![number; VALUE_BYTES]);
    }
    commit(&*engine, &mut batch).await.expect("rows");
    let snapshot = engine.snapshot().await.expect("snapshot");
    let (rows, pages) = read_all(&*snapshot, Span::ALL, usize::MAX).await;
    assert_eq!(rows.len(), 20);
    assert!(pages.iter().all(|rows| rows * VALUE_BYTES <= PAGE_BYTES_MAX + VALUE_BYTES), "{pages:?}");
    assert!(pages.len() >= 2);
}

pub async fn unusual_bytes_are_ordered_as_bytes<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("bytes_of_keys").await;
    let mut sorted: Vec<&[u8]> = vec![
        b"\0",
        b"\0\0",
        b"\0\x01",
        b"\x01",
        b"a",
        b"a\0",
        b"a\0\0",
        b"a\0b",
        b"a\xff",
        b"a\xff\xff",
        b"b",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xff\0",
        b"\xff\xff",
    ];
    let mut batch = Batch::new();
    for key in sorted.iter().rev() {
        batch.put(*key, b"\0".as_slice());
    }
    commit(&*engine, &mut batch).await.expect("rows");
    sorted.sort_unstable();
    let snapshot = engine.snapshot().await.expect("snapshot");
    for start in 0..sorted.len() {
        for end in start..sorted.len() {
            let (rows, _) = read_all(&*snapshot, Span::new(sorted[start], sorted[end]), 3).await;
            let found: Vec<&[u8]> = rows.iter().map(|(key, _)| &key[..]).collect();
            assert_eq!(found, sorted[start..end], "{:?}..{:?}", sorted[start], sorted[end]);
        }
        let (rows, _) = read_all(&*snapshot, Span::from(sorted[start]), 3).await;
        assert_eq!(rows.len(), sorted.len() - start);
    }
}

pub async fn absent_holds_only_where_nothing_is_stored<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("absent").await;
    let claim = Batch::new().absent("a").put("a", "1").clone();
    engine.commit(claim.clone()).await.expect("nothing there");
    assert_eq!(conflict(engine.commit(claim.clone()).await), "a");
    commit(&*engine, Batch::new().delete("a")).await.expect("delete");
    engine.commit(claim.clone()).await.expect("nothing there again");
    assert_eq!(conflict(engine.commit(claim).await), "a");
}

pub async fn equals_holds_only_for_the_very_value<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("equals").await;
    let step = |from: &'static str, to: &'static str| Batch::new().equals("a", from).put("a", to).clone();
    assert_eq!(conflict(engine.commit(step("1", "2")).await), "a", "nothing there");
    put(&*engine, "a", "1").await;
    engine.commit(step("1", "2")).await.expect("equal");
    assert_eq!(conflict(engine.commit(step("1", "3")).await), "a", "was equal once");
    assert_eq!(conflict(engine.commit(step("22", "3")).await), "a", "a longer value");
    engine.commit(step("2", "2")).await.expect("equal, and stays");
    engine.commit(step("2", "3")).await.expect("equal");
    commit(&*engine, Batch::new().delete("a")).await.expect("delete");
    assert_eq!(conflict(engine.commit(step("3", "4")).await), "a", "deleted");
    assert_eq!(get(&*engine, "a").await, None);
}

pub async fn conditions_are_judged_before_the_writes_of_their_batch<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("before").await;
    put(&*engine, "a", "1").await;
    commit(&*engine, Batch::new().equals("a", "1").delete("a").put("b", "1").absent("b"))
        .await
        .expect("all hold");
    assert_eq!((get(&*engine, "a").await, get(&*engine, "b").await), (None, Some("1".into())));
}

pub async fn a_conflict_writes_nothing<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("conflict").await;
    put(&*engine, "taken", "1").await;
    put(&*engine, "kept", "1").await;
    let mut batch = Batch::new();
    batch.absent("free").equals("kept", "1").absent("taken");
    batch.put("free", "2").put("kept", "2").delete("taken").put("zz", "2");
    assert_eq!(conflict(commit(&*engine, &mut batch).await), "taken");
    let (rows, _) = read_all(&*engine.snapshot().await.expect("snapshot"), Span::ALL, 10).await;
    assert_eq!(rows, [("kept".into(), "1".into()), ("taken".into(), Bytes::from("1"))]);
}

pub async fn a_batch_without_writes_only_judges<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("fence").await;
    engine.commit(Batch::new()).await.expect("empty");
    commit(&*engine, Batch::new().absent("a")).await.expect("holds");
    put(&*engine, "a", "1").await;
    assert_eq!(conflict(commit(&*engine, Batch::new().absent("a")).await), "a");
    commit(&*engine, Batch::new().equals("a", "1")).await.expect("holds");
}

pub async fn the_last_write_to_a_key_in_a_batch_stays<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("twice").await;
    let mut batch = Batch::new();
    batch.put("a", "1").put("a", "2").put("b", "1").delete("b").delete("c").put("c", "3");
    commit(&*engine, &mut batch).await.expect("batch");
    let (rows, _) = read_all(&*engine.snapshot().await.expect("snapshot"), Span::ALL, 10).await;
    assert_eq!(rows, [("a".into(), "2".into()), ("c".into(), Bytes::from("3"))]);
}

pub async fn keys_that_cannot_be_stored_are_refused<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("refused").await;
    let max = engine.bounds().key_bytes_max;
    let long = vec![b'k'; max + 1];
    let mut batches = vec![Batch::new(); 4];
    batches[0].put("", "v").put("a", "v");
    batches[1].put("a", "v").put(long.clone(), "v");
    batches[2].put("a", "v").delete(long.clone());
    batches[3].put("a", "v").absent(long);
    for batch in batches {
        let refused = engine.commit(batch).await;
        assert!(matches!(refused, Err(CommitError::Refused(Refusal::Key { .. }))), "{refused:?}");
    }
    assert_eq!(get(&*engine, "a").await, None);
    put(&*engine, &"k".repeat(max), "v").await;
}

pub async fn a_snapshot_stays_as_it_was<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("isolation").await;
    put(&*engine, "a", "1").await;
    put(&*engine, "b", "1").await;
    let old = engine.snapshot().await.expect("snapshot");
    for round in 0..300 {
        let mut batch = Batch::new();
        batch.put("a", format!("{round}")).delete("b").put(format!("c{round}"), vec![b'x'; 2000]);
        commit(&*engine, &mut batch).await.expect("batch");
    }
    assert_eq!(old.get(b"a").await.expect("get"), Some("1".into()));
    let (rows, _) = read_all(&*old, Span::ALL, 10).await;
    assert_eq!(rows, [("a".into(), "1".into()), ("b".into(), Bytes::from("1"))]);
    assert_eq!(get(&*engine, "a").await, Some("299".into()));
}

/// Eight keys are always written together, while readers look: by point reads, and by scans of many pages.
pub async fn snapshots_show_a_batch_whole_or_not_at_all<E: Engine>(open: &impl Open<E>) {
    const KEYS: usize = 8;
    const ROUNDS: usize = 300;
    let engine = open.open("whole").await;
    let mut tasks = JoinSet::new();
    let writing = Arc::clone(&engine);
    tasks.spawn(async move {
        for round in 1..=ROUNDS {
            let mut batch = Batch::new();
            for key in 0..KEYS {
                batch.put(format!("k{key}"), format!("{round:08}").repeat(200));
            }
            commit(&*writing, &mut batch).await.expect("batch");
        }
    });
    for limit in [1, 3, 100] {
        let reading = Arc::clone(&engine);
        tasks.spawn(async move {
            let mut last = Bytes::new();
            loop {
                let snapshot = reading.snapshot().await.expect("snapshot");
                let (rows, _) = read_all(&*snapshot, Span::ALL, limit).await;
                if rows.is_empty() {
                    tokio::task::yield_now().await;
                    continue;
                }
                assert_eq!(rows.len(), KEYS);
                assert!(rows.iter().all(|(_, value)| *value == rows[0].1), "a batch in part");
                assert!(rows[0].1 >= last, "a view went back");
                last = rows[0].1.clone();
                if last[..8] == *format!("{ROUNDS:08}").as_bytes() {
                    break;
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no assertion fails");
    }
}

pub async fn one_of_many_claims_on_a_key_wins<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("claims").await;
    for round in 0..10 {
        let mut claims = JoinSet::new();
        for claimant in 0..64 {
            let engine = Arc::clone(&engine);
            claims.spawn(async move {
                let mut batch = Batch::new();
                batch.absent(format!("r{round}")).put(format!("r{round}"), format!("{claimant}"));
                batch.put(format!("r{round}/{claimant:02}"), "won");
                (claimant, commit(&*engine, &mut batch).await)
            });
        }
        let mut winners = Vec::new();
        while let Some(claim) = claims.join_next().await {
            match claim.expect("no panic") {
                (claimant, Ok(())) => winners.push(claimant),
                (_, Err(CommitError::Conflict { .. })) => {}
                (_, Err(error)) => panic!("{error}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(get(&*engine, &format!("r{round}")).await, Some(winners[0].to_string().into()));
        let span = Span::new(format!("r{round}/"), format!("r{round}0"));
        let (rows, _) = read_all(&*engine.snapshot().await.expect("snapshot"), span, 100).await;
        assert_eq!(rows.len(), 1, "round {round}: a loser wrote");
    }
}

/// A snapshot that is taken after an answer shows it, and `equals` never lets two pass on one value.
pub async fn counting_under_equals_loses_no_step<E: Engine>(open: &impl Open<E>) {
    const COUNTERS: u64 = 8;
    const STEPS: u64 = 40;
    let engine = open.open("counter").await;
    put(&*engine, "n", "0").await;
    let mut tasks = JoinSet::new();
    for _ in 0..COUNTERS {
        let engine = Arc::clone(&engine);
        tasks.spawn(async move {
            let mut done = 0;
            while done < STEPS {
                let seen = get(&*engine, "n").await.expect("put before");
                let number: u64 = std::str::from_utf8(&seen).expect("digits").parse().expect("digits");
                let mut batch = Batch::new();
                batch.equals("n", seen).put("n", (number + 1).to_string());
                match commit(&*engine, &mut batch).await {
                    Ok(()) => {
                        let now = get(&*engine, "n").await.expect("put before");
                        let now: u64 = std::str::from_utf8(&now).expect("digits").parse().expect("digits");
                        assert!(now > number, "an answered commit is not visible");
                        done += 1;
                    }
                    Err(CommitError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no assertion fails");
    }
    assert_eq!(get(&*engine, "n").await, Some((COUNTERS * STEPS).to_string().into()));
}

/// Batches that do not write the key of their condition are held to it too: once a change of it is answered, a view
/// shows all that will ever be written under what was there before.
pub async fn nothing_passes_a_fence_that_has_changed<E: Engine>(open: &impl Open<E>) {
    const WRITERS: usize = 8;
    let engine = open.open("changed").await;
    for (round, kind) in ["equal", "gone", "there"].into_iter().cycle().take(24).enumerate() {
        let fence = format!("f{round}");
        let (mut held, mut change) = (Batch::new(), Batch::new());
        if kind == "there" {
            held.absent(fence.clone());
            change.absent(fence.clone()).put(fence.clone(), "1");
        } else {
            put(&*engine, &fence, "1").await;
            held.equals(fence.clone(), "1");
            change.equals(fence.clone(), "1");
        }
        match kind {
            "equal" => _ = change.put(fence.clone(), "2"),
            "gone" => _ = change.delete(fence.clone()),
            _ => {}
        }
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (engine, held) = (Arc::clone(&engine), held.clone());
            writers.spawn(async move {
                for number in 0.. {
                    let mut batch = held.clone();
                    batch.put(format!("w{round:02}/{writer}/{number:05}"), "1");
                    match engine.commit(batch).await {
                        Ok(()) => tokio::task::yield_now().await, // an engine may never wait
                        Err(CommitError::Conflict { key }) => return key,
                        Err(error) => panic!("{error}"),
                    }
                }
                unreachable!("numbers do not end");
            });
        }
        tokio::time::sleep(Duration::from_millis(round as u64 % 7)).await;
        commit(&*engine, &mut change).await.expect("nobody else changes it");
        let span = || Span::new(format!("w{round:02}/"), format!("w{round:02}0"));
        let (then, _) = read_all(&*engine.snapshot().await.expect("snapshot"), span(), 1_000).await;
        while let Some(stopped) = writers.join_next().await {
            assert_eq!(stopped.expect("no panic"), fence);
        }
        let (now, _) = read_all(&*engine.snapshot().await.expect("snapshot"), span(), 1_000).await;
        assert_eq!(then.len(), now.len(), "round {round}: written past a fence that was {kind}");
    }
}

pub async fn large_values_and_long_batches_fit<E: Engine>(open: &impl Open<E>) {
    let large = Bytes::from(
        (0..1_572_864_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect::<Vec<_>>(),
    );
    {
        let engine = open.open("large").await;
        commit(&*engine, Batch::new().put("large", large.clone()).equals("large2", "x"))
            .await
            .expect_err("conflict");
        commit(&*engine, Batch::new().put("large", large.clone())).await.expect("1.5 MiB");
        commit(&*engine, Batch::new().equals("large", large.clone()).put("seen", "1")).await.expect("equal");
        let mut batch = Batch::new();
        for number in 0..10_000 {
            batch.put(format!("row/{number:05}"), format!("{number}"));
        }
        commit(&*engine, &mut batch).await.expect("10 000 rows");
    }
    let engine = open.open("large").await;
    assert_eq!(get(&*engine, "large").await, Some(large));
    let snapshot = engine.snapshot().await.expect("snapshot");
    let (rows, _) = read_all(&*snapshot, Span::new("row/", "row0"), 3_000).await;
    assert_eq!(rows.len(), 10_000);
    let mut batch = Batch::new();
    for (key, _) in rows {
        batch.delete(key);
    }
    commit(&*engine, &mut batch).await.expect("10 000 deletes");
    let left =
        engine.snapshot().await.expect("snapshot").scan(Span::new("row/", "row0"), 1).await.expect("scan");
    assert_eq!(left, Page::default());
}

pub async fn partitions_cut_inside_the_range_in_order<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("partitions").await;
    for part in 0..20 {
        let mut batch = Batch::new();
        for number in 0..500 {
            batch.put(format!("k{part:02}{number:03}"), vec![b'v'; 600]);
        }
        commit(&*engine, &mut batch).await.expect("rows");
    }
    for span in
        [Span::ALL, Span::new("k05", "k15"), Span::from("k19"), Span::new("x", "y"), Span::new("k2", "k1")]
    {
        let cuts = engine.partitions(&span).await.expect("partitions");
        assert!(cuts.iter().all(|cut| span.contains(cut) && *cut != span.start), "{span:?}: {cuts:?}");
        assert!(cuts.windows(2).all(|pair| pair[0] < pair[1]), "{span:?}: {cuts:?}");
        let snapshot = engine.snapshot().await.expect("snapshot");
        let (whole, _) = read_all(&*snapshot, span.clone(), 1_000).await;
        let mut joined = Vec::new();
        let starts = std::iter::once(&span.start).chain(&cuts);
        let ends = cuts.iter().map(Some).chain([span.end.as_ref()]);
        for (start, end) in starts.zip(ends) {
            let part = Span { start: start.clone(), end: end.cloned() };
            joined.extend(read_all(&*snapshot, part, 1_000).await.0);
        }
        assert_eq!(joined, whole, "{span:?}: {cuts:?}");
    }
}

pub async fn a_dropped_commit_is_whole_or_absent<E: Engine>(open: &impl Open<E>) {
    let engine = open.open("dropped").await;
    let mut tasks = JoinSet::new();
    for number in 0..100 {
        let engine = Arc::clone(&engine);
        tasks.spawn(async move {
            let mut batch = Batch::new();
            batch.put(format!("a{number}"), "1").put(format!("b{number}"), "1");
            commit(&*engine, &mut batch).await.expect("nothing stands in its way");
        });
        if number % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    tasks.shutdown().await;
    put(&*engine, "after", "1").await;
    let snapshot = engine.snapshot().await.expect("snapshot");
    for number in 0..100 {
        let first = snapshot.get(format!("a{number}").as_bytes()).await.expect("get");
        let second = snapshot.get(format!("b{number}").as_bytes()).await.expect("get");
        assert_eq!(first, second, "batch {number} in part");
    }
}

pub async fn everything_committed_is_there_after_reopening<E: Engine>(open: &impl Open<E>) {
    for round in 0..4 {
        let engine = open.open("reopen").await;
        for number in 0..round * 20 {
            let expected = (number % 3 != 0).then(|| Bytes::from(format!("{number}").repeat(700)));
            assert_eq!(get(&*engine, &format!("k{number:03}")).await, expected, "round {round}");
        }
        for number in round * 20..(round + 1) * 20 {
            put(&*engine, &format!("k{number:03}"), &format!("{number}").repeat(700)).await;
            if number % 3 == 0 {
                commit(&*engine, Batch::new().delete(format!("k{number:03}"))).await.expect("delete");
            }
        }
    }
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Commit(Batch),
    /// Takes a snapshot and keeps it; all that are kept are read at each check.
    Hold,
    Check(Span, usize),
    Reopen,
}

pub async fn any_history_reads_as_in_the_model<E: Engine>(open: &impl Open<E>) {
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let handle = tokio::runtime::Handle::current();
    let mut case = 0;
    tokio::task::block_in_place(|| {
        let mut runner = TestRunner::new(config);
        let case = std::cell::RefCell::new(&mut case);
        let ran = runner.run(&vec(step(), 1..60), |steps| {
            **case.borrow_mut() += 1;
            let name = format!("history{}", case.borrow());
            handle.block_on(history(open, &name, steps))
        });
        ran.unwrap_or_else(|error| panic!("{error}"));
    });
}

async fn history<E: Engine>(open: &impl Open<E>, name: &str, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut engine = Some(open.open(name).await);
    let mut model = BTreeMap::new();
    let mut held: Vec<(Box<dyn Snapshot>, BTreeMap<Bytes, Bytes>)> = Vec::new();
    for step in steps {
        let now = engine.as_ref().expect("given back at once");
        match step {
            Step::Commit(batch) => {
                let stored =
                    |condition: &Condition| model.get(condition.key()).map(|value: &Bytes| &value[..]);
                let fails = batch.conditions.iter().find(|condition| !condition.holds(stored(condition)));
                let expected = fails.map(|condition| condition.key().clone());
                let outcome = match now.commit(batch.clone()).await {
                    Ok(()) => None,
                    Err(CommitError::Conflict { key }) => Some(key),
                    Err(error) => return Err(TestCaseError::fail(error.to_string())),
                };
                prop_assert_eq!(&outcome, &expected);
                if outcome.is_none() {
                    for write in batch.writes {
                        match write {
                            Write::Put(key, value) => drop(model.insert(key, value)),
                            Write::Delete(key) => drop(model.remove(&key)),
                        }
                    }
                }
            }
            Step::Hold => held.push((now.snapshot().await.expect("snapshot"), model.clone())),
            Step::Check(span, limit) => {
                let fresh = (now.snapshot().await.expect("snapshot"), model.clone());
                for (snapshot, model) in held.iter().chain([&fresh]) {
                    let expected: Vec<_> = model.iter().filter(|(key, _)| span.contains(key)).collect();
                    let (rows, _) = read_all(&**snapshot, span.clone(), limit).await;
                    prop_assert_eq!(
                        rows.iter().map(|(key, value)| (key, value)).collect::<Vec<_>>(),
                        expected
                    );
                    for key in model.keys() {
                        let found = snapshot.get(key).await.expect("get");
                        prop_assert_eq!(found.as_ref(), model.get(key));
                    }
                }
            }
            Step::Reopen => {
                held.clear();
                engine = None;
                engine = engine.or(Some(open.open(name).await));
            }
        }
    }
    Ok(())
}

fn step() -> impl Strategy<Value = Step> {
    let condition = prop_oneof![
        key().prop_map(Condition::Absent),
        (key(), value()).prop_map(|(key, value)| Condition::Equals(key, value)),
    ];
    let write = prop_oneof![
        3 => (key(), value()).prop_map(|(key, value)| Write::Put(key, value)),
        1 => key().prop_map(Write::Delete),
    ];
    let batch = (vec(condition, 0..4), vec(write, 0..8));
    let commit = batch.prop_map(|(conditions, writes)| Step::Commit(Batch { conditions, writes }));
    let span = (prop_oneof![Just(Bytes::new()), key()], proptest::option::of(key()));
    let check = (span, 1..5_usize).prop_map(|((start, end), limit)| Step::Check(Span { start, end }, limit));
    prop_oneof![10 => commit, 3 => check, 1 => Just(Step::Hold), 1 => Just(Step::Reopen)]
}

/// Few, so that steps meet; of bytes that are special somewhere.
fn key() -> impl Strategy<Value = Bytes> {
    vec(proptest::sample::select(b"\0a\xff".as_slice()), 1..4).prop_map(Bytes::from)
}

/// Two that conditions can hit, and one that is large enough to be kept apart.
fn value() -> impl Strategy<Value = Bytes> {
    proptest::sample::select(vec![Bytes::from("1"), Bytes::from("2"), Bytes::from(vec![b'3'; 3_000])])
}

async fn commit<E: Engine>(engine: &E, batch: &mut Batch) -> Result<(), CommitError> {
    engine.commit(std::mem::take(batch)).await
}

async fn put<E: Engine>(engine: &E, key: &str, value: &str) {
    commit(engine, Batch::new().put(key.to_owned(), value.to_owned()))
        .await
        .expect("a put without conditions");
}

async fn get<E: Engine>(engine: &E, key: &str) -> Option<Bytes> {
    engine.snapshot().await.expect("snapshot").get(key.as_bytes()).await.expect("get")
}

/// Reads a span page by page; the rows, and how many each page had.
async fn read_all(snapshot: &dyn Snapshot, span: Span, limit: usize) -> (Vec<(Bytes, Bytes)>, Vec<usize>) {
    let (mut rows, mut pages) = (Vec::new(), Vec::new());
    let mut rest = span.clone();
    loop {
        let page = snapshot.scan(rest.clone(), limit).await.expect("scan");
        assert!(page.rows.iter().all(|(key, _)| rest.contains(key)), "a row outside the span");
        pages.push(page.rows.len());
        rows.extend(page.rows);
        let Some(next) = page.next else { return (rows, pages) };
        assert!(next > rest.start, "a page that gets nowhere");
        rest.start = next;
    }
}

fn keys(page: &Page) -> Vec<&str> {
    page.rows.iter().map(|(key, _)| std::str::from_utf8(key).expect("test keys are text")).collect()
}

fn conflict(outcome: Result<(), CommitError>) -> Bytes {
    match outcome {
        Err(CommitError::Conflict { key }) => key,
        other => panic!("expected a conflict: {other:?}"),
    }
}
