//! `etcdserverpb.Lease`.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use kubebrain_proto::etcdserverpb as wire;
use tonic::{Request, Status, Streaming};

use super::inner::Inner;
use crate::state::lease::Leases;

pub(super) async fn grant(
    inner: Arc<Inner>,
    request: Request<wire::LeaseGrantRequest>,
) -> Result<tonic::Response<wire::LeaseGrantResponse>, Status> {
    let floor = inner.floor(request.metadata().as_ref())?;
    let request = request.into_inner();
    let granted = inner.store.grant(request.id, request.ttl, floor).await?;
    let header = inner.header(granted.revision);
    let answer = wire::LeaseGrantResponse { header, id: granted.id, ttl: granted.ttl, error: String::new() };
    Ok(inner.answer(answer, granted.revision))
}

pub(super) async fn revoke(
    inner: Arc<Inner>,
    request: Request<wire::LeaseRevokeRequest>,
) -> Result<tonic::Response<wire::LeaseRevokeResponse>, Status> {
    let floor = inner.floor(request.metadata().as_ref())?;
    let revision = inner.store.revoke(request.into_inner().id, floor).await?;
    Ok(inner.answer(wire::LeaseRevokeResponse { header: inner.header(revision) }, revision))
}

pub(super) async fn time_to_live(
    inner: Arc<Inner>,
    request: Request<wire::LeaseTimeToLiveRequest>,
) -> Result<tonic::Response<wire::LeaseTimeToLiveResponse>, Status> {
    let floor = inner.floor(request.metadata().as_ref())?;
    let request = request.into_inner();
    let lease = |leases: &Leases| {
        let lease = leases.get(request.id)?;
        let keys = if request.keys { lease.keys.iter().cloned().collect() } else { Vec::new() };
        Some((lease.row.ttl, lease.left(), keys))
    };
    let (revision, lease) = inner.store.of_leases(floor, lease).await?;
    let header = inner.header(revision);
    let answer = match lease {
        None => wire::LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..Default::default() },
        Some((granted_ttl, left, keys)) => wire::LeaseTimeToLiveResponse {
            header,
            id: request.id,
            ttl: left.as_secs().cast_signed(),
            granted_ttl,
            keys,
        },
    };
    Ok(inner.answer(answer, revision))
}

pub(super) async fn leases(
    inner: Arc<Inner>,
    request: Request<wire::LeaseLeasesRequest>,
) -> Result<tonic::Response<wire::LeaseLeasesResponse>, Status> {
    let floor = inner.floor(request.metadata().as_ref())?;
    let (revision, ids) = inner.store.of_leases(floor, Leases::soonest_first).await?;
    let leases = ids.into_iter().map(|id| wire::LeaseStatus { id }).collect();
    Ok(inner.answer(wire::LeaseLeasesResponse { header: inner.header(revision), leases }, revision))
}

type Renewals = Pin<Box<dyn Stream<Item = Result<wire::LeaseKeepAliveResponse, Status>> + Send>>;

pub(super) async fn keep_alive(
    inner: Arc<Inner>,
    request: Request<Streaming<wire::LeaseKeepAliveRequest>>,
) -> Result<tonic::Response<Renewals>, Status> {
    let stop = inner.stop.clone();
    let requests = request.into_inner().take_until(async move { stop.asked().await });
    let answers = requests.then(move |request| {
        let inner = inner.clone();
        async move {
            let id = request?.id;
            let ttl = inner.store.renew(id).await?.map_or(0, |(ttl, _)| ttl);
            let header = inner.header(inner.store.state().committed());
            Ok(wire::LeaseKeepAliveResponse { header, id, ttl })
        }
    });
    Ok(tonic::Response::new(Box::pin(answers)))
}
