//! Listening where URLs say: `http`, `https`, `unix` and `unixs`.

mod advertised;
mod peers;
mod serving;
mod socket;

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, bail};
use kubebrain_net::connections::Party;
use kubebrain_net::cors::Cors;
use kubebrain_net::gateway::HttpOnly;
use kubebrain_net::held::Held;
use kubebrain_net::probe::ProbesOnly;
use kubebrain_net::restricted::{Restricted, Restriction};
use kubebrain_net::serve::{Listener, Serve, ServeConfig, serve_listener};
use kubebrain_net::tls::TlsServer;
use kubebrain_shared::stop::Stopper;
use tokio::net::{TcpListener, TcpSocket, UnixListener, lookup_host};

use crate::flags::Clients;
use crate::process::Process;
use crate::process::umask;
pub(crate) use advertised::{advertised, advertised_to_clients};
pub(crate) use peers::{Brains, Peers};
use socket::SocketFile;

/// Connections that wait to be accepted; Go's listeners take what the kernel allows, which is this.
const BACKLOG: u32 = 4096;

/// Sockets that are bound, and where.
pub(crate) struct Listeners {
    sockets: Vec<Bound>,
    /// Their URLs, with the port that was given where 0 was asked for.
    pub urls: Vec<String>,
}

struct Bound {
    listener: Listener,
    tls: Option<TlsServer>,
    file: Option<SocketFile>,
}

/// How sockets are made.
#[derive(Clone, Copy, Default)]
struct Options<'a> {
    tls: Option<&'a TlsServer>,
    reuse_port: bool,
}

impl Listeners {
    async fn bind_with(flag: &str, urls: &[String], options: Options<'_>) -> Result<Self> {
        let mut listeners = Self { sockets: Vec::new(), urls: Vec::new() };
        for (place, url) in urls.iter().map(|url| url.trim()).enumerate() {
            let again = urls.iter().take(place).any(|before| before.trim() == url);
            if url.is_empty() || again {
                continue;
            }
            let (bound, url) = bind(url, options).await.with_context(|| format!("--{flag} {url}"))?;
            listeners.urls.push(url);
            listeners.sockets.push(bound);
        }
        Ok(listeners)
    }

    /// The URLs that other machines can reach, without those that `is_guarded`, given whether they have TLS.
    fn open_to_others(&self, is_guarded: impl Fn(bool) -> bool) -> impl Iterator<Item = &String> {
        let open = self.urls.iter().zip(&self.sockets).filter(move |(_, bound)| match &bound.listener {
            Listener::Tcp(socket) => {
                let is_loopback = socket.local_addr().is_ok_and(|address| address.ip().is_loopback());
                !is_loopback && !is_guarded(bound.tls.is_some())
            }
            Listener::Unix(_) => false,
        });
        open.map(|(url, _)| url)
    }

    /// Serves on all of them.
    pub(crate) fn serve<S: Serve>(self, service: &S, config: &ServeConfig, stopper: &Stopper) {
        for Bound { listener, tls, file } in self.sockets {
            let (service, config) = (service.clone(), config.clone());
            stopper.keep("the task that accepts connections", |stop| async move {
                serve_listener(listener, tls, service, config, stop).await;
                drop(file); // after the listener: nobody finds a socket that does not answer
            });
        }
    }
}

/// What clients and probes reach: every listener of a program but the peers'.
pub(crate) struct Front {
    clients: Listeners,
    probes: Listeners,
    /// Everything that is not gRPC.
    http: Listeners,
    tls: Option<TlsServer>,
    serve: ServeConfig,
    /// Who may change the placement.
    changes: Restriction,
    /// The clients' URLs, with the ports that were given.
    pub urls: Vec<String>,
    /// Those of probes alone.
    pub probe_urls: Vec<String>,
}

