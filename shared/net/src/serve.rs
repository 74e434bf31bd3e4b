//! Serving gRPC and plain HTTP: one listener speaks HTTP/2 (with prior knowledge, as gRPC does) and HTTP/1.
//!
//! The same code serves TCP sockets and connections inside the process ([`memory`]): there is no second way in.
//! Every connection is one task; it is corked ([`Cork`]) and stops gracefully: GOAWAY, the requests that are
//! in flight end or run into [`ServeConfig::drain`], then the connection is dropped.
//!
//! Invariants: an accept loop ends only when asked to; every connection holds a [`Stop`], so whoever stops the
//! server waits for the last of them, which is at most the drain time and a moment.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use kubebrain_shared::stop::Stop;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tonic::codegen::Service;
use tracing::{debug, info, warn};

use crate::connections::{Connections, Party, Place};
use crate::cork::Cork;
use crate::gate::Gate;
use crate::held::{Bound, Held};
use crate::pings::PingGuard;
use crate::tls::{CommonName, TlsServer};
use crate::turns::Turns;

/// How connections are served.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// What a client may send on one stream before we read it, bytes; 1 MiB. Higher: faster large requests over a
    /// long way, more memory per slow handler.
    pub stream_window_bytes: u32,
    /// The same for all streams of a connection together; 4 MiB. h2 gives a connection up (`ENHANCE_YOUR_CALM`,
    /// "too_many_data_frames") whose unread DATA frames below 256 bytes lack more than half of this to 256 bytes each.
    pub connection_window_bytes: u32,
    /// Requests in flight on one connection; unlimited unless said, as in etcd. Lower protects memory and makes the
    /// watches of one API server queue behind each other.
    pub concurrent_streams_max: u32,
    /// Metadata of one request, bytes; 64 KiB.
    pub header_list_bytes_max: u32,
    /// Streams of one connection that their client reset before we looked at them, above which the connection is
    /// given up; 10 000. A proxy whose client vanishes resets all its streams at once: with h2's own 20 that would
    /// take everybody's connection down. Lower ends a flood of resets (CVE-2023-44487) earlier.
    pub pending_resets_max: usize,
    /// Pings of ours on a connection that is silent for so long, and so we find dead clients; 30 s. `None`: never.
    pub keepalive_interval: Option<Duration>,
    /// A ping without answer for so long ends the connection; 10 s.
    pub keepalive_timeout: Duration,
    /// Clients that ping more often, three times and more while nothing is sent to them, get GOAWAY. `None`, which is
    /// meant for peers: pings are answered however often they come.
    pub ping_interval_min: Option<Duration>,
    /// Resets, settings, pings and empty data of one client, above which it is read more slowly. `None`, which is meant
    /// for peers: as many as come; a proxy whose client vanishes resets all its streams at once.
    pub control_frames_per_second: Option<NonZeroU32>,
    /// A head of an HTTP/1 request must be there within this time, and so must the first bytes of a connection; 10 s.
    pub header_timeout: Duration,
    /// A TLS handshake must be done within this time; 10 s.
    pub handshake_timeout: Duration,
    /// What requests in flight get to end when the server stops; 7 s. Watches never end by themselves and always
    /// take this long unless their handler hears the stop too.
    pub drain: Duration,
    /// Counts whom a bound held back; nobody unless given.
    pub held: Held,
    /// How many there may be, with those of other listeners; as many as come.
    pub connections: Connections,
    /// Who comes.
    pub party: Party,
    /// Requests have the [`CommonName`] of their connection's certificate among their extensions, where it has one. Off
    /// unless said: each request pays for it.
    pub tells_names: bool,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 4 << 20,
            concurrent_streams_max: u32::MAX,
            header_list_bytes_max: 64 << 10,
            pending_resets_max: 10_000,
            keepalive_interval: Some(Duration::from_secs(30)),
            keepalive_timeout: Duration::from_secs(10),
            ping_interval_min: None,
            control_frames_per_second: None,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(7),
            held: Held::default(),
            connections: Connections::default(),
            party: Party::Others,
            tells_names: false,
        }
    }
}

/// What is served: a tower service that never fails, such as tonic's.
pub trait Serve:
    Service<
        http::Request<Incoming>,
        Response = http::Response<tonic::body::Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
}

impl<S> Serve for S where
    S: Service<
            http::Request<Incoming>,
            Response = http::Response<tonic::body::Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + 'static
{
}

/// How often a failing accept is tried again: not sooner, since a process out of descriptors must not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections inside the process that wait to be accepted.
const MEMORY_BACKLOG: usize = 64;

/// What one side of a connection inside the process may write before the other reads, bytes.
const MEMORY_BUFFER_BYTES: usize = 256 * 1024;

