//! [`Context`]: which span a request belongs to, as W3C's Trace Context writes it in headers.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

/// `00-TRACE-SPAN-FLAGS`, in hex.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What tracing systems add; handed on as it is.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Of [`TRACEPARENT`] in the version that is written here; a later one may be longer.
const BYTES: usize = 55;
/// More of [`TRACESTATE`] is dropped, as the standard allows.
const STATE_BYTES_MAX: usize = 512;
const SAMPLED: u8 = 1;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Never 0.
    pub trace: u128,
    /// Never 0.
    pub span: u64,
    /// Its spans are wanted.
    pub is_sampled: bool,
}

impl Context {
    /// `None` where there is none, or what is there is not understood: then the request has no parent.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?.as_bytes();
        if values.next().is_some() || value.len() < BYTES {
            return None;
        }
        let (known, later) = value.split_at(BYTES);
        let hex = |from, to| number(&known[from..to]);
        let version = hex(0, 2)?;
        let fits = match version {
            0 => later.is_empty(),
            0xff => false,
            _ => later.is_empty() || later.starts_with(b"-"),
        };
        let [trace, span, flags] = [hex(3, 35)?, hex(36, 52)?, hex(53, 55)?];
        let is_divided = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let is_sampled = u8::try_from(flags).ok()? & SAMPLED != 0;
        let context = Self { trace, span: u64::try_from(span).ok()?, is_sampled };
        (fits && is_divided && context.trace != 0 && context.span != 0).then_some(context)
    }

    /// As a header, which HPACK never puts into its table: each is seen once.
    pub fn value(&self) -> HeaderValue {
        let text = format!("00-{self}-{:016x}-{:02x}", self.span, u8::from(self.is_sampled));
        let mut value = HeaderValue::try_from(text).expect("hex and dashes");
        value.set_sensitive(true);
        value
    }
}

/// Its trace, as log lines name it.
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.trace)
    }
}

/// Small letters alone, as the standard wants it.
fn number(hex: &[u8]) -> Option<u128> {
    hex.iter().try_fold(0_u128, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// What tracing systems have added, if it is text and not too long.
pub(super) fn state(headers: &HeaderMap) -> Option<Arc<str>> {
    if !headers.contains_key(TRACESTATE) || !has_legal_state(headers) {
        return None;
    }
    let values = headers.get_all(TRACESTATE).iter().filter_map(|value| value.to_str().ok());
    Some(Arc::from(values.collect::<Vec<_>>().join(",")))
}

/// True also where nothing was added.
pub(super) fn has_legal_state(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(TRACESTATE).iter();
    let bytes = values.try_fold(0, |bytes, value| Some(bytes + value.to_str().ok()?.len() + 1));
    bytes.is_some_and(|bytes| bytes <= STATE_BYTES_MAX + 1)
}
