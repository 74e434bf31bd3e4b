//! [`Tracer`]: what becomes of a request, as spans that a collector puts together. Where a span goes that has ended is up to
//! a [`Sink`].
//!
//! ```text
//! client ─traceparent─▶ span of the request ─traceparent─▶ span of an attempt ─traceparent─▶ span of the request at a brain
//! ```
//!
//! A request's own headers name its span: who asks others on its behalf hands them on, and so names what their spans are
//! children of. Whether it is traced is decided once, where its trace begins: by its client, or at a listener for clients.
//!
//! Invariants: without a sink there is nothing but a branch. A span has names, numbers and words of closed sets, and never a
//! key or a value; what a client writes is taken from its `traceparent` and `tracestate` alone.

mod context;
mod span;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderName};
use kubebrain_shared::group::GroupName;

pub use context::{Context, TRACEPARENT, TRACESTATE};
pub use span::{Ended, Kind, Name, Span};

/// What somebody wants to be told about a trace wherever it goes. Nobody here wants to know.
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// Of a rate: so many requests of so many.
pub const MILLION: u32 = 1_000_000;

/// Where spans go. It must take them at once and may lose them.
pub trait Sink: Send + Sync {
    /// One that has ended.
    fn take(&self, span: Ended);
}

/// Who makes spans: what they all say.
pub struct Own {
    /// The one group that is served here.
    pub group: Option<GroupName>,
    /// As what, at this moment.
    pub role: Box<dyn Fn() -> &'static str + Send + Sync>,
}

/// See the module. Clones are one.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

struct Inner {
    sink: Box<dyn Sink>,
    /// For ids.
    chance: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Of 2^63: a trace that begins here is kept if the low bits of its id are below it, as in OpenTelemetry.
    kept_below: u64,
    own: OnceLock<Own>,
}

impl Tracer {
    /// Gives `sink` the requests that are traced, and begins traces for so many of a million others. `chance` draws ids.
    pub fn new(
        sink: impl Sink + 'static,
        per_million: u32,
        chance: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        let rate = u128::from(per_million.min(MILLION));
        let kept_below = u64::try_from((rate << 63) / u128::from(MILLION)).unwrap_or(u64::MAX);
        let (sink, chance) = (Box::new(sink), Box::new(chance));
        Self(Some(Arc::new(Inner { sink, chance, kept_below, own: OnceLock::new() })))
    }

    /// Says whose the spans are; once.
    pub fn is(&self, own: Own) {
        if let Some(inner) = &self.0 {
            let _first = inner.own.set(own);
        }
    }

    /// A request has come. Its headers name its span from here on. `begins`: a trace may begin here.
    pub fn serve(&self, headers: &mut HeaderMap, name: Name, begins: bool) -> Option<Span> {
        let inner = self.0.as_ref()?;
        headers.remove(BAGGAGE);
        let parent = Context::of(headers);
        if parent.is_none() {
            headers.remove(TRACEPARENT);
        }
        let state = context::state(headers, parent.is_some());
        let own = match parent {
            Some(parent) if parent.is_sampled => inner.below(parent),
            Some(_) => return None,
            None if begins => inner.begun()?,
            None => return None,
        };
        headers.insert(TRACEPARENT, own.value());
        Some(Span::new(inner, own, parent, state, Kind::Server, name))
    }

    /// A request is about to be sent on behalf of the one that its headers name, if that is traced. Its headers name its own
    /// span from here on.
    pub fn ask(&self, headers: &mut HeaderMap, name: Name) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let parent = Context::of(headers).filter(|parent| parent.is_sampled)?;
        let own = inner.below(parent);
        let state = context::state(headers, true);
        headers.insert(TRACEPARENT, own.value());
        Some(Span::new(inner, own, Some(parent), state, Kind::Client, name))
    }
}

impl Inner {
    fn id(&self) -> u64 {
        // An id of zero is none.
        (self.chance)().max(1)
    }

    fn below(&self, parent: Context) -> Context {
        Context { span: self.id(), ..parent }
    }

    fn begun(&self) -> Option<Context> {
        if self.kept_below == 0 {
            return None;
        }
        let low = self.id();
        let trace = u128::from(self.id()) << 64 | u128::from(low);
        (low >> 1 < self.kept_below).then(|| Context { trace, span: self.id(), is_sampled: true })
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Tracer" } else { "Tracer(off)" })
    }
}