impl Front {
    /// Reads the certificates and binds every URL.
    pub(crate) async fn bind(flags: &Clients, process: &Process) -> Result<Self> {
        let serving = &flags.serving;
        let (tls, changes) = (serving.tls()?, serving.changes()?);
        let options = Options { tls: tls.as_ref(), reuse_port: serving.socket_reuse_port };
        let clients = Listeners::bind_with("listen-client-urls", &flags.listen_client_urls, options).await?;
        if clients.urls.is_empty() {
            bail!("--listen-client-urls: at least one URL is wanted");
        }
        let probes =
            Listeners::bind_with("listen-metrics-urls", &serving.listen_metrics_urls, options).await?;
        let http = Listeners::bind_with("listen-client-http-urls", &serving.listen_client_http_urls, options);
        let http = http.await?;
        let (urls, probe_urls) = (clients.urls.clone(), [&probes.urls[..], &http.urls].concat());
        serving.warn_of_unused_tls(urls.iter().chain(&probe_urls));
        Ok(Self {
            serve: ServeConfig {
                connections: process.connections.clone(),
                party: Party::Clients,
                tells_names: !changes.names.is_empty(),
                ..serving.config(flags.max_concurrent_streams)
            },
            clients,
            probes,
            http,
            tls,
            changes,
            urls,
            probe_urls,
        })
    }

    /// Serves clients, and probes where they have URLs of their own.
    pub(crate) fn serve<S: Serve>(self, service: &S, held: &Held, stopper: &Stopper) {
        let config = ServeConfig { held: held.clone(), ..self.serve };
        let service = Restricted::new(service.clone(), self.changes);
        self.clients.serve(&Cors::new(service.clone()), &config, stopper);
        self.http.serve(&Cors::new(HttpOnly::new(service.clone())), &config, stopper);
        let for_probes = ServeConfig { party: Party::Others, ..config };
        self.probes.serve(&ProbesOnly::new(service.clone()), &for_probes, stopper);
        if let Some(tls) = self.tls {
            stopper.keep("the task that reads certificates again", |stop| tls.follow(stop));
        }
    }
}

async fn bind(url: &str, options: Options<'_>) -> Result<(Bound, String)> {
    let Some((scheme, place)) = url.split_once("://") else {
        bail!("a URL such as http://127.0.0.1:2379 is wanted");
    };
    let secure = matches!(scheme, "https" | "unixs");
    let tls = options.tls.filter(|_| secure).cloned();
    if secure && tls.is_none() {
        bail!("TLS needs a certificate: give --cert-file and --key-file");
    }
    match scheme {
        "http" | "https" => {
            let address = resolve(place).await?;
            let socket = listen(address, options).with_context(|| format!("cannot listen on {address}"))?;
            // As it was given: a socket for both families says [::].
            let url = format!("{scheme}://{}", SocketAddr::new(address.ip(), socket.local_addr()?.port()));
            Ok((Bound { listener: Listener::Tcp(socket), tls, file: None }, url))
        }
        "unix" | "unixs" => {
            let path = Path::new(place);
            socket::clear(path)?;
            let socket = UnixListener::bind(path).with_context(|| format!("cannot listen on {place}"))?;
            let file = Some(SocketFile::new(path));
            umask::open_socket(path).with_context(|| format!("cannot listen on {place}"))?;
            Ok((Bound { listener: Listener::Unix(socket), tls, file }, format!("{scheme}://{place}")))
        }
        _ => bail!("a URL begins with http://, https://, unix:// or unixs://"),
    }
}

/// `0.0.0.0` and `[::]` stand for every address of both families, as in Go and so in etcd, where this machine has both.
fn listen(address: SocketAddr, options: Options<'_>) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return listen_at(address, options);
    }
    let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
    match listen_at(all, options) {
        Err(error) if address.is_ipv4() && is_without_ipv6(&error) => listen_at(address, options),
        bound => bound,
    }
}

/// True of a kernel without IPv6, or where it is switched off.
fn is_without_ipv6(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

fn listen_at(address: SocketAddr, options: Options<'_>) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if address.ip().is_unspecified() && address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says.
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.set_reuseaddr(true)?; // a restart does not wait for the connections of the one before
    socket.set_reuseport(options.reuse_port)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn resolve(authority: &str) -> Result<SocketAddr> {
    let authority = authority.trim_end_matches('/');
    let addresses: Vec<_> = lookup_host(authority).await.context("HOST:PORT is wanted")?.collect();
    let ipv4 = addresses.iter().find(|address| address.is_ipv4());
    ipv4.or(addresses.first()).copied().context("the name has no address")
}
