use std::fs;
use std::path::Path;
use std::time::Duration;

use lsm_tree::AbstractTree;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tempfile::TempDir;

use super::*;
use crate::engine::contract;

// A memtable far below a test's rows: merges go on in the background of every check.
contract::suite!({
    let directory = TempDir::new().expect("a temporary directory");
    move |name: String| {
        let config = Config { memtable_bytes: 64 << 10, ..Config::new(directory.path().join(name)) };
        std::future::ready(Arc::new(Embedded::open(&config).expect("opens")))
    }
});

fn open(path: &Path) -> Result<Embedded, OpenError> {
    Embedded::open(&Config::new(path))
}

async fn put(engine: &Embedded, key: &str, value: &str) {
    let batch = Batch::new().put(key.to_owned(), value.to_owned()).clone();
    engine.commit(batch).await.expect("a put without conditions");
}

#[tokio::test]
async fn a_second_open_is_refused_by_name_of_directory_and_process() {
    let directory = TempDir::new().expect("a temporary directory");
    let first = open(directory.path()).expect("opens");
    let error = open(directory.path()).expect_err("in use");
    assert!(matches!(&error, OpenError::InUse { pid, .. } if *pid == Some(std::process::id())), "{error:?}");
    assert!(error.to_string().contains(directory.path().to_str().expect("text")), "{error}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    put(&first, "a", "1").await;
    drop(first);
    open(directory.path()).expect("free again");
}

#[tokio::test]
async fn a_snapshot_keeps_the_store_open() {
    let directory = TempDir::new().expect("a temporary directory");
    let engine = open(directory.path()).expect("opens");
    put(&engine, "a", "1").await;
    let snapshot = engine.snapshot().await.expect("snapshot");
    drop(engine);
    assert!(matches!(open(directory.path()), Err(OpenError::InUse { .. })));
    assert_eq!(snapshot.get(b"a").await.expect("get"), Some("1".into()));
    drop(snapshot);
    open(directory.path()).expect("free again");
}

#[test]
fn a_file_in_the_place_of_the_directory_is_refused() {
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("file");
    fs::write(&file, "mine").expect("writes");
    for path in [file.clone(), file.join("below")] {
        let error = open(&path).expect_err("not a directory");
        assert!(matches!(error, OpenError::NotADirectory { .. }), "{error:?}");
    }
    assert_eq!(fs::read_to_string(file).expect("reads"), "mine");
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    // Everybody's, root's too: the system lets nobody make files there.
    let error = open(Path::new("/sys/kernel/kubebrain")).expect_err("not writable");
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error:?}");
    let error = open(Path::new("/sys/kernel")).expect_err("somebody else's");
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
}

#[test]
fn another_format_is_refused_and_left_alone() {
    let directory = TempDir::new().expect("a temporary directory");
    drop(open(directory.path()).expect("opens"));
    let format = directory.path().join("store/format");
    fs::write(&format, "7\n").expect("writes");
    let error = open(directory.path()).expect_err("another format");
    assert!(error.to_string().contains("format 7, this program reads format 2"), "{error}");
    fs::write(&format, "2\n").expect("writes");
    drop(open(directory.path()).expect("ours again"));
    fs::remove_file(&format).expect("removes");
    assert!(matches!(open(directory.path()), Err(OpenError::Corrupt { .. })));
}

#[tokio::test]
async fn what_a_crash_left_of_making_a_store_is_no_hindrance() {
    let directory = TempDir::new().expect("a temporary directory");
    let unfinished = directory.path().join("store.unfinished");
    fs::create_dir_all(unfinished.join("tree/tables")).expect("creates");
    fs::write(unfinished.join("tree/v0"), "half").expect("writes");
    put(&open(directory.path()).expect("opens"), "a", "1").await;
    assert!(!unfinished.exists());
    let engine = open(directory.path()).expect("opens");
    assert!(engine.snapshot().await.expect("snapshot").get(b"a").await.expect("get").is_some());
}

