//! [`Progress`]: one line on a terminal that is written over; nothing where there is none.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

/// Between two lines: less would flicker.
const EVERY: Duration = Duration::from_millis(200);

/// What a person waits for. Goes to standard error: standard output is the answer.
pub(super) struct Progress {
    is_terminal: bool,
    shown: Option<Instant>,
    /// Of the line that stands there.
    width: usize,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), shown: None, width: 0 }
    }

    /// Shows it, unless something was shown just before.
    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        if self.is_terminal && self.shown.is_none_or(|shown| shown.elapsed() >= EVERY) {
            self.shown = Some(Instant::now());
            self.show_now(&text());
        }
    }

    pub(super) fn show_now(&mut self, text: &str) {
        if self.is_terminal {
            let _a_terminal_that_is_gone = write!(std::io::stderr(), "\r{text:<width$}", width = self.width);
            self.width = text.len();
        }
    }

    /// The line is free again.
    pub(super) fn clear(&mut self) {
        self.show_now("");
        if self.is_terminal {
            let _a_terminal_that_is_gone = write!(std::io::stderr(), "\r");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.width > 0 {
            self.clear();
        }
    }
}
