//! `kubebrain.peer.v1.Peer`: what proxies ask besides.

use std::sync::Arc;
use std::time::Duration;

use kubebrain_proto::peer as wire;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Pair;
use kubebrain_shared::revision::Revision;
use tonic::{Request, Status};

use super::inner::{Inner, no_floor};
use crate::authority::here;
use crate::lead::command::Adoption;
use crate::state::lease::Leases;

type Answered<T> = Result<tonic::Response<T>, Status>;

pub(super) async fn advance(
    inner: Arc<Inner>,
    request: Request<wire::AdvanceRequest>,
) -> Answered<wire::AdvanceResponse> {
    let floor = Revision::checked_from(request.into_inner().floor).ok_or_else(no_floor)?;
    let revision = inner.store.advance(floor).await?;
    let compacted = inner.store.state().compacted();
    let held = inner.store.state().held.load();
    let Pair { number, adopted } = held.pair();
    let lineage = held.document().id().lineage;
    let answer = wire::AdvanceResponse { revision: revision.to_wire(), compacted, lineage, number, adopted };
    Ok(inner.answer(answer, revision))
}

/// One step of a change of the placement.
pub(super) async fn place(
    inner: Arc<Inner>,
    request: Request<wire::PlaceRequest>,
) -> Answered<wire::PlaceResponse> {
    here::place(&inner.store, request.into_inner()).await.map(tonic::Response::new)
}

/// Keys that stand in this group and are another one's, or the other way round.
pub(super) async fn repair(
    inner: Arc<Inner>,
    request: Request<wire::RepairRequest>,
) -> Answered<wire::RepairResponse> {
    here::repair(&inner.store, request.into_inner()).await.map(tonic::Response::new)
}

/// What this brain's group goes by, as far as this brain has heard.
pub(super) async fn placement(
    inner: Arc<Inner>,
    _request: Request<wire::PlacementRequest>,
) -> Answered<wire::PlacementResponse> {
    Ok(tonic::Response::new(here::held(&inner.store)))
}

pub(super) async fn share_lease(
    inner: Arc<Inner>,
    request: Request<wire::ShareLeaseRequest>,
) -> Answered<wire::ShareLeaseResponse> {
    let request = request.into_inner();
    let (ttl, remaining) = match request.group.as_str() {
        "" => {
            let lease = |leases: &Leases| leases.get(request.id).map(|lease| (lease.row.ttl, lease.left()));
            let (_, lease) = inner.store.of_leases(Revision::ZERO, lease).await?;
            lease.ok_or(Fault::LeaseNotFound)?
        }
        name => {
            let group = GroupName::parse(name);
            let group =
                group.ok_or_else(|| Status::invalid_argument("kubebrain: this is not a group's name"))?;
            inner.store.share(request.id, group).await?
        }
    };
    let remaining_ms = i64::try_from(remaining.as_millis()).unwrap_or(i64::MAX);
    Ok(tonic::Response::new(wire::ShareLeaseResponse { ttl, remaining_ms }))
}

pub(super) async fn adopt_lease(
    inner: Arc<Inner>,
    request: Request<wire::AdoptLeaseRequest>,
) -> Answered<wire::AdoptLeaseResponse> {
    let request = request.into_inner();
    let remaining = Duration::from_millis(u64::try_from(request.remaining_ms).unwrap_or(0));
    let adoption = Adoption { remaining, offered: request.offered };
    inner.store.adopt(request.id, request.ttl, adoption).await?;
    Ok(tonic::Response::new(wire::AdoptLeaseResponse {}))
}

pub(super) async fn renew_lease(
    inner: Arc<Inner>,
    request: Request<wire::RenewLeaseRequest>,
) -> Answered<wire::RenewLeaseResponse> {
    let (ttl, groups) = inner.store.renew(request.into_inner().id).await?.unwrap_or_default();
    Ok(tonic::Response::new(wire::RenewLeaseResponse { ttl, groups }))
}

pub(super) async fn lease_holders(
    inner: Arc<Inner>,
    request: Request<wire::LeaseHoldersRequest>,
) -> Answered<wire::LeaseHoldersResponse> {
    let groups = inner.store.holders(request.into_inner().id).unwrap_or_default();
    Ok(tonic::Response::new(wire::LeaseHoldersResponse { groups }))
}
