//! [`Certificate`]: what stands in a certificate that rustls does not tell: its version, its key, its purposes.
//!
//! Used where rustls' own answer names no reason that whoever made the file could act on, and by [`listed`](super::listed).

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Version;

/// See the module.
pub(super) struct Certificate<'a>(X509Certificate<'a>);

/// What a certificate is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Server,
    Client,
}

/// Sizes of RSA keys, in bits, that the cryptography below takes.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// P-256, P-384, P-521.
const CURVES: [&str; 3] = ["1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"];
const ED25519: &str = "1.3.101.112";

/// What is wrong with a certificate of version 1.
const VERSION_1: &str = "it is of X.509 version 1, which names no host and no purpose: make it again as version 3 \
     (openssl x509 -req makes that of an -extfile with subjectAltName and extendedKeyUsage in it)";

impl<'a> Certificate<'a> {
    /// Reads DER.
    ///
    /// # Errors
    /// It is no certificate; says where.
    pub(super) fn read(der: &'a CertificateDer<'_>) -> Result<Self, String> {
        match X509Certificate::from_der(der) {
            Ok(([], read)) => Ok(Self(read)),
            Ok(_) => Err("there is more in it than a certificate".to_owned()),
            Err(error) => Err(format!("it is no certificate: {error}")),
        }
    }

    /// `SubjectPublicKeyInfo`, DER.
    pub(super) fn public_key(&self) -> &[u8] {
        self.0.public_key().raw
    }

    /// An authority by its own words.
    pub(super) fn is_authority(&self) -> bool {
        self.0.is_ca()
    }

    pub(super) fn is_version_1(&self) -> bool {
        self.0.version() == X509Version::V1
    }

    /// The one common name of its subject; `None` where there is none, or more than one, or it is no text.
    pub(super) fn common_name(&self) -> Option<&str> {
        let mut names = self.0.subject().iter_common_name();
        let name = names.next()?;
        if names.next().is_some() {
            return None;
        }
        name.as_str().ok().filter(|name| !name.is_empty())
    }

    /// The number that a revocation list has it by.
    pub(super) fn serial(&self) -> &[u8] {
        self.0.raw_serial()
    }

    /// Why nobody who shows it can be believed here, in words for whoever made it.
    pub(super) fn flaw(&self) -> Option<String> {
        if self.is_version_1() { Some(VERSION_1.to_owned()) } else { self.flaw_of_key() }
    }

    /// Why its key cannot be used, neither to sign nor to check a signature.
    pub(super) fn flaw_of_key(&self) -> Option<String> {
        let key = self.0.public_key();
        let flaw = match key.parsed() {
            Ok(PublicKey::RSA(rsa)) => {
                let bits = bits(rsa.modulus);
                if RSA_BITS.contains(&bits) {
                    return None;
                }
                format!("its RSA key has {bits} bits: {} to {} are taken", RSA_BITS.start(), RSA_BITS.end())
            }
            Ok(PublicKey::EC(_)) => {
                let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
                if curve.is_some_and(|curve| CURVES.contains(&curve.to_id_string().as_str())) {
                    return None;
                }
                "its key is on a curve that is not taken: P-256, P-384 and P-521 are".to_owned()
            }
            _ if key.algorithm.algorithm.to_id_string() == ED25519 => return None,
            _ => "its key is of a kind that is not taken: RSA, ECDSA and Ed25519 are".to_owned(),
        };
        Some(flaw + "; make a new key, and a certificate for it")
    }

    /// Judges it alone, as Go does with a certificate that stands among its roots: by its time, its purposes, and by
    /// what it demands to be understood. Names are the caller's matter.
    ///
    /// # Errors
    /// What is not as it must be.
    pub(super) fn is_good_for(&self, purpose: Purpose, now: UnixTime) -> Result<(), CertificateError> {
        let validity = self.0.validity();
        let now = i64::try_from(now.as_secs()).map_err(|_| CertificateError::Expired)?;
        if now < validity.not_before.timestamp() {
            return Err(CertificateError::NotValidYet);
        }
        if now > validity.not_after.timestamp() {
            return Err(CertificateError::Expired);
        }
        let understood = |extension: &ParsedExtension<'_>| {
            matches!(
                extension,
                ParsedExtension::BasicConstraints(_)
                    | ParsedExtension::KeyUsage(_)
                    | ParsedExtension::ExtendedKeyUsage(_)
                    | ParsedExtension::SubjectAlternativeName(_)
            )
        };
        if self.0.extensions().iter().any(|one| one.critical && !understood(one.parsed_extension())) {
            return Err(CertificateError::UnhandledCriticalExtension);
        }
        let purposes = self.0.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
        let fits = purposes.is_none_or(|purposes| {
            let purposes = purposes.value;
            purposes.any
                || match purpose {
                    Purpose::Server => purposes.server_auth,
                    Purpose::Client => purposes.client_auth,
                }
        });
        if fits { Ok(()) } else { Err(CertificateError::InvalidPurpose) }
    }
}

/// Of a number, most significant byte first.
fn bits(number: &[u8]) -> usize {
    let mut bytes = number.iter().skip_while(|byte| **byte == 0);
    let first = bytes.next().map_or(0, |byte| 8 - byte.leading_zeros() as usize);
    first + 8 * bytes.count()
}
