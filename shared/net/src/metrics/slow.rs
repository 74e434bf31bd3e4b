//! [`Slow`]: the warning about requests that took long. A storm of them does not become a storm of lines.

use std::time::Duration;

use kubebrain_shared::method::{self, Method};
use kubebrain_shared::wire::{FRAME_PREFIX_BYTES, Fields};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::trace::Context;

/// How a call ended.
pub(super) struct Ended<'a> {
    pub(super) method: Method,
    pub(super) code: &'static str,
    pub(super) took: Duration,
    pub(super) request_bytes: u64,
    pub(super) head: &'a [u8],
    pub(super) trace: Option<Context>,
}

/// Lines a second, at most; the others are counted in the next line.
const LINES_MAX: u32 = 10;
const SPAN: Duration = Duration::from_secs(1);
/// Of a key in a log line.
const KEY_BYTES_MAX: usize = 256;

/// See the module.
#[derive(Debug)]
pub struct Slow {
    threshold: Duration,
    lines: Mutex<Lines>,
}

/// A second of lines.
#[derive(Debug)]
struct Lines {
    since: Instant,
    written: u32,
    suppressed: u64,
}

impl Slow {
    /// Warns of unary requests that take longer than `threshold`. Higher: fewer lines, later signs of trouble.
    pub fn new(threshold: Duration) -> Self {
        let lines = Lines { since: Instant::now(), written: 0, suppressed: 0 };
        Self { threshold, lines: Mutex::new(lines) }
    }

    /// Warns, if that is due.
    pub(super) fn look(&self, ended: &Ended<'_>) {
        if ended.took <= self.threshold {
            return;
        }
        let Some(suppressed) = self.lines.lock().take() else { return };
        let (service, name) = (ended.method.service, ended.method.name);
        let keys = keys(ended.method.path, ended.head).unwrap_or_default();
        tracing::warn!(
            method = %format_args!("{service}/{name}"),
            seconds = ended.took.as_secs_f64(),
            code = ended.code,
            request_bytes = ended.request_bytes,
            key = shown(keys.key),
            range_end = shown(keys.end),
            trace = ended.trace.map(display),
            suppressed,
            "a request took long"
        );
    }
}

impl Lines {
    /// Room for a line, and how many had none since the last one.
    fn take(&mut self) -> Option<u64> {
        let now = Instant::now();
        if now.duration_since(self.since) >= SPAN {
            (self.since, self.written) = (now, 0);
        }
        if self.written == LINES_MAX {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

fn shown(key: &[u8]) -> String {
    let (start, rest) = key.split_at(key.len().min(KEY_BYTES_MAX));
    let dots = if rest.is_empty() { "" } else { "..." };
    format!("{}{dots}", start.escape_ascii())
}

/// The keys that a request is about, or its first ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys<'a> {
    pub(super) key: &'a [u8],
    pub(super) end: &'a [u8],
}

/// Of a request whose first bytes are `head`; `None` where they are cut before a key's end. Values are not looked at.
pub(super) fn keys<'a>(path: &str, head: &'a [u8]) -> Option<Keys<'a>> {
    let message = head.get(FRAME_PREFIX_BYTES..)?;
    match path {
        method::PUT => named(message, 1, 0),
        method::RANGE | method::DELETE_RANGE => named(message, 1, 2),
        method::TXN => fields(message).find_map(|(number, inner)| match number {
            1 => named(inner, 3, 64), // a comparison
            2 | 3 => fields(inner).find_map(|(kind, operation)| match kind {
                1 | 3 => named(operation, 1, 2), // a range or a deletion
                2 => named(operation, 1, 0),     // a put
                _ => None,
            }),
            _ => None,
        }),
        _ => None,
    }
}

fn named(message: &[u8], key: u32, end: u32) -> Option<Keys<'_>> {
    let value = |wanted| fields(message).find(|(number, _)| *number == wanted).map(|(_, bytes)| bytes);
    value(key).map(|key| Keys { key, end: value(end).unwrap_or_default() })
}

/// The fields that hold bytes, up to where the message is cut.
fn fields(message: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let whole = Fields::new(message).map_while(Result::ok);
    whole.filter_map(|field| Some((field.number, field.value.as_bytes()?)))
}
