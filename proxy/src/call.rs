//! One request to one group and what came back: the only place that sends.
//!
//! Three outcomes are kept apart, because callers do different things: *surely not applied* (try again), *not the
//! owner* (look at the newest table, try again) and *unknown* (a write is never sent again).

use http::{HeaderMap, HeaderValue, Method, Request, header};
use kubebrain_net::trace::{Name, Span};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::metadata;
use kubebrain_shared::placement::DocumentId;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::answer::Answer;
use crate::core::Core;
pub(crate) use crate::failure::Failure;
use crate::group::{Attempt, Group, Miss, Place, RoutingPolicy, Tried};
use crate::grpc::{self, Framed};
use crate::metrics::Outcome;

/// What is asked.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    /// `/service/method`.
    pub(crate) path: &'static str,
    /// The client's headers, our own stripped.
    pub(crate) headers: &'a HeaderMap,
    pub(crate) message: Framed,
    /// By which document, if the group is asked for its part only.
    pub(crate) part: Option<DocumentId>,
    /// Whether the group is raised to the floor first: everything but fences.
    pub(crate) floor: bool,
    pub(crate) wanted: Wanted,
}

/// What an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The answer.
    Whole,
    /// Of a range whose rows take so many bytes, how it is cut instead.
    CutFrom(u64),
    /// A part of what was cut, at a revision that the group has shown, rather from this node.
    Part { node: usize },
}

impl<'a> Ask<'a> {
    /// For the whole answer, at or above the floor.
    pub(crate) const fn new(path: &'static str, headers: &'a HeaderMap, message: Framed) -> Self {
        Self { path, headers, message, part: None, floor: true, wanted: Wanted::Whole }
    }
}

impl Core {
    /// Sends and waits for the first frame of the answer. The floor is raised before anybody sees it.
    ///
    /// # Errors
    /// [`Failure`]; an error that the group gave is an [`Answer`].
    ///
    /// # Cancel safety
    /// A dropped call resets the request; a write may have been applied.
    pub(crate) async fn send(&self, group: &Group, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let began = Instant::now();
        let outcome = self.send_around(group, ask, began).await;
        group.metrics.sent(began.elapsed(), counted(&outcome));
        outcome
    }

    /// From node to node, at once, as long as that can do no harm: what surely was not carried out, and reads always.
    async fn send_around(&self, group: &Group, ask: &Ask<'_>, began: Instant) -> Result<Answer, Failure> {
        let policy = RoutingPolicy::of(ask.path);
        let mut tried = Tried::default();
        if let Wanted::Part { node } = ask.wanted {
            tried.preferred = Some(node);
        }
        let mut last = Err(Failure::NotSent);
        loop {
            let again = tried.has_begun();
            let now = if again { Instant::now() } else { began };
            let Some(attempt) = group.attempt(policy, &mut tried, now) else { return last };
            if again {
                self.config.metrics.all.retries.inc();
            }
            let place = attempt.place();
            let outcome = self.send_once(group, attempt, ask, &mut tried).await;
            let goes_on = match &outcome {
                Ok(answer) => policy == RoutingPolicy::Read && answer.another_may_know_better(place),
                Err(Failure::NotSent) => true,
                Err(Failure::NotOwner) => policy == RoutingPolicy::Read && place == Place::Reader,
                Err(Failure::Unknown) => policy == RoutingPolicy::Read,
            };
            if !goes_on {
                return outcome;
            }
            // an answer is better than none
            if last.is_err() {
                last = outcome;
            }
        }
    }

    async fn send_once(
        &self,
        group: &Group,
        attempt: Attempt<'_>,
        ask: &Ask<'_>,
        tried: &mut Tried,
    ) -> Result<Answer, Failure> {
        let frame = http_body_util::Full::new(ask.message.frame());
        let mut request = self.request(ask.path, ask.headers, ask.part, Body::new(frame));
        let headers = request.headers_mut();
        if !ask.floor {
            headers.remove(metadata::FLOOR);
        }
        match ask.wanted {
            Wanted::Whole => {}
            Wanted::CutFrom(bytes) => drop(headers.insert(metadata::CUT, HeaderValue::from(bytes))),
            Wanted::Part { .. } => drop(headers.insert(metadata::FENCED, HeaderValue::from_static("1"))),
        }
        let span = self.config.tracer.ask(request.headers_mut(), Name::of(ask.path));
        let span = span.map(|span| span.at(group.name(), attempt.address()));
        let outcome = attempt.send(request, Answer::open).await;
        if let Some(span) = span {
            ended(&span, &outcome);
        }
        let answer = outcome.map_err(|miss| {
            tracing::debug!(group = %group.name(), path = ask.path, %miss, "a brain has not answered");
            match miss {
                Miss::NotMaster { named } => {
                    tried.named = named;
                    Failure::NotSent
                }
                Miss::Unsent(_) => Failure::NotSent,
                Miss::Unknown => Failure::Unknown,
            }
        })?;
        if let Some(revision) = answer.revision {
            group.reached(revision);
            self.floor.raise(revision);
        }
        match &answer.error {
            Some(status) if metadata::is_not_owner(status) => {
                tracing::debug!(group = %group.name(), path = ask.path, %status, "refused");
                self.changes().ask(group.name());
                Err(Failure::NotOwner)
            }
            _ => Ok(answer),
        }
    }

    /// A request to a brain: the client's headers, and the floor.
    pub(crate) fn request(
        &self,
        path: &'static str,
        headers: &HeaderMap,
        part: Option<DocumentId>,
        body: Body,
    ) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(path);
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = headers.clone();
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, grpc::CONTENT_TYPE);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(metadata::FLOOR, metadata::number(self.floor_to_send()));
        if let Some(value) = part.and_then(|id| HeaderValue::from_str(&id.to_string()).ok()) {
            headers.insert(metadata::PART, value);
        }
        request
    }

    /// Asks and decodes the one message of the answer.
    ///
    /// # Errors
    /// The group's own error, or `Unavailable` where it gave none.
    pub(crate) async fn ask<M>(
        &self,
        group: &Group,
        path: &'static str,
        message: &impl prost::Message,
    ) -> Result<M, Status>
    where
        M: prost::Message + Default,
    {
        let headers = HeaderMap::new();
        let ask = Ask::new(path, &headers, Framed::of(message));
        let answer = self.send(group, &ask).await.map_err(|_| Fault::Timeout)?;
        answer.decode(self.config.merged_bytes_max).await
    }
}

/// Tells how an attempt went. Its span is that of who answers, up to the first frame: what follows is the client's to read.
fn ended(span: &Span, outcome: &Result<Answer, Miss>) {
    let code = match outcome {
        Ok(answer) => {
            answer.revision.into_iter().for_each(|revision| span.reached(revision));
            answer.error.as_ref().map_or(Code::Ok, Status::code)
        }
        Err(Miss::NotMaster { .. }) => Code::FailedPrecondition,
        Err(Miss::Unsent(_)) => Code::Unavailable,
        Err(Miss::Unknown) => Code::Unknown,
    };
    span.end(code);
}

/// What an outcome counts as.
fn counted(outcome: &Result<Answer, Failure>) -> Outcome {
    match outcome {
        Ok(answer) if answer.error.is_none() => Outcome::Answered,
        Ok(_) => Outcome::Failed,
        Err(Failure::NotSent) => Outcome::NotSent,
        Err(Failure::NotOwner) => Outcome::NotOwner,
        Err(Failure::Unknown) => Outcome::Unknown,
    }
}
