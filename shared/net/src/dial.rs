//! [`Channel`]: the client side of one HTTP/2 connection to a brain, which makes and remakes itself.
//!
//! ```text
//!            call            dialled
//!   Idle ----------> Dialing --------> Open
//!    ^                |  ^              | closed: the next call dials at once
//!    | pause is over  |  +--------------+
//!    |   failed       v
//!    +------------- Resting: calls fail at once until the pause is over
//! ```
//!
//! Invariants: there is at most one dial at a time, however many calls wait for it, and a call that is dropped does
//! not stop it. A request is handed to at most one connection: what a connection gives back untouched is tried on the
//! next one, everything else ends the call, and [`DialError::surely_not_sent`] says whether it can have had an effect.

mod heard;

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::{Authority, Scheme};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{ConnectError, Status};
use tracing::debug;

use crate::cork::Cork;
use crate::direct::{Direct, Panicked};
use crate::serve::{Io, MemoryConnector};
use crate::tls::TlsClient;
use heard::Heard;

/// Where a channel leads.
#[derive(Clone, Debug)]
pub enum Connector {
    /// `host:port`.
    Tcp(String),
    /// `host:port` of a server whose certificate is made out to `host`.
    Tls(String, Arc<TlsClient>),
    /// A socket in the file system.
    Unix(PathBuf),
    /// A listener in this process.
    Memory(MemoryConnector),
    /// A service in this process, for requests that are asked directly, and the listener where it is served, for
    /// whatever wants a connection: a [`Channel`] does.
    Inside(Direct, MemoryConnector),
}

/// How a channel connects.
#[derive(Clone, Debug)]
pub struct DialConfig {
    /// A dial that takes longer has failed; 2 s. Lower finds a dead node sooner and gives up on slow networks.
    pub dial_timeout: Duration,
    /// The pause after a first failed dial; 50 ms. It doubles with each further one, and is cut by chance to
    /// something above its half.
    pub backoff_min: Duration,
    /// The longest pause; 1 s. Higher spares a dead node, lower finds it sooner when it is back.
    pub backoff_max: Duration,
    /// Pings on a connection that is silent for so long; 10 s. `None`: never, and a peer that vanishes is found
    /// only when the kernel gives up.
    pub keepalive_interval: Option<Duration>,
    /// A ping without answer for so long ends the connection; 10 s.
    pub keepalive_timeout: Duration,
    /// Ping also while no request is in flight; yes.
    pub keepalive_while_idle: bool,
    /// What a brain may send on one stream before we read it, bytes; 1 MiB.
    pub stream_window_bytes: u32,
    /// The same for all streams of the connection together; 4 MiB. A reader that does not read its stream can hold
    /// up the others: keep watches apart from bulk. With small messages it is worse: h2 gives the whole connection up
    /// ("too_many_data_frames") when the unread frames below 256 bytes lack more than half of this to 256 bytes each,
    /// which is about 10 000 unread progress messages. Readers must go on reading, or end their stream.
    pub connection_window_bytes: u32,
    /// Metadata of one answer, bytes; 64 KiB.
    pub header_list_bytes_max: u32,
}

impl Default for DialConfig {
    fn default() -> Self {
        Self {
            dial_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            keepalive_interval: Some(Duration::from_secs(10)),
            keepalive_timeout: Duration::from_secs(10),
            keepalive_while_idle: true,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 4 << 20,
            header_list_bytes_max: 64 << 10,
        }
    }
}

/// One connection, shared by its clones. Dropping the last one closes it when its requests have ended.
#[derive(Clone, Debug)]
pub struct Channel {
    shared: Arc<Shared>,
}

