//! grpc.health.v1: serving once every group was fenced.

use futures_util::stream;
use http::Response;
use http_body::Frame;
use http_body_util::StreamBody;
use kubebrain_proto::health::health_check_response::ServingStatus;
use kubebrain_proto::health::{HealthCheckRequest, HealthCheckResponse};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::method;
use kubebrain_shared::unserved;
use tonic::Status;
use tonic::body::Body;

use crate::core::Core;
use crate::grpc::{self, Framed};

/// Check, and Watch, which says it again whenever it changes. There is one service, the one with the empty name, as in
/// etcd.
pub(crate) async fn answer(core: &Core, path: &str, body: Body) -> Result<Response<Body>, Status> {
    let request: HealthCheckRequest = grpc::decode(grpc::OneMessage::new(body, 64 * 1024).await?.message())?;
    let known = request.service.is_empty();
    match path {
        method::HEALTH_CHECK if !known => Err(Status::not_found("unknown service")),
        method::HEALTH_CHECK => Ok(grpc::answer(&status(*core.ready().borrow()))),
        method::HEALTH_WATCH => Ok(watch(core, known)),
        other => Err(unserved::refusal(other)),
    }
}

fn status(ready: bool) -> HealthCheckResponse {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

fn watch(core: &Core, known: bool) -> Response<Body> {
    let mut ready = core.ready().subscribe();
    ready.mark_changed();
    let state = core.stop_handle().map(|stop| (ready, stop));
    let frames = stream::unfold(Some(state), move |state| async move {
        let stopped = || Frame::trailers(grpc::trailers(Err(Fault::Stopped.into())));
        let Some((mut ready, stop)) = state? else { return Some((Ok::<_, Status>(stopped()), None)) };
        tokio::select! {
            biased;
            () = stop.asked() => Some((Ok(stopped()), None)),
            _changed = ready.changed() => {
                let ready_now = *ready.borrow_and_update();
                let now = match known {
                    true => status(ready_now),
                    false => HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() },
                };
                Some((Ok(Frame::data(Framed::of(&now).frame())), Some(Some((ready, stop)))))
            }
        }
    });
    grpc::response(Body::new(StreamBody::new(frames)))
}
