//! The log: which lines there are, what they look like, and where they go.
//!
//! ```text
//! event ─▶ filter ─▶ format ─▶ queue ─▶ thread ─▶ stderr, stdout, a file, the journal
//!                          └─▶ queue ─▶ thread ─▶ ... one of each for every output
//! ```
//!
//! Invariants: whoever logs waits for nothing but a short lock, and never hears of an error. What does not fit into a
//! queue or cannot be written is counted, and said in the log itself once it takes lines again. Panics come through here
//! too, so they neither block nor write beside the log.

mod flags;
mod journal;
mod level;
mod output;
mod queue;
mod rotation;
mod sink;
#[cfg(test)]
mod tests;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use kubebrain_net::metrics::Metrics;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

pub(crate) use flags::Log as Flags;
use output::Output;

/// What a process that ends leaves to its outputs to take the last lines: long for a reader that reads, and nobody waits
/// for one that stands still.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The log of this process. Clones write to the same places.
#[derive(Clone)]
pub(crate) struct Log {
    outputs: Arc<[Output]>,
}

impl Log {
    /// What was not written, by output, as `/metrics` shows it.
    pub(crate) fn count_in(&self, metrics: &Metrics) {
        let lost = metrics.counters(
            "kubebrain_log_dropped_lines_total",
            "Lines of the log that were not written: the output's reader stands still, or it cannot be written.",
            &["output"],
        );
        let outputs = self.outputs.clone();
        for kind in outputs.iter().map(Output::kind) {
            lost.with_label_values(&[kind]); // there from the start
        }
        metrics.refresh(move || {
            for kind in outputs.iter().map(Output::kind) {
                let all =
                    outputs.iter().filter(|output| output.kind() == kind).map(Output::lost).sum::<u64>();
                let counter = lost.with_label_values(&[kind]);
                counter.inc_by(all.saturating_sub(counter.get()));
            }
        });
    }

    /// A line for whoever started this process, beside the log: on stderr, wherever the log goes. It waits for nobody.
    pub(crate) fn tell(&self, text: &str) {
        let line = format!("{text}\n").into_bytes();
        match self.outputs.iter().find(|output| output.is_stderr()) {
            Some(output) => output.push(Level::ERROR, &line),
            None => tell(&line),
        }
    }

    /// Returns when everything that was said is written, or after a second. The last thing before the end.
    pub(crate) fn finish(&self) {
        let mut left = LAST_WORDS;
        for output in self.outputs.iter() {
            left = output.settle(left);
        }
    }
}

/// A line on stderr of a process whose log goes elsewhere.
pub(crate) fn tell(line: &[u8]) {
    let Ok(output) = Output::stderr(output::Format::Console) else { return };
    output.push(Level::ERROR, line);
    output.settle(LAST_WORDS);
}

/// For `tracing`: one line at once, of one level.
pub(crate) struct Line<'a> {
    outputs: &'a [Output],
    level: Level,
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { outputs: &self.outputs, level: Level::INFO }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line<'a> {
        Line { outputs: &self.outputs, level: *event.level() }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for output in self.outputs {
            output.push(self.level, line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Panics are lines of the log: where, and of which thread. The task ends; who watches over it decides what that means.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("one without a name");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let said = panic.payload_as_str().unwrap_or("no message");
        let backtrace = Backtrace::capture(); // where RUST_BACKTRACE asks for it
        match backtrace.status() {
            BacktraceStatus::Captured => {
                tracing::error!(thread, place, "a task has panicked, which is a bug: {said}\n{backtrace}");
            }
            _ => tracing::error!(thread, place, "a task has panicked, which is a bug: {said}"),
        }
    }));
}
