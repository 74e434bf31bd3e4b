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
//! A [`Relay::discerning`] one knows which process of this test a connection comes from, and can be bad to it alone.
//!
//! With [`Relay::tls`] it speaks TLS to clients and plainly to the server. Who does not speak TLS is passed on where
//! that is allowed, else refused: the store of the kit, which knows no TLS, asks PD through the same port as clients.

use std::collections::BTreeMap;
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
pub enum Flow {
    Open,
    Cut,
    Silent,
    Mute,
}

#[derive(Clone)]
struct Weather {
    flow: Flow,
    /// Each piece is late by up to this much, by chance.
    delay: Duration,
    /// The process that has it; the others have it fair. `None`: everybody has it.
    only: Option<u32>,
    /// Raised to reset the connections that are there.
    resets: u32,
    /// The same for those of one process.
    resets_of: Arc<BTreeMap<u32, u32>>,
}

/// Weather as one connection has it.
#[derive(Clone, Copy)]
struct Met {
    flow: Flow,
    delay: Duration,
    resets: u32,
}

impl Weather {
    fn of(&self, from: Option<u32>) -> Met {
        let own = from.and_then(|pid| self.resets_of.get(&pid)).copied().unwrap_or(0);
        let resets = self.resets + own;
        match self.only {
            Some(only) if from != Some(only) => Met { flow: Flow::Open, delay: Duration::ZERO, resets },
            _ => Met { flow: self.flow, delay: self.delay, resets },
        }
    }

    /// Resets what is connected, of those who have this weather.
    fn reset(&mut self) {
        match self.only {
            None => self.resets += 1,
            Some(pid) => *Arc::make_mut(&mut self.resets_of).entry(pid).or_default() += 1,
        }
    }

    /// As it is from now on for `only`; whoever had it before is done with it.
    fn begin(&mut self, only: Option<u32>) {
        if self.only != only {
            self.end();
            self.only = only;
        }
    }

    fn end(&mut self) {
        if self.flow != Flow::Open {
            self.reset();
        }
        (self.flow, self.delay, self.only) = (Flow::Open, Duration::ZERO, None);
    }
}

/// See the module. Dropping it resets its connections.
pub struct Relay {
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
    pub async fn plain(port: u16, seed: u64) -> Self {
        Self::start(port, seed, Speech::Plain, false).await
    }

    /// The same, and it sees which child of this process a connection comes from.
    pub async fn discerning(port: u16, seed: u64) -> Self {
        Self::start(port, seed, Speech::Plain, true).await
    }

    /// With TLS towards clients.
    pub async fn tls(port: u16, seed: u64, config: ServerConfig, plain_too: bool) -> Self {
        let speech = Speech::Tls { acceptor: TlsAcceptor::from(Arc::new(config)), plain_too };
        Self::start(port, seed, speech, false).await
    }

    async fn start(port: u16, seed: u64, speech: Speech, discerns: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a port").to_string();
        let own = listener.local_addr().expect("a port").port();
        let fair = Weather {
            flow: Flow::Open,
            delay: Duration::ZERO,
            only: None,
            resets: 0,
            resets_of: Arc::default(),
        };
        let (weather, seen) = (watch::Sender::new(fair), Arc::new(Seen::default()));
        let (sender, counts) = (weather.clone(), seen.clone());
        let chance = Arc::new(Mutex::new(SmallRng::seed_from_u64(seed)));
        let accepts = tokio::spawn(async move {
            while let Ok((client, peer)) = listener.accept().await {
                let from = discerns.then(|| child_with_socket(peer.port(), own)).flatten();
                let line = Line { port, from, weather: sender.subscribe(), chance: chance.clone() };
                tokio::spawn(line.carry(client, speech.clone(), counts.clone()));
            }
        });
        Self { address, weather, accepts, seen }
    }

    /// `host:port`, for clients and to be advertised.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// All is well again. Connections on which something was lost are reset: what is left of them makes no sense.
    pub fn heal(&self) {
        self.weather.send_modify(Weather::end);
    }

    pub fn set(&self, flow: Flow) {
        self.set_for(None, flow);
    }

    /// For this process alone, where one is named. There is one weather at a time: who had another has it fair again.
    pub fn set_for(&self, only: Option<u32>, flow: Flow) {
        self.weather.send_modify(|weather| {
            weather.begin(only);
            weather.flow = flow;
        });
    }

    /// Each piece is late by up to so much.
    pub fn delay(&self, at_most: Duration) {
        self.delay_for(None, at_most);
    }

    /// See [`Relay::set_for`].
    pub fn delay_for(&self, only: Option<u32>, at_most: Duration) {
        self.weather.send_modify(|weather| {
            weather.begin(only);
            weather.delay = at_most;
        });
    }

    /// Resets what is connected now.
    pub fn reset(&self) {
        self.weather.send_modify(|weather| weather.resets += 1);
    }

    /// Connections so far that were made with TLS, and without.
    pub fn seen(&self) -> (usize, usize) {
        (self.seen.encrypted.load(Ordering::Relaxed), self.seen.plain.load(Ordering::Relaxed))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepts.abort();
        self.weather.send_modify(|weather| (weather.flow, weather.only) = (Flow::Cut, None));
    }
}

/// The child of this process that holds the socket from this local port to that one. `None`: somebody else, or it is
/// gone already.
fn child_with_socket(local: u16, remote: u16) -> Option<u32> {
    let sockets = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = sockets.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let port = |field: &str| u16::from_str_radix(field.split_once(':')?.1, 16).ok();
        let (from, to) = (port(fields.nth(1)?)?, port(fields.next()?)?);
        (from == local && to == remote).then(|| fields.nth(6).map(str::to_owned)).flatten()
    })?;
    let wanted = format!("socket:[{inode}]");
    let own = std::process::id();
    let pids =
        std::fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent(*pid) == Some(own)).find(|pid| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .any(|link| link.to_str() == Some(&wanted))
    })
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// What is dropped is reset, not closed: nobody may take it for an orderly end.
fn resets(socket: &TcpStream) {
    let _gone = socket.set_zero_linger();
}

/// One connection.
#[derive(Clone)]
struct Line {
    port: u16,
    from: Option<u32>,
    weather: watch::Receiver<Weather>,
    chance: Arc<Mutex<SmallRng>>,
}

impl Line {
    async fn carry(mut self, client: TcpStream, speech: Speech, seen: Arc<Seen>) {
        let _nodelay = client.set_nodelay(true);
        let born = self.met();
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

    fn met(&mut self) -> Met {
        self.weather.borrow_and_update().of(self.from)
    }

    async fn until_other_than(&mut self, flow: Flow) {
        let from = self.from;
        let _gone = self.weather.wait_for(|weather| weather.of(from).flow != flow).await;
    }

    async fn join<C: AsyncRead + AsyncWrite>(self, client: C, server: TcpStream, born: u32) {
        let (client_reads, client_writes) = tokio::io::split(client);
        let (server_reads, server_writes) = tokio::io::split(server);
        let mut weather = self.weather.clone();
        let from = self.from;
        let broken = weather.wait_for(|weather| {
            let met = weather.of(from);
            met.flow == Flow::Cut || met.resets != born
        });
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
            let now = self.met();
            if !now.delay.is_zero() {
                let late = self.chance.lock().random_range(Duration::ZERO..=now.delay);
                sleep(late).await;
            }
            self.until_other_than(Flow::Silent).await;
            if back && self.met().flow == Flow::Mute {
                continue;
            }
            if to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
    }
}
