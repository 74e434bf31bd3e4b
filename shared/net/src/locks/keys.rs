//! [`Keys`]: the calls that recipes consist of.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use kubebrain_proto::etcdserverpb as wire;
use kubebrain_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kubebrain_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use kubebrain_proto::etcdserverpb::request_op::Request;
use kubebrain_proto::etcdserverpb::response_op::Response;
use kubebrain_proto::mvccpb::{Event, KeyValue};
use kubebrain_shared::method;
use kubebrain_shared::range::prefix_end;
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;

use crate::direct::{Direct, Messages};

/// Of a lease that nobody has named, seconds; as etcd's sessions have it.
const SESSION_TTL: i64 = 60;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Keys(Direct);

/// A key, if it was created at that revision.
#[derive(Clone, Debug)]
pub(super) struct Created {
    pub(super) key: Bytes,
    pub(super) revision: i64,
}

/// Which key below a prefix is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    /// The one that was created first.
    First,
    /// The last one that was created at or below this revision.
    LastUpTo(i64),
}

/// What a range found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) header: wire::ResponseHeader,
    pub(super) kv: Option<KeyValue>,
}

/// The events of a watch.
#[derive(Debug)]
pub(super) struct Watch(Messages);

impl Keys {
    pub(super) const fn new(service: Direct) -> Self {
        Self(service)
    }

    /// The lease that is asked for, or a new one.
    pub(super) async fn lease(&self, asked: i64) -> Result<i64, Status> {
        if asked != 0 {
            return Ok(asked);
        }
        let request = wire::LeaseGrantRequest { ttl: SESSION_TTL, id: 0 };
        let granted: wire::LeaseGrantResponse = self.0.ask(method::LEASE_GRANT, &request).await?;
        Ok(granted.id)
    }

    pub(super) async fn get(&self, key: Bytes) -> Result<Found, Status> {
        self.range(wire::RangeRequest { key, ..Default::default() }).await
    }

    /// One of the keys that begin with `prefix`.
    pub(super) async fn one_below(&self, prefix: Bytes, which: Which) -> Result<Found, Status> {
        let (order, max_create_revision) = match which {
            Which::First => (SortOrder::Ascend, 0),
            Which::LastUpTo(revision) => (SortOrder::Descend, revision),
        };
        let request = wire::RangeRequest {
            range_end: prefix_end(&prefix).unwrap_or_else(|| Bytes::from_static(b"\0")),
            key: prefix,
            limit: 1,
            sort_order: order as i32,
            sort_target: SortTarget::Create as i32,
            max_create_revision,
            ..Default::default()
        };
        self.range(request).await
    }

    async fn range(&self, request: wire::RangeRequest) -> Result<Found, Status> {
        let answer: wire::RangeResponse = self.0.ask(method::RANGE, &request).await?;
        let header = answer.header.ok_or_else(no_header)?;
        Ok(Found { header, kv: answer.kvs.into_iter().next() })
    }

    /// Makes the key, unless there is one: then it is given as it is.
    pub(super) async fn create(&self, put: wire::PutRequest) -> Result<Found, Status> {
        let key = put.key.clone();
        let read = wire::RangeRequest { key: key.clone(), ..Default::default() };
        let created = Created { key, revision: 0 };
        let otherwise = vec![op(Request::RequestRange(read))];
        let answer = self.if_created(&created, Request::RequestPut(put), otherwise).await?;
        let header = answer.header.ok_or_else(no_header)?;
        let there = answer.responses.into_iter().next().and_then(|response| match response.response {
            Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        Ok(Found { header, kv: there.filter(|_| !answer.succeeded) })
    }

    /// Carries one operation out if the key is the one that was created then; false if it is not.
    pub(super) async fn change(
        &self,
        created: &Created,
        operation: Request,
    ) -> Result<(wire::ResponseHeader, bool), Status> {
        let answer = self.if_created(created, operation, Vec::new()).await?;
        Ok((answer.header.ok_or_else(no_header)?, answer.succeeded))
    }

    async fn if_created(
        &self,
        created: &Created,
        operation: Request,
        failure: Vec<wire::RequestOp>,
    ) -> Result<wire::TxnResponse, Status> {
        let compare = wire::Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Create as i32,
            key: created.key.clone(),
            target_union: Some(TargetUnion::CreateRevision(created.revision)),
            ..Default::default()
        };
        let request = wire::TxnRequest { compare: vec![compare], success: vec![op(operation)], failure };
        self.0.ask(method::TXN, &request).await
    }

    pub(super) async fn delete(&self, key: Bytes) -> Result<wire::ResponseHeader, Status> {
        let request = wire::DeleteRangeRequest { key, ..Default::default() };
        let answer: wire::DeleteRangeResponse = self.0.ask(method::DELETE_RANGE, &request).await?;
        answer.header.ok_or_else(no_header)
    }

    /// The events of a key, or of all keys with this prefix, from a revision on.
    pub(super) async fn watch(&self, key: Bytes, is_prefix: bool, from: i64) -> Result<Watch, Status> {
        let range_end = if is_prefix { prefix_end(&key) } else { None };
        let create = wire::WatchCreateRequest {
            key,
            range_end: range_end.unwrap_or_default(),
            start_revision: from,
            ..Default::default()
        };
        let request = wire::WatchRequest {
            request_union: Some(wire::watch_request::RequestUnion::CreateRequest(create)),
        };
        let frame = Frame::data(kubebrain_shared::wire::frame(&request.encode_to_vec()));
        // Open for as long as somebody listens.
        let frames = stream::iter([Ok::<_, Infallible>(frame)]).chain(stream::pending());
        let body = Body::new(StreamBody::new(frames));
        let answer = self.0.open(method::WATCH, HeaderMap::new(), body).await?;
        Ok(Watch(answer.messages))
    }
}

impl Watch {
    /// The next events, and the revision that the store had; `None` where the watch has ended without a reason that would
    /// hold for the next one.
    ///
    /// # Errors
    /// Why it cannot be watched.
    pub(super) async fn next(&mut self) -> Result<Option<(wire::ResponseHeader, Vec<Event>)>, Status> {
        loop {
            let message = match self.0.next().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(None),
                Err(status) if status.code() == tonic::Code::Unavailable => return Ok(None),
                Err(status) => return Err(status),
            };
            let answer = wire::WatchResponse::decode(message).map_err(|error| {
                Status::internal(format!("a watch's answer is not valid protobuf: {error}"))
            })?;
            if answer.canceled {
                return match answer.cancel_reason.is_empty() || answer.compact_revision != 0 {
                    true => Ok(None), // what was asked for is compacted meanwhile
                    false => Err(Status::unknown(answer.cancel_reason)),
                };
            }
            if !answer.events.is_empty() {
                return Ok(Some((answer.header.ok_or_else(no_header)?, answer.events)));
            }
        }
    }
}

const fn op(request: Request) -> wire::RequestOp {
    wire::RequestOp { request: Some(request) }
}

fn no_header() -> Status {
    Status::internal("an answer has no header")
}
