//! What of a request's headers goes on, as etcd's gateway passes it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};
use tonic::Status;

/// What stands before the names of gRPC metadata.
pub(super) const METADATA: &str = "grpc-metadata-";
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A token, and metadata without what stands before its names. What HTTP and gRPC use themselves does not go on.
pub(super) fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut forwarded = HeaderMap::new();
    for (name, value) in headers {
        let name = match name.as_str().strip_prefix(METADATA) {
            Some(name) if !is_reserved(name) => HeaderName::from_bytes(name.as_bytes()).ok(),
            Some(_) => None,
            None => (*name == header::AUTHORIZATION).then_some(header::AUTHORIZATION),
        };
        if let Some(name) = name {
            forwarded.append(name, value.clone());
        }
    }
    forwarded
}

fn is_reserved(name: &str) -> bool {
    const OF_HTTP: [&str; 7] =
        ["connection", "content-length", "content-type", "host", "te", "transfer-encoding", "upgrade"];
    name.starts_with("grpc-") || OF_HTTP.contains(&name)
}

/// How long the client waits, where it says so.
///
/// # Errors
/// `InvalidArgument` for what is no such time.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    match parsed(&text) {
        Some(limit) => Ok(Some(limit)),
        None => Err(Status::invalid_argument(format!("invalid grpc-timeout: {text}"))),
    }
}

/// As gRPC has it: a number and one letter.
fn parsed(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |&(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn tokens_and_metadata_go_on() {
        let headers = map(&[
            ("authorization", "token"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-grpc-timeout", "1S"),
            ("grpc-metadata-content-type", "application/json"),
            ("content-type", "application/json"),
            ("host", "here"),
            ("cookie", "c"),
        ]);
        assert_eq!(forwarded(&headers), map(&[("authorization", "token"), ("hasleader", "true")]));
    }

    #[test]
    fn a_timeout_is_a_number_and_a_unit() {
        for (text, wanted) in [("2H", 7_200_000), ("3M", 180_000), ("5S", 5000), ("7m", 7)] {
            let limit = timeout(&map(&[("grpc-timeout", text)])).expect(text);
            assert_eq!(limit, Some(Duration::from_millis(wanted)));
        }
        assert_eq!(timeout(&map(&[])).expect("none"), None);
        for text in ["x", "", "5", "S", "-1S", "1x", "1é"] {
            let headers: HeaderMap =
                [(TIMEOUT, http::HeaderValue::from_bytes(text.as_bytes()).expect("a value"))]
                    .into_iter()
                    .collect();
            let refused = timeout(&headers).expect_err(text);
            assert_eq!(refused.message(), format!("invalid grpc-timeout: {text}"));
        }
    }
}
