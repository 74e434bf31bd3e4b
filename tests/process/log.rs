//! The log: whoever writes it waits for nobody and fails for nobody; what it says, and where.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use crate::BINARY;
use kit::client::Client;
use kit::http1::get;
use kit::process::{Place, Start};
use kit::{in_time, until};

/// A process whose standard output and log go where a test says. Dropping it kills it.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// A standalone that logs every frame, which is served at a port that was free.
    async fn start(place: &Place, out: Stdio, log: Stdio, flags: &[&str]) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("a port").to_string();
        drop(free);
        let child = Command::new(BINARY.path())
            .args(["standalone", "--log-level=trace"])
            .arg(format!("--data-dir={}", place.join("data").display()))
            .arg(format!("--listen-client-urls=http://{address}"))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(log)
            .spawn()
            .expect("the binary runs");
        let server = Self { child, address };
        in_time("it is ready", kit::client::ready(&server.address)).await;
        server
    }

    /// Calls that are logged, for the log to be longer than any pipe.
    async fn is_busy(&self) {
        let client = Client::new(&self.address);
        for number in 0..1500 {
            let key = format!("/registry/pods/{number:0100}");
            client.put(&key, "x").await.expect("a put");
        }
    }

    /// A number of `/metrics`.
    async fn number(&self, name: &str) -> u64 {
        let (_, page) = get(&self.address, "/metrics").await;
        let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
        line.trim().parse::<f64>().expect("a number") as u64
    }

    /// SIGTERM; how long it takes.
    async fn ends(mut self) -> Duration {
        let began = Instant::now();
        let kill = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(kill.expect("there is a kill command").success());
        let status = until("its end", async || self.child.try_wait().expect("a child")).await;
        assert_eq!(status.code(), Some(0));
        began.elapsed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn pipe() -> (File, Stdio) {
    let (read, write) = std::io::pipe().expect("a pipe");
    (File::from(OwnedFd::from(read)), Stdio::from(write))
}

const LOST: &str = "kubebrain_log_dropped_lines_total{output=\"stderr\"}";

/// A log on a full disk, and one into a pipe that nobody has open any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_breaks_nothing() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("Linux has it"));
    let closed = || pipe().1;
    for (what, log, out) in [("full", full(), full()), ("closed", closed(), closed())] {
        let place = BINARY.place();
        let server = Server::start(&place, out, log, &["--auto-compaction-retention=100ms"]).await;
        server.is_busy().await;
        assert_eq!(get(&server.address, "/livez").await.0, 200, "{what}");
        let lost = server.number(LOST).await;
        assert!(lost > 1500, "{what}: {lost}");
        assert!(server.ends().await < Duration::from_secs(5), "{what}");
    }
}

/// 64 KiB unread, and more: requests go on, the process ends in time, and what is missing stands in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_reader_that_stands_still_stops_nothing() {
    let place = BINARY.place();
    let (reader, log) = pipe();
    let (_nobody_reads, out) = pipe();
    let server = Server::start(&place, out, log, &[]).await;
    in_time("a busy server", server.is_busy()).await;
    // The queue takes 4 MiB: more than that has to be said.
    let big = "x".repeat(4000);
    let client = Client::new(&server.address);
    let mut number = 0;
    while server.number(LOST).await == 0 {
        for _ in 0..100 {
            number += 1;
            client.put(&format!("/registry/pods/{big}{number}"), "x").await.expect("a put");
        }
        assert!(number < 20_000, "nothing is lost?");
    }
    assert!(server.ends().await < Duration::from_secs(5));
    // Whoever reads at last finds whole lines.
    let text = std::io::read_to_string(reader).expect("UTF-8");
    assert!(text.len() >= 60_000 && text.starts_with("20"), "{}", text.len());
}

/// Reading again: how many lines are missing stands where they are missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_can_be_written_again_says_what_is_missing() {
    let place = BINARY.place();
    let path = place.join("log");
    // A file that may not grow is a disk that is full for a while.
    let (mut reader, log) = pipe();
    let server = Server::start(&place, Stdio::null(), log, &[]).await;
    let big = "x".repeat(4000);
    let client = Client::new(&server.address);
    while server.number(LOST).await == 0 {
        for number in 0..100 {
            client.put(&format!("/registry/pods/{big}{number}"), "x").await.expect("a put");
        }
    }
    let mut file = File::create(&path).expect("a file");
    let copied = std::thread::spawn(move || std::io::copy(&mut reader, &mut file));
    until("the line about what is missing", async || {
        let text = fs::read_to_string(&path).expect("a file");
        let line = text.lines().find(|line| line.contains("lines of the log are missing here"))?;
        assert!(line.contains(" WARN ") && line.contains("lines="), "{line}");
        Some(())
    })
    .await;
    server.ends().await;
    copied.join().expect("no panic").expect("it is read");
    let text = fs::read_to_string(&path).expect("a file");
    assert!(text.trim_end().ends_with("stopped"), "the last line is there: {:?}", text.lines().last());
}

