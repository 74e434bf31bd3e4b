//! [`Way`]: where and how something goes to a collector, as OpenTelemetry's variables and etcd's flags say it; and whose it is.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;

use crate::flags::Tracing;

/// As the specification has it.
const TIMEOUT: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(60);

/// What a variable says, if it is set.
pub(super) trait Said: Fn(&str) -> Option<String> {}
impl<F: Fn(&str) -> Option<String>> Said for F {}

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

/// How it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    /// `http/protobuf`.
    Http,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub protocol: Protocol,
    /// Of HTTP with its path; gRPC has paths of its own.
    pub uri: Uri,
    /// What the collector wants to see, such as a token.
    pub headers: HeaderMap,
    /// Of one message, from its first byte to its answer.
    pub timeout: Duration,
    /// With gzip.
    pub is_compressed: bool,
    /// What is trusted instead of the system's authorities, and what is shown.
    pub files: Option<Files>,
}

/// Files in PEM.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// The variable that names the authorities.
    pub variable: String,
    pub authorities: PathBuf,
    /// Our certificate and its key.
    pub pair: Option<(PathBuf, PathBuf)>,
}

impl Signal {
    /// In variables.
    const fn word(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
        }
    }
}

impl Way {
    /// A signal's own variable goes before the one for all. `address` is what the flag says, or empty.
    ///
    /// # Errors
    /// What cannot be, or is not spoken here.
    pub(super) fn of(signal: Signal, address: &str, said: &impl Said) -> Result<Self> {
        let variable = |what: &str| {
            let names = [
                format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.word()),
                format!("OTEL_EXPORTER_OTLP_{what}"),
            ];
            names.into_iter().find_map(|name| Some((said(&name)?, name)))
        };
        let protocol = match variable("PROTOCOL") {
            None => Protocol::Grpc,
            Some((protocol, name)) => match protocol.as_str() {
                "grpc" => Protocol::Grpc,
                "http/protobuf" => Protocol::Http,
                other => bail!("{name}={other}: \"grpc\" and \"http/protobuf\" are spoken"),
            },
        };
        let is_compressed = match variable("COMPRESSION") {
            None => false,
            Some((compression, name)) => match compression.as_str() {
                "none" => false,
                "gzip" => true,
                other => bail!("{name}={other}: this is \"gzip\" or \"none\""),
            },
        };
        let own = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.word());
        let uri = match (address, variable("ENDPOINT")) {
            ("", Some((endpoint, name))) if name == own && protocol == Protocol::Http => {
                whole(&endpoint).context(name)?
            }
            ("", Some((endpoint, name))) => under(&endpoint, signal, protocol).context(name)?,
            ("", None) if protocol == Protocol::Grpc => under("localhost:4317", signal, protocol)?,
            ("", None) => under("localhost:4318", signal, protocol)?,
            (address, _) => under(address, signal, protocol).context("--distributed-tracing-address")?,
        };
        let headers = variable("HEADERS").map_or_else(
            || Ok(HeaderMap::new()),
            |(list, name)| headers(&list).with_context(|| format!("{name} is no list of NAME=VALUE")),
        )?;
        let timeout = variable("TIMEOUT").map_or(Ok(TIMEOUT), |(value, name)| millis(&value, &name))?;
        let files = files(variable)?;
        Ok(Self { protocol, uri, headers, timeout, is_compressed, files })
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// For people; a path may have a secret in it.
    pub(super) fn place(&self) -> String {
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        format!("{}://{authority}", self.uri.scheme_str().unwrap_or_default())
    }
}

fn files(variable: impl Fn(&str) -> Option<(String, String)>) -> Result<Option<Files>> {
    let pair = match (variable("CLIENT_CERTIFICATE"), variable("CLIENT_KEY")) {
        (Some((certificate, _)), Some((key, _))) => Some((certificate.into(), key.into())),
        (None, None) => None,
        (Some((_, name)), None) | (None, Some((_, name))) => {
            bail!(
                "{name}: a certificate is shown with its key: OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY"
            )
        }
    };
    match variable("CERTIFICATE") {
        Some((authorities, variable)) => Ok(Some(Files { variable, authorities: authorities.into(), pair })),
        None if pair.is_some() => bail!(
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: it is shown to whom OTEL_EXPORTER_OTLP_CERTIFICATE trusts, which says nothing"
        ),
        None => Ok(None),
    }
}

