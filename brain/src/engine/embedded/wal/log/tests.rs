//! Logs that crash, and logs that are damaged. A crash keeps any subset of the sectors that were not synced.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const SIZES: Sizes = Sizes { first: 8 << 10, max: 16 << 10 };

type Records = Vec<(u64, Vec<u8>)>;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        Log::create(&directory.path().join("wal"), SIZES).expect("creates");
        Self(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("wal")
    }

    fn open(&self) -> Result<(Log, Records), RecoverError> {
        let mut records = Vec::new();
        let log = Log::open(&self.path(), SIZES, |number, payload| {
            records.push((number, payload.to_vec()));
            Ok(())
        })?;
        Ok((log, records))
    }

    fn opened(&self) -> (Log, Records) {
        self.open().expect("opens")
    }

    /// The only file.
    fn file(&self) -> PathBuf {
        let mut files = segment::list(&self.path()).expect("lists");
        assert_eq!(files.len(), 1, "{files:?}");
        files.remove(0)
    }
}

fn payload(record: u64, length: usize) -> Vec<u8> {
    (0..length).map(|place| (record as usize * 31 + place * 7 + 1) as u8).collect()
}

/// Appends records of these lengths, from 1 on.
fn fill(log: &mut Log, lengths: &[usize]) -> Records {
    let mut records = Vec::new();
    for length in lengths {
        let record = log.next_record();
        let payload = payload(record, *length);
        let appended = log.append(&payload).expect("appends");
        assert_eq!(appended.record, record);
        if appended.prepare {
            log.pool().prepare(log.next_record()).expect("prepares");
        }
        records.push((record, payload));
    }
    records
}

fn is_damage<T: std::fmt::Debug>(opened: Result<T, RecoverError>) -> String {
    match opened {
        Err(error @ RecoverError::Damaged { .. }) => error.to_string(),
        other => panic!("not seen as damage: {other:?}"),
    }
}

#[test]
fn records_come_back_in_order_and_with_their_numbers() {
    let place = Place::new();
    let lengths = [0, 1, 479, 480, 481, 960, 5_000, 7_000, 16_000, 100, 40_000, 1, 16_000, 3];
    let expected = fill(&mut place.opened().0, &lengths);
    let (mut log, found) = place.opened();
    assert_eq!(found, expected);
    let more = fill(&mut log, &[10, 20]);
    drop(log);
    assert_eq!(place.opened().1, [expected, more].concat());
}

#[test]
fn a_log_is_read_again_and_again_with_one_result() {
    let place = Place::new();
    let expected = fill(&mut place.opened().0, &[100; 50]);
    for _ in 0..3 {
        assert_eq!(place.opened().1, expected);
    }
}

#[test]
fn released_segments_are_used_again_and_the_log_stays_small() {
    let place = Place::new();
    let (mut log, _) = place.opened();
    let mut all = Records::new();
    for _ in 0..60 {
        all.extend(fill(&mut log, &[3_000, 700, 10]));
        log.pool().release(log.next_record() - 1);
    }
    let files = segment::list(&place.path()).expect("lists");
    assert!(files.len() <= 3 + FREE, "{files:?}");
    let bytes: u64 = files.iter().map(|file| fs::metadata(file).expect("there").len()).sum();
    assert_eq!(log.pool().bytes(), bytes);
    drop(log);
    let (_, found) = place.opened();
    assert!(found.len() < 20, "{} records are left", found.len());
    assert_eq!(found, all[all.len() - found.len()..], "the newest ones, without a gap");
}

/// Files that may wait to be used again.
const FREE: usize = 3;

#[test]
fn what_is_not_released_is_kept_whatever_was_released_before() {
    let place = Place::new();
    let (mut log, _) = place.opened();
    let mut all = Records::new();
    for round in 0..40 {
        all.extend(fill(&mut log, &[2_000, 300]));
        if round == 20 {
            log.pool().release(20);
        }
    }
    drop(log);
    let (log, found) = place.opened();
    assert!(found[0].0 <= 21, "{}", found[0].0);
    assert_eq!(found, all[found[0].0 as usize - 1..]);
    assert_eq!(log.next_record(), all.len() as u64 + 1);
}

