//! Answers over HTTP.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use tonic::body::Body;
use tonic::{Code, Status};

use super::headers::METADATA;
use super::http_status;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An error, as `google.rpc.Status` in JSON.
#[derive(Serialize)]
struct Failure<'a> {
    code: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
}

#[derive(Serialize)]
struct FailureLine<'a> {
    error: Failure<'a>,
}

impl<'a> Failure<'a> {
    fn new(status: &'a Status) -> Self {
        Self { code: status.code() as i32, message: status.message() }
    }
}

/// A body of JSON. `answered` are the headers of the gRPC answer that it was made of.
pub(super) fn json(status: StatusCode, answered: Option<&HeaderMap>, text: Bytes) -> Response<Body> {
    let length = HeaderValue::from(text.len());
    let mut response = begun(status, answered, Body::new(Full::new(text)));
    // Also where it is handed over in pieces: a client that gets less knows it.
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    response
}

/// The head of an answer, and its body.
pub(super) fn begun(status: StatusCode, answered: Option<&HeaderMap>, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    for (name, value) in answered.into_iter().flatten() {
        if name.as_str().starts_with("grpc-") || *name == header::DATE {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(format!("{METADATA}{name}").as_bytes()) {
            headers.append(name, value.clone());
        }
    }
    response
}

/// A call that has failed.
pub(super) fn failure(status: &Status) -> Response<Body> {
    let text = serde_json::to_vec(&Failure::new(status)).unwrap_or_default();
    let mut response = json(code(status), None, text.into());
    if status.code() == Code::Unauthenticated
        && let Ok(value) = HeaderValue::from_str(status.message())
    {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

/// The last line of a stream that has failed.
pub(super) fn failure_line(status: &Status) -> Bytes {
    let mut text = serde_json::to_vec(&FailureLine { error: Failure::new(status) }).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

/// The status of a failure.
pub(super) fn code(status: &Status) -> StatusCode {
    StatusCode::from_u16(http_status(status.code())).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A stream without a message: etcd's gateway says nothing of what it would have been.
pub(super) fn nothing() -> Response<Body> {
    Response::new(Body::empty())
}

/// From `/v3` to what is below.
pub(super) fn redirect() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/v3/"));
    response
}
