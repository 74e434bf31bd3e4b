//! [`Span`]: a piece of work that is traced, from its begin to its end, and [`Ended`]: what is told of it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use kubebrain_shared::group::GroupName;
use kubebrain_shared::revision::Revision;
use tokio::time::Instant;
use tonic::Code;

use super::context::Context;
use super::{Inner, Own};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Answering a request.
    Serves(Name),
    /// Asking another process, or what would be one.
    Asks(Name),
    /// Something on the way, in this process.
    Does(Step),
}

/// What is done on the way to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Of a proxy: from a request's headers until it has all of it and lets it in.
    Admission,
    /// A part of a range or a deletion, from one group or one brain of it, with all its tries.
    Part,
    /// Until an answer is known to be fresh.
    Fence,
    /// A write before the writer comes to it.
    Queue,
    /// From there until what was written leaves together.
    Batch,
    /// Until that is durable and the writer hears of it.
    Commit {
        /// The storage.
        system: &'static str,
        /// Rows that are written.
        writes: usize,
    },
    /// From a request's headers to the first bytes of its answer.
    FirstByte,
}

impl Step {
    /// As a collector shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Part => "part",
            Self::Fence => "fence",
            Self::Queue => "queue",
            Self::Batch => "batch",
            Self::Commit { .. } => "commit",
            Self::FirstByte => "first byte",
        }
    }
}

/// The call that a span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// With the package.
    pub service: &'static str,
    /// Of the service.
    pub method: &'static str,
}

impl Name {
    /// Of a path in a request.
    pub fn of(path: &'static str) -> Self {
        let path = path.trim_start_matches('/');
        let (service, method) = path.split_once('/').unwrap_or((path, ""));
        Self { service, method }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.method)
    }
}

/// A span that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its trace and itself.
    pub context: Context,
    /// The span that it is a part of.
    pub parent: Option<Context>,
    /// See [`super::TRACESTATE`].
    pub state: Option<Arc<str>>,
    /// What was done.
    pub work: Work,
    /// By the wall, for people.
    pub began: SystemTime,
    /// From its begin to its end.
    pub took: Duration,
    /// How it ended.
    pub code: Code,
    /// As what the process that says this serves.
    pub role: &'static str,
    /// Whose keys it was about, where that is one group.
    pub group: Option<GroupName>,
    /// The kind of its keys, where it is about one.
    pub kind: Option<Box<str>>,
    /// Who was asked.
    pub peer: Option<String>,
    /// Of the answer.
    pub revision: Option<u64>,
}

/// See the module. One that is dropped was given up.
pub struct Span(Box<Open>);

struct Open {
    place: Place,
    parent: Option<Context>,
    work: Work,
    group: Option<GroupName>,
    peer: Option<String>,
    revision: AtomicU64,
    ended: AtomicBool,
    answers: AtomicBool,
}

/// What a span's own parts have to know of it.
#[derive(Clone)]
pub struct Place {
    tracer: Arc<Inner>,
    pub(super) context: Context,
    pub(super) state: Option<Arc<str>>,
    began: SystemTime,
    since: Instant,
    /// Known once the request is read; of a span and all that is done in it here.
    kind: Arc<OnceLock<Box<str>>>,
}

impl Place {
    /// From now on.
    #[expect(
        clippy::disallowed_methods,
        reason = "a collector compares what processes of several machines say"
    )]
    pub(super) fn new(tracer: &Arc<Inner>, context: Context, state: Option<Arc<str>>) -> Self {
        let tracer = Arc::clone(tracer);
        let (began, since) = (SystemTime::now(), Instant::now());
        Self { tracer, context, state, began, since, kind: Arc::default() }
    }

    /// A part of it begins.
    pub(super) fn begins(&self, work: Work) -> Span {
        let context = self.tracer.below(self.context);
        let place = Self { kind: self.kind.clone(), ..Self::new(&self.tracer, context, self.state.clone()) };
        Span::new(place, Some(self.context), work)
    }

    pub(super) fn is_about(&self, kind: &str) {
        let _known_before = self.kind.set(kind.into());
    }

    /// A part of it that began when it did has ended.
    pub(super) fn passed(&self, step: Step, code: Code) {
        let place = Self { context: self.tracer.below(self.context), ..self.clone() };
        Span::new(place, Some(self.context), Work::Does(step)).end(code);
    }
}

impl Span {
    pub(super) fn new(place: Place, parent: Option<Context>, work: Work) -> Self {
        Self(Box::new(Open {
            place,
            parent,
            work,
            group: None,
            peer: None,
            revision: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            answers: AtomicBool::new(false),
        }))
    }

    /// It has ended well, and what comes after it begins: a part of the same.
    #[must_use]
    pub fn then(self, step: Step) -> Self {
        self.end(Code::Ok);
        let Open { place, parent, .. } = &*self.0;
        let parent = parent.unwrap_or(place.context);
        Place { context: parent, ..place.clone() }.begins(Work::Does(step))
    }

    pub(super) fn place(&self) -> &Place {
        &self.0.place
    }

    /// It asks this group, and of that the one there.
    #[must_use]
    pub fn at(mut self, group: &GroupName, peer: &str) -> Self {
        self.0.group = Some(group.clone());
        self.0.peer = Some(peer.to_owned());
        self
    }

    /// Its trace and itself.
    pub fn context(&self) -> Context {
        self.0.place.context
    }

    /// Bytes of the answer leave; only the first ones count.
    pub fn answers(&self) {
        if !self.0.answers.swap(true, Ordering::Relaxed) {
            self.0.place.passed(Step::FirstByte, Code::Ok);
        }
    }

    /// The answer is of this revision.
    pub fn reached(&self, revision: Revision) {
        self.0.revision.store(revision.get(), Ordering::Relaxed);
    }

    /// It has ended; only the first end counts.
    pub fn end(&self, code: Code) {
        let open = &self.0;
        if open.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let place = &open.place;
        let own = place.tracer.own.get();
        let group = open.group.clone().or_else(|| own.and_then(|own| own.group.clone()));
        place.tracer.sink.take(Ended {
            context: place.context,
            parent: open.parent,
            state: place.state.clone(),
            work: open.work,
            began: place.began,
            took: place.since.elapsed(),
            code,
            role: own.map_or("", Own::role),
            group,
            kind: place.kind.get().cloned(),
            peer: open.peer.clone(),
            revision: Some(open.revision.load(Ordering::Relaxed)).filter(|revision| *revision > 0),
        });
    }
}

impl Own {
    fn role(&self) -> &'static str {
        (self.role)()
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Span({:?})", self.0.work)
    }
}
