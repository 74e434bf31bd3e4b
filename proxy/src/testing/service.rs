//! The stand-in's requests.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use kubebrain_proto::{etcdserverpb as pb, peer};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::metadata;
use kubebrain_shared::placement::DocumentId;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use tonic::Status;
use tonic::body::Body;

use super::brain::{Brain, Planned, State, text};
use crate::grpc::{self, Framed};

#[derive(Clone)]
pub(crate) struct BrainService(Arc<Brain>);

impl Brain {
    pub(crate) fn service(self: &Arc<Self>) -> BrainService {
        BrainService(Arc::clone(self))
    }
}

impl tower::Service<Request<Incoming>> for BrainService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <Self as tower::Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.call(request.map(Body::new))
    }
}

impl tower::Service<Request<Body>> for BrainService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let brain = Arc::clone(&self.0);
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            Ok(answer(brain, parts.uri.path(), parts.headers, body).await.unwrap_or_else(Status::into_http))
        })
    }
}

async fn answer(
    brain: Arc<Brain>,
    path: &str,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Status> {
    let part = text(&headers, &metadata::PART);
    let floor = text(&headers, &metadata::FLOOR);
    let raise = floor.as_deref().map_or(0, |floor| floor.parse().expect("a number"));
    {
        let mut state = brain.state.lock();
        state.seen.push((path.to_owned(), floor, part.clone()));
        state.advance(raise);
    }
    brain.touch();
    if path == "/etcdserverpb.Watch/Watch" {
        if brain.state.lock().refuses_watches {
            return Err(Fault::LeaderChanged.into());
        }
        let tells_all = headers.contains_key(&metadata::PROGRESS);
        return Ok(super::watch::serve(brain, body, part, tells_all));
    }
    if path == "/kubebrain.peer.v1.Peer/Standing" {
        return Ok(super::standing::speak(brain));
    }
    let message = grpc::OneMessage::new(body, 16 << 20).await?;
    let planned = {
        let mut state = brain.state.lock();
        let at = state.planned.iter().position(|(planned, _)| *planned == path);
        at.map(|at| state.planned.remove(at).1)
    };
    match planned {
        Some(Planned::NotOwner) => return Err(metadata::not_owner("planned")),
        Some(Planned::Fail(fault)) => return Err(fault.into()),
        Some(Planned::WriteFirst(key)) => {
            brain.write(key, "first");
        }
        Some(Planned::Silence) => std::future::pending().await,
        Some(Planned::Raw(frame)) => return Ok(grpc::answer_framed(frame)),
        Some(Planned::Lost) => {
            let _applied = unary(&brain, path, &message, part.as_deref()).await;
            // a body that ends without trailers
            return Ok(grpc::response(Body::new(http_body_util::Full::new(bytes::Bytes::new()))));
        }
        None => {}
    }
    let (frame, revision) = unary(&brain, path, &message, part.as_deref()).await?;
    brain.touch();
    if let Some(cut) = cut_of(path, &headers, &message, &frame) {
        let mut response = grpc::answer_framed(Framed::of(&cut).frame());
        response.headers_mut().insert(metadata::CUT, http::HeaderValue::from_static("1"));
        return Ok(response);
    }
    let mut response = grpc::answer_framed(frame.frame());
    let number = metadata::number(Revision::checked_from(revision).expect("sane"));
    response.headers_mut().insert(metadata::REVISION, number);
    let store = format!("{:x}", brain.state.lock().store);
    response.headers_mut().insert(metadata::STORE, store.parse().expect("hex"));
    Ok(response)
}

fn cut_of(path: &str, headers: &HeaderMap, message: &Framed, answer: &Framed) -> Option<peer::Cut> {
    let answer = match path {
        "/etcdserverpb.KV/Range" => decode(answer).ok()?,
        "/etcdserverpb.KV/RangeStream" => decode::<pb::RangeStreamResponse>(answer).ok()?.range_response?,
        _ => return None,
    };
    super::cut::cut(headers, &decode(message).ok()?, &answer)
}

fn decode<M: prost::Message + Default>(message: &Framed) -> Result<M, Status> {
    grpc::decode(message.message())
}

/// Longer than functions are elsewhere: one arm for each method, and nothing but arms.
async fn unary(
    brain: &Arc<Brain>,
    path: &str,
    message: &Framed,
    part: Option<&str>,
) -> Result<(Framed, i64), Status> {
    if path == "/kubebrain.peer.v1.Peer/Advance" {
        let mut changed = brain.changed.subscribe();
        while brain.is_stuck() {
            let _ = changed.changed().await;
        }
    }
    let mut state = brain.state.lock();
    let state = &mut *state;
    let owned = |state: &State, key: &bytes::Bytes, end: &bytes::Bytes| {
        let range = KeyRange::from_wire(key.clone(), end.clone());
        state.check_owner(&brain.name, &range, part).map(|()| range)
    };
    let framed = match path {
        "/kubebrain.peer.v1.Peer/Advance" => {
            let request: peer::AdvanceRequest = decode(message)?;
            state.advance(request.floor);
            let (revision, compacted) = (state.revision, state.compacted);
            let id = if state.tells_fences { state.document.id() } else { DocumentId::default() };
            let (lineage, number) = (id.lineage, id.number);
            Framed::of(&peer::AdvanceResponse { revision, compacted, lineage, number, ..Default::default() })
        }
        "/etcdserverpb.KV/Range" | "/etcdserverpb.KV/RangeStream" => {
            let request: pb::RangeRequest = decode(message)?;
            owned(state, &request.key, &request.range_end)?;
            let (kvs, more, count) = state.range(&brain.name, &request, part.is_some())?;
            let range = pb::RangeResponse { header: brain.header(state.revision), kvs, more, count };
            match path.ends_with("Stream") {
                true => Framed::of(&pb::RangeStreamResponse { range_response: Some(range) }),
                false => Framed::of(&range),
            }
        }
        "/etcdserverpb.KV/Put" => {
            let request: pb::PutRequest = decode(message)?;
            owned(state, &request.key, &bytes::Bytes::new())?;
            let revision = state.put(&request)?;
            Framed::of(&pb::PutResponse { header: brain.header(revision), prev_kv: None })
        }
        "/etcdserverpb.KV/DeleteRange" => {
            let request: pb::DeleteRangeRequest = decode(message)?;
            let range = owned(state, &request.key, &request.range_end)?;
            let prev_kvs = state.delete(&brain.name, &range, part.is_some());
            let deleted = prev_kvs.len() as i64;
            let prev_kvs = if request.prev_kv { prev_kvs } else { Vec::new() };
            Framed::of(&pb::DeleteRangeResponse { header: brain.header(state.revision), deleted, prev_kvs })
        }
        "/etcdserverpb.KV/Txn" => {
            let request: pb::TxnRequest = decode(message)?;
            let succeeded = request.compare.iter().all(|compare| state.compare(compare));
            for op in if succeeded { &request.success } else { &request.failure } {
                if let Some(pb::request_op::Request::RequestPut(put)) = &op.request {
                    state.put(put)?;
                }
            }
            Framed::of(&pb::TxnResponse {
                header: brain.header(state.revision),
                succeeded,
                responses: Vec::new(),
            })
        }
        "/etcdserverpb.KV/Compact" => {
            let request: pb::CompactionRequest = decode(message)?;
            if request.revision <= state.compacted {
                return Err(Fault::Compacted.into());
            }
            if request.revision > state.revision {
                return Err(Fault::FutureRevision.into());
            }
            state.compacted = request.revision;
            Framed::of(&pb::CompactionResponse { header: brain.header(state.revision) })
        }
        "/etcdserverpb.Maintenance/Status" => {
            let version = "3.6.11".into();
            Framed::of(&pb::StatusResponse {
                header: brain.header(state.revision),
                version,
                db_size: 42,
                errors: state.alarms.iter().map(|(member, _)| format!("memberID:{member}")).collect(),
                ..Default::default()
            })
        }
        "/etcdserverpb.Maintenance/Defragment" => Framed::of(&pb::DefragmentResponse::default()),
        "/etcdserverpb.Maintenance/Alarm" => {
            use pb::alarm_request::AlarmAction;
            let request: pb::AlarmRequest = decode(message)?;
            let alarm = (request.member_id, request.alarm);
            let alarms = match request.action() {
                AlarmAction::Get => state.alarms.iter().copied().collect(),
                AlarmAction::Activate => {
                    state.alarms.insert(alarm);
                    vec![alarm]
                }
                AlarmAction::Deactivate => state.alarms.remove(&alarm).then_some(alarm).into_iter().collect(),
            };
            let alarms =
                alarms.into_iter().map(|(member_id, alarm)| pb::AlarmMember { member_id, alarm }).collect();
            Framed::of(&pb::AlarmResponse { header: brain.header(state.revision), alarms })
        }
        "/kubebrain.peer.v1.Peer/Placement" => {
            let is_placed = state.document.number() > 0 && !state.is_unplaced;
            let current = is_placed.then(|| state.document.to_wire());
            let adopted = state.adopted.as_ref().map(|adopted| adopted.to_wire());
            Framed::of(&peer::PlacementResponse { current, adopted, ..<_>::default() })
        }
        _ => lease(brain, state, path, message)?,
    };
    Ok((framed, state.revision))
}

fn lease(brain: &Brain, state: &mut State, path: &str, message: &Framed) -> Result<Framed, Status> {
    let ttl = |state: &State, id: i64| state.leases.get(&id).copied();
    Ok(match path {
        "/etcdserverpb.Lease/LeaseGrant" => {
            let request: pb::LeaseGrantRequest = decode(message)?;
            state.leases.insert(request.id, request.ttl);
            let header = brain.header(state.revision);
            Framed::of(&pb::LeaseGrantResponse {
                header,
                id: request.id,
                ttl: request.ttl,
                error: String::new(),
            })
        }
        "/etcdserverpb.Lease/LeaseRevoke" => {
            let request: pb::LeaseRevokeRequest = decode(message)?;
            state.leases.remove(&request.id).ok_or(Fault::LeaseNotFound)?;
            state.holders.remove(&request.id);
            for kv in state.keys(&KeyRange::ALL, state.revision) {
                if kv.lease == request.id {
                    state.delete(&brain.name, &KeyRange::one(kv.key), false);
                }
            }
            Framed::of(&pb::LeaseRevokeResponse { header: brain.header(state.revision) })
        }
        "/etcdserverpb.Lease/LeaseTimeToLive" => {
            let request: pb::LeaseTimeToLiveRequest = decode(message)?;
            let all = state.keys(&KeyRange::ALL, state.revision);
            let keys = all
                .into_iter()
                .filter(|kv| kv.lease == request.id && request.keys)
                .map(|kv| kv.key)
                .collect();
            let ttl = ttl(state, request.id).unwrap_or(-1);
            let header = brain.header(state.revision);
            Framed::of(&pb::LeaseTimeToLiveResponse {
                header,
                id: request.id,
                ttl,
                granted_ttl: ttl.max(0),
                keys,
            })
        }
        "/kubebrain.peer.v1.Peer/ShareLease" => {
            let request: peer::ShareLeaseRequest = decode(message)?;
            let ttl = ttl(state, request.id).ok_or(Fault::LeaseNotFound)?;
            if !request.group.is_empty() {
                state.holders.entry(request.id).or_default().insert(request.group);
            }
            Framed::of(&peer::ShareLeaseResponse { ttl, remaining_ms: ttl * 1000 })
        }
        "/kubebrain.peer.v1.Peer/AdoptLease" => {
            let request: peer::AdoptLeaseRequest = decode(message)?;
            match request.offered {
                true if !state.leases.contains_key(&request.id) => drop(state.offered.insert(request.id)),
                true => {}
                false => drop(state.offered.remove(&request.id)),
            }
            state.leases.insert(request.id, request.ttl);
            Framed::of(&peer::AdoptLeaseResponse {})
        }
        "/kubebrain.peer.v1.Peer/RenewLease" => {
            let request: peer::RenewLeaseRequest = decode(message)?;
            let groups = state.holders.get(&request.id).into_iter().flatten().cloned().collect();
            Framed::of(&peer::RenewLeaseResponse { ttl: ttl(state, request.id).unwrap_or(0), groups })
        }
        "/kubebrain.peer.v1.Peer/LeaseHolders" => {
            let request: peer::LeaseHoldersRequest = decode(message)?;
            let groups = state.holders.get(&request.id).into_iter().flatten().cloned().collect();
            Framed::of(&peer::LeaseHoldersResponse { groups })
        }
        other => return Err(Status::unimplemented(other)),
    })
}
