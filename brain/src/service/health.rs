//! `grpc.health.v1.Health`: of the server as a whole, the service with the empty name, as etcd has it.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use kubebrain_proto::health::health_check_response::ServingStatus;
use kubebrain_proto::health::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Status};

use super::inner::Inner;

pub(super) async fn check(
    inner: Arc<Inner>,
    request: Request<HealthCheckRequest>,
) -> Result<tonic::Response<HealthCheckResponse>, Status> {
    match request.into_inner().service.as_str() {
        "" => Ok(tonic::Response::new(inner.health())),
        _ => Err(Status::not_found("unknown service")),
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

/// Says it, and says it again when it changes; ends with the server.
pub(super) async fn watch(
    inner: Arc<Inner>,
    request: Request<HealthCheckRequest>,
) -> Result<tonic::Response<Answers>, Status> {
    let known = request.into_inner().service.is_empty();
    let answers = stream::unfold(Some(None), move |said: Option<Option<HealthCheckResponse>>| {
        let inner = inner.clone();
        async move {
            let now = match said? {
                None if known => inner.health(),
                None => HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() },
                Some(said) => tokio::select! {
                    biased;
                    () = inner.stop.asked() => return Some((Err(inner.store.state().leaves_as().into()), None)),
                    () = inner.differs(said) => inner.health(),
                },
            };
            Some((Ok(now), Some(Some(now))))
        }
    });
    Ok(tonic::Response::new(Box::pin(answers)))
}

impl Inner {
    fn health(&self) -> HealthCheckResponse {
        let state = self.store.state();
        let serves = !self.stop.is_asked() && !state.has_ended() && state.unplaced().is_none();
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        HealthCheckResponse { status: status.into() }
    }

    /// Returns when a server is not any more what was said of it. One that has ended stays so; which keys are its group's may
    /// change.
    async fn differs(&self, said: HealthCheckResponse) {
        let mut placed = self.store.state().placed();
        while said.status() == ServingStatus::ServiceUnknown || self.health() == said {
            tokio::select! {
                _ended = self.store.ended(), if said.status() == ServingStatus::Serving => {}
                Ok(()) = placed.changed() => {}
                else => std::future::pending().await,
            }
        }
    }
}
