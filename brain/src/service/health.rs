//! `grpc.health.v1.Health`.

use std::sync::Arc;

use kubebrain_proto::health::health_check_response::ServingStatus;
use kubebrain_proto::health::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Status};

use super::Inner;

pub(super) async fn check(
    inner: Arc<Inner>,
    _request: Request<HealthCheckRequest>,
) -> Result<tonic::Response<HealthCheckResponse>, Status> {
    let serves = !inner.stop.is_asked() && !inner.store.shared().has_ended();
    let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
    Ok(tonic::Response::new(HealthCheckResponse { status: status as i32 }))
}
