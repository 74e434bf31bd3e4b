//! The task that keeps one node's `Standing` stream open, and says what comes of it.
//!
//! Brains say what they are at once, whenever that changes, and each second. One of which nothing is heard for longer is
//! suspect, and so is one whose stream ends or that cannot be connected to: what is in flight there is tried elsewhere.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderValue, Method, Request, header};
use http_body_util::BodyExt as _;
use kubebrain_net::dial::{Channel, DialConfig};
use kubebrain_proto::peer::{StandingRequest, StandingResponse};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::metadata;
use kubebrain_shared::method;
use tokio::time::{Instant, sleep, timeout};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service as _;

use super::roster::{Report, Roster};
use crate::config::SILENCE;
use crate::grpc::{self, Framed};

/// A brain that does not know the stream is asked again: it may have been replaced by a newer version.
const UNSERVED_PAUSE: Duration = Duration::from_secs(5);
/// A stream that lived for so long is opened again without a pause.
const LIVED: Duration = Duration::from_secs(1);
const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// See the module. Ends when it is dropped, with its group.
#[derive(Clone)]
pub(crate) struct Monitor {
    pub(crate) roster: Arc<Roster>,
    pub(crate) index: usize,
    pub(crate) group: GroupName,
    pub(crate) channel: Channel,
    pub(crate) dial: DialConfig,
    /// The other group that the brain has said it is of.
    pub(crate) foreign: Option<String>,
}

/// How a stream has ended.
enum End {
    Unserved,
    Broken(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented => Self::Unserved,
            _ => Self::Broken(status),
        }
    }
}

impl Monitor {
    pub(crate) async fn run(mut self) {
        let mut pause = Duration::ZERO;
        loop {
            let began = Instant::now();
            let end = self.listen().await;
            match end {
                End::Unserved => {
                    self.say(Report::Unserved);
                    pause = UNSERVED_PAUSE;
                }
                End::Broken(status) => {
                    tracing::debug!(group = %self.group, index = self.index, %status, "a brain is not heard");
                    self.say(Report::Broken);
                    pause = match began.elapsed() >= LIVED {
                        true => Duration::ZERO,
                        false => (pause * 2).clamp(self.dial.backoff_min, self.dial.backoff_max),
                    };
                }
            }
            sleep(pause).await;
        }
    }

    /// One stream, until its end.
    async fn listen(&mut self) -> End {
        match self.listen_to_end().await {
            Err(end) => end,
            Ok(()) => End::Broken(Status::unavailable("the stream has ended")),
        }
    }

    async fn listen_to_end(&mut self) -> Result<(), End> {
        let response = self.in_time(self.channel.clone().call(request())).await;
        let response = response.map_err(|error| Status::unavailable(error.to_string()))?;
        let (head, mut body) = response.into_parts();
        // One that is not master, of a version that does not speak of itself refuses whatever it is asked.
        if metadata::refusing_master(&head.headers).is_some() {
            return Err(End::Unserved);
        }
        if let Some(status) = Status::from_header_map(&head.headers) {
            return Err(status.into());
        }
        let mut buffer = BytesMut::new();
        loop {
            while let Some(message) = grpc::split(&mut buffer, MESSAGE_BYTES_MAX)? {
                self.take(grpc::decode(message)?);
            }
            let Some(frame) = self.in_time(body.frame()).await else { return Ok(()) };
            match frame.map_err(|error| Status::unavailable(error.to_string()))?.into_data() {
                Ok(data) => buffer.extend_from_slice(&data),
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(Status::from_header_map);
                    return status
                        .filter(|status| status.code() != Code::Ok)
                        .map_or(Ok(()), |s| Err(s.into()));
                }
            }
        }
    }

    fn take(&mut self, standing: StandingResponse) {
        if standing.group == self.group.as_str() {
            self.foreign = None;
            return self.say(Report::Standing(Box::new(standing)));
        }
        if self.foreign.as_deref() != Some(&*standing.group) {
            tracing::error!(
                group = %self.group,
                "the placement names a brain of group {other} for group {group}: the brain at {address} says that it is \
                 {name} of group {other}. It is asked nothing; correct `brains` of group {group} in the placement file",
                group = self.group,
                other = standing.group,
                name = standing.name,
                address = self.roster.nodes().get(self.index).map_or("", |node| &node.address),
            );
            self.foreign = Some(standing.group.clone());
        }
        self.say(Report::Foreign(Box::new(standing)));
    }

    /// Waits on also after a silence: a brain that was stopped and resumed goes on where it was.
    async fn in_time<T>(&self, next: impl Future<Output = T>) -> T {
        let mut next = pin!(next);
        match timeout(SILENCE, next.as_mut()).await {
            Ok(next) => next,
            Err(_) => {
                tracing::debug!(group = %self.group, index = self.index, "a brain is silent");
                self.say(Report::Silent);
                next.await
            }
        }
    }

    fn say(&self, report: Report) {
        self.roster.hear(self.index, report);
    }
}

fn request() -> Request<Body> {
    let frame = http_body_util::Full::new(Framed::of(&StandingRequest {}).frame());
    let mut request = Request::new(Body::new(frame));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(method::STANDING);
    request.headers_mut().insert(header::CONTENT_TYPE, grpc::CONTENT_TYPE);
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    request
}
