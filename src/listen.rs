//! Listening where URLs say.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use kubebrain_shared::serve::{Serve, ServeConfig, serve_tcp};
use kubebrain_shared::stop::Stopper;
use tokio::net::{TcpListener, lookup_host};

/// Sockets that are bound, and where.
pub(crate) struct Listeners {
    sockets: Vec<TcpListener>,
    /// Their URLs, with the port that was given where 0 was asked for.
    pub urls: Vec<String>,
}

impl Listeners {
    /// Binds every URL.
    pub(crate) async fn bind(flag: &str, urls: &[String]) -> Result<Self> {
        let mut listeners = Self { sockets: Vec::new(), urls: Vec::new() };
        for url in urls {
            let address = resolve(url).await.with_context(|| format!("--{flag} {url}"))?;
            let socket = TcpListener::bind(address).await;
            let socket = socket.with_context(|| format!("--{flag} {url}: cannot listen on {address}"))?;
            listeners.urls.push(format!("http://{}", socket.local_addr()?));
            listeners.sockets.push(socket);
        }
        Ok(listeners)
    }

    /// True if no other machine can reach them.
    pub(crate) fn are_loopback(&self) -> bool {
        let local =
            |socket: &TcpListener| socket.local_addr().is_ok_and(|address| address.ip().is_loopback());
        self.sockets.iter().all(local)
    }

    /// Serves on all of them.
    pub(crate) fn serve<S: Serve>(self, service: &S, config: &ServeConfig, stopper: &Stopper) {
        for socket in self.sockets {
            tokio::spawn(serve_tcp(socket, service.clone(), config.clone(), stopper.handle()));
        }
    }
}

async fn resolve(url: &str) -> Result<SocketAddr> {
    let Some(authority) = url.strip_prefix("http://") else {
        bail!("only http://HOST:PORT is served yet");
    };
    let authority = authority.trim_end_matches('/');
    let addresses: Vec<_> = lookup_host(authority).await.context("HOST:PORT is wanted")?.collect();
    let ipv4 = addresses.iter().find(|address| address.is_ipv4());
    ipv4.or(addresses.first()).copied().context("the name has no address")
}

/// `HOST:PORT` of a brain's URL.
pub(crate) fn authority(url: &str) -> Result<String> {
    match url.strip_prefix("http://") {
        Some(authority) => Ok(authority.trim_end_matches('/').to_owned()),
        None => bail!("{url}: only http:// is dialled yet"),
    }
}
