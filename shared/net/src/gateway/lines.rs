//! A stream of answers, each a line of JSON.

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use prost_reflect::MessageDescriptor;
use tokio::sync::oneshot;
use tonic::Status;
use tonic::body::Body;

use super::{json, page};
use crate::direct::Messages;

/// See the module.
pub(super) struct Lines {
    messages: Messages,
    output: MessageDescriptor,
    /// Hears why the client's requests could not be read to their end.
    broken: Option<oneshot::Receiver<Status>>,
}

impl Lines {
    pub(super) const fn new(
        messages: Messages,
        output: MessageDescriptor,
        broken: Option<oneshot::Receiver<Status>>,
    ) -> Self {
        Self { messages, output, broken }
    }

    /// The next one; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let Self { messages, output, broken } = self;
        let message = loop {
            let why = async {
                match broken.as_mut() {
                    Some(broken) => broken.await.ok(),
                    None => std::future::pending().await,
                }
            };
            let why = tokio::select! { biased;
                message = messages.next() => break message?,
                why = why => why,
            };
            match why {
                Some(status) => return Err(status),
                None => *broken = None, // all requests are read
            }
        };
        match (message, broken) {
            (Some(message), _) => json::line(output, &message).map(Some),
            // Some calls end with their requests, also where those could not be read.
            (None, Some(broken)) => broken.try_recv().map_or(Ok(None), Err),
            (None, None) => Ok(None),
        }
    }
}

/// The answer to a streaming call. Its head waits for the first line: an error before that is an error of HTTP.
///
/// # Cancel safety
/// A dropped call ends the gRPC call.
pub(super) async fn answer(headers: &HeaderMap, mut lines: Lines) -> Response<Body> {
    let first = match lines.next().await {
        Ok(first) => first,
        Err(status) => {
            let body = Body::new(http_body_util::Full::new(page::failure_line(&status)));
            return page::begun(page::code(&status), Some(headers), body);
        }
    };
    let Some(first) = first else { return page::nothing() };
    let begun = Some((Some(first), Some(lines)));
    let frames = stream::unfold(begun, |state| async {
        let (ready, lines) = state?;
        if let Some(line) = ready {
            return Some((Ok::<_, Status>(Frame::data(line)), Some((None, lines))));
        }
        let mut lines = lines?;
        match lines.next().await {
            Ok(Some(line)) => Some((Ok(Frame::data(line)), Some((None, Some(lines))))),
            Ok(None) => None,
            Err(status) => Some((Ok(Frame::data(page::failure_line(&status))), Some((None, None)))),
        }
    });
    page::begun(StatusCode::OK, Some(headers), Body::new(StreamBody::new(frames)))
}
