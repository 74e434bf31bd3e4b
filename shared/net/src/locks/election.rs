//! `v3electionpb.Election`.

use std::pin::Pin;

use futures_util::{Stream, stream};
use kubebrain_proto::etcdserverpb::{PutRequest, ResponseHeader, request_op};
use kubebrain_proto::v3electionpb as wire;
use kubebrain_proto::v3electionpb::election_server;
use tonic::{Request, Response, Status};

use super::as_in_etcd;
use super::keys::{Created, Keys, Which};
use super::observation::Observation;
use super::queue::{self, GivenUp, Place};

pub(super) struct Election(pub(super) Keys);

#[tonic::async_trait]
impl election_server::Election for Election {
    async fn campaign(
        &self,
        request: Request<wire::CampaignRequest>,
    ) -> Result<Response<wire::CampaignResponse>, Status> {
        self.lead(request.into_inner()).await.map(Response::new).map_err(as_in_etcd)
    }

    async fn proclaim(
        &self,
        request: Request<wire::ProclaimRequest>,
    ) -> Result<Response<wire::ProclaimResponse>, Status> {
        let wire::ProclaimRequest { leader, value } = request.into_inner();
        let leader = leader.ok_or_else(no_leader_named)?;
        let lease = self.0.lease(leader.lease).await.map_err(as_in_etcd)?;
        let created = Created { key: leader.key, revision: leader.rev };
        let put = PutRequest { key: created.key.clone(), value, lease, ..Default::default() };
        let header = self.proclaimed(&created, put).await.map_err(as_in_etcd)?;
        Ok(Response::new(wire::ProclaimResponse { header: Some(header) }))
    }

    async fn leader(
        &self,
        request: Request<wire::LeaderRequest>,
    ) -> Result<Response<wire::LeaderResponse>, Status> {
        let prefix = queue::prefix(&request.into_inner().name);
        let found = self.0.one_below(prefix, Which::First).await.map_err(as_in_etcd)?;
        let kv = found.kv.ok_or_else(|| Status::unknown("election: no leader"))?;
        Ok(Response::new(wire::LeaderResponse { header: Some(found.header), kv: Some(kv) }))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<wire::LeaderResponse, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<wire::LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let observation = Observation::new(self.0.clone(), &request.into_inner().name);
        let leaders = stream::try_unfold(observation, |mut observation| async move {
            let next = observation.next().await.map_err(as_in_etcd)?;
            Ok(Some((next, observation)))
        });
        Ok(Response::new(Box::pin(leaders)))
    }

    async fn resign(
        &self,
        request: Request<wire::ResignRequest>,
    ) -> Result<Response<wire::ResignResponse>, Status> {
        let leader = request.into_inner().leader.ok_or_else(no_leader_named)?;
        self.0.lease(leader.lease).await.map_err(as_in_etcd)?; // where none is named etcd makes one, for nothing
        let created = Created { key: leader.key, revision: leader.rev };
        let header = queue::resign(&self.0, &created).await.map_err(as_in_etcd)?;
        Ok(Response::new(wire::ResignResponse { header: Some(header) }))
    }
}

impl Election {
    /// # Cancel safety
    /// A dropped call gives its place up.
    async fn lead(&self, request: wire::CampaignRequest) -> Result<wire::CampaignResponse, Status> {
        let keys = &self.0;
        let wire::CampaignRequest { name, lease, value } = request;
        let lease = keys.lease(lease).await?;
        let (prefix, key) = (queue::prefix(&name), queue::key(&name, lease));
        let put = PutRequest { key: key.clone(), value: value.clone(), lease, ..Default::default() };
        let entered = keys.create(put.clone()).await?;
        let revision = entered.kv.as_ref().map_or(entered.header.revision, |kv| kv.create_revision);
        let created = Created { key: key.clone(), revision };
        let place = Place::new(keys, created.clone(), GivenUp::IfSame);
        if entered.kv.is_some_and(|kv| kv.value != value) {
            self.proclaimed(&created, put).await?;
        }
        let turn = queue::turn(keys, &prefix, revision).await;
        place.keep(); // a failure leaves it, as in etcd: the client may campaign again
        turn?;
        let leader = wire::LeaderKey { name, key, rev: revision, lease };
        Ok(wire::CampaignResponse { header: Some(entered.header), leader: Some(leader) })
    }

    /// Puts a leader's value.
    async fn proclaimed(&self, created: &Created, put: PutRequest) -> Result<ResponseHeader, Status> {
        match self.0.change(created, request_op::Request::RequestPut(put)).await? {
            (header, true) => Ok(header),
            (_, false) => Err(Status::unknown("election: not leader")),
        }
    }
}

fn no_leader_named() -> Status {
    Status::unknown(r#""leader" field must be provided"#)
}
