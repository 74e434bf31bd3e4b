//! What probes, monitoring and people ask over plain HTTP, as etcd answers it: `/health`, `/livez` and `/readyz`, and
//! [`ProbesOnly`] for listeners where nothing else is served.
//!
//! Invariants: `/livez` and `serializable=true` ask nobody but this process; every check
//! ends within [`ANSWER_WITHIN`]. Who has several groups behind it has a check more for each of them, `group-NAME`, which
//! is asked for and excluded as etcd's own are.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join_all, try_join, try_join_all};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use kubebrain_proto::etcdserverpb::AlarmType;
use kubebrain_shared::group::GroupName;
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

    /// A read that contains every write before it; of several groups, in the one that owns the keys outside all kinds.
    fn read(&self) -> impl Future<Output = Result<(), Status>> + Send;

    /// The alarms that are raised, as far as they are known here: who cannot be asked is found by the reads.
    fn alarms(&self) -> impl Future<Output = Vec<AlarmType>> + Send;

    /// Groups that are a check each, `group-NAME`. None where there is but what [`Subject::read`] reads.
    fn groups(&self) -> Vec<GroupName> {
        Vec::new()
    }

    /// As [`Subject::read`], in one of [`Subject::groups`].
    fn reads_in(&self, _group: &GroupName) -> impl Future<Output = Result<(), Status>> + Send {
        self.read()
    }
}

/// A check that a probe consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
    Group(GroupName),
}

/// What [`Check::Group`] is called, before the group's name. No check of etcd begins so.
const GROUP: &str = "group-";

const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    fn name(&self) -> Cow<'static, str> {
        match self {
            Self::DataCorruption => "data_corruption".into(),
            Self::SerializableRead => "serializable_read".into(),
            Self::LinearizableRead => LINEARIZABLE_READ.into(),
            Self::NonLearner => "non_learner".into(),
            Self::Group(group) => format!("{GROUP}{group}").into(),
        }
    }

    /// Who excludes the read excludes it everywhere: then nobody but this process is asked.
    fn is_among(&self, excluded: &[&str]) -> bool {
        let name = self.name();
        excluded
            .iter()
            .any(|one| *one == name || (*one == LINEARIZABLE_READ && matches!(self, Self::Group(_))))
    }

    async fn run(&self, subject: &impl Subject) -> Result<(), String> {
        let said = |status: Status| status.message().to_owned();
        match self {
            Self::DataCorruption => match subject.alarms().await.contains(&AlarmType::Corrupt) {
                true => Err("alarm activated: CORRUPT".to_owned()),
                false => Ok(()),
            },
            Self::SerializableRead => subject.works(),
            Self::LinearizableRead => subject.read().await.map_err(said),
            Self::NonLearner => Ok(()), // there are no learners
            Self::Group(group) => subject.reads_in(group).await.map_err(said),
        }
    }
}

const LINEARIZABLE_READ: &str = "linearizable_read";

/// What a path of probes asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked<'a> {
    Health,
    /// All checks, or the one of that name.
    Livez(Option<&'a str>),
    Readyz(Option<&'a str>),
}

impl<'a> Asked<'a> {
    fn of(path: &'a str) -> Option<Self> {
        if path == "/health" {
            return Some(Self::Health);
        }
        let (rest, asked): (_, fn(Option<&'a str>) -> Self) = match path.strip_prefix("/livez") {
            Some(rest) => (rest, Self::Livez),
            None => (path.strip_prefix("/readyz")?, Self::Readyz),
        };
        match rest.strip_prefix('/') {
            None => rest.is_empty().then(|| asked(None)),
            Some(name) => Some(asked(Some(name))),
        }
    }
}

/// True for the paths that [`answer`] knows, but for names of checks that there are not.
pub fn is_probe(path: &str) -> bool {
    Asked::of(path).is_some()
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
    match Asked::of(uri.path()) {
        Some(Asked::Health) => health(subject, query).await,
        Some(Asked::Livez(only)) => checked(subject, query, LIVEZ.to_vec(), only).await,
        Some(Asked::Readyz(only)) => {
            let groups = subject.groups().into_iter().map(Check::Group);
            checked(subject, query, READYZ.iter().cloned().chain(groups).collect(), only).await
        }
        None => not_found(),
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

/// The answer to what is asked of the server as a whole, `*`, as Go's servers give it.
pub(crate) fn whole_server(method: &Method, uri: &Uri) -> Option<Response<Body>> {
    (uri.path() == "*").then(|| {
        let mut response = Response::new(Body::empty());
        if method != Method::OPTIONS {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        response
    })
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
        let read = async {
            match serializable {
                true => Ok(()),
                false => all_read(subject, &excluded).await,
            }
        };
        let (alarms, read) = join(subject.alarms(), read).await;
        match alarms.iter().find(|alarm| !excluded.contains(&alarm.as_str_name())) {
            Some(alarm) => Err(format!("ALARM {}", alarm.as_str_name())),
            None => read.map_err(|status| format!("RANGE ERROR:{}", status.message())),
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

/// A read everywhere but in the groups that are excluded.
async fn all_read(subject: &impl Subject, excluded: &[&str]) -> Result<(), Status> {
    let groups = subject.groups();
    let wanted = groups.iter().filter(|group| !Check::Group((*group).clone()).is_among(excluded));
    try_join(subject.read(), try_join_all(wanted.map(|group| subject.reads_in(group)))).await.map(drop)
}

async fn checked(subject: &impl Subject, query: &str, all: Vec<Check>, only: Option<&str>) -> Response<Body> {
    let excluded: Vec<&str> = values(query, "exclude").collect();
    let wanted: Vec<&Check> = all
        .iter()
        .filter(|check| match only {
            Some(name) => check.name() == name,
            None => !check.is_among(&excluded),
        })
        .collect();
    if wanted.is_empty() && only.is_some() {
        return not_found();
    }
    // At once: several that wait for what does not answer take no longer than one.
    let outcomes = join_all(wanted.iter().map(|check| timeout(ANSWER_WITHIN, check.run(subject)))).await;
    let (mut said, mut failures) = (String::new(), Vec::new());
    for (check, outcome) in wanted.iter().zip(outcomes) {
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
        if let Some(answer) = whole_server(request.method(), request.uri()) {
            return Box::pin(ready(Ok(answer)));
        }
        let path = request.uri().path();
        match !is_grpc(request.headers()) && (is_probe(path) || matches!(path, "/version" | "/metrics")) {
            true => Box::pin(self.inner.call(request)),
            false => Box::pin(ready(Ok(not_found()))),
        }
    }
}

#[cfg(test)]
mod tests;
