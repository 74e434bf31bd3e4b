//! [`Output`]: one place where lines go, its queue and its thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::Level;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use super::journal::Journal;
use super::queue::{Entry, Queue};
use super::rotation::{Rotated, Rotation};
use super::sink::{Sink, open, write};

/// Lines that wait to be written, bytes: some ten thousand, and little beside what a store takes.
const QUEUE_BYTES_MAX: usize = 4 << 20;

/// What lines look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Console,
    Json,
}

/// See the module. Clones are one output.
#[derive(Clone)]
pub(super) struct Output {
    kind: &'static str,
    queue: Arc<Queue>,
    /// Lines that could not be written.
    failed: Arc<AtomicU64>,
}

impl Output {
    pub(super) fn stderr(format: Format) -> io::Result<Self> {
        Self::start("stderr", format, Plain::of(io::stderr().as_fd())?)
    }

    pub(super) fn stdout(format: Format) -> io::Result<Self> {
        Self::start("stdout", format, Plain::of(io::stdout().as_fd())?)
    }

    /// A file that goes on where it ends; nobody else may read it.
    pub(super) fn file(format: Format, path: &Path) -> io::Result<Self> {
        Self::start("file", format, Plain { file: open(path)?, is_torn: false })
    }

    /// The same, and another file when it is large.
    pub(super) fn rotated(format: Format, path: &Path, rotation: Rotation) -> io::Result<Self> {
        Self::start("file", format, Rotated::open(path, rotation)?)
    }

    /// systemd's, by its socket.
    pub(super) fn journal(format: Format) -> io::Result<Self> {
        Self::start("journal", format, Journal::connect()?)
    }

    /// One thread for one sink: where one stands still the others go on.
    pub(super) fn start(kind: &'static str, format: Format, sink: impl Sink) -> io::Result<Self> {
        let output = Self { kind, queue: Arc::new(Queue::new(QUEUE_BYTES_MAX)), failed: Arc::default() };
        let (queue, failed) = (output.queue.clone(), output.failed.clone());
        let thread = std::thread::Builder::new().name(format!("log-{kind}"));
        // It ends with the process: it may be at a write that never returns.
        let _detached = thread.spawn(move || write_all(&queue, &failed, format, sink))?;
        Ok(output)
    }

    pub(super) const fn kind(&self) -> &'static str {
        self.kind
    }

    pub(super) fn is_stderr(&self) -> bool {
        self.kind == "stderr"
    }

    pub(super) fn push(&self, level: Level, line: &[u8]) {
        self.queue.push(level, line);
    }

    /// See [`Queue::settle`].
    pub(super) fn settle(&self, within: Duration) -> Duration {
        self.queue.settle(within)
    }

    /// Lines that were not written, ever.
    pub(super) fn lost(&self) -> u64 {
        self.queue.lost() + self.failed.load(Ordering::Relaxed)
    }
}

/// The thread.
fn write_all(queue: &Queue, failed: &AtomicU64, format: Format, mut sink: impl Sink) {
    let mut lost = 0; // since it was last said
    loop {
        let line = match queue.take() {
            Entry::Line(level, line) => Some((level, line)),
            Entry::Lost(count) => {
                lost += count;
                None
            }
        };
        if lost > 0 && sink.write(Level::WARN, &notice(format, lost)).is_ok() {
            lost = 0;
        }
        if let Some((level, line)) = line
            && sink.write(level, &line).is_err()
        {
            lost += 1;
            failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The line that stands where others are missing: made here, since those who format lines wait for nobody.
fn notice(format: Format, lost: u64) -> Vec<u8> {
    let mut time = String::new();
    let _unknown = SystemTime.format_time(&mut Writer::new(&mut time));
    let what = "lines of the log are missing here: nobody read them, or they could not be written";
    let line = match format {
        Format::Console => format!("{time}  WARN {what} lines={lost}\n"),
        Format::Json => {
            let fields = serde_json::json!({ "message": what, "lines": lost });
            let line = serde_json::json!({
                "timestamp": time, "level": "WARN", "fields": fields, "target": module_path!(),
            });
            format!("{line}\n")
        }
    };
    line.into_bytes()
}

/// A file, a pipe, a terminal.
struct Plain {
    file: File,
    /// Its last line lacks its end.
    is_torn: bool,
}

impl Plain {
    /// A descriptor of its own: a write that hangs holds no lock of the standard library's.
    fn of(stream: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { file: File::from(stream.try_clone_to_owned()?), is_torn: false })
    }
}

impl Sink for Plain {
    fn write(&mut self, _level: Level, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            write(&mut self.file, b"\n").map_err(|(error, _)| error)?;
            self.is_torn = false;
        }
        write(&mut self.file, line).map_err(|(error, written)| {
            self.is_torn = written > 0;
            error
        })
    }
}
