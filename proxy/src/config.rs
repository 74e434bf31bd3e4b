//! [`Config`]: what a proxy is told once; immutable afterwards.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kubebrain_net::dial::DialConfig;
use kubebrain_net::held::Held;
use kubebrain_net::probe::ETCD_VERSION;
use kubebrain_net::trace::Tracer;

use crate::metrics::Metrics;
pub use crate::seams::Seams;

/// What gRPC may add to a request of `request_bytes_max`, as in etcd.
pub(crate) const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

/// HTTP/2's largest window: streams that nobody reads must not use up what all of them share.
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;

/// A brain of which nothing is heard for so long is suspect: two heartbeats and some time for a slow machine. Lower leaves
/// a hung brain sooner, and a busy one for nothing.
pub(crate) const SILENCE: Duration = Duration::from_millis(2500);

/// More than a heartbeat ever needs.
const STANDING_WINDOW_BYTES: u32 = 64 * 1024;

/// Where the groups of a proxy are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// In brains, which it asks.
    Proxy,
    /// In its own process.
    Standalone,
}

impl Server {
    /// As people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Standalone => "standalone",
        }
    }
}

/// Whether what a proxy has in its own process works; the error says why not.
#[derive(Clone, Default)]
pub struct Inside(Option<Arc<dyn Fn() -> Result<(), String> + Send + Sync>>);

impl Inside {
    /// It is asked for each probe, and must answer at once.
    pub fn new(works: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(works)))
    }

    /// # Errors
    /// Why it does not work.
    pub(crate) fn works(&self) -> Result<(), String> {
        self.0.as_ref().map_or(Ok(()), |works| works())
    }
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inside").finish_non_exhaustive()
    }
}

/// Settings of one proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// What it is; default [`Server::Proxy`].
    pub server: Server,
    /// What is asked whether this process works; default: nobody.
    pub inside: Inside,
    /// Name of the one member that `MemberList` shows. Default `kubebrain`.
    pub name: String,
    /// Where clients reach this proxy: the member's client URLs. Default `http://127.0.0.1:2379`.
    pub advertised_urls: Vec<String>,
    /// What `Status` and `/version` claim to be. Default [`ETCD_VERSION`].
    pub etcd_version: String,
    /// Largest request, without gRPC's overhead of 512 KiB; default 1.5 MiB as in etcd. Larger costs memory per
    /// request in flight; the brain's own bound answers before this one.
    pub request_bytes_max: usize,
    /// Largest answer that is put together from several groups in memory; default 128 MiB. Above it a Range is refused
    /// with a sentence that names RangeStream.
    pub merged_bytes_max: usize,
    /// A range of one group whose rows take so many bytes is read from several of its brains at once, where two or more are up
    /// to date; default 1 MiB, `None`: never. Lower costs more requests for what one brain answers as soon.
    pub fanout_bytes_min: Option<u64>,
    /// Parts of such ranges held at once, each of half a MiB, or as many as it is times so large; default 64. Above it one brain
    /// answers a range.
    pub fanout_parts_max: usize,
    /// Requests at work at once, of those that are there whole; default 16 384. Above it they are answered "too many requests" at once.
    pub in_flight_max: usize,
    /// An answer must have begun within this time, whatever its client waits for; default 30 s. Compactions and what
    /// operators ask for may take longer.
    pub answer_timeout: Duration,
    /// How long a request that was surely not carried out is tried again; default 5 s.
    pub retry_for: Duration,
    /// How often every group is asked for its revision, which keeps the start of "watch from now" fresh; default 1 s.
    pub refresh_every: Duration,
    /// Watchers on one client stream; default 65 536.
    pub watchers_max: usize,
    /// Events of one group that wait for the other groups, per watcher over several groups; default 256 KiB. Then that
    /// group's stream is not read until the others catch up.
    pub merge_buffer_bytes_max: usize,
    /// How long streams may take to hear that the proxy stops; default 7 s, as etcd.
    pub drain: Duration,
    /// Connections to brains for requests.
    pub dial: DialConfig,
    /// Receive window of one watch stream from a brain; default 64 KiB. A client that does not read costs this much per
    /// group; the connection's window is so large that it never stalls the others.
    pub watch_window_bytes: u32,
    /// Where it counts. Default: nowhere to be seen.
    pub metrics: Metrics,
    /// Counts whom it holds back. Default: nobody.
    pub held: Held,
    /// Is told of attempts at brains for requests that are traced. Default: nobody.
    pub tracer: Tracer,
    /// Planted faults.
    #[cfg(any(test, feature = "seams"))]
    pub seams: Seams,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: Server::Proxy,
            inside: Inside::default(),
            name: "kubebrain".into(),
            advertised_urls: vec!["http://127.0.0.1:2379".into()],
            etcd_version: ETCD_VERSION.into(),
            request_bytes_max: 1536 * 1024,
            merged_bytes_max: 128 * 1024 * 1024,
            fanout_bytes_min: Some(1 << 20),
            fanout_parts_max: 64,
            in_flight_max: 16_384,
            answer_timeout: Duration::from_secs(30),
            retry_for: Duration::from_secs(5),
            refresh_every: Duration::from_secs(1),
            watchers_max: 65_536,
            merge_buffer_bytes_max: 256 * 1024,
            drain: Duration::from_secs(7),
            // What a client does not read of an answer stays with the brain but for this much.
            dial: DialConfig { stream_window_bytes: 256 << 10, ..DialConfig::default() },
            watch_window_bytes: 64 * 1024,
            metrics: Metrics::default(),
            held: Held::default(),
            tracer: Tracer::default(),
            #[cfg(any(test, feature = "seams"))]
            seams: Seams::default(),
        }
    }
}

impl Config {
    /// True if the fault that `chosen` names is planted; constant `false` in a product build.
    pub(crate) fn planted(&self, chosen: impl FnOnce(&Seams) -> bool) -> bool {
        #[cfg(any(test, feature = "seams"))]
        return chosen(&self.seams);
        #[cfg(not(any(test, feature = "seams")))]
        chosen(&Seams::default())
    }

    /// Connections to brains for requests.
    pub(crate) fn bulk_dial(&self) -> DialConfig {
        // As for watches: an answer that a client does not read must not keep the others' from coming.
        DialConfig { connection_window_bytes: WINDOW_BYTES_MAX, ..self.dial.clone() }
    }

    /// Connections to brains for watch streams.
    pub(crate) fn watch_dial(&self) -> DialConfig {
        DialConfig {
            stream_window_bytes: self.watch_window_bytes,
            connection_window_bytes: WINDOW_BYTES_MAX,
            ..self.dial.clone()
        }
    }

    /// Connections on which brains say what they are, every second.
    pub(crate) fn standing_dial(&self) -> DialConfig {
        DialConfig {
            stream_window_bytes: STANDING_WINDOW_BYTES,
            connection_window_bytes: STANDING_WINDOW_BYTES,
            keepalive_interval: Some(SILENCE),
            keepalive_timeout: SILENCE,
            ..self.dial.clone()
        }
    }

    /// Largest gRPC message that a client may send.
    pub(crate) fn message_bytes_max(&self) -> usize {
        self.request_bytes_max + GRPC_OVERHEAD_BYTES
    }
}
