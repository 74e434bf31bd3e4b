//! [`Span`]: a piece of work that is traced, from its begin to its end, and [`Ended`]: what is told of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use kubebrain_shared::group::GroupName;
use kubebrain_shared::revision::Revision;
use tokio::time::Instant;
use tonic::Code;

use super::context::Context;
use super::{Inner, Own};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answering a request.
    Server,
    /// Asking another process, or what would be one.
    Client,
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
    pub state: Option<Box<str>>,
    /// What was done.
    pub kind: Kind,
    /// Which call it was.
    pub name: Name,
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
    /// Who was asked.
    pub peer: Option<String>,
    /// Of the answer.
    pub revision: Option<u64>,
}

/// See the module. One that is dropped was given up.
pub struct Span(Box<Open>);

struct Open {
    tracer: Arc<Inner>,
    context: Context,
    parent: Option<Context>,
    state: Option<Box<str>>,
    kind: Kind,
    name: Name,
    began: SystemTime,
    since: Instant,
    group: Option<GroupName>,
    peer: Option<String>,
    revision: AtomicU64,
    ended: AtomicBool,
}

impl Span {
    #[expect(
        clippy::disallowed_methods,
        reason = "a collector compares what processes of several machines say"
    )]
    pub(super) fn new(
        tracer: &Arc<Inner>,
        context: Context,
        parent: Option<Context>,
        state: Option<Box<str>>,
        kind: Kind,
        name: Name,
    ) -> Self {
        Self(Box::new(Open {
            tracer: Arc::clone(tracer),
            context,
            parent,
            state,
            kind,
            name,
            began: SystemTime::now(),
            since: Instant::now(),
            group: None,
            peer: None,
            revision: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }))
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
        self.0.context
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
        let own = open.tracer.own.get();
        let group = open.group.clone().or_else(|| own.and_then(|own| own.group.clone()));
        open.tracer.sink.take(Ended {
            context: open.context,
            parent: open.parent,
            state: open.state.clone(),
            kind: open.kind,
            name: open.name,
            began: open.began,
            took: open.since.elapsed(),
            code,
            role: own.map_or("", Own::role),
            group,
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
        write!(f, "Span({})", self.0.name)
    }
}
