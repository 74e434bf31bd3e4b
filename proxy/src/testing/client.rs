//! A client of the proxy.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use kubebrain_net::dial::{Channel, Connector, DialConfig};
use kubebrain_proto::etcdserverpb as pb;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tower::Service as _;

use crate::grpc::{self, Framed};

#[derive(Clone)]
pub(crate) struct Client(Channel);

/// An answer: header block, message, trailers.
pub(crate) struct Raw {
    pub(crate) headers: HeaderMap,
    pub(crate) messages: Vec<Bytes>,
    pub(crate) status: Status,
}

impl Client {
    pub(crate) fn new(connector: Connector) -> Self {
        Self(Channel::new(connector, DialConfig::default()))
    }

    pub(crate) async fn send(&self, path: &str, headers: HeaderMap, body: Body) -> Response<Incoming> {
        let mut request = Request::post(path).body(body).expect("a request");
        *request.headers_mut() = headers;
        request.headers_mut().insert("content-type", grpc::CONTENT_TYPE);
        request.headers_mut().insert("te", "trailers".parse().expect("ascii"));
        self.0.clone().call(request).await.expect("the proxy answers")
    }

    pub(crate) async fn raw(&self, path: &str, headers: HeaderMap, message: Framed) -> Raw {
        let body = Body::new(http_body_util::Full::new(message.frame()));
        let (parts, mut body) = self.send(path, headers, body).await.into_parts();
        let (mut buffer, mut messages) = (BytesMut::new(), Vec::new());
        let mut status = Status::from_header_map(&parts.headers);
        while let Some(frame) = body.frame().await {
            match frame.expect("no reset").into_data() {
                Ok(data) => buffer.extend_from_slice(&data),
                Err(frame) => status = frame.trailers_ref().and_then(Status::from_header_map),
            }
        }
        while let Some(message) = grpc::split(&mut buffer, usize::MAX).expect("frames") {
            messages.push(message);
        }
        Raw { headers: parts.headers, messages, status: status.expect("ends with a status") }
    }

    pub(crate) async fn call<M: prost::Message + Default>(
        &self,
        path: &str,
        request: &impl prost::Message,
    ) -> Result<M, Status> {
        let raw = self.raw(path, HeaderMap::new(), Framed::of(request)).await;
        match (raw.status.code(), raw.messages.first()) {
            (tonic::Code::Ok, Some(message)) => Ok(M::decode(message.clone()).expect("decodes")),
            _ => Err(raw.status),
        }
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> i64 {
        let answer: pb::PutResponse = self.call("/etcdserverpb.KV/Put", &put(key, value)).await.expect("put");
        revision_of(answer.header)
    }

    pub(crate) async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        self.call("/etcdserverpb.KV/Range", &request).await
    }

    pub(crate) async fn watch(&self) -> WatchClient {
        let (requests, body) = mpsc::channel::<Result<Frame<Bytes>, Status>>(16);
        let body = Body::new(StreamBody::new(ReceiverStream::new(body)));
        let response = self.send("/etcdserverpb.Watch/Watch", HeaderMap::new(), body).await;
        WatchClient { requests, body: response.into_body(), buffer: BytesMut::new(), end: None }
    }
}

/// A client's watch stream.
pub(crate) struct WatchClient {
    requests: mpsc::Sender<Result<Frame<Bytes>, Status>>,
    body: Incoming,
    buffer: BytesMut,
    pub(crate) end: Option<Status>,
}

impl WatchClient {
    async fn send(&self, request: pb::watch_request::RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        self.requests.send(Ok(Frame::data(Framed::of(&request).frame()))).await.expect("open");
    }

    pub(crate) async fn send_create(&self, create: pb::WatchCreateRequest) {
        self.send(pb::watch_request::RequestUnion::CreateRequest(create)).await;
    }

    pub(crate) async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.send_create(create).await;
        let created = self.next().await.expect("an answer");
        assert!(created.created, "{created:?}");
        created
    }

    /// All keys with this prefix.
    pub(crate) async fn prefix(&mut self, prefix: &str, start_revision: i64) -> pb::WatchResponse {
        let range_end = kubebrain_shared::range::prefix_end(prefix.as_bytes()).expect("bounded");
        let key = prefix.to_owned().into();
        self.create(pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() }).await
    }

    pub(crate) async fn cancel(&self, watch_id: i64) {
        self.send(pb::watch_request::RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })).await;
    }

    pub(crate) async fn ask_progress(&self) {
        self.send(pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    }

    /// `None` at the end, whose status is then in `end`.
    pub(crate) async fn next(&mut self) -> Option<pb::WatchResponse> {
        timeout(Duration::from_secs(30), self.read()).await.expect("a response within 30 s")
    }

    /// True if nothing comes for a while.
    pub(crate) async fn is_quiet(&mut self, time: Duration) -> bool {
        timeout(time, self.read()).await.is_err()
    }

    async fn read(&mut self) -> Option<pb::WatchResponse> {
        loop {
            if let Some(message) = grpc::split(&mut self.buffer, usize::MAX).expect("frames") {
                return Some(prost::Message::decode(message).expect("decodes"));
            }
            match self.body.frame().await?.expect("no reset").into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    self.end = frame.trailers_ref().and_then(Status::from_header_map);
                    return None;
                }
            }
        }
    }

    /// Keys with revisions, until there are `count`; responses without events are skipped.
    pub(crate) async fn events(&mut self, count: usize) -> Vec<(String, i64)> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = self.next().await.expect("goes on");
            assert!(!response.canceled, "{response:?}");
            events.extend(response.events.into_iter().map(|event| {
                let kv = event.kv.expect("has one");
                (String::from_utf8_lossy(&kv.key).into_owned(), kv.mod_revision)
            }));
        }
        events
    }
}

pub(crate) fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

/// Everything with this prefix; one key if it does not end in a slash.
pub(crate) fn range(prefix: &str) -> pb::RangeRequest {
    let range_end = match prefix.ends_with('/') {
        true => kubebrain_shared::range::prefix_end(prefix.as_bytes()).expect("bounded"),
        false => Bytes::new(),
    };
    pb::RangeRequest { key: prefix.to_owned().into(), range_end, ..Default::default() }
}

pub(crate) fn revision_of(header: Option<pb::ResponseHeader>) -> i64 {
    header.expect("a header").revision
}
