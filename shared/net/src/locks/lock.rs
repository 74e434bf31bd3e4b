//! `v3lockpb.Lock`.

use kubebrain_proto::etcdserverpb::PutRequest;
use kubebrain_proto::v3lockpb as wire;
use kubebrain_proto::v3lockpb::lock_server;
use tonic::{Request, Response, Status};

use super::as_in_etcd;
use super::keys::{Created, Keys};
use super::queue::{self, GivenUp, Place};

pub(super) struct Lock(pub(super) Keys);

#[tonic::async_trait]
impl lock_server::Lock for Lock {
    async fn lock(
        &self,
        request: Request<wire::LockRequest>,
    ) -> Result<Response<wire::LockResponse>, Status> {
        self.acquire(request.into_inner()).await.map(Response::new).map_err(as_in_etcd)
    }

    async fn unlock(
        &self,
        request: Request<wire::UnlockRequest>,
    ) -> Result<Response<wire::UnlockResponse>, Status> {
        let header = self.0.delete(request.into_inner().key).await.map_err(as_in_etcd)?;
        Ok(Response::new(wire::UnlockResponse { header: Some(header) }))
    }
}

impl Lock {
    /// # Cancel safety
    /// A dropped call gives its place up.
    async fn acquire(&self, request: wire::LockRequest) -> Result<wire::LockResponse, Status> {
        let keys = &self.0;
        let lease = keys.lease(request.lease).await?;
        let (prefix, key) = (queue::prefix(&request.name), queue::key(&request.name, lease));
        let put = PutRequest { key: key.clone(), lease, ..Default::default() };
        let entered = keys.create(put).await?;
        let revision = entered.kv.map_or(entered.header.revision, |kv| kv.create_revision);
        let place = Place::new(keys, Created { key: key.clone(), revision }, GivenUp::Always);
        let header = match queue::turn(keys, &prefix, revision).await? {
            false => entered.header,
            true => {
                let own = keys.get(key.clone()).await?;
                if own.kv.is_none() {
                    place.keep(); // there is nothing to give up
                    return Err(Status::unknown("mutex: session is expired"));
                }
                own.header
            }
        };
        place.keep();
        Ok(wire::LockResponse { header: Some(header), key })
    }
}
