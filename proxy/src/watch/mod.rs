//! Watch: one client stream, many watchers, many groups.
//!
//! The stream is the body of its answer: nothing moves unless the client takes it, and there is no task and no queue
//! behind it. What is held per stream: a few responses on their way out, one response of each group's that arrives, and
//! what a watcher over several groups keeps until the slowest of them has closed it.
//!
//! ```text
//! client ⇄ stream ─┬─ stream to group A ── watchers that lie in A share it
//!                  ├─ stream to group B
//!                  └─ a watcher over A and B: merge ─┬─ its own stream to A
//!                                                    └─ its own stream to B
//! ```
//!
//! Invariants:
//! * A part's *closed* revision is learned in-band on its own group stream only. It is resumed at closed + 1, also by the
//!   group that its keys go to.
//! * A merged watcher sends up to the watermark, the least closed revision of its parts; all events of one revision
//!   go out together.
//! * A progress revision is sent after every event at or below it, and never below what the stream has told.
//! * A brain answers the requests of one stream in their order: a progress answer covers the watchers that it has
//!   acknowledged before the request was sent.

mod answer;
mod creates;
mod creating;
mod link;
mod merge;
mod moving;
mod part;
mod progress;
mod requests;
mod route;
mod signal;
mod stream;
mod group_stream;
mod watcher;

use std::sync::Arc;

use http::Response;
use kubebrain_shared::fault::Fault;
use tonic::Status;
use tonic::body::Body;

use crate::core::Core;
use crate::grpc;

/// Begins a client's stream.
///
/// # Errors
/// `Unavailable` once the proxy was stopped.
pub(crate) fn answer(core: Arc<Core>, input: Body) -> Result<Response<Body>, Status> {
    let stop = core.stop_handle().ok_or(Fault::Stopped)?;
    Ok(grpc::response(Body::new(stream::WatchStream::new(core, input, stop))))
}