/// Why there is no answer. In the status of a tonic client it is `Unavailable`: see [`DialError::of`].
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no connection and none could be made. Another node is worth a try.
    #[error("cannot connect")]
    Unreachable(#[source] ConnectError),
    /// The connection gave the request back, or the other side said that it did not look at it.
    #[error("the request was not taken")]
    Refused(#[source] ConnectError),
    /// The connection failed when the request was on its way: it may have been carried out.
    #[error("the connection failed while the request was on its way")]
    Broken(#[source] ConnectError),
}

type Sender = http2::SendRequest<Body>;

#[derive(Debug)]
struct Shared {
    connector: Connector,
    config: DialConfig,
    authority: Authority,
    state: Mutex<Standing>,
}

#[derive(Debug)]
struct Standing {
    link: Link,
    /// Dials that failed since the last that did not.
    failures: u32,
    /// Why the last dial has failed.
    trouble: Option<Arc<str>>,
}

#[derive(Debug)]
enum Link {
    Idle,
    /// The sender is dropped when the dial has ended.
    Dialing(watch::Receiver<()>),
    Open(Sender),
    Resting {
        until: Instant,
        kind: io::ErrorKind,
        reason: Arc<str>,
    },
}

/// How a channel stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has asked for a connection.
    Idle,
    /// One is being made.
    Dialing,
    /// There is one.
    Open,
    /// The last dial has failed.
    Resting,
}

/// How often a request that connections give back is handed to the next one.
const TRIES: usize = 3;

impl Channel {
    /// Connects when it is first used.
    ///
    /// # Panics
    /// If a TCP address is not `host:port`.
    pub fn new(connector: Connector, config: DialConfig) -> Self {
        let authority = match &connector {
            Connector::Tcp(address) | Connector::Tls(address, _) => {
                address.parse().expect("an address is host:port")
            }
            Connector::Unix(_) => Authority::from_static("localhost"),
            Connector::Memory(_) | Connector::Inside(..) => Authority::from_static("memory"),
        };
        let state = Mutex::new(Standing { link: Link::Idle, failures: 0, trouble: None });
        Self { shared: Arc::new(Shared { connector, config, authority, state }) }
    }

    /// Makes the connection, if there is none.
    ///
    /// # Errors
    /// [`DialError::Unreachable`].
    ///
    /// # Cancel safety
    /// A dropped call does not stop the dial.
    pub async fn connect(&self) -> Result<(), DialError> {
        self.sender().await.map(drop)
    }

    /// How it stands; a connection that was lost counts as idle.
    pub fn state(&self) -> State {
        match &self.shared.state.lock().link {
            Link::Open(sender) if !sender.is_closed() => State::Open,
            Link::Idle | Link::Open(_) => State::Idle,
            Link::Dialing(_) => State::Dialing,
            Link::Resting { .. } => State::Resting,
        }
    }

    /// Why the last dial has failed, if it has: with the address, for an operator.
    pub fn trouble(&self) -> Option<Arc<str>> {
        self.shared.state.lock().trouble.clone()
    }

    async fn send(self, mut request: http::Request<Body>) -> Result<http::Response<Incoming>, DialError> {
        self.shared.address(&mut request);
        let mut tries = 0;
        loop {
            tries += 1;
            let mut sender = self.sender().await?;
            let mut error = match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            match error.take_message() {
                Some(untouched) if tries < TRIES => request = untouched,
                Some(_) => return Err(DialError::Refused(ConnectError(error.into_error().into()))),
                None => return Err(DialError::judge(error.into_error())),
            }
        }
    }

    async fn sender(&self) -> Result<Sender, DialError> {
        let mut waited = false;
        loop {
            let mut dialing = {
                let mut state = self.shared.state.lock();
                match &state.link {
                    Link::Open(sender) if !sender.is_closed() => return Ok(sender.clone()),
                    Link::Dialing(dialing) if dialing.has_changed().is_ok() => dialing.clone(),
                    Link::Resting { until, kind, reason } if waited || Instant::now() < *until => {
                        let error = io::Error::new(*kind, reason.to_string());
                        return Err(DialError::Unreachable(ConnectError(error.into())));
                    }
                    _ => {
                        let (done, dialing) = watch::channel(());
                        state.link = Link::Dialing(dialing.clone());
                        tokio::spawn(Arc::clone(&self.shared).dial(done));
                        dialing
                    }
                }
            };
            let _ended = dialing.changed().await;
            waited = true;
        }
    }
}

impl Shared {
    /// One dial; its end is the drop of `done`.
    async fn dial(self: Arc<Self>, done: watch::Sender<()>) {
        let timeout = tokio::time::timeout(self.config.dial_timeout, self.open());
        let opened = timeout.await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
        let mut state = self.state.lock();
        match opened {
            Ok(sender) => *state = Standing { link: Link::Open(sender), failures: 0, trouble: None },
            Err(error) => {
                debug!(authority = %self.authority, %error, "cannot connect");
                if let Connector::Tls(address, tls) = &self.connector {
                    tls.complain(address, &error);
                }
                let pause = pause(&self.config, state.failures, RandomState::new().build_hasher().finish());
                let reason: Arc<str> = match &self.connector {
                    Connector::Unix(path) => format!("{}: {error}", path.display()).into(),
                    _ => format!("{}: {error}", self.authority).into(),
                };
                state.trouble = Some(reason.clone());
                state.link = Link::Resting { until: Instant::now() + pause, kind: error.kind(), reason };
                state.failures = state.failures.saturating_add(1);
            }
        }
        drop(state);
        drop(done);
    }

    async fn open(&self) -> io::Result<Sender> {
        match &self.connector {
            Connector::Tcp(address) => {
                let socket = TcpStream::connect(address).await?;
                socket.set_nodelay(true)?;
                self.handshake(socket).await
            }
            Connector::Tls(address, tls) => {
                let socket = TcpStream::connect(address).await?;
                socket.set_nodelay(true)?;
                let (io, heard) = Heard::new(tls.connect(self.authority.host(), socket).await?);
                let sender = self.handshake(io).await?;
                let first = heard.await.unwrap_or_else(|_gone| Err(io::ErrorKind::ConnectionAborted.into()));
                first.map_err(|error| tls.explain(error))?;
                Ok(sender)
            }
            Connector::Unix(path) => self.handshake(UnixStream::connect(path).await?).await,
            Connector::Memory(connector) | Connector::Inside(_, connector) => {
                self.handshake(connector.connect().await?).await
            }
        }
    }

    async fn handshake(&self, io: impl Io + 'static) -> io::Result<Sender> {
        let io: Box<dyn Io> = Box::new(io);
        let config = &self.config;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(config.stream_window_bytes)
            .initial_connection_window_size(config.connection_window_bytes)
            .max_header_list_size(config.header_list_bytes_max)
            .keep_alive_interval(config.keepalive_interval)
            .keep_alive_timeout(config.keepalive_timeout)
            .keep_alive_while_idle(config.keepalive_while_idle)
            .handshake(TokioIo::new(Cork::new(io)))
            .await
            .map_err(io::Error::other)?;
        let authority = self.authority.clone();
        // Ends with the last sender and the last request, or with the connection.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%authority, %error, "a connection ended with an error");
            }
        });
        Ok(sender)
    }

    /// HTTP/2 wants scheme and authority; generated clients give a path only.
    fn address(&self, request: &mut http::Request<Body>) {
        *request.version_mut() = http::Version::HTTP_2;
        if request.uri().authority().is_none() {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.scheme = Some(match &self.connector {
                Connector::Tls(..) => Scheme::HTTPS,
                _ => Scheme::HTTP,
            });
            parts.authority = Some(self.authority.clone());
            parts.path_and_query.get_or_insert_with(|| http::uri::PathAndQuery::from_static("/"));
            *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path make a URI");
        }
    }
}

