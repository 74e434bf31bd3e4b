//! How a collector is reached: [`Spans`] by OpenTelemetry's exporter, [`Figures`] by the clients that it has inside, all over one
//! kind of connector. A connection is made when something is sent, kept, and made anew after a failure; a message is sent once.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use kubebrain_net::tls::TlsClient;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    Protocol as Spoken, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
    WithTonicConfig as _,
};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use parking_lot::Mutex;
use prost::Message as _;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use tokio::time::timeout;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::settings::{Files, Protocol, Way};

const AGENT: &str = concat!("kubebrain/", env!("CARGO_PKG_VERSION"));

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("it answers {0}")]
    Refused(StatusCode),
    /// Without its words: they may repeat what it was told.
    #[error("it answers {0:?}")]
    Failed(Code),
    #[error("{0}")]
    Broken(String),
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        status.source().map_or(Self::Failed(status.code()), |source| Self::Broken(all(source)))
    }
}

impl From<OTelSdkError> for LinkError {
    fn from(error: OTelSdkError) -> Self {
        match error {
            OTelSdkError::InternalFailure(said) => Self::Broken(said),
            other => Self::Broken(other.to_string()),
        }
    }
}

/// hyper's client, with a note of why it has failed: the exporter says "network error" of all that happens.
#[derive(Debug)]
struct Noting {
    client: HyperClient<HttpsConnector<HttpConnector>>,
    why: Arc<Mutex<Option<String>>>,
}

#[async_trait]
impl HttpClient for Noting {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let outcome = self.client.send_bytes(request).await;
        *self.why.lock() = outcome.as_ref().err().map(|error| all(&**error));
        outcome
    }
}

/// What sends spans.
pub(super) struct Spans {
    pub way: Way,
    exporter: SpanExporter,
    why: Arc<Mutex<Option<String>>>,
}

impl Spans {
    /// Headers and compression are read from the environment by the exporter, and [`Way::of`] has looked at them.
    ///
    /// # Errors
    /// Certificates that cannot be used.
    pub(super) fn new(way: Way, resource: &Resource) -> Result<Self> {
        let (builder, once) = (SpanExporter::builder(), RetryPolicy::disabled());
        let why = Arc::<Mutex<Option<String>>>::default();
        let mut exporter = match way.protocol {
            Protocol::Grpc => {
                builder.with_tonic().with_channel(channel(&way)?).with_retry_policy(once).build()?
            }
            Protocol::Http => builder
                .with_http()
                .with_protocol(Spoken::HttpBinary)
                .with_endpoint(way.uri.to_string())
                .with_http_client(Noting { client: client(&way)?, why: Arc::clone(&why) })
                .with_retry_policy(once)
                .build()?,
        };
        exporter.set_resource(resource);
        Ok(Self { way, exporter, why })
    }

    /// Returns when the collector has taken them.
    ///
    /// # Errors
    /// [`LinkError`]; it may have taken them.
    pub(super) async fn send(&self, spans: Vec<SpanData>) -> Result<(), LinkError> {
        let outcome = within(self.way.timeout, self.exporter.export(spans)).await;
        outcome.map_err(|error| self.why.lock().take().map_or(error, LinkError::Broken))
    }
}

/// Waits for what is sent, and no longer than `limit`.
async fn within<E: Into<LinkError>>(
    limit: Duration,
    sending: impl Future<Output = Result<(), E>>,
) -> Result<(), LinkError> {
    timeout(limit, sending).await.map_or(Err(LinkError::Late(limit)), |outcome| outcome.map_err(Into::into))
}

/// What sends figures.
#[derive(Clone)]
pub(super) struct Figures {
    pub way: Way,
    client: Client,
}

#[derive(Clone)]
enum Client {
    Grpc(MetricsServiceClient<Channel>),
    Http(Arc<dyn HttpClient>),
}

