//! Plain HTTP on the same listener: what kubelets and monitoring ask.

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::Full;
use tonic::body::Body;

use super::{ETCD_VERSION, Inner};

pub(super) fn answer(inner: &Inner, method: &Method, path: &str) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is answered here\n".to_owned());
    }
    let serves = !inner.stop.is_asked() && !inner.store.shared().has_ended();
    let status = if serves { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match path {
        "/health" => {
            let reason = if serves { "" } else { "stopping" };
            text(status, "application/json", format!("{{\"health\":\"{serves}\",\"reason\":\"{reason}\"}}"))
        }
        "/livez" | "/readyz" => {
            text(status, "text/plain", if serves { "ok\n" } else { "stopping\n" }.to_owned())
        }
        "/version" => {
            let body = format!(
                "{{\"etcdserver\":\"{ETCD_VERSION}\",\"etcdcluster\":\"{ETCD_VERSION}\",\"storage\":\"{ETCD_VERSION}\"}}"
            );
            text(StatusCode::OK, "application/json", body)
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "text/plain",
            "there is /health, /livez, /readyz and /version\n".to_owned(),
        ),
    }
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
