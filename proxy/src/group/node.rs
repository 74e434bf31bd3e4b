//! [`Node`]: one brain of a group, and how requests get to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use http::{Request, Response};
use kubebrain_net::dial::{Channel, Connector, DialError, State};
use kubebrain_net::direct::Direct;
use kubebrain_proto::peer::StandingResponse;
use kubebrain_shared::group::GroupName;
use prometheus::IntCounter;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::body::Body;
use tower::Service as _;

use super::breaker::Breaker;
use super::load::Load;
use super::standing::{Health, Place};
use crate::config::Config;

pub(crate) struct Node {
    pub(crate) index: usize,
    /// What stands behind the scheme in its peer URL; inside the process `#` and its number.
    pub(crate) address: String,
    bulk: Way,
    watch: Channel,
    place: AtomicU8,
    /// How it is; requests in flight hear of a change.
    pub(crate) health: watch::Sender<Health>,
    /// What it has said of itself last.
    pub(crate) standing: ArcSwapOption<StandingResponse>,
    pub(crate) load: Load,
    pub(crate) breaker: Breaker,
    pub(crate) breaker_opens: IntCounter,
    /// Watch streams there, open or being opened.
    pub(crate) streams: AtomicUsize,
}

/// How requests get to a node.
enum Way {
    /// Over a connection.
    Channel(Channel),
    /// It is in this process.
    Direct(Direct),
}

impl Node {
    pub(crate) fn new(group: &GroupName, index: usize, connector: Connector, config: &Config) -> Self {
        let now = Instant::now();
        let address = match &connector {
            Connector::Tcp(address) | Connector::Tls(address, _) => address.clone(),
            Connector::Unix(path) => path.display().to_string(),
            Connector::Memory(_) | Connector::Inside(..) => format!("#{index}"),
        };
        Self {
            index,
            bulk: Way::new(connector.clone(), config),
            watch: Channel::new(connector, config.watch_dial()),
            place: AtomicU8::new(Place::Untold as u8),
            health: watch::Sender::new(Health::Unheard),
            standing: ArcSwapOption::empty(),
            load: Load::new(now),
            breaker: Breaker::new(now),
            breaker_opens: config.metrics.breaker_opens(group, &address),
            streams: AtomicUsize::new(0),
            address,
        }
    }

    pub(crate) fn place(&self) -> Place {
        Place::from_u8(self.place.load(Ordering::Acquire))
    }

    /// True if it was another.
    pub(super) fn put(&self, place: Place) -> bool {
        self.place.swap(place as u8, Ordering::AcqRel) != place as u8
    }

    /// True if one of `urls` leads here.
    pub(crate) fn is_at<'a>(&self, urls: impl IntoIterator<Item = &'a str>) -> bool {
        let address = |url: &'a str| url.split_once("://").map(|(_, rest)| rest.trim_end_matches('/'));
        urls.into_iter().any(|url| address(url) == Some(&self.address))
    }

    pub(crate) fn bulk_state(&self) -> State {
        match &self.bulk {
            Way::Channel(channel) => channel.state(),
            Way::Direct(_) => State::Open,
        }
    }

    pub(crate) fn watch_state(&self) -> State {
        self.watch.state()
    }

    /// Why it cannot be reached, as far as that was tried.
    pub(crate) fn trouble(&self) -> Option<Arc<str>> {
        match &self.bulk {
            Way::Channel(channel) => channel.trouble(),
            Way::Direct(_) => None,
        }
    }

    /// Why a brain of another group is asked nothing.
    pub(crate) fn foreign(&self) -> String {
        let standing = self.standing.load();
        let (name, group) = standing.as_deref().map_or(("", ""), |said| (&said.name, &said.group));
        format!(
            "the brain at {} says that it is {name} of group {group}: the placement names it for a group that is not its own",
            self.address
        )
    }

    /// One request that has an end.
    ///
    /// # Errors
    /// [`DialError`].
    ///
    /// # Cancel safety
    /// A dropped call resets the request; a write may have been carried out.
    pub(crate) async fn call(&self, request: Request<Body>) -> Result<Response<Body>, DialError> {
        match &self.bulk {
            Way::Channel(channel) => through(channel, request).await,
            Way::Direct(service) => Ok(service.call(request).await?),
        }
    }

    /// A watch stream, which does not wait behind big answers.
    ///
    /// # Errors
    /// [`DialError`].
    pub(crate) async fn open_watch(&self, request: Request<Body>) -> Result<Response<Body>, DialError> {
        through(&self.watch, request).await
    }

    pub(crate) fn has_failed(&self) {
        if self.breaker.failed(Instant::now()) {
            self.breaker_opens.inc();
            tracing::info!(node = self.address, "a brain rests after failures in a row");
        }
    }
}

impl Way {
    fn new(connector: Connector, config: &Config) -> Self {
        match connector {
            Connector::Inside(service, _) => Self::Direct(service),
            connector => Self::Channel(Channel::new(connector, config.bulk_dial())),
        }
    }
}

async fn through(channel: &Channel, request: Request<Body>) -> Result<Response<Body>, DialError> {
    Ok(channel.clone().call(request).await?.map(Body::new))
}

#[cfg(test)]
mod tests {
    use kubebrain_net::serve::memory;

    use super::*;
    use crate::testing::name;

    #[tokio::test]
    async fn a_node_is_found_by_any_of_a_masters_urls() {
        let config = Config::default();
        let node = |connector| Node::new(&name("pods"), 3, connector, &config);
        let tcp = node(Connector::Tcp("10.0.0.1:2390".into()));
        assert!(tcp.is_at(["unix:///elsewhere", "https://10.0.0.1:2390/"]));
        assert!(!tcp.is_at(["http://10.0.0.1:23900", "10.0.0.1:2390", ""]) && !tcp.is_at([]));
        assert!(node(Connector::Unix("/run/peers.sock".into())).is_at(["unix:///run/peers.sock"]));
        assert_eq!(node(Connector::Memory(memory().0)).address, "#3");
    }
}
