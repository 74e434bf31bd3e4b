//! Damaged files: a store that is not what was written is refused with a sentence, or its reads are. It is never
//! opened as if nothing were lost.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::BINARY;
use crate::history::{Counting, History};
use crate::load::Load;
use crate::power::{content, small};
use crate::seed;
use crate::seen::{self, brain};
use kit::full_tier;
use kit::process::Place;

/// One thing that is done to one file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// This bit of this byte.
    Flip(u64, u8),
    /// Everything from here on is gone.
    Cut(u64),
    /// One sector is full of zeros.
    Blank(u64),
    Delete,
}

impl Damage {
    fn to(self, path: &Path) {
        let file = || std::fs::File::options().read(true).write(true).open(path).expect("a file");
        match self {
            Self::Flip(at, bit) => {
                let mut byte = [0];
                file().read_exact_at(&mut byte, at).expect("a byte");
                file().write_all_at(&[byte[0] ^ 1 << bit], at).expect("a byte");
            }
            Self::Cut(at) => file().set_len(at).expect("a size"),
            Self::Blank(at) => file().write_all_at(&[0; 512], at).expect("a sector"),
            Self::Delete => std::fs::remove_file(path).expect("a file"),
        }
    }
}

/// The kind of a file: its path without what counts.
fn kind(path: &Path) -> String {
    path.to_str().expect("UTF-8").chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

/// A store with tables, blobs and a log, and what was promised about it.
async fn store(place: &Place, directory: &Path, seed: u64) -> History {
    let history = Arc::new(Mutex::new(History::default()));
    let server = small(brain(place, directory)).run().await;
    let load = Load::start(&server, &history, place.join("no-trace"), seed);
    tokio::time::sleep(Duration::from_millis(if full_tier() { 8000 } else { 2000 })).await;
    let errors = load.stop().await;
    assert!(errors.is_empty(), "{errors:?}");
    drop(server); // killed: with work for the next one's recovery
    let Ok(history) = Arc::try_unwrap(history) else { panic!("all clients have ended") };
    history.into_inner()
}

/// Where a file has something: half of the positions are there, the others anywhere in it.
fn position(bytes: &[u8], random: &mut SmallRng) -> u64 {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let end = if random.random_ratio(7, 8) { used } else { bytes.len() };
    random.random_range(0..end.max(1)) as u64
}

/// Damages one file of a copy and opens it. True if that was noticed, false if nothing was lost.
async fn try_damage(
    place: &Place,
    directory: &Path,
    file: &Path,
    damage: Damage,
    history: &History,
    binary: bool,
) -> Result<bool, String> {
    let copy = place.join("copy");
    copy_tree(directory, &copy);
    damage.to(&copy.join(file));
    let outcome = if binary {
        let started = brain(place, &copy).starts().await;
        match started {
            Ok(server) => match seen::of_server(&server).await {
                Ok(seen) => Ok(seen),
                Err(status) => Err(format!("{} {status}", copy.display())),
            },
            Err(failure) => {
                let said = failure.message.lines().filter(|line| line.starts_with("kubebrain: ")).count();
                match said == 1 && failure.code == Some(1) && !failure.message.contains("panicked") {
                    true => Err(failure.message),
                    false => return Err(format!("{failure:?}")),
                }
            }
        }
    } else {
        seen::in_process(&copy).await.map_err(|error| format!("{error:#}"))
    };
    let verdict = match outcome {
        Ok(seen) => history.judge(u64::MAX, &seen, Counting::OneGroup).map(|()| false),
        Err(message) => {
            let named = message.contains(copy.to_str().expect("UTF-8"));
            // A client that reads what is damaged hears it in etcd's words; the advice is in the log.
            let advises = ["backup", "copy", "use the version", "corrupt cluster", "Corrupt"]
                .iter()
                .any(|word| message.contains(word));
            match (named || !binary) && advises {
                true => Ok(true),
                false => Err(format!("it does not say what to do where: {message}")),
            }
        }
    };
    std::fs::remove_dir_all(&copy).expect("a directory of ours");
    verdict
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_noticed_and_no_acknowledged_write_is_lost_in_silence() {
    let (place, seed) = (BINARY.place(), seed());
    let directory = place.join("data");
    let history = store(&place, &directory, seed).await;
    let mut random = SmallRng::seed_from_u64(seed);
    let mut kinds: Vec<(String, Vec<PathBuf>)> = Vec::new();
    for (path, bytes) in content(&directory) {
        if bytes.is_none() {
            continue;
        }
        match kinds.iter_mut().find(|(known, _)| *known == kind(&path)) {
            Some((_, paths)) => paths.push(path),
            None => kinds.push((kind(&path), vec![path])),
        }
    }
    let mut failed = Vec::new();
    for (kind, paths) in &kinds {
        let (mut noticed, mut harmless) = (0, 0);
        let tries = if full_tier() { 40 } else { 5 };
        for number in 0..tries {
            let file = &paths[random.random_range(0..paths.len())];
            let bytes = std::fs::read(directory.join(file)).expect("a file");
            let at = position(&bytes, &mut random);
            let damage = match number % 5 {
                _ if bytes.is_empty() => Damage::Delete,
                0 | 1 => Damage::Flip(at, random.random_range(0..8)),
                2 => Damage::Cut(at),
                // In the last record of a log it would look like a sector that never was written.
                3 if !kind.contains("wal") => Damage::Blank(at / 512 * 512),
                3 => Damage::Flip(at, random.random_range(0..8)),
                _ => Damage::Delete,
            };
            match try_damage(&place, &directory, file, damage, &history, number == 0).await {
                Ok(true) => noticed += 1,
                Ok(false) => {
                    harmless += 1;
                    println!("  harmless: {damage:?} of {} ({} bytes)", file.display(), bytes.len());
                }
                Err(error) => {
                    let line = format!(
                        "seed {seed}: {damage:?} of {} ({} bytes): {error}",
                        file.display(),
                        bytes.len()
                    );
                    println!("{line}");
                    failed.push(line);
                }
            }
        }
        println!("{kind} ({} files): {noticed} noticed, {harmless} harmless", paths.len());
    }
    assert!(failed.is_empty(), "{} of them:\n{}", failed.len(), failed.join("\n"));
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a directory");
    for (path, bytes) in content(from) {
        match bytes {
            None => std::fs::create_dir_all(to.join(path)).expect("a directory"),
            Some(bytes) => crate::image::write_sparse(&to.join(path), &bytes),
        }
    }
}