#[tokio::test]
async fn damage_is_an_error_and_not_a_panic() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 7] = [
        ("no rows", |store| fs::remove_dir_all(store.join("tree")).expect("removes")),
        ("no tables", |store| fs::remove_dir_all(store.join("tree/tables")).expect("removes")),
        ("a marker of nothing", |store| fs::write(store.join("tree/current"), "xxxx").expect("writes")),
        ("a table without a number", |store| fs::write(store.join("tree/tables/x"), "").expect("writes")),
        // On this one the tree itself panics.
        ("a directory for a table", |store| fs::create_dir(store.join("tree/tables/9")).expect("creates")),
        ("no log", |store| fs::remove_dir_all(store.join("wal")).expect("removes")),
        ("a log that is cut", |store| {
            let file = fs::read_dir(store.join("wal")).expect("lists").next().expect("one").expect("reads");
            fs::File::create(file.path()).expect("cuts").set_len(700).expect("cuts");
        }),
    ];
    for (name, damage) in damages {
        let directory = TempDir::new().expect("a temporary directory");
        let engine = open(directory.path()).expect("opens");
        put(&engine, "a", "1").await;
        engine.flush();
        drop(engine);
        damage(&directory.path().join("store"));
        let error = open(directory.path()).expect_err(name);
        assert!(matches!(error, OpenError::Corrupt { .. } | OpenError::Io { .. }), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn a_batch_above_the_bound_is_refused() {
    let directory = TempDir::new().expect("a temporary directory");
    let engine = open(directory.path()).expect("opens");
    let batch = Batch::new().put("a", vec![1; BATCH_BYTES_MAX]).clone();
    let refused = engine.commit(batch).await;
    assert!(matches!(refused, Err(CommitError::Refused(Refusal::TooLarge { .. }))), "{refused:?}");
}

#[tokio::test]
async fn an_empty_store_is_small_and_its_size_is_that_of_its_files() {
    let directory = TempDir::new().expect("a temporary directory");
    let engine = open(directory.path()).expect("opens");
    let empty = engine.size();
    assert!(empty < 2 << 20, "{empty}");
    let mut noise = vec![0; 4 << 20]; // or it is stored compressed
    SmallRng::seed_from_u64(1).fill_bytes(&mut noise);
    engine.commit(Batch::new().put("a", noise).clone()).await.expect("no condition");
    let logged = engine.size();
    assert!(logged > empty + (3 << 20), "{logged}");
    engine.flush();
    assert!(engine.size() > logged + (3 << 20), "{}", engine.size());
    let files = |name: &str| {
        let files = fs::read_dir(directory.path().join("store").join(name)).expect("lists");
        files.map(|file| file.expect("reads").metadata().expect("there").len()).sum::<u64>()
    };
    let files = files("wal") + files("tree/tables") + files("tree/blobs");
    // The tree does not count what it says of a file in the file itself.
    assert!((engine.size()..engine.size() + (64 << 10)).contains(&files), "{} of {files}", engine.size());
}

#[tokio::test]
async fn partitions_follow_the_tables_on_disk() {
    let directory = TempDir::new().expect("a temporary directory");
    let engine = open(directory.path()).expect("opens");
    for part in 0..4 {
        for number in 0..10 {
            put(&engine, &format!("k{part}{number}"), "v").await;
        }
        engine.flush();
    }
    let cuts = engine.partitions(&Span::ALL).await.expect("partitions");
    assert!(!cuts.is_empty());
    assert!(cuts.iter().all(|cut| cut.ends_with(b"0")), "{cuts:?}");
    let rest = engine.partitions(&Span::from(cuts[0].clone())).await.expect("partitions");
    assert_eq!(rest, cuts[1..], "a start is no cut");
}

#[tokio::test]
async fn an_engine_that_is_well_never_says_that_it_is_poisoned() {
    let directory = TempDir::new().expect("a temporary directory");
    let engine = open(directory.path()).expect("opens");
    put(&engine, "a", "1").await;
    engine.flush();
    tokio::time::timeout(Duration::from_millis(300), engine.poisoned()).await.expect_err("nothing to say");
}

/// Nobody commits, and nobody would hear of it.
#[tokio::test]
async fn a_failed_write_in_the_background_poisons_the_engine() {
    let directory = TempDir::new().expect("a temporary directory");
    let engine = open(directory.path()).expect("opens");
    put(&engine, "a", "1").await;
    let tables = engine.store.tree_path().join("tables");
    fs::remove_dir_all(&tables).expect("removes");
    fs::write(&tables, "in the way").expect("writes");
    engine.upkeep.flush(&mut engine.store.applied().lock());
    let reason = tokio::time::timeout(Duration::from_secs(10), engine.poisoned()).await.expect("heard");
    assert!(reason.to_string().contains("a background write to the disk failed"), "{reason}");
    let refused = engine.commit(Batch::new().put("a", "2").clone()).await;
    assert!(matches!(refused, Err(CommitError::Refused(Refusal::Stopped(_)))), "{refused:?}");
}

/// Rows that do not shrink when compressed, the values apart from their keys.
async fn fill(engine: &Embedded, rows: usize, round: u64) {
    let mut rng = SmallRng::seed_from_u64(round);
    let mut batch = Batch::new();
    for number in 0..rows {
        let mut value = vec![0; 4 << 10];
        rng.fill_bytes(&mut value);
        batch.put(format!("{number:06}"), value);
        if batch.size() > 4 << 20 || number + 1 == rows {
            engine.commit(std::mem::take(&mut batch)).await.expect("written");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defragmentation_gives_the_disk_back_while_others_read_and_write() {
    const ROWS: usize = 8 << 10; // 32 MiB a round
    let directory = TempDir::new().expect("a temporary directory");
    let config = Config { memtable_bytes: 4 << 20, ..Config::new(directory.path()) };
    let engine = Arc::new(Embedded::open(&config).expect("opens"));
    for round in 0..2 {
        fill(&engine, ROWS, round).await;
    }
    let mut batch = Batch::new();
    for number in 16..ROWS {
        batch.delete(format!("{number:06}"));
    }
    engine.commit(batch).await.expect("deleted");
    let before = engine.store.tree().disk_space();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let others = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move {
            let (mut slowest, mut count) = (Duration::ZERO, 0);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let began = tokio::time::Instant::now();
                put(&engine, "other", "x").await;
                let snapshot = engine.snapshot().await.expect("snapshot");
                assert_eq!(snapshot.get(b"other").await.expect("get"), Some("x".into()));
                (slowest, count) = (slowest.max(began.elapsed()), count + 1);
            }
            (slowest, count)
        }
    });
    let began = tokio::time::Instant::now();
    let three = tokio::join!(engine.defragment(), engine.defragment(), engine.defragment());
    three.0.and(three.1).and(three.2).expect("defragmented");
    let (took, after) = (began.elapsed(), engine.store.tree().disk_space());
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (slowest, count) = others.await.expect("no panic");
    println!(
        "{before} bytes, {after} after {took:?}; meanwhile {count} writes and reads, slowest {slowest:?}"
    );
    assert_eq!(engine.defragmenter.ended(), 1, "those who wait have it done together");
    assert!(after < before / 4 && after < 4 << 20, "{before} before, {after} after");
    assert!(count > 0 && slowest < Duration::from_secs(5), "{count}, slowest {slowest:?}");
    let snapshot = engine.snapshot().await.expect("snapshot");
    let rows = snapshot.scan(Span::ALL, 100).await.expect("rows").rows;
    assert_eq!(rows.len(), 17, "what was not deleted is still there");
}

/// The rows of an engine, all of them.
async fn rows(engine: &Embedded) -> Vec<(Bytes, Bytes)> {
    let snapshot = engine.snapshot().await.expect("snapshot");
    let (mut rows, mut span) = (Vec::new(), Span::ALL);
    loop {
        let page = snapshot.scan(span.clone(), 100_000).await.expect("scan");
        rows.extend(page.rows);
        let Some(next) = page.next else { return rows };
        span.start = next;
    }
}

/// Large and small values, overwritten and removed, over tables and log.
#[tokio::test]
async fn what_tables_and_log_hold_together_is_there_after_each_open() {
    let directory = TempDir::new().expect("a temporary directory");
    let config = Config { memtable_bytes: 128 << 10, ..Config::new(directory.path()) };
    let mut random = SmallRng::seed_from_u64(7);
    let mut model = std::collections::BTreeMap::new();
    for round in 0..6 {
        let engine = Embedded::open(&config).expect("opens");
        let expected: Vec<_> = model.clone().into_iter().collect();
        assert_eq!(rows(&engine).await, expected, "round {round}");
        for _ in 0..200 {
            let key = Bytes::from(format!("k{:03}", random.next_u32() % 300));
            if random.next_u32() % 3 == 0 {
                engine.commit(Batch::new().delete(key.clone()).clone()).await.expect("no condition");
                model.remove(&key);
            } else {
                let mut value = vec![0; random.next_u32() as usize % 3_000 + 1];
                random.fill_bytes(&mut value);
                engine
                    .commit(Batch::new().put(key.clone(), value.clone()).clone())
                    .await
                    .expect("no condition");
                model.insert(key, value.into());
            }
        }
        if round % 2 == 0 {
            engine.flush();
        }
    }
}

/// The stamps in tables say where the log has to be taken up. Merges of everything may remove the highest of them.
#[tokio::test]
async fn a_log_that_is_applied_again_from_too_early_changes_nothing() {
    let directory = TempDir::new().expect("a temporary directory");
    let engine = open(directory.path()).expect("opens");
    put(&engine, "a", "1").await;
    put(&engine, "a", "2").await;
    put(&engine, "b", &"large".repeat(1_000)).await;
    engine.commit(Batch::new().delete("a").clone()).await.expect("no condition");
    engine.flush();
    engine.store.tree().major_compact(64 << 20, engine.store.moments().watermark()).expect("merges");
    let before = rows(&engine).await;
    assert_eq!(before.len(), 1);
    drop(engine);
    let engine = open(directory.path()).expect("opens");
    assert_eq!(rows(&engine).await, before);
    put(&engine, "a", "3").await;
    engine.flush();
    drop(engine);
    assert_eq!(rows(&open(directory.path()).expect("opens")).await.len(), 2);
}

/// Whatever bit flips in the tree's files: an error, or the right rows.
#[tokio::test]
async fn a_flipped_bit_in_a_table_is_never_read_as_a_row() {
    let directory = TempDir::new().expect("a temporary directory");
    let engine = open(directory.path()).expect("opens");
    for number in 0..200 {
        put(
            &engine,
            &format!("k{number:03}"),
            &format!("{number};").repeat(if number % 5 == 0 { 400 } else { 9 }),
        )
        .await;
    }
    engine.flush();
    let expected = rows(&engine).await;
    drop(engine);
    let mut errors = 0;
    let mut flips = 0;
    for name in ["tables", "blobs"] {
        let folder = directory.path().join("store/tree").join(name);
        for file in fs::read_dir(folder).expect("lists").map(|file| file.expect("reads").path()) {
            let whole = fs::read(&file).expect("reads");
            for place in (0..whole.len()).step_by(whole.len() / 60 + 1) {
                let mut bytes = whole.clone();
                bytes[place] ^= 1 << (place % 8);
                fs::write(&file, bytes).expect("writes");
                flips += 1;
                match open(directory.path()) {
                    Err(error) => {
                        assert!(
                            matches!(error, OpenError::Corrupt { .. }),
                            "{}, {place}: {error:?}",
                            file.display()
                        );
                        errors += 1;
                    }
                    Ok(engine) => {
                        let snapshot = engine.snapshot().await.expect("snapshot");
                        match snapshot.scan(Span::ALL, 1_000).await {
                            Ok(page) => {
                                assert!(page.rows == expected, "{}, {place}: other rows", file.display())
                            }
                            Err(_) => errors += 1,
                        }
                    }
                }
            }
            fs::write(&file, whole).expect("writes");
        }
    }
    assert!(errors > flips / 2, "{errors} of {flips} were seen");
    assert_eq!(rows(&open(directory.path()).expect("opens")).await, expected);
}

#[tokio::test]
async fn damage_to_the_log_names_the_file_and_the_place() {
    let directory = TempDir::new().expect("a temporary directory");
    let engine = open(directory.path()).expect("opens");
    put(&engine, "a", "1").await;
    put(&engine, "b", "1").await;
    drop(engine);
    let file = fs::read_dir(directory.path().join("store/wal")).expect("lists").next().expect("one");
    let file = file.expect("reads").path();
    let mut bytes = fs::read(&file).expect("reads");
    bytes[512 + 40] ^= 1; // the first record; the head is before it
    fs::write(&file, bytes).expect("writes");
    let error = open(directory.path()).expect_err("damaged");
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
    let said = format!("{error}: {}", std::error::Error::source(&error).expect("a cause"));
    assert!(said.contains(file.to_str().expect("text")) && said.contains("byte 512"), "{said}");
    assert!(said.contains("keep a copy of it and restore from a backup"), "{said}");
}

/// Readers hold what they began with while memtables are written out and merged below them.
#[tokio::test]
async fn a_snapshot_reads_the_same_before_and_after_flushes_and_merges() {
    let directory = TempDir::new().expect("a temporary directory");
    let engine = open(directory.path()).expect("opens");
    put(&engine, "a", "1").await;
    put(&engine, "b", "1").await;
    let snapshot = engine.snapshot().await.expect("snapshot");
    for number in 0..8 {
        put(&engine, "a", &format!("{number}+")).await;
        engine.commit(Batch::new().delete("b").clone()).await.expect("no condition");
        engine.flush();
    }
    engine.store.tree().major_compact(64 << 20, engine.store.moments().watermark()).expect("merges");
    assert_eq!(snapshot.get(b"a").await.expect("get"), Some("1".into()));
    assert_eq!(snapshot.get(b"b").await.expect("get"), Some("1".into()));
    assert_eq!(rows(&engine).await, [("a".into(), "7+".into())]);
}

#[test]
fn the_log_keeps_what_is_not_in_tables_yet() {
    let directory = TempDir::new().expect("a temporary directory");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let engine = open(directory.path()).expect("opens");
    let commit = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            let mut value = vec![0; 600 << 10];
            SmallRng::seed_from_u64(number).fill_bytes(&mut value);
            let batch = Batch::new().put(format!("{number:02}"), value).clone();
            runtime.block_on(engine.commit(batch)).expect("no condition");
        }
    };
    commit(0..2);
    let held = engine.store.tree().get_flush_lock();
    engine.upkeep.flush(&mut engine.store.applied().lock());
    commit(2..12); // fills segments with what is only in memory
    drop(held);
    engine.upkeep.settle().expect("there is room");
    commit(12..24); // uses again what is free
    drop(engine);
    let engine = open(directory.path()).expect("opens");
    let keys: Vec<_> = runtime.block_on(rows(&engine)).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, Vec::from_iter((0..24).map(|number| Bytes::from(format!("{number:02}")))));
}
