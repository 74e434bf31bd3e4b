//! What probes and people ask over HTTP/1: `/health`, `/livez`, `/readyz`, `/version`.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tonic::body::Body;

use crate::core::Core;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

pub(super) fn answer(core: &Core, request: &Request<Body>) -> Response<Body> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n".into());
    }
    let ready = *core.ready().borrow();
    match request.uri().path() {
        "/health" => health(ready),
        "/readyz" if ready => plain(StatusCode::OK, TEXT, "ok\n".into()),
        "/readyz" => {
            plain(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not every group has answered yet\n".into())
        }
        "/livez" => plain(StatusCode::OK, TEXT, "ok\n".into()),
        "/version" => {
            let version = &core.config.etcd_version;
            let mut numbers = version.split('.');
            let cluster = [numbers.next().unwrap_or("3"), numbers.next().unwrap_or("6"), "0"].join(".");
            plain(StatusCode::OK, JSON, format!(r#"{{"etcdserver":"{version}","etcdcluster":"{cluster}"}}"#))
        }
        _ => plain(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".into()),
    }
}

fn health(ready: bool) -> Response<Body> {
    match ready {
        true => plain(StatusCode::OK, JSON, r#"{"health":"true","reason":""}"#.into()),
        false => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            JSON,
            r#"{"health":"false","reason":"not every group has answered yet"}"#.into(),
        ),
    }
}

fn plain(status: StatusCode, content: HeaderValue, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content);
    response
}
