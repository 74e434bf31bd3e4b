//! Versions of TLS and cipher suites, by the names that Go gives them.

use std::str::FromStr;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, SupportedCipherSuite};
use thiserror::Error;

use super::{TlsConfig, TlsError};

/// A version that can be asked for. The older ones are broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// No version that is served.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not served: TLS1.2 and TLS1.3 are")]
pub struct UnknownVersion(String);

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        match text {
            "TLS1.2" => Ok(Self::Tls12),
            "TLS1.3" => Ok(Self::Tls13),
            other => Err(UnknownVersion(other.to_owned())),
        }
    }
}

/// No cipher suite of Go's.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no cipher suite; there are {known}", known = CHOICE.map(|(name, _)| name).join(", "))]
pub struct UnknownSuite(String);

/// Those of TLS 1.2.
const CHOICE: [(&str, CipherSuite); 6] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// What Go has besides and rustls leaves out: no forward secrecy, CBC, RC4, 3DES.
const LEFT_OUT: [&str; 5] =
    ["TLS_RSA_WITH_", "_CBC_SHA", "_RC4_128_SHA", "TLS_ECDHE_RSA_WITH_3DES", "TLS_FALLBACK"];

/// rustls' cryptography with the cipher suites that are asked for.
pub(super) fn provider(config: &TlsConfig) -> Result<CryptoProvider, TlsError> {
    if config.version_max.is_some_and(|max| max < config.version_min) {
        return Err(TlsError::Settings("the oldest version of TLS is newer than the newest".to_owned()));
    }
    let mut provider = aws_lc_rs::default_provider();
    let asked = config.suites.iter().filter(|name| !name.is_empty());
    let mut chosen = Vec::new();
    for name in asked.clone() {
        let of_13 = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];
        if of_13.contains(&name.as_str()) {
            continue;
        }
        let bare = name.strip_suffix("_POLY1305_SHA256").map(|begin| format!("{begin}_POLY1305"));
        let bare = bare.as_ref().unwrap_or(name);
        match CHOICE.iter().find(|(known, _)| known == bare) {
            Some((_, suite)) => chosen.push(*suite),
            None if LEFT_OUT.iter().any(|part| name.contains(part)) => {
                tracing::warn!(suite = name, "this cipher suite is insecure and not offered");
            }
            None => return Err(TlsError::Settings(UnknownSuite(name.clone()).to_string())),
        }
    }
    if asked.count() > 0 {
        provider.cipher_suites.retain(|suite| match suite {
            SupportedCipherSuite::Tls13(_) => true,
            other => chosen.contains(&other.suite()),
        });
    }
    Ok(provider)
}
