//! Requests that several groups answer together, and ranges that several brains of one group do.

mod cut;
pub(crate) mod delete;
pub(crate) mod merge;
mod pace;
mod parts;
pub(crate) mod range;
pub(crate) mod range_stream;
pub(crate) mod spread;

use std::sync::Arc;

use http::HeaderMap;
use kubebrain_net::trace::{Span, Step, step, within};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::placement::DocumentId;
use tonic::{Code, Status};

use crate::call::Failure;
use crate::group::Group;
use crate::grpc::Framed;

/// A request that several groups answer together.
pub(crate) struct Split<'a> {
    /// The client's headers, as far as brains may see them.
    pub(crate) headers: &'a HeaderMap,
    /// The message as it came.
    pub(crate) message: &'a Framed,
    pub(crate) groups: &'a [Arc<Group>],
    /// The document that names them.
    pub(crate) id: DocumentId,
}

/// Does one part of what this task works for; in its trace, where there is one.
async fn part<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    part_of(step(Step::Part), work).await
}

async fn part_of<T, E>(span: Option<Span>, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let outcome = within(span.as_ref(), work).await;
    if let Some(span) = span {
        span.end(if outcome.is_ok() { Code::Ok } else { Code::Unknown });
    }
    outcome
}

/// Why a request over several groups has no answer yet.
#[derive(Debug)]
pub(crate) enum Setback {
    /// Surely nothing was applied, or nothing ever is: do the whole again by the newest table.
    Again(Failure),
    /// What the client is told.
    Refused(Status),
}

impl From<Status> for Setback {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl From<Fault> for Setback {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault.into())
    }
}

impl Setback {
    /// What a failure is for a part that only reads: it may always be tried again.
    pub(crate) const fn of_read(failure: Failure) -> Self {
        Self::Again(failure)
    }
}
