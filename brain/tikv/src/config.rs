//! [`Config`]: where the cluster is, and how long things may take.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_brain::engine::Bounds;
use thiserror::Error;

use crate::key;
use crate::metrics::Metrics;

/// How an engine on TiKV is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port` of members of the placement driver.
    pub pd: Vec<String>,
    /// Without it nothing is encrypted.
    pub tls: Option<Tls>,
    /// Connections to each store, and to PD; 2. One connection moves at most 64 KiB a round trip.
    pub clients: usize,
    /// A commit whose outcome is not known by then is unknown; 15 s.
    pub commit_deadline: Duration,
    /// A read that has no answer by then has failed; 15 s. Above the 3 s that the lock of a dead writer lives, and the
    /// 10 s that TiKV takes to elect.
    pub read_deadline: Duration,
    /// One message to a store without an answer has failed; 3 s.
    pub request_timeout: Duration,
    /// A timestamp that PD has not given by then is asked for again; 3 s.
    pub timestamp_timeout: Duration,
    /// Errors that last so long are answered with new connections; 2 s.
    pub rebuild_after: Duration,
    /// Snapshots older than this have expired; 5 min. Garbage collection stays twice as far behind.
    pub snapshot_age_max: Duration,
    /// Whether small batches are committed in one round trip; yes.
    pub one_phase: bool,
    /// With it this engine collects garbage, or stands by to.
    pub gc: Option<Gc>,
    /// What is counted.
    pub metrics: Metrics,
}

/// How garbage is collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gc {
    /// The row by which collectors are chosen.
    pub row: Bytes,
    /// Between two moves of the safe point; 1 min.
    pub period: Duration,
    /// How far it stays behind; 10 min. At least twice the age bound of snapshots is kept.
    pub behind: Duration,
}

/// Where certificates are, PEM. They are read whenever connections are made anew, which they are when one is refused
/// because of its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Of the authorities that TiKV's and PD's certificates come from.
    pub ca: PathBuf,
    /// Our own.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why an engine was not opened. Whether TiKV answers is not among the reasons: that is waited for.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Not an address.
    #[error("PD address {0}: want HOST:PORT")]
    Address(String),
    /// The certificates cannot be used.
    #[error("the certificates for TiKV cannot be used")]
    Tls(#[from] kubebrain_net::tls::TlsError),
}

/// TiKV refuses an entry of its log above 8 MiB; a value must leave room for its key and what is around them.
const VALUE_BYTES_MAX: usize = 6 << 20;

/// See `docs/adr/0009-tikv.md` for the measurement.
const BATCH_BYTES: usize = 256 << 10;
/// The largest request fits in, with the record that names its keys; the client copies all of it once for each 16 KiB.
const BATCH_BYTES_MAX: usize = 16 << 20;

impl Gc {
    /// The defaults.
    pub const fn new(row: Bytes) -> Self {
        Self { row, period: Duration::from_secs(60), behind: Duration::from_secs(600) }
    }
}

impl Config {
    /// The defaults, for a cluster.
    pub fn new(pd: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            pd: pd.into_iter().map(Into::into).collect(),
            tls: None,
            clients: 2,
            commit_deadline: Duration::from_secs(15),
            read_deadline: Duration::from_secs(15),
            request_timeout: Duration::from_secs(3),
            timestamp_timeout: Duration::from_secs(3),
            rebuild_after: Duration::from_secs(2),
            snapshot_age_max: Duration::from_secs(300),
            one_phase: true,
            gc: None,
            metrics: Metrics::default(),
        }
    }

    /// What TiKV holds at once, whatever the configuration.
    pub const fn bounds() -> Bounds {
        Bounds {
            key_bytes_max: key::BYTES_MAX,
            value_bytes_max: VALUE_BYTES_MAX,
            batch_bytes: BATCH_BYTES,
            batch_bytes_max: BATCH_BYTES_MAX,
        }
    }
}
