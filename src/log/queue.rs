//! [`Queue`]: lines between those who log and the thread that writes.
//!
//! Invariants: a push never waits for the thread; what is held has a bound; lines keep their order, and where some are
//! missing stands how many. A queue that was full takes lines again when it is half empty, so that a slow reader gets
//! whole stretches of the log and not every other line.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing::Level;

/// Beside its bytes, what a line takes.
const BESIDE: usize = 64;

/// What the thread gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A line of this level.
    Line(Level, Box<[u8]>),
    /// Here so many lines are missing.
    Lost(u64),
}

/// See the module.
pub(super) struct Queue {
    bytes_max: usize,
    held: Mutex<Held>,
    /// There is something to write.
    filled: Condvar,
    /// All is written.
    drained: Condvar,
}

#[derive(Default)]
struct Held {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// It was full, and is not half empty yet.
    full: bool,
    /// The thread is at what it took last.
    writing: bool,
    /// Lines that were not taken, ever.
    lost: u64,
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, held: Mutex::default(), filled: Condvar::new(), drained: Condvar::new() }
    }

    /// Takes a line, or counts it as lost.
    pub(super) fn push(&self, level: Level, line: &[u8]) {
        let mut held = self.held.lock();
        let bytes = held.bytes + line.len() + BESIDE;
        held.full = if held.full { held.bytes > self.bytes_max / 2 } else { bytes > self.bytes_max };
        if !held.full {
            held.bytes = bytes;
            held.entries.push_back(Entry::Line(level, line.into()));
        } else {
            held.lost += 1;
            match held.entries.back_mut() {
                Some(Entry::Lost(count)) => *count += 1,
                _ => held.entries.push_back(Entry::Lost(1)),
            }
        }
        self.filled.notify_one();
    }

    /// The next entry; waits for one. What was taken before counts as written.
    pub(super) fn take(&self) -> Entry {
        let mut held = self.held.lock();
        loop {
            if let Some(entry) = held.entries.pop_front() {
                if let Entry::Line(_, line) = &entry {
                    held.bytes -= line.len() + BESIDE;
                }
                held.writing = true;
                return entry;
            }
            held.writing = false;
            self.drained.notify_all();
            self.filled.wait(&mut held);
        }
    }

    /// Waits until all is written, for so long at most; gives what is left of that time.
    pub(super) fn settle(&self, within: Duration) -> Duration {
        let began = tokio::time::Instant::now();
        let mut held = self.held.lock();
        let busy = |held: &mut Held| held.writing || !held.entries.is_empty();
        let _late = self.drained.wait_while_for(&mut held, busy, within);
        within.saturating_sub(began.elapsed())
    }

    /// Lines that found no room, ever.
    pub(super) fn lost(&self) -> u64 {
        self.held.lock().lost
    }
}