impl Figures {
    /// # Errors
    /// Certificates that cannot be used.
    pub(super) fn new(way: Way) -> Result<Self> {
        let client = match way.protocol {
            Protocol::Grpc => {
                let client = MetricsServiceClient::new(channel(&way)?);
                Client::Grpc(match way.is_compressed {
                    true => client.send_compressed(CompressionEncoding::Gzip),
                    false => client,
                })
            }
            Protocol::Http => Client::Http(Arc::new(client(&way)?)),
        };
        Ok(Self { way, client })
    }

    /// Returns when the collector has taken the message.
    ///
    /// # Errors
    /// [`LinkError`]; it may have taken it.
    pub(super) async fn send(&mut self, message: ExportMetricsServiceRequest) -> Result<(), LinkError> {
        within(self.way.timeout, self.client.send(&self.way, message)).await
    }
}

impl Client {
    async fn send(&mut self, way: &Way, message: ExportMetricsServiceRequest) -> Result<(), LinkError> {
        match self {
            Self::Grpc(client) => {
                let mut request = tonic::Request::new(message);
                *request.metadata_mut() = MetadataMap::from_headers(way.headers.clone());
                client.export(request).await?;
                Ok(())
            }
            Self::Http(client) => {
                let request = request(way, &message).map_err(|error| LinkError::Broken(error.to_string()))?;
                let answer = client.send_bytes(request).await;
                match answer.map_err(|error| LinkError::Broken(all(&*error)))?.status() {
                    status if status.is_success() => Ok(()),
                    status => Err(LinkError::Refused(status)),
                }
            }
        }
    }
}

fn request(way: &Way, message: &ExportMetricsServiceRequest) -> io::Result<Request<Bytes>> {
    let mut body = message.encode_to_vec();
    if way.is_compressed {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        io::Write::write_all(&mut encoder, &body)?;
        body = encoder.finish()?;
    }
    let mut request = Request::post(way.uri.clone()).body(body.into()).map_err(io::Error::other)?;
    *request.headers_mut() = way.headers.clone();
    let mut set = |name, value| request.headers_mut().insert(name, HeaderValue::from_static(value));
    set(header::USER_AGENT, AGENT);
    set(header::CONTENT_TYPE, "application/x-protobuf");
    if way.is_compressed {
        set(header::CONTENT_ENCODING, "gzip");
    }
    Ok(request)
}

/// The next two connect when they are used.
fn client(way: &Way) -> Result<HyperClient<HttpsConnector<HttpConnector>>> {
    Ok(HyperClient::new(connector(way)?, way.timeout, None))
}

fn channel(way: &Way) -> Result<Channel> {
    let endpoint = Endpoint::from(way.uri.clone()).user_agent(AGENT)?.connect_timeout(way.timeout);
    Ok(endpoint.connect_with_connector_lazy(connector(way)?))
}

fn connector(way: &Way) -> Result<HttpsConnector<HttpConnector>> {
    let mut sockets = HttpConnector::new();
    sockets.enforce_http(false);
    sockets.set_nodelay(true);
    // A collector that vanishes without a word is given up, and the next message dials anew.
    sockets.set_tcp_user_timeout(Some(way.timeout));
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls(way)?).https_or_http();
    Ok(match way.protocol {
        Protocol::Grpc => builder.enable_http2().wrap_connector(sockets),
        Protocol::Http => builder.enable_http1().wrap_connector(sockets),
    })
}

/// By the process's TLS. Without files the authorities of the system are trusted; without `https` nobody is.
fn tls(way: &Way) -> Result<ClientConfig> {
    if let Some(Files { variable, authorities, pair }) = &way.files {
        let client = match pair {
            Some((certificate, key)) => TlsClient::load(authorities, certificate, key),
            None => TlsClient::trusting(authorities),
        };
        return Ok(client.with_context(|| variable.clone())?.config());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    let builder = match way.is_encrypted() {
        true => builder.with_native_roots().context(
            "this system has no authorities: name a file of them in OTEL_EXPORTER_OTLP_CERTIFICATE",
        )?,
        false => builder.with_root_certificates(rustls::RootCertStore::empty()),
    };
    Ok(builder.with_no_client_auth())
}

/// An error with those behind it.
fn all(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _written = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}