/// Serves one connection until the client closes it or `stop` is asked and the drain time is over.
///
/// # Cancel safety
/// Dropping it closes the connection at once.
pub async fn serve_connection<I, S>(io: I, service: S, config: &ServeConfig, stop: Stop)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Serve,
{
    serve_named(io, None, service, config, stop).await;
}

/// As [`serve_connection`], for whoever has shown a certificate with this name.
async fn serve_named<I, S>(io: I, name: Option<CommonName>, service: S, config: &ServeConfig, stop: Stop)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Serve,
{
    let service = TowerToHyperService::new(service);
    let handler = Box::new(move |mut request: http::Request<Incoming>| {
        if let Some(name) = &name {
            request.extensions_mut().insert(name.clone());
        }
        Box::pin(service.call(request)) as Answering
    });
    serve_handler(Box::new(io), handler, config, stop).await;
}

/// A socket and a service without their types, so that HTTP is compiled once and not for each pair of them.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Handler = Box<dyn Fn(http::Request<Incoming>) -> Answering + Send>;

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<tonic::body::Body>, Infallible>> + Send>>;

async fn serve_handler(io: Box<dyn Io>, handler: Handler, config: &ServeConfig, stop: Stop) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(config.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(config.stream_window_bytes)
        .initial_connection_window_size(config.connection_window_bytes)
        .max_concurrent_streams(config.concurrent_streams_max)
        .max_header_list_size(config.header_list_bytes_max)
        .max_pending_accept_reset_streams(config.pending_resets_max)
        .max_local_error_reset_streams(config.pending_resets_max)
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout);
    let turns = Turns::default();
    let (io, spoken) = Gate::new(io, config.control_frames_per_second, config.held.clone(), &turns);
    let io = Cork::by_turns(io, &turns);
    let io = TokioIo::new(PingGuard::new(io, config.ping_interval_min, config.held.clone()));
    let connection = builder.serve_connection(io, service_fn(handler));
    let mut connection = std::pin::pin!(connection);

    let ended = tokio::select! {
        biased;
        () = stop.asked() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(config.drain, turns.around(connection)).await.unwrap_or(Ok(()))
        }
        ended = turns.around(connection.as_mut()) => ended,
        () = spoken.not_within(config.header_timeout) => {
            config.held.count(Bound::FirstBytes);
            debug!("a connection that says nothing is closed");
            Ok(())
        }
    };
    if let Err(error) = ended {
        if asks_for_calm(&*error) {
            config.held.count(Bound::Calm);
        }
        debug!(?error, "a connection ended with an error");
    }
}

/// True where HTTP/2 itself has ended a connection as too much.
fn asks_for_calm(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<h2::Error>())
        .any(|error| error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

/// Accepts and serves until asked to stop, then lets go of the port at once. Connections go on in tasks of their own
/// and end as [`serve_connection`] says.
///
/// # Cancel safety
/// Dropping it ends accepting; connections go on.
pub async fn serve_tcp<S: Serve>(listener: TcpListener, service: S, config: ServeConfig, stop: Stop) {
    accept_all(listener, service, config, None, stop).await;
}

/// A socket that listens.
#[derive(Debug)]
pub enum Listener {
    /// Of the network.
    Tcp(TcpListener),
    /// Of the file system.
    Unix(UnixListener),
}

/// As [`serve_tcp`], on any socket, and with TLS if there is one.
///
/// # Cancel safety
/// As [`serve_tcp`].
pub async fn serve_listener<S: Serve>(
    listener: Listener,
    tls: Option<TlsServer>,
    service: S,
    config: ServeConfig,
    stop: Stop,
) {
    match listener {
        Listener::Tcp(listener) => accept_all(listener, service, config, tls, stop).await,
        Listener::Unix(listener) => accept_all(listener, service, config, tls, stop).await,
    }
}

/// As [`serve_tcp`], for connections inside the process. Also ends when every [`MemoryConnector`] is gone.
///
/// # Cancel safety
/// As [`serve_tcp`].
pub async fn serve_memory<S: Serve>(listener: MemoryListener, service: S, config: ServeConfig, stop: Stop) {
    accept_all(listener, service, config, None, stop).await;
}

/// Where connections come from.
trait Accept {
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection, and who connects; `None` if there will be none. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Option<io::Result<(Self::Io, Peer)>>> + Send;
}

/// Who connects, for log lines.
type Peer = Option<SocketAddr>;

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn next(&mut self) -> Option<io::Result<(TcpStream, Peer)>> {
        Some(self.accept().await.map(|(socket, peer)| {
            // Without it each exchange waits 44 ms for a delayed acknowledgement. It fails only for a socket that is
            // gone, which is noticed soon enough.
            let _gone = socket.set_nodelay(true);
            (socket, Some(peer))
        }))
    }
}

