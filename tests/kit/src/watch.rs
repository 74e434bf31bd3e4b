//! [`Watch`]: one watcher on a stream of its own, and what came of it.

use kubebrain_net::dial::Channel;
use kubebrain_proto::etcdserverpb::watch_client::WatchClient;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use kubebrain_proto::mvccpb::Event;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::client::end_of;
use super::in_time;

/// See the module.
pub struct Watch {
    responses: Streaming<WatchResponse>,
    /// The stream is open as long as it lives.
    _requests: mpsc::Sender<WatchRequest>,
}

/// A create request for a prefix.
pub fn create(prefix: &str, start: i64) -> WatchRequest {
    let create = WatchCreateRequest {
        key: prefix.to_owned().into(),
        range_end: end_of(prefix).into(),
        start_revision: start,
        ..Default::default()
    };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

impl Watch {
    pub(super) async fn open(mut client: WatchClient<Channel>, prefix: &str, start: i64) -> Self {
        let (requests, inbound) = mpsc::channel(1);
        requests.send(create(prefix, start)).await.expect("the receiver is here");
        let opened = in_time("a watch stream", client.watch(ReceiverStream::new(inbound))).await;
        let mut watch = Self { responses: opened.expect("a watch stream").into_inner(), _requests: requests };
        let first = in_time("a created watcher", watch.responses.message()).await;
        let first = first.expect("no error").expect("a response");
        assert!(first.created && !first.canceled, "{first:?}");
        watch
    }

    /// The next events, or how the stream ended: `None` is "OK".
    pub async fn next(&mut self) -> Result<Option<Vec<Event>>, Status> {
        let response = self.responses.message().await?;
        Ok(response.map(|response| {
            assert!(!response.canceled, "{response:?}");
            response.events
        }))
    }

    /// The next response, whatever it says.
    pub async fn response(&mut self) -> Result<Option<WatchResponse>, Status> {
        self.responses.message().await
    }

    /// Exactly so many events as come up to a revision.
    pub async fn events_to(&mut self, revision: i64) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        while events.last().is_none_or(|event| mod_revision(event) < revision) {
            let more = in_time("events", self.next()).await;
            events.extend(more.expect("the stream goes on").expect("the stream goes on"));
        }
        events
    }
}

/// Of the event's key.
pub fn mod_revision(event: &Event) -> i64 {
    event.kv.as_ref().expect("an event has a key").mod_revision
}

/// The event's key, as text.
pub fn key(event: &Event) -> String {
    String::from_utf8_lossy(&event.kv.as_ref().expect("an event has a key").key).into_owned()
}