/// All records are in tables, the last segment was just begun, and its first record is torn.
#[test]
fn the_next_number_is_known_though_no_record_is_needed_and_the_first_of_a_segment_is_torn() {
    let place = Place::new();
    let (mut log, _) = place.opened();
    let mut number = log.active.number();
    let mut turns = 0;
    while turns < 4 {
        fill(&mut log, &[1_000]);
        if log.active.number() > number {
            number = log.active.number();
            turns += 1;
        }
    }
    let torn = log.next_record() - 1;
    log.pool().release(torn - 1);
    log.pool().prepare(log.next_record()).expect("prepares"); // its head says what is needed
    log.active.file().write_all_at(&[0; SECTOR], SECTOR as u64).expect("writes");
    drop(log);
    let (log, found) = place.opened();
    assert_eq!(log.next_record(), torn);
    assert!(found.iter().all(|(record, _)| *record < torn));
}

#[test]
fn every_flipped_bit_of_a_record_is_damage() {
    let place = Place::new();
    fill(&mut place.opened().0, &[20, 500, 1_000]); // 1 + 2 + 3 sectors
    let file = place.file();
    let whole = fs::read(&file).expect("reads");
    for sector in 0..7 {
        // All bits of what a sector says of itself, some of the rest.
        let bits = (0..32 * 8).chain((32 * 8..512 * 8).step_by(37));
        for bit in bits {
            let mut bytes = whole.clone();
            bytes[sector * SECTOR + bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, bytes).expect("writes");
            let said = is_damage(place.open());
            assert!(said.contains(file.to_str().expect("text")), "{said}");
            assert!(
                said.contains(&format!("byte {}", sector * SECTOR)),
                "sector {sector}, bit {bit}: {said}"
            );
        }
    }
    fs::write(&file, whole).expect("writes");
    assert_eq!(place.opened().1.len(), 3);
}

#[test]
fn a_flipped_bit_behind_the_last_record_is_no_harm_and_leaves_nothing() {
    let place = Place::new();
    let expected = fill(&mut place.opened().0, &[20]);
    let file = place.file();
    let whole = fs::read(&file).expect("reads");
    for sector in 3..whole.len() / SECTOR {
        let mut bytes = whole.clone();
        bytes[sector * SECTOR + sector] ^= 4;
        fs::write(&file, bytes).expect("writes");
        assert_eq!(place.opened().1, expected, "sector {sector}");
        assert_eq!(fs::read(&file).expect("reads"), whole, "sector {sector} is clean again");
    }
}

#[test]
fn a_lost_sector_with_a_record_behind_it_is_damage() {
    let place = Place::new();
    fill(&mut place.opened().0, &[20, 500, 1_000]);
    let file = place.file();
    let whole = fs::read(&file).expect("reads");
    for sector in 1..4 {
        let mut bytes = whole.clone();
        bytes[sector * SECTOR..(sector + 1) * SECTOR].fill(0);
        fs::write(&file, bytes).expect("writes");
        is_damage(place.open());
    }
}

#[test]
fn a_sector_in_another_place_is_damage() {
    let place = Place::new();
    fill(&mut place.opened().0, &[20, 20, 20]);
    let file = place.file();
    let mut bytes = fs::read(&file).expect("reads");
    bytes.copy_within(2 * SECTOR..3 * SECTOR, 3 * SECTOR);
    fs::write(&file, bytes).expect("writes");
    is_damage(place.open());
}

#[test]
fn files_that_are_missing_cut_or_twice_are_damage() {
    type Damage = fn(&[PathBuf]);
    let damages: [(&str, Damage); 6] = [
        ("the first", |files| fs::remove_file(&files[0]).expect("removes")),
        ("one in the middle", |files| fs::remove_file(&files[1]).expect("removes")),
        ("the last", |files| fs::remove_file(files.last().expect("some")).expect("removes")),
        ("all", |files| files.iter().for_each(|file| fs::remove_file(file).expect("removes"))),
        ("a cut", |files| {
            let file = OpenOptions::new().write(true).open(&files[1]).expect("opens");
            file.set_len(file.metadata().expect("there").len() - 512).expect("cuts");
        }),
        ("a copy", |files| {
            fs::copy(&files[1], files[1].with_file_name("9.wal")).expect("copies");
        }),
    ];
    for (name, damage) in damages {
        let place = Place::new();
        let (mut log, _) = place.opened();
        // Until the second segment after the first is in use, and nothing is ready behind it.
        while log.active.number() < 3 {
            fill(&mut log, &[1_000]);
        }
        drop(log);
        let mut files = segment::list(&place.path()).expect("lists");
        files.sort();
        assert_eq!(files.len(), 3);
        damage(&files);
        let said = is_damage(place.open());
        println!("{name}: {said}");
    }
}

