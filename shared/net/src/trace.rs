//! [`Tracer`]: what becomes of a request, as spans that a collector puts together. Where a span goes that has ended is up to
//! a [`Sink`].
//!
//! ```text
//! client ─traceparent─▶ span of the request ─traceparent─▶ span of an attempt ─traceparent─▶ span of the request at a brain
//! ```
//!
//! A request's own headers name its span: who asks others on its behalf hands them on, and so names what their spans are
//! children of. Whether it is traced is decided once, where its trace begins: by its client, or at a listener for clients.
//! What is done for it in this process, in its own task, finds its span [`here`]: nobody has to hand it down.
//!
//! Invariants: without a sink, and for a request that is not traced, there is nothing but a branch: no allocation, no look at a
//! clock. A span has names, numbers and words of closed sets, and never a key or a value; what a client writes is taken from its
//! `traceparent` and `tracestate` alone.

mod context;
mod here;
mod span;
#[cfg(test)]
mod tests;
mod traced;

use std::fmt;
use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderName, HeaderValue};
use kubebrain_shared::group::GroupName;

pub use context::{Context, TRACEPARENT, TRACESTATE};
pub use here::{Within, about, passed, step, within};
use span::Place;
pub use span::{Ended, Name, Span, Step, Work};
pub use traced::Traced;

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
    sink: Arc<dyn Sink>,
    /// For ids.
    chance: Arc<dyn Fn() -> u64 + Send + Sync>,
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
        let (sink, chance) = (Arc::new(sink), Arc::new(chance));
        Self(Some(Arc::new(Inner { sink, chance, kept_below, own: OnceLock::new() })))
    }

    /// Says whose the spans are; once.
    pub fn is(&self, own: Own) {
        if let Some(inner) = &self.0 {
            let _first = inner.own.set(own);
        }
    }

    /// Somebody is told of spans.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// One whose spans are somebody else's of this process, to the same sink.
    #[must_use]
    pub fn of(&self, own: Own) -> Self {
        Self(self.0.as_ref().map(|inner| {
            let (sink, chance) = (Arc::clone(&inner.sink), Arc::clone(&inner.chance));
            Arc::new(Inner { sink, chance, kept_below: inner.kept_below, own: OnceLock::from(own) })
        }))
    }

    /// A request has come. Its headers name its span from here on. `begins`: a trace may begin here.
    pub fn serve(&self, headers: &mut HeaderMap, name: Name, begins: bool) -> Option<Span> {
        let inner = self.0.as_ref()?;
        headers.remove(BAGGAGE);
        let parent = Context::of(headers);
        if parent.is_none() {
            headers.remove(TRACEPARENT);
        }
        if parent.is_none() || !context::has_legal_state(headers) {
            headers.remove(TRACESTATE);
        }
        let own = match parent {
            Some(parent) if parent.is_sampled => inner.below(parent),
            Some(_) => return None,
            None if begins => inner.begun()?,
            None => return None,
        };
        headers.insert(TRACEPARENT, own.value());
        Some(Span::new(Place::new(inner, own, context::state(headers)), parent, Work::Serves(name)))
    }

    /// A request is about to be sent on behalf of the one that this task works for, or that its headers name, if that is traced.
    /// Its headers name its own span from here on.
    pub fn ask(&self, headers: &mut HeaderMap, name: Name) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let asks = |place: &Place| place.begins(Work::Asks(name));
        let span = here::place(asks).or_else(|| inner.named(headers).as_ref().map(asks))?;
        headers.insert(TRACEPARENT, span.context().value());
        if let Some(state) = span.place().state.as_deref().and_then(|state| HeaderValue::from_str(state).ok())
        {
            headers.insert(TRACESTATE, state);
        }
        Some(span)
    }

    /// As [`step`], for a task of its own: of the request that these headers name.
    pub fn step(&self, headers: &HeaderMap, step: Step) -> Option<Span> {
        Some(self.0.as_ref()?.named(headers)?.begins(Work::Does(step)))
    }
}

impl Inner {
    /// What these headers name, if that is traced. They came through [`Tracer::serve`].
    fn named(self: &Arc<Self>, headers: &HeaderMap) -> Option<Place> {
        let context = Context::of(headers).filter(|context| context.is_sampled)?;
        Some(Place::new(self, context, context::state(headers)))
    }

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
