use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing::Level;

use super::output::{Format, Output};
use super::queue::{Entry, Queue};
use super::rotation::{Rotated, Rotation};
use super::sink::Sink;

const SOON: Duration = Duration::from_secs(5);

/// What a sink does, as a test says.
#[derive(Default)]
struct State {
    /// It stands still.
    stands: bool,
    /// It fails.
    fails: bool,
    written: Vec<String>,
}

#[derive(Clone, Default)]
struct Reader(Arc<(Mutex<State>, Condvar)>);

impl Reader {
    fn is(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.0.lock());
        self.0.1.notify_all();
    }

    fn written(&self) -> Vec<String> {
        self.0.0.lock().written.clone()
    }
}

impl Sink for Reader {
    fn write(&mut self, _level: Level, line: &[u8]) -> std::io::Result<()> {
        let mut state = self.0.0.lock();
        self.0.1.wait_while(&mut state, |state| state.stands);
        if state.fails {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        state.written.push(String::from_utf8(line.to_vec()).expect("UTF-8"));
        Ok(())
    }
}

#[test]
fn a_full_queue_says_where_how_many_are_missing_and_goes_on_when_half_empty() {
    let queue = Queue::new(400); // four lines of 100
    let line = [b'x'; 36];
    for _ in 0..7 {
        queue.push(Level::INFO, &line);
    }
    assert_eq!(queue.lost(), 3);
    let take = || matches!(queue.take(), Entry::Line(..));
    assert!(take(), "one is gone, three are there");
    queue.push(Level::INFO, &line);
    assert_eq!(queue.lost(), 4, "it is not half empty");
    assert!(take());
    queue.push(Level::INFO, &line);
    assert_eq!(queue.lost(), 4, "it takes lines again");
    assert!(take() && take());
    assert_eq!(queue.take(), Entry::Lost(4));
    assert!(matches!(queue.take(), Entry::Line(..)));
    assert_eq!(queue.settle(Duration::from_millis(10)), Duration::ZERO, "the last one is not written yet");
}

#[test]
fn a_reader_that_stands_still_holds_nobody_up_and_sees_what_it_missed() {
    let reader = Reader::default();
    reader.is(|state| state.stands = true);
    let output = Output::start("test", Format::Json, reader.clone()).expect("a thread");
    let line = format!("{}\n", "x".repeat(1023));
    for _ in 0..8192 {
        output.push(Level::INFO, line.as_bytes()); // 8 MiB
    }
    assert!(output.lost() > 3000, "{}", output.lost());
    assert_eq!(output.settle(Duration::from_millis(20)), Duration::ZERO, "nobody waits for it");
    reader.is(|state| state.stands = false);
    assert!(output.settle(SOON) > Duration::ZERO);
    let written = reader.written();
    let notice: serde_json::Value = serde_json::from_str(written.last().expect("lines")).expect("JSON");
    assert_eq!(notice["level"], "WARN");
    assert_eq!(notice["fields"]["lines"], output.lost());
    assert_eq!(written.len() as u64 - 1 + output.lost(), 8192, "every line is there or counted");
}

#[test]
fn lines_that_cannot_be_written_are_counted_and_said_when_they_can() {
    let reader = Reader::default();
    reader.is(|state| state.fails = true);
    let output = Output::start("test", Format::Console, reader.clone()).expect("a thread");
    for line in ["one\n", "two\n"] {
        output.push(Level::INFO, line.as_bytes());
    }
    output.settle(SOON);
    assert_eq!((output.lost(), reader.written().len()), (2, 0));
    reader.is(|state| state.fails = false);
    output.push(Level::INFO, b"three\n");
    output.settle(SOON);
    let written = reader.written();
    assert!(written[0].contains(" WARN ") && written[0].ends_with("lines=2\n"), "{written:?}");
    assert_eq!(written[1..], ["three\n"]);
    assert_eq!(output.lost(), 2);
}

/// The files in a directory, sorted.
fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// Looks until something holds.
fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}");
}

#[test]
fn a_large_file_is_put_aside_by_lumberjacks_names_and_rules() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("etcd.log");
    fs::write(&path, "of before\n").expect("a file");
    // Older ones, and others' files.
    for name in
        ["etcd-2020-01-31T12-00-00.000.log", "etcd-2020-01-31T12-00-00.001.log.gz", "etcd-x.log", "other.log"]
    {
        fs::write(place.path().join(name), "old\n").expect("a file");
    }
    let rotation = Rotation { bytes_max: 1000, days_max: 0, files_max: 2, is_local: false, compresses: true };
    let mut sink = Rotated::open(&path, rotation).expect("it opens");
    let line = format!("{}\n", "x".repeat(299));
    for _ in 0..10 {
        sink.write(Level::INFO, line.as_bytes()).expect("it is written");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(fs::metadata(&path).expect("a file").len() <= 1000);
    let kept =
        || files(place.path()).into_iter().filter(|name| name.starts_with("etcd-2")).collect::<Vec<_>>();
    until("two are left, and packed", || {
        let kept = kept();
        kept.len() == 2 && kept.iter().all(|name| name.ends_with(".log.gz") && !name.contains("2020-01"))
    });
    let left = files(place.path());
    assert!(left.contains(&"other.log".to_owned()) && left.contains(&"etcd-x.log".to_owned()), "{left:?}");
    for name in kept().iter().map(String::as_str).chain(["etcd.log"]) {
        let mode = fs::metadata(place.path().join(name)).expect("a file").permissions().mode() & 0o777;
        if name != "etcd.log" {
            assert_eq!(mode, 0o600, "{name}");
        }
    }
    let packed = fs::File::open(place.path().join(&kept()[1])).expect("a file");
    let text = std::io::read_to_string(flate2::read::GzDecoder::new(packed)).expect("gzip");
    assert_eq!(text, line.repeat(3));
}

#[test]
fn rotation_is_read_as_go_reads_it() {
    let megabyte = 1 << 20;
    let none =
        Rotation { bytes_max: 100 * megabyte, days_max: 0, files_max: 0, is_local: false, compresses: false };
    let cases = [
        (Rotation::DEFAULT, Some(none)),
        ("{}", Some(none)),
        (
            r#"{"MaxSize": 7, "maxAge": 3, "maxbackups": 2, "localtime": true, "compress": true, "filename": 1}"#,
            Some(Rotation {
                bytes_max: 7 * megabyte,
                days_max: 3,
                files_max: 2,
                is_local: true,
                compresses: true,
            }),
        ),
        (r#"{"maxsize": "1"}"#, None),
        (r#"{"maxsize": -1}"#, None),
        (r#"{"compress": 1}"#, None),
        ("{", None),
        ("[]", None),
    ];
    for (text, expected) in cases {
        assert_eq!(Rotation::parse(text).ok(), expected, "{text}");
    }
}
