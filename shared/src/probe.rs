//! What probes, monitoring and people ask over plain HTTP, as etcd answers it: `/health`, `/livez` and `/readyz`, and
//! [`ProbesOnly`] for listeners where nothing else is served.
//!
//! Invariants: `/livez` and `serializable=true` ask nobody but this process; every check
//! ends within [`ANSWER_WITHIN`].

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use kubebrain_proto::etcdserverpb::AlarmType;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::serve::Serve;

/// The etcd release whose behaviour these servers have, as `Status` and `/version` say; clients switch features on by it.
pub const ETCD_VERSION: &str = "3.7.0";

/// What a check may take, as a request in etcd.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(7);

/// Whoever is asked.
pub trait Subject: Sync {
    /// Whether this process works, for as much as it knows without asking others.
    ///
    /// # Errors
    /// Why it does not.
    fn works(&self) -> Result<(), String>;

    /// A read that contains every write before it.
    fn read(&self) -> impl Future<Output = Result<(), Status>> + Send;

    /// The alarms that are raised.
    fn alarms(&self) -> impl Future<Output = Result<Vec<AlarmType>, Status>> + Send;
}

/// A check that a probe consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    const fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, subject: &impl Subject) -> Result<(), String> {
        match self {
            Self::DataCorruption => match subject.alarms().await {
                Ok(alarms) if alarms.contains(&AlarmType::Corrupt) => {
                    Err("alarm activated: CORRUPT".to_owned())
                }
                Ok(_) => Ok(()),
                Err(status) => Err(status.message().to_owned()),
            },
            Self::SerializableRead => subject.works(),
            Self::LinearizableRead => subject.read().await.map_err(|status| status.message().to_owned()),
            Self::NonLearner => Ok(()), // there are no learners
        }
    }
}

/// True for the paths that [`answer`] knows.
pub fn is_probe(path: &str) -> bool {
    path == "/health" || checks(path).is_some()
}

/// Which checks a path stands for, and whether it can leave some out.
fn checks(path: &str) -> Option<(&'static [Check], Option<&str>)> {
    let (all, rest) = match path.strip_prefix("/livez") {
        Some(rest) => (LIVEZ, rest),
        None => (READYZ, path.strip_prefix("/readyz")?),
    };
    match rest.strip_prefix('/') {
        None => rest.is_empty().then_some((all, None)),
        Some(name) => all.iter().any(|check| check.name() == name).then_some((all, Some(name))),
    }
}

/// The answer to a probe. `404` for a path that is none.
///
/// # Cancel safety
/// A dropped call has changed nothing.
pub async fn answer(subject: &impl Subject, method: &Method, uri: &Uri) -> Response<Body> {
    if method != Method::GET {
        return only_get();
    }
    let query = uri.query().unwrap_or("");
    match (uri.path(), checks(uri.path())) {
        ("/health", _) => health(subject, query).await,
        (_, Some((all, only))) => checked(subject, query, all, only).await,
        _ => not_found(),
    }
}

/// True for a gRPC call; all else is plain HTTP.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The answer to plain HTTP: probes, `/version` as that release of etcd, and nothing else.
///
/// # Cancel safety
/// A dropped call has changed nothing.
pub async fn page(subject: &impl Subject, release: &str, method: &Method, uri: &Uri) -> Response<Body> {
    match uri.path() {
        path if is_probe(path) => answer(subject, method, uri).await,
        "/version" => version(method, release),
        _ => not_found(),
    }
}

/// The answer to `/version`, as that release of etcd.
pub fn version(method: &Method, version: &str) -> Response<Body> {
    if method != Method::GET {
        return only_get();
    }
    let mut numbers = version.split('.');
    let minor = [numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"), "0"].join(".");
    let body = format!(r#"{{"etcdserver":"{version}","etcdcluster":"{minor}","storage":"{minor}"}}"#);
    text(StatusCode::OK, JSON, body)
}

/// The answer to a path that nobody serves.
pub fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".to_owned())
}

fn only_get() -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n".to_owned());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    response
}

async fn health(subject: &impl Subject, query: &str) -> Response<Body> {
    let excluded: Vec<&str> = values(query, "exclude").collect();
    let serializable = values(query, "serializable").next() == Some("true");
    let healthy = timeout(ANSWER_WITHIN, async {
        subject.works().map_err(|reason| format!("RANGE ERROR:{reason}"))?;
        // What is alive without its alarms being known is alive.
        let alarms = match (subject.alarms().await, serializable) {
            (Ok(alarms), _) => alarms,
            (Err(_), true) => Vec::new(),
            (Err(status), false) => return Err(format!("RANGE ERROR:{}", status.message())),
        };
        match alarms.iter().find(|alarm| !excluded.contains(&alarm.as_str_name())) {
            Some(alarm) => Err(format!("ALARM {}", alarm.as_str_name())),
            None if serializable => Ok(()),
            None => subject.read().await.map_err(|status| format!("RANGE ERROR:{}", status.message())),
        }
    });
    match healthy.await.unwrap_or_else(|_late| Err("RANGE ERROR:no answer in time".to_owned())) {
        Ok(()) => text(StatusCode::OK, TEXT, r#"{"health":"true","reason":""}"#.to_owned()),
        Err(reason) => {
            tracing::warn!(reason, "probe of /health: not healthy, answered 503");
            let reason = reason.replace(['"', '\\'], "'");
            let body = format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
            text(StatusCode::SERVICE_UNAVAILABLE, TEXT, body)
        }
    }
}

async fn checked(subject: &impl Subject, query: &str, all: &[Check], only: Option<&str>) -> Response<Body> {
    let excluded: Vec<&str> = values(query, "exclude").collect();
    let wanted = all.iter().filter(|check| match only {
        Some(name) => check.name() == name,
        None => !excluded.contains(&check.name()),
    });
    let (mut said, mut failures) = (String::new(), Vec::new());
    for check in wanted {
        let outcome = timeout(ANSWER_WITHIN, check.run(subject)).await;
        let outcome = outcome.unwrap_or_else(|_late| Err("no answer in time".to_owned()));
        if let Err(reason) = &outcome {
            failures.push(format!("{}: {}", check.name(), reason.replace('\n', " ")));
        }
        said += &match outcome {
            Ok(()) => format!("[+]{} ok\n", check.name()),
            Err(reason) => format!("[-]{} failed: {reason}\n", check.name()),
        };
    }
    if !failures.is_empty() {
        let path = if all.len() == LIVEZ.len() { "/livez" } else { "/readyz" };
        tracing::warn!(reason = failures.join("; "), "probe of {path}: failed, answered 503");
        return text(StatusCode::SERVICE_UNAVAILABLE, TEXT, said + "\n");
    }
    let verbose = values(query, "verbose").next().is_some();
    text(StatusCode::OK, TEXT, if verbose { said + "ok\n" } else { "ok\n".to_owned() })
}

/// The values of one parameter. Nothing that probes send is escaped.
fn values<'a>(query: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

fn text(status: StatusCode, kind: HeaderValue, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A service of which only what probes and monitoring ask is served: no gRPC.
#[derive(Clone, Debug)]
pub struct ProbesOnly<S> {
    inner: S,
}

impl<S> ProbesOnly<S> {
    /// Of what serves clients.
    pub const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: Serve> Service<Request<Incoming>> for ProbesOnly<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let path = request.uri().path();
        match !is_grpc(request.headers()) && (is_probe(path) || matches!(path, "/version" | "/metrics")) {
            true => Box::pin(self.inner.call(request)),
            false => Box::pin(ready(Ok(not_found()))),
        }
    }
}

#[cfg(test)]
mod tests;
