//! gRPC server reflection, v1 and v1alpha: tools such as grpcurl ask what is served here.
//!
//! Invariant: every service that is listed has all of its messages described; what is not served is not listed.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use kubebrain_shared::method;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic_reflection::server::{Builder, Error};

/// What both brains and proxies serve to clients.
pub const CLIENT_SERVICES: &[&str] = &[
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "v3lockpb.Lock",
    "v3electionpb.Election",
    "grpc.health.v1.Health",
    "kubebrain.admin.v1.Admin",
];

type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
type Handler = Arc<dyn Fn(Request<Body>) -> Answering + Send + Sync>;

/// The services of one endpoint.
#[derive(Clone)]
pub struct Reflection {
    v1: Handler,
    v1alpha: Handler,
}

impl Reflection {
    /// Tells of `services`, by their full names.
    ///
    /// # Errors
    /// The descriptors that were compiled in are damaged.
    pub fn new<'a>(services: impl IntoIterator<Item = &'a str> + Clone) -> Result<Self, Error> {
        let builder = |own: &'static str| {
            let builder =
                Builder::configure().register_encoded_file_descriptor_set(kubebrain_proto::DESCRIPTORS);
            services
                .clone()
                .into_iter()
                .chain([own])
                .fold(builder, |builder, name| builder.with_service_name(name))
        };
        Ok(Self {
            v1: handler(builder("grpc.reflection.v1.ServerReflection").build_v1()?),
            v1alpha: handler(builder("grpc.reflection.v1alpha.ServerReflection").build_v1alpha()?),
        })
    }

    /// The answer to a request at a path of which [`Reflection::is_asked`] is true.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        match request.uri().path() {
            method::REFLECTION => (self.v1)(request).await,
            method::REFLECTION_ALPHA => (self.v1alpha)(request).await,
            other => Status::unimplemented(format!("kubebrain: {other} is not served")).into_http(),
        }
    }

    /// True for the paths of reflection.
    pub fn is_asked(path: &str) -> bool {
        path.starts_with("/grpc.reflection.")
    }
}

fn handler<S>(service: S) -> Handler
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    Arc::new(move |request| {
        let mut service = service.clone();
        Box::pin(async move {
            let Ok(response) = service.call(request).await;
            response
        })
    })
}

impl fmt::Debug for Reflection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reflection")
    }
}