impl Accept for UnixListener {
    type Io = UnixStream;

    async fn next(&mut self) -> Option<io::Result<(UnixStream, Peer)>> {
        Some(self.accept().await.map(|(socket, _)| (socket, None)))
    }
}

impl Accept for MemoryListener {
    type Io = DuplexStream;

    async fn next(&mut self) -> Option<io::Result<(DuplexStream, Peer)>> {
        self.accepted.recv().await.map(|stream| Ok((stream, None)))
    }
}

async fn accept_all<A: Accept, S: Serve>(
    mut listener: A,
    service: S,
    config: ServeConfig,
    tls: Option<TlsServer>,
    stop: Stop,
) {
    let mut failing = false;
    loop {
        let place = tokio::select! {
            biased;
            () = stop.asked() => return,
            place = config.connections.place(config.party) => place,
        };
        let accepted = tokio::select! {
            biased;
            () = stop.asked() => return,
            accepted = listener.next() => accepted,
        };
        if failing && matches!(accepted, Some(Ok(_))) {
            failing = false;
            info!("connections are accepted again");
        }
        match accepted {
            Some(Ok((socket, peer))) => match tls.clone() {
                None => start(socket, place.taken(), &service, &config, &stop),
                Some(tls) => start_secure(socket, peer, place.taken(), tls, &service, &config, &stop),
            },
            Some(Err(error)) if is_of_the_connection(&error) => {
                debug!(%error, "a connection was gone at once")
            }
            Some(Err(error)) => {
                if !failing {
                    failing = true;
                    warn!(%error, "connections cannot be accepted now, those that are there are served; trying again");
                }
                tokio::select! {
                    () = stop.asked() => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
            None => return,
        }
    }
}

fn start<I, S>(io: I, place: Place, service: &S, config: &ServeConfig, stop: &Stop)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Serve,
{
    let (service, config, stop) = (service.clone(), config.clone(), stop.clone());
    tokio::spawn(async move {
        let _place = place;
        serve_connection(io, service, &config, stop).await;
    });
}

/// As [`start`], after a handshake. One that fails, hangs or is stopped ends its connection only.
fn start_secure<I, S>(
    io: I,
    peer: Peer,
    place: Place,
    tls: TlsServer,
    service: &S,
    config: &ServeConfig,
    stop: &Stop,
) where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Serve,
{
    let (service, config, stop) = (service.clone(), config.clone(), stop.clone());
    tokio::spawn(async move {
        let _place = place;
        let handshake = tokio::select! {
            biased;
            () = stop.asked() => return,
            done = tokio::time::timeout(config.handshake_timeout, tls.accept(io)) => done,
        };
        let peer = peer.map_or_else(|| "a unix socket".to_owned(), |peer| peer.to_string());
        match handshake {
            Ok(Ok(io)) => {
                let name = config.tells_names.then(|| CommonName::of(&io)).flatten();
                serve_named(io, name, service, &config, stop).await;
            }
            // Probes of ports look like this.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                debug!(peer, "a client left during the TLS handshake");
            }
            Ok(Err(error)) => info!(peer, %error, "a TLS handshake has failed"),
            Err(_late) => {
                config.held.count(Bound::Handshake);
                info!(peer, "a TLS handshake has failed: the client did not finish it in time");
            }
        }
    });
}

/// Errors of `accept` that say something about one connection and nothing about the next.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Accepts what its [`MemoryConnector`]s connect.
#[derive(Debug)]
pub struct MemoryListener {
    accepted: mpsc::Receiver<DuplexStream>,
}

/// Connects to a [`MemoryListener`] in the same process.
#[derive(Clone, Debug)]
pub struct MemoryConnector {
    offered: mpsc::Sender<DuplexStream>,
}

/// A listener inside the process and what connects to it.
pub fn memory() -> (MemoryConnector, MemoryListener) {
    let (offered, accepted) = mpsc::channel(MEMORY_BACKLOG);
    (MemoryConnector { offered }, MemoryListener { accepted })
}

#[cfg(test)]
impl MemoryListener {
    pub(crate) async fn next_connection(&mut self) -> DuplexStream {
        self.accepted.recv().await.expect("a connector is left")
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.accepted.is_empty()
    }
}

impl MemoryConnector {
    /// A new connection.
    ///
    /// # Errors
    /// `ConnectionRefused` when the listener is gone.
    ///
    /// # Cancel safety
    /// A dropped call has connected or not.
    pub async fn connect(&self) -> io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(MEMORY_BUFFER_BYTES);
        match self.offered.send(theirs).await {
            Ok(()) => Ok(ours),
            Err(_gone) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
