//! The fuzzer's checks over its corpus, and over changed copies of it, on the plain compiler.
//!
//! `KUBEBRAIN_SEED` chooses the changes, `KUBEBRAIN_FULL=1` makes more of them. What a fuzzer finds becomes a file in
//! tests/fuzz/corpus and stays there.

#[path = "src/checks.rs"]
#[expect(unreachable_pub, reason = "the fuzzer's crate shows them")]
mod checks;
mod seeds;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

fn corpus(check: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(check)
}

fn files(check: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> =
        fs::read_dir(corpus(check)).expect("a corpus").map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).expect("readable")).collect()
}

/// One to four changes: bits, bytes, pieces left out, doubled or taken from another file.
fn changed(data: &[u8], other: &[u8], random: &mut SmallRng) -> Vec<u8> {
    let mut data = data.to_vec();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=data.len());
        let end = random.random_range(at..=data.len().min(at + 16));
        match random.random_range(0..6) {
            0 if at < data.len() => data[at] ^= 1 << random.random_range(0..8),
            1 if at < data.len() => data[at] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)],
            2 => data.insert(at, random.random()),
            3 => drop(data.drain(at..end)),
            4 => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            _ => {
                let from = random.random_range(0..=other.len());
                let until = random.random_range(from..=other.len().min(from + 32));
                data.splice(at..end, other[from..until].iter().copied());
            }
        }
    }
    data
}

#[test]
fn checks_hold_for_the_corpus_and_for_changed_copies_of_it() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("KUBEBRAIN_SEED").unwrap_or(1);
    let rounds = if number("KUBEBRAIN_FULL").is_some() { 200_000 } else { 5_000 };
    println!("seed {seed}");
    for (name, check) in checks::ALL {
        let mut random = SmallRng::seed_from_u64(seed);
        let files = files(name);
        assert!(!files.is_empty(), "tests/fuzz/corpus/{name} is empty");
        let held = |data: &[u8]| {
            let shown = data.to_vec();
            assert!(catch_unwind(|| check(&shown)).is_ok(), "{name} fails for {}", data.escape_ascii());
        };
        files.iter().for_each(|data| held(data));
        for _ in 0..rounds {
            let data = &files[random.random_range(0..files.len())];
            let other = &files[random.random_range(0..files.len())];
            held(&changed(data, other, &mut random));
        }
        println!("{name}: {} files, {rounds} changed copies", files.len());
    }
}

#[test]
#[ignore = "writes the first files of the corpus"]
fn writes_the_corpus() {
    for (check, seeds) in seeds::all() {
        fs::create_dir_all(corpus(check)).expect("made");
        for (name, data) in seeds {
            fs::write(corpus(check).join(name), data).expect("written");
        }
    }
}
