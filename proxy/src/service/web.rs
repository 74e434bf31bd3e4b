//! What probes and people ask over HTTP/1: `/health`, `/livez`, `/readyz`, `/version`.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body_util::Full;
use kubebrain_proto::etcdserverpb::{AlarmRequest, AlarmResponse, AlarmType};
use kubebrain_shared::probe::{self, Subject};
use tonic::Status;
use tonic::body::Body;

use super::Call;
use crate::core::Core;
use crate::grpc::{self, Framed};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

pub(super) async fn answer(core: &Arc<Core>, method: &Method, uri: &Uri) -> Response<Body> {
    if probe::is_probe(uri.path()) {
        return probe::answer(&Probed(core.clone()), method, uri).await;
    }
    if method != Method::GET && method != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n".into());
    }
    match uri.path() {
        "/version" => {
            let version = &core.config.etcd_version;
            let mut numbers = version.split('.');
            let cluster = [numbers.next().unwrap_or("3"), numbers.next().unwrap_or("6"), "0"].join(".");
            plain(StatusCode::OK, JSON, format!(r#"{{"etcdserver":"{version}","etcdcluster":"{cluster}"}}"#))
        }
        _ => plain(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".into()),
    }
}

/// This proxy, as probes see it: it works without its groups, and reads only if all of them answer.
struct Probed(Arc<Core>);

impl Subject for Probed {
    fn works(&self) -> Result<(), String> {
        self.0.stop_handle().map(drop).ok_or_else(|| "stopping".to_owned())
    }

    async fn read(&self) -> Result<(), Status> {
        let core = &self.0;
        let ready = *core.ready().borrow();
        match ready {
            true => core.fence(core.table().groups()).await.map(drop),
            false => Err(Status::unavailable("not every group has answered yet")),
        }
    }

    async fn alarms(&self) -> Result<Vec<AlarmType>, Status> {
        let (core, headers) = (&*self.0, HeaderMap::new());
        let message = Framed::of(&AlarmRequest::default());
        let response = Call { core, headers, message }.alarm().await?;
        let body = response.into_body();
        let message = grpc::one_message(body, core.config.message_bytes_max()).await?;
        let answer: AlarmResponse = grpc::decode(message.message())?;
        Ok(answer.alarms.iter().map(|member| member.alarm()).collect())
    }
}

fn plain(status: StatusCode, content: HeaderValue, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content);
    response
}
