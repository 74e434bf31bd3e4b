//! [`Relay`]: a port of this process before a port of another one, where the network is as bad as a test wants.
//!
//! ```text
//! client ──▶ relay ──▶ server        Open: bytes pass, each piece late by the delay
//! client ──▶ relay                   Cut: connections are reset, new ones too
//! client ──▶ relay ··· server        Silent: they stand, nothing passes, nobody is told
//! client ──▶ relay ──▶ server        Mute: what the client says arrives and is carried out, what comes back is lost
//!                  ◀─x
//! ```
//!
//! With [`Relay::tls`] it speaks TLS to clients and plainly to the server. Who does not speak TLS is passed on where
//! that is allowed, else refused: the store of the kit, which knows no TLS, asks PD through the same port as clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Open,
    Cut,
    Silent,
    Mute,
}

#[derive(Clone, Copy)]
struct Weather {
    flow: Flow,
    /// Each piece is late by up to this much, by chance.
    delay: Duration,
    /// Raised to reset the connections that are there.
    resets: u32,
}

/// See the module. Dropping it resets its connections.
pub(crate) struct Relay {
    address: String,
    weather: watch::Sender<Weather>,
    accepts: JoinHandle<()>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    encrypted: AtomicUsize,
    plain: AtomicUsize,
}

/// How clients are spoken to.
#[derive(Clone)]
enum Speech {
    Plain,
    Tls { acceptor: TlsAcceptor, plain_too: bool },
}

impl Relay {
    /// Before `127.0.0.1:port`, which need not listen yet.
    pub(crate) async fn plain(port: u16, seed: u64) -> Self {
        Self::start(port, seed, Speech::Plain).await
    }

    /// With TLS towards clients.
    pub(crate) async fn tls(port: u16, seed: u64, config: ServerConfig, plain_too: bool) -> Self {
        Self::start(port, seed, Speech::Tls { acceptor: TlsAcceptor::from(Arc::new(config)), plain_too })
            .await
    }

    async fn start(port: u16, seed: u64, speech: Speech) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a port").to_string();
        let fair = Weather { flow: Flow::Open, delay: Duration::ZERO, resets: 0 };
        let (weather, seen) = (watch::Sender::new(fair), Arc::new(Seen::default()));
        let (sender, counts) = (weather.clone(), seen.clone());
        let chance = Arc::new(Mutex::new(SmallRng::seed_from_u64(seed)));
        let accepts = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let line = Line { port, weather: sender.subscribe(), chance: chance.clone() };
                tokio::spawn(line.carry(client, speech.clone(), counts.clone()));
            }
        });
        Self { address, weather, accepts, seen }
    }

    /// `host:port`, for clients and to be advertised.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// All is well again. Connections on which something was lost are reset: what is left of them makes no sense.
    pub(crate) fn heal(&self) {
        self.weather.send_modify(|weather| {
            if weather.flow != Flow::Open {
                weather.resets += 1;
            }
            (weather.flow, weather.delay) = (Flow::Open, Duration::ZERO);
        });
    }

    pub(crate) fn set(&self, flow: Flow) {
        self.weather.send_modify(|weather| weather.flow = flow);
    }

    /// Each piece is late by up to so much.
    pub(crate) fn delay(&self, at_most: Duration) {
        self.weather.send_modify(|weather| weather.delay = at_most);
    }

    /// Resets what is connected now.
    pub(crate) fn reset(&self) {
        self.weather.send_modify(|weather| weather.resets += 1);
    }

    /// Connections so far that were made with TLS, and without.
    pub(crate) fn seen(&self) -> (usize, usize) {
        (self.seen.encrypted.load(Ordering::Relaxed), self.seen.plain.load(Ordering::Relaxed))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepts.abort();
        self.weather.send_modify(|weather| weather.flow = Flow::Cut);
    }
}

/// What is dropped is reset, not closed: nobody may take it for an orderly end.
fn resets(socket: &TcpStream) {
    let _gone = socket.set_zero_linger();
}

/// One connection.
#[derive(Clone)]
struct Line {
    port: u16,
    weather: watch::Receiver<Weather>,
    chance: Arc<Mutex<SmallRng>>,
}

impl Line {
    async fn carry(mut self, client: TcpStream, speech: Speech, seen: Arc<Seen>) {
        let _nodelay = client.set_nodelay(true);
        let born = *self.weather.borrow_and_update();
        match born.flow {
            Flow::Cut => return resets(&client),
            Flow::Silent => {
                self.until_other_than(Flow::Silent).await;
                return resets(&client);
            }
            Flow::Open | Flow::Mute => {}
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.port)).await else { return resets(&client) };
        resets(&server);
        let _nodelay = server.set_nodelay(true);
        match speech {
            Speech::Plain => {
                resets(&client);
                seen.plain.fetch_add(1, Ordering::Relaxed);
                self.join(client, server, born.resets).await;
            }
            Speech::Tls { acceptor, plain_too } => {
                let mut first = [0];
                let is_tls = matches!(client.peek(&mut first).await, Ok(1)) && first == [0x16];
                if is_tls {
                    // Who is not taken is told why: that goodbye must arrive.
                    if let Ok(client) = acceptor.accept(client).await {
                        resets(client.get_ref().0);
                        seen.encrypted.fetch_add(1, Ordering::Relaxed);
                        self.join(client, server, born.resets).await;
                    }
                } else if plain_too {
                    resets(&client);
                    seen.plain.fetch_add(1, Ordering::Relaxed);
                    self.join(client, server, born.resets).await;
                }
            }
        }
    }

    async fn until_other_than(&mut self, flow: Flow) {
        let _gone = self.weather.wait_for(|weather| weather.flow != flow).await;
    }

    async fn join<C: AsyncRead + AsyncWrite>(self, client: C, server: TcpStream, born: u32) {
        let (client_reads, client_writes) = tokio::io::split(client);
        let (server_reads, server_writes) = tokio::io::split(server);
        let mut weather = self.weather.clone();
        let broken = weather.wait_for(|weather| weather.flow == Flow::Cut || weather.resets != born);
        tokio::select! {
            _ = broken => {}
            () = self.clone().copy(client_reads, server_writes, false) => {}
            () = self.copy(server_reads, client_writes, true) => {}
        }
    }

    /// Until one side ends.
    async fn copy<R, W>(mut self, mut from: R, mut to: W, back: bool)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
            let now = *self.weather.borrow_and_update();
            if !now.delay.is_zero() {
                let late = self.chance.lock().random_range(Duration::ZERO..=now.delay);
                sleep(late).await;
            }
            self.until_other_than(Flow::Silent).await;
            if back && self.weather.borrow().flow == Flow::Mute {
                continue;
            }
            if to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
    }
}