/// Between two messages of figures.
///
/// # Errors
/// It is no number of milliseconds; figures are wanted as they are not told.
pub(super) fn interval(said: &impl Said) -> Result<Duration> {
    let preference = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
    if let Some(other) = said(preference).filter(|value| !value.eq_ignore_ascii_case("cumulative")) {
        bail!("{preference}={other}: counters are told as they stand, which is \"cumulative\"");
    }
    let name = "OTEL_METRIC_EXPORT_INTERVAL";
    said(name).map_or(Ok(INTERVAL), |value| millis(&value, name))
}

fn millis(value: &str, name: &str) -> Result<Duration> {
    let millis = value.parse().ok().filter(|millis| *millis > 0);
    Ok(Duration::from_millis(
        millis.with_context(|| format!("{name}={value}: this is a number of milliseconds"))?,
    ))
}

/// An address as it is.
fn whole(address: &str) -> Result<Uri> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let uri: Uri = url.parse().ok().with_context(|| format!("{address}: neither HOST:PORT nor a URL"))?;
    ensure!(
        matches!(uri.scheme_str(), Some("http" | "https")),
        "{address}: a collector is reached by http:// or https://"
    );
    let is_place = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    ensure!(is_place && !uri.host().unwrap_or_default().is_empty(), "{address}: neither HOST:PORT nor a URL");
    Ok(uri)
}

/// An address under which every signal has its path.
fn under(address: &str, signal: Signal, protocol: Protocol) -> Result<Uri> {
    let mut parts = whole(address)?.into_parts();
    let before = parts.path_and_query.as_ref().map_or("", |path| path.path().trim_end_matches('/'));
    parts.path_and_query = Some(match protocol {
        Protocol::Http => format!("{before}{}", signal.path()).parse()?,
        Protocol::Grpc => PathAndQuery::from_static("/"),
    });
    Ok(Uri::from_parts(parts)?)
}

/// `None` for what is none. Values may be secrets: no message says them.
fn headers(list: &str) -> Option<HeaderMap> {
    let pair = |(name, value): (String, String)| {
        let name = HeaderName::try_from(name.to_ascii_lowercase()).ok()?;
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    };
    pairs(list)?.into_iter().map(pair).collect()
}

/// `NAME=VALUE,NAME=VALUE`, values in percent encoding, as in W3C's baggage.
fn pairs(list: &str) -> Option<Vec<(String, String)>> {
    let pairs = list.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let name = name.trim();
            (!name.is_empty()).then_some(())?;
            Some((name.to_owned(), decoded(value.trim())?))
        })
        .collect()
}

fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Whose spans and figures they are: what flags say goes before what variables say. OpenTelemetry's own reader of the list leaves
/// the percent encoding of its values in it.
///
/// # Errors
/// A list that is none.
pub(super) fn resource(flags: &Tracing, program: &str, said: &impl Said) -> Result<Resource> {
    let variable = "OTEL_RESOURCE_ATTRIBUTES";
    let list = said(variable).unwrap_or_default();
    let listed = pairs(&list).with_context(|| format!("{variable} is no list of NAME=VALUE"))?;
    let flag = |value: &String| Some(value.clone()).filter(|value| !value.is_empty());
    let name = flag(&flags.distributed_tracing_service_name).or_else(|| said("OTEL_SERVICE_NAME"));
    let instance = flag(&flags.distributed_tracing_instance_id);
    let own = [("service.name", name), ("service.instance.id", instance)];
    // The last one of a name counts.
    Ok(Resource::builder_empty()
        .with_service_name(format!("kubebrain-{program}"))
        .with_attributes(listed.into_iter().map(|(name, value)| KeyValue::new(name, value)))
        .with_attributes(own.into_iter().filter_map(|(name, value)| Some(KeyValue::new(name, value?))))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_detector(Box::new(TelemetryResourceDetector))
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTLP: &str = "OTEL_EXPORTER_OTLP_";

    fn way(signal: Signal, address: &str, variables: &[(&str, &str)]) -> Result<Way> {
        Way::of(signal, address, &|name: &str| {
            let found = variables.iter().find(|(variable, _)| name.strip_prefix(OTLP) == Some(variable));
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn where_it_goes_is_as_the_specification_says() {
        const HTTP: (&str, &str) = ("PROTOCOL", "http/protobuf");
        for (address, variables, traces, metrics) in [
            ("", &[][..], "http://localhost:4317/", "http://localhost:4317/"),
            ("c:1", &[("ENDPOINT", "http://d:2")], "http://c:1/", "http://c:1/"),
            ("http://[::1]:1/x", &[], "http://[::1]:1/", "http://[::1]:1/"),
            ("", &[("ENDPOINT", "http://d:2/x")], "http://d:2/", "http://d:2/"),
            ("", &[("ENDPOINT", "d:2"), ("METRICS_ENDPOINT", "m:3")], "http://d:2/", "http://m:3/"),
            ("", &[HTTP], "http://localhost:4318/v1/traces", "http://localhost:4318/v1/metrics"),
            ("c:1", &[HTTP], "http://c:1/v1/traces", "http://c:1/v1/metrics"),
            ("", &[HTTP, ("ENDPOINT", "http://d:2/x/")], "http://d:2/x/v1/traces", "http://d:2/x/v1/metrics"),
            (
                "",
                &[HTTP, ("TRACES_ENDPOINT", "http://d:2/x")],
                "http://d:2/x",
                "http://localhost:4318/v1/metrics",
            ),
            (
                "",
                &[HTTP, ("TRACES_ENDPOINT", "http://d:2")],
                "http://d:2/",
                "http://localhost:4318/v1/metrics",
            ),
            (
                "",
                &[("METRICS_PROTOCOL", "http/protobuf")],
                "http://localhost:4317/",
                "http://localhost:4318/v1/metrics",
            ),
        ] {
            for (signal, wanted) in [(Signal::Traces, traces), (Signal::Metrics, metrics)] {
                let uri = way(signal, address, variables).expect("can be").uri;
                assert_eq!(uri.to_string(), wanted, "{address} {variables:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (address, variables, said) in [
            (
                "",
                ("PROTOCOL", "http/json"),
                "OTEL_EXPORTER_OTLP_PROTOCOL=http/json: \"grpc\" and \"http/protobuf\" are spoken",
            ),
            (
                "",
                ("TRACES_PROTOCOL", "HTTP"),
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=HTTP: \"grpc\" and \"http/protobuf\" are spoken",
            ),
            (
                "",
                ("COMPRESSION", "zstd"),
                "OTEL_EXPORTER_OTLP_COMPRESSION=zstd: this is \"gzip\" or \"none\"",
            ),
            (
                "",
                ("ENDPOINT", "ftp://d:2"),
                "OTEL_EXPORTER_OTLP_ENDPOINT: ftp://d:2: a collector is reached by http:// or https://",
            ),
            ("", ("ENDPOINT", "d d"), "OTEL_EXPORTER_OTLP_ENDPOINT: d d: neither HOST:PORT nor a URL"),
            ("a@b:1", ("TIMEOUT", "1"), "--distributed-tracing-address: a@b:1: neither HOST:PORT nor a URL"),
            ("", ("TIMEOUT", "10s"), "OTEL_EXPORTER_OTLP_TIMEOUT=10s: this is a number of milliseconds"),
            (
                "",
                ("TRACES_TIMEOUT", "0"),
                "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT=0: this is a number of milliseconds",
            ),
            (
                "",
                ("CLIENT_KEY", "k"),
                "OTEL_EXPORTER_OTLP_CLIENT_KEY: a certificate is shown with its key: OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE \
                 and _CLIENT_KEY",
            ),
            ("", ("HEADERS", "a=secret,b"), "OTEL_EXPORTER_OTLP_HEADERS is no list of NAME=VALUE"),
            ("", ("HEADERS", "a b=secret"), "OTEL_EXPORTER_OTLP_HEADERS is no list of NAME=VALUE"),
            ("", ("HEADERS", "a=%0asecret"), "OTEL_EXPORTER_OTLP_HEADERS is no list of NAME=VALUE"),
        ] {
            let error = way(Signal::Traces, address, &[variables]).expect_err("it cannot be");
            assert_eq!(format!("{error:#}"), said);
        }
    }

    #[test]
    fn headers_and_times_are_taken() {
        let way = way(Signal::Traces, "", &[("HEADERS", "Api-Key=a%20b , x=1"), ("TRACES_TIMEOUT", "250")]);
        let way = way.expect("can be");
        assert_eq!(way.timeout, Duration::from_millis(250));
        assert_eq!(way.headers["api-key"], "a b");
        assert_eq!(way.headers["x"], "1");
        assert!(!format!("{way:?}").contains("a b"), "it may be a secret");
    }
}