/// The writer panics: the process ends and says why, and until then no probe is told that all is well for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_a_writer_ends_and_says_why() {
    for program in ["standalone", "brain"] {
        let place = BINARY.place();
        let start = match program {
            "brain" => Start::brain(&place, "default"),
            _ => Start::standalone(&place),
        };
        let mut server = start.env("KUBEBRAIN_PLANTED", "panic=/registry/pods/panic").run().await;
        let client = Client::new(server.address());
        client.put("/registry/pods/a", "x").await.expect("a put");
        client.put("/registry/pods/panic", "x").await.expect_err("its writer is gone");
        let status = server.ended().await;
        assert_eq!(status.code(), Some(1), "{program}");
        let log = server.log_of_a_panic();
        for line in [
            "a task has panicked, which is a bug: planted",
            "the task that orders writes has panicked",
            "stopped by an error",
        ] {
            assert_eq!(log.lines().filter(|said| said.contains(line)).count().min(1), 1, "{line}:\n{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_goes_where_it_is_told_to() {
    let place = BINARY.place();
    let path = place.join("etcd.log");
    let flag = format!("--log-outputs=stderr,stdout,{}", path.display());
    let (log, out) = (place.join("err"), place.join("out"));
    let file = |path| Stdio::from(File::create(path).expect("a file"));
    let server = Server::start(&place, file(&out), file(&log), &[&flag, "--log-format=json"]).await;
    server.ends().await;
    let read = |path| fs::read_to_string(path).expect("a file");
    let (first, second, third) = (read(&log), read(&out), read(&path));
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&first), sorted(&second), "everywhere the same, and no banner");
    assert_eq!(sorted(&first), sorted(&third));
    let lines: Vec<serde_json::Value> =
        first.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let said = |line: &serde_json::Value| line["fields"]["message"].as_str().unwrap_or_default().to_owned();
    let told: Vec<_> = lines.iter().map(said).collect();
    let place_of = |text: &str| {
        told.iter().position(|line| line.starts_with(text)).unwrap_or_else(|| panic!("{text}: {told:#?}"))
    };
    let order = ["kubebrain standalone starts", "ready: ", "stopping: ", "stopped"].map(place_of);
    assert!(order.is_sorted(), "{told:#?}");
    let starts = &lines[order[0]]["fields"];
    assert_eq!(starts["version"], env!("CARGO_PKG_VERSION"));
    assert!(starts["clients"].as_str().is_some_and(|urls| urls.starts_with("http://127.0.0.1:")), "{starts}");
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_file_is_put_aside_when_it_is_large() {
    let place = BINARY.place();
    let path = place.join("etcd.log");
    let outputs = format!("--log-outputs={}", path.display());
    let json = "--log-rotation-config-json={\"maxsize\": 1, \"maxbackups\": 1, \"compress\": true}";
    let flags = [&outputs[..], "--enable-log-rotation", json];
    let server = Server::start(&place, Stdio::null(), Stdio::null(), &flags).await;
    let big = "x".repeat(4000);
    let client = Client::new(&server.address);
    for number in 0..600 {
        client.put(&format!("/registry/pods/{big}{number}"), "x").await.expect("a put");
    }
    until("one that was put aside and packed", async || {
        let mut names =
            fs::read_dir(place.path()).expect("a directory").map(|entry| entry.expect("one").file_name());
        names
            .any(|name| {
                name.to_str().is_some_and(|name| name.starts_with("etcd-2") && name.ends_with(".log.gz"))
            })
            .then_some(())
    })
    .await;
    server.ends().await;
    let text = fs::read_to_string(&path).expect("a file");
    assert!(text.len() <= 1 << 20 && text.trim_end().ends_with("stopped"), "{} bytes", text.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_of_the_log_are_taken_as_etcd_takes_them_and_others_are_refused() {
    let place = BINARY.place();
    let refused = [
        (
            "log-level",
            "loud",
            Some(2),
            "one of trace, debug, info, warn, error, dpanic, panic, fatal is wanted",
        ),
        ("log-level", "kubebrain_proxy=debug", Some(2), "--log-filter"),
        ("log-filter", "kubebrain=loud", Some(2), "--log-filter"),
        ("log-outputs", "default,stderr", Some(1), "default stands alone"),
        ("log-outputs", "/nowhere/etcd.log", Some(1), "--log-outputs=/nowhere/etcd.log"),
        ("enable-log-rotation", "true", Some(1), "has to name one file"),
    ];
    for (flag, value, code, said) in refused {
        let failure = Start::standalone(&place).flag(flag, value).fails().await;
        assert_eq!(failure.code, code, "{flag}: {failure:?}");
        assert!(failure.message.contains(said), "{flag}: {failure:?}");
    }
    for level in ["debug", "info", "trace", "INFO"] {
        let mut server = Start::standalone(&place).flag("log-level", level).run().await;
        Client::new(server.address()).put("/registry/pods/a", "x").await.expect("a put");
        server.signal("TERM");
        server.ended().await;
        let log = server.log();
        let frames = log.lines().any(|line| line.contains("frame"));
        assert_eq!(frames, level == "trace", "{level}");
        fs::remove_file(place.join("standalone.err")).expect("its log");
    }
    for level in ["warn", "error", "dpanic", "panic", "fatal"] {
        let start = Start::standalone(&place).flag("log-level", level).flag("initial-cluster", "a=b,c=d");
        let failure = start.fails().await;
        assert!(failure.message.contains("--initial-cluster names 2 members"), "{failure:?}");
        assert_eq!(failure.message.lines().count(), 1, "{level}: {failure:?}");
    }
}

/// What was asked for on standard output goes to nobody: no panic.
#[test]
fn nobody_reads_what_is_printed() {
    for arguments in [&["standalone", "--print-config"][..], &["standalone", "--help"], &["--version"]] {
        let (reader, out) = pipe();
        drop(reader);
        let output = Command::new(BINARY.path()).args(arguments).stdout(out).stderr(Stdio::piped()).output();
        let output = output.expect("the binary runs");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
        assert_ne!(output.status.code(), Some(101), "{arguments:?}");
    }
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let output = Command::new(BINARY.path()).args(["standalone", "--print-config"]).stdout(full).output();
    let output = output.expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("standard output cannot be written"), "{errors}");
}