/// After so many failures in a row: doubled each time, then cut by chance to a part between its half and the whole.
fn pause(config: &DialConfig, failures: u32, chance: u64) -> Duration {
    let whole = config.backoff_min.saturating_mul(1 << failures.min(16)).min(config.backoff_max);
    whole.div_f64(2.0) + whole.mul_f64(chance as f64 / u64::MAX as f64 / 2.0)
}

impl DialError {
    /// True if the other side cannot have carried out anything of the request.
    pub const fn surely_not_sent(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Refused(_))
    }

    /// What made a tonic client answer this status itself; `None` if it came from the other side or was another
    /// failure (an answer that breaks off while it is read is one, too).
    pub fn of(status: &Status) -> Option<&Self> {
        std::error::Error::source(status)?.downcast_ref()
    }

    /// Of a request that a connection took: h2 knows of some failures that the peer did not begin with it.
    fn judge(error: hyper::Error) -> Self {
        let h2 = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
        // A GOAWAY fails only requests above its last stream, and those that are not sent yet; the others go on and
        // fail, if they do, with the end of the connection (RFC 9113, 6.8 and 8.7).
        let untouched = h2.is_some_and(|h2| {
            h2.is_remote()
                && (h2.is_go_away() || (h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM)))
        });
        let error = ConnectError(error.into());
        if untouched { Self::Refused(error) } else { Self::Broken(error) }
    }
}

/// As of a connection that fails.
impl From<Panicked> for DialError {
    fn from(panicked: Panicked) -> Self {
        Self::Broken(ConnectError(panicked.into()))
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    /// Always ready: what cannot be sent is answered with an error, and what waits is bounded by who calls.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

#[cfg(test)]
mod tests;
