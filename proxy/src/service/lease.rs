//! Lease: granted and judged by the home group, known to the groups whose keys it is on.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::{join_all, try_join_all};
use futures_util::stream;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use kubebrain_proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use kubebrain_proto::peer::{
    LeaseHoldersRequest, LeaseHoldersResponse, RenewLeaseRequest, RenewLeaseResponse,
};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::method;
use kubebrain_shared::stop::Stop;
use tonic::Status;
use tonic::body::Body;

use super::call::Call;
use crate::core::Core;
use crate::group::Group;
use crate::grpc::{self, Framed};

const RENEW: &str = method::RENEW_LEASE;
const REVOKE: &str = method::LEASE_REVOKE;
const TIME_TO_LIVE: &str = method::LEASE_TIME_TO_LIVE;

impl Core {
    /// The groups besides home that hold a lease.
    async fn holders(&self, id: i64) -> Result<Vec<Arc<Group>>, Status> {
        let table = self.table();
        let request = LeaseHoldersRequest { id };
        let answer: LeaseHoldersResponse = self.ask(table.home(), method::LEASE_HOLDERS, &request).await?;
        Ok(self.named(&answer.groups))
    }

    /// A holder that the table no longer names cannot be asked; its lease ends by itself.
    fn named(&self, names: &[String]) -> Vec<Arc<Group>> {
        let table = self.table();
        let known = names.iter().filter_map(|name| GroupName::parse(name));
        known.filter_map(|name| table.group(&name).map(Arc::clone)).collect()
    }

    /// Renews everywhere; the time to live, 0 where one of the holders no longer knows it.
    async fn renew(&self, id: i64) -> Result<i64, Status> {
        let request = RenewLeaseRequest { id };
        let table = self.table();
        let home = self.renew_at(table.home(), &request).await?;
        if home.ttl <= 0 {
            return Ok(0);
        }
        let holders = self.named(&home.groups);
        let renewed = try_join_all(holders.iter().map(|group| self.renew_at(group, &request))).await?;
        Ok(if renewed.iter().all(|renewed| renewed.ttl > 0) { home.ttl } else { 0 })
    }

    /// In one group, tried again for as long as a request may take: renewing twice does no harm, and a stream that ends
    /// because a group's master changes would take all leases of its client with it.
    async fn renew_at(
        &self,
        group: &Group,
        request: &RenewLeaseRequest,
    ) -> Result<RenewLeaseResponse, Status> {
        let passes = |status: &Status| status.code() == tonic::Code::Unavailable;
        self.repeat(group, passes, || self.ask(group, RENEW, request)).await
    }
}

impl Call<'_> {
    /// At the holders first: when home has forgotten it, nobody holds it.
    pub(crate) async fn lease_revoke(&self) -> Result<Response<Body>, Status> {
        let request: LeaseRevokeRequest = grpc::decode(self.message.message())?;
        let holders = self.core.holders(request.id).await?;
        let revoked: Vec<Result<LeaseRevokeResponse, Status>> =
            join_all(holders.iter().map(|group| self.core.ask(group, REVOKE, &request))).await;
        for status in revoked.into_iter().filter_map(Result::err) {
            if status.code() != tonic::Code::NotFound {
                return Err(status);
            }
        }
        self.at_home(REVOKE, false).await
    }

    /// Home's clock, and everybody's keys.
    pub(crate) async fn lease_time_to_live(&self) -> Result<Response<Body>, Status> {
        let request: LeaseTimeToLiveRequest = grpc::decode(self.message.message())?;
        let holders = if request.keys { self.core.holders(request.id).await? } else { Vec::new() };
        if holders.is_empty() {
            return self.at_home(TIME_TO_LIVE, true).await;
        }
        let table = self.core.table();
        let mut answer: LeaseTimeToLiveResponse = self.core.ask(table.home(), TIME_TO_LIVE, &request).await?;
        if answer.ttl >= 0 {
            let others: Vec<LeaseTimeToLiveResponse> =
                try_join_all(holders.iter().map(|group| self.core.ask(group, TIME_TO_LIVE, &request)))
                    .await?;
            answer.keys.extend(others.into_iter().flat_map(|other| other.keys));
            answer.keys.sort_unstable();
            answer.keys.dedup();
        }
        let identity = self.core.identity();
        answer.header = Some(identity.header(self.core.floor.get()));
        Ok(grpc::answer(&answer))
    }
}

/// One client's stream of renewals, answered in order, one at a time.
struct KeepAlive {
    core: Arc<Core>,
    stop: Stop,
    input: Body,
    buffer: BytesMut,
}

/// Begins the stream.
pub(crate) fn keep_alive(core: Arc<Core>, input: Body) -> Result<Response<Body>, Status> {
    let stop = core.stop_handle().ok_or(Fault::Stopped)?;
    let state = KeepAlive { core, stop, input, buffer: BytesMut::new() };
    let frames = stream::unfold(Some(state), |state| async {
        let mut state = state?;
        let stop = state.stop.clone();
        let next = tokio::select! {
            biased;
            () = stop.asked() => Err(Fault::Stopped.into()),
            next = state.next() => next,
        };
        Some(match next {
            Ok(Some(frame)) => (Ok::<_, Status>(Frame::data(frame)), Some(state)),
            Ok(None) => (Ok(Frame::trailers(grpc::trailers(Ok(())))), None),
            Err(status) => (Ok(Frame::trailers(grpc::trailers(Err(status)))), None),
        })
    });
    Ok(grpc::response(Body::new(StreamBody::new(frames))))
}

impl KeepAlive {
    /// The next answer; `None` when the client has no more requests.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let message = loop {
            if let Some(message) = grpc::split(&mut self.buffer, 64 * 1024)? {
                break message;
            }
            match self.input.frame().await {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(grpc::cut_off()),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        };
        let request: LeaseKeepAliveRequest = grpc::decode(message)?;
        let ttl = self.core.renew(request.id).await.map_err(|status| {
            tracing::debug!(%status, "a lease could not be renewed");
            Status::from(Fault::Timeout)
        })?;
        let header = Some(self.core.identity().header(self.core.floor.get()));
        Ok(Some(Framed::of(&LeaseKeepAliveResponse { header, id: request.id, ttl }).frame()))
    }
}