#[test]
fn a_file_that_was_not_finished_is_no_hindrance() {
    let place = Place::new();
    let expected = fill(&mut place.opened().0, &[20]);
    let unfinished = place.path().join("0000000000000002.unfinished");
    fs::write(&unfinished, "half").expect("writes");
    assert_eq!(place.opened().1, expected);
    assert!(!unfinished.exists());
}

#[test]
fn after_a_failed_write_nothing_is_appended() {
    let place = Place::new();
    let (mut log, _) = place.opened();
    fill(&mut log, &[20]);
    log.active.make_read_only();
    assert!(matches!(log.append(b"a"), Err(AppendError::Unknown(_))));
    assert!(matches!(log.append(b"b"), Err(AppendError::Refused(_))));
    assert_eq!(place.opened().1.len(), 1);
}

#[test]
fn a_segment_that_cannot_be_made_refuses_the_record_and_no_other() {
    let place = Place::new();
    let (mut log, _) = place.opened();
    let expected = fill(&mut log, &[20]);
    fs::create_dir(place.path().join("0000000000000002.unfinished")).expect("in the way");
    assert!(matches!(log.append(&[1; 9_000]), Err(AppendError::Refused(_))));
    fs::remove_dir(place.path().join("0000000000000002.unfinished")).expect("removes");
    assert_eq!(place.opened().1, expected);
}

#[test]
fn what_the_caller_does_not_understand_is_damage() {
    let place = Place::new();
    fill(&mut place.opened().0, &[20]);
    let said = is_damage(Log::open(&place.path(), SIZES, |_, _| Err("not ours".to_owned())));
    assert!(said.contains("byte 512: not ours"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_torn_tail_gives_the_records_before_it_and_leaves_nothing(
        lengths in prop::collection::vec(0usize..3_000, 0..20),
        last in 0usize..6_000,
        laps in 0usize..3,
        kept in prop::collection::vec(any::<bool>(), 16),
        after in prop::collection::vec(0usize..3_000, 1..4),
    ) {
        let place = Place::new();
        let (mut log, _) = place.opened();
        // Earlier lives of the files: their sectors are old, not zeros.
        for _ in 0..laps {
            fill(&mut log, &[5_000, 300, 4_000, 2_000, 100, 7_000]);
            log.pool().release(log.next_record() - 1);
        }
        let mut expected = fill(&mut log, &lengths);
        let before = (log.active.path().to_owned(), fs::read(log.active.path()).expect("reads"));
        let (number, end) = (log.active.number(), log.next);
        let torn = fill(&mut log, &[last]);
        prop_assume!(log.active.number() == number);
        let sectors = (log.next - end) as usize;
        drop(log);
        let mut bytes = fs::read(&before.0).expect("reads");
        let mut whole = true;
        for (position, kept) in kept.iter().enumerate().take(sectors) {
            let at = (end as usize + position) * SECTOR;
            if !kept {
                bytes[at..at + SECTOR].copy_from_slice(&before.1[at..at + SECTOR]);
                whole = false;
            }
        }
        fs::write(&before.0, bytes).expect("writes");
        if whole {
            expected.extend(torn);
        }
        let (mut log, found) = place.opened();
        prop_assert!(found.ends_with(&expected), "whole {}", whole);
        let mut all = found;
        all.extend(fill(&mut log, &after));
        drop(log);
        prop_assert_eq!(place.opened().1, all, "the remains are not in the way");
    }

    #[test]
    fn a_flipped_bit_is_damage_or_changes_nothing(
        lengths in prop::collection::vec(0usize..3_000, 1..20),
        laps in 0usize..3,
        file in any::<prop::sample::Index>(),
        bit in any::<prop::sample::Index>(),
    ) {
        let place = Place::new();
        let (mut log, _) = place.opened();
        for _ in 0..laps {
            fill(&mut log, &[5_000, 300, 4_000, 2_000, 100, 7_000]);
            log.pool().release(log.next_record() - 1);
        }
        fill(&mut log, &lengths);
        drop(log);
        let (_, expected) = place.opened();
        let files: BTreeSet<_> = segment::list(&place.path()).expect("lists").into_iter().collect();
        let file = file.get(&Vec::from_iter(files)).clone();
        let mut bytes = fs::read(&file).expect("reads");
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, bytes).expect("writes");
        match place.open() {
            Ok((_, found)) => prop_assert_eq!(found, expected),
            Err(RecoverError::Damaged { .. }) => {}
            Err(error) => return Err(TestCaseError::fail(format!("{error}"))),
        }
    }
}
