use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tempfile::TempDir;

use super::*;
use crate::engine::contract;

// A memtable far below a test's rows: merges go on in the background of every check.
contract::suite!({
    let directory = TempDir::new().expect("a temporary directory");
    move |name: &str| {
        let config = Config { memtable_bytes: 64 << 10, ..Config::new(directory.path().join(name)) };
        Arc::new(Embedded::open(&config).expect("opens"))
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
    let error = open(Path::new("/sys/kernel")).expect_err("not writable");
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error:?}");
}

#[test]
fn another_format_is_refused_and_left_alone() {
    let directory = TempDir::new().expect("a temporary directory");
    drop(open(directory.path()).expect("opens"));
    let format = directory.path().join("store/format");
    fs::write(&format, "7\n").expect("writes");
    let error = open(directory.path()).expect_err("another format");
    assert!(error.to_string().contains("format 7, this program reads format 1"), "{error}");
    fs::write(&format, "1\n").expect("writes");
    drop(open(directory.path()).expect("ours again"));
    fs::remove_file(&format).expect("removes");
    assert!(matches!(open(directory.path()), Err(OpenError::Corrupt { .. })));
}

#[tokio::test]
async fn what_a_crash_left_of_making_a_store_is_no_hindrance() {
    let directory = TempDir::new().expect("a temporary directory");
    let unfinished = directory.path().join("store.unfinished");
    fs::create_dir_all(unfinished.join("db/keyspaces")).expect("creates");
    fs::write(unfinished.join("db/0.jnl"), "half").expect("writes");
    put(&open(directory.path()).expect("opens"), "a", "1").await;
    assert!(!unfinished.exists());
    let engine = open(directory.path()).expect("opens");
    assert!(engine.snapshot().await.expect("snapshot").get(b"a").await.expect("get").is_some());
}

#[test]
fn damage_is_an_error_and_not_a_panic() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 5] = [
        ("no database", |store| fs::remove_dir_all(store.join("db")).expect("removes")),
        ("no trees", |store| fs::remove_dir_all(store.join("db/keyspaces")).expect("removes")),
        ("a marker of nothing", |store| fs::write(store.join("db/version"), "xxxx").expect("writes")),
        // On this one fjall itself panics.
        ("a directory for a journal", |store| fs::create_dir(store.join("db/9.jnl")).expect("creates")),
        ("a journal without a number", |store| fs::write(store.join("db/x.jnl"), "").expect("writes")),
    ];
    for (name, damage) in damages {
        let directory = TempDir::new().expect("a temporary directory");
        drop(open(directory.path()).expect("opens"));
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
async fn an_empty_store_is_small_and_its_size_grows_with_its_rows() {
    let directory = TempDir::new().expect("a temporary directory");
    let engine = open(directory.path()).expect("opens");
    let empty = engine.size();
    assert!(empty < 1 << 20, "{empty}");
    let mut noise = vec![0; 4 << 20]; // or it is stored compressed
    SmallRng::seed_from_u64(1).fill_bytes(&mut noise);
    engine.commit(Batch::new().put("a", noise).clone()).await.expect("no condition");
    assert!(engine.size() > empty + (3 << 20), "{}", engine.size());
    let blocks = |path: &Path| fs::metadata(path).expect("there").blocks();
    assert!(blocks(&directory.path().join("store/db/0.jnl")) * 512 <= engine.size());
}

#[tokio::test]
async fn partitions_follow_the_tables_on_disk() {
    let directory = TempDir::new().expect("a temporary directory");
    let engine = open(directory.path()).expect("opens");
    for part in 0..4 {
        for number in 0..10 {
            put(&engine, &format!("k{part}{number}"), "v").await;
        }
        engine.store.rows.rotate_memtable_and_wait().expect("writes a table");
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
    tokio::time::timeout(ASK_INTERVAL * 3 / 2, engine.poisoned()).await.expect_err("nothing to say");
}

/// Nobody commits, and nobody would hear of it.
#[tokio::test]
async fn a_failed_write_in_the_background_poisons_the_engine() {
    let directory = TempDir::new().expect("a temporary directory");
    let engine = open(directory.path()).expect("opens");
    put(&engine, "a", "1").await;
    let tables = engine.store.rows.path().join("tables");
    fs::remove_dir_all(&tables).expect("removes");
    fs::write(&tables, "in the way").expect("writes");
    engine.store.rows.rotate_memtable().expect("begins to write a table");
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
    let before = engine.store.rows.disk_space();
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
    let (took, after) = (began.elapsed(), engine.store.rows.disk_space());
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
