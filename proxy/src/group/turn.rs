//! [`Turn`] and [`Seat`]: a request, or a watch stream, at the node that was picked for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Request, Response};
use kubebrain_net::dial::DialError;
use kubebrain_shared::metadata;
use tokio::time::Instant;
use tonic::body::Body;

use super::errand::Errand;
use super::node::Node;
use super::roster::Roster;
use super::standing::{Health, Place};

/// Why a node has not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Miss {
    /// It handed the request back, and may have named who would take it.
    #[error("this brain is not its group's master")]
    NotMaster { named: Option<usize> },
    /// Surely not applied either.
    #[error("the request was not sent: {0}")]
    Unsent(#[source] DialError),
    /// It may have been carried out.
    #[error("the outcome is not known")]
    Unknown,
}

/// One request with an end.
pub(crate) struct Turn<'a> {
    roster: &'a Roster,
    node: &'a Node,
    errand: Errand,
    place: Place,
    began: Instant,
    /// News when it began.
    seen: u64,
    answered: bool,
}

impl<'a> Turn<'a> {
    pub(super) fn new(roster: &'a Roster, node: &'a Node, errand: Errand, seen: u64, began: Instant) -> Self {
        node.load.enter();
        Self { roster, node, errand, place: node.place(), began, seen, answered: false }
    }

    /// Where it is.
    pub(crate) const fn place(&self) -> Place {
        self.place
    }

    /// Sends, and opens the answer. Given up where the node becomes suspect: at once what has no effects, and all else
    /// when nothing was heard for a while.
    ///
    /// # Errors
    /// [`Miss`].
    ///
    /// # Cancel safety
    /// A dropped call resets the request; a write may have been carried out.
    pub(crate) async fn take<T, F>(
        mut self,
        request: Request<Body>,
        open: impl FnOnce(Response<Body>) -> F,
    ) -> Result<T, Miss>
    where
        F: Future<Output = Result<T, Miss>>,
    {
        let work = async {
            let sent = self.node.call(request).await;
            open(judge(self.roster, self.node, sent)?).await
        };
        let outcome = tokio::select! {
            biased;
            outcome = work => outcome,
            () = self.given_up() => return Err(Miss::Unknown),
        };
        note(self.node, &outcome);
        self.answered = outcome.is_ok();
        outcome
    }

    async fn given_up(&self) {
        if self.roster.is_single() {
            return std::future::pending().await;
        }
        if self.place.is_suspect() && self.errand.is_harmless() {
            return self.roster.news.after(self.seen).await;
        }
        let gives_up = |health: &Health| match self.errand.is_harmless() {
            true => health.is_suspect(),
            false => *health == Health::Silent,
        };
        let mut health = self.node.health.subscribe();
        let _suspect = health.wait_for(gives_up).await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.node.load.leave();
        // What a write takes says nothing of reads, and where there is no choice nobody asks.
        if self.errand != Errand::Read || self.roster.is_single() {
            return;
        }
        let now = Instant::now();
        let took = now - self.began;
        // One that was given up would have taken so long at least.
        if self.answered || self.node.load.latency(now).is_some_and(|latency| latency < took) {
            self.node.load.took(now, took);
        }
    }
}

/// A watch stream's place at a node, until it is dropped.
pub(crate) struct Seat {
    roster: Arc<Roster>,
    index: usize,
}

impl Seat {
    pub(super) fn new(roster: &Arc<Roster>, node: &Node) -> Self {
        node.streams.fetch_add(1, Ordering::Relaxed);
        Self { roster: Arc::clone(roster), index: node.index }
    }

    fn node(&self) -> Option<&Node> {
        self.roster.nodes().get(self.index)
    }

    /// Opens the stream.
    ///
    /// # Errors
    /// [`Miss`].
    pub(crate) async fn open(&self, request: Request<Body>) -> Result<Response<Body>, Miss> {
        let node = self.node().ok_or(Miss::Unknown)?;
        let sent = tokio::select! {
            biased;
            sent = node.open_watch(request) => judge(&self.roster, node, sent),
            () = left(Arc::clone(&self.roster), self.index) => return Err(Miss::Unknown),
        };
        note(node, &sent);
        sent
    }

    /// Returns when the stream should go on elsewhere.
    pub(crate) fn left(&self) -> impl Future<Output = ()> + Send + use<> {
        left(Arc::clone(&self.roster), self.index)
    }
}

async fn left(roster: Arc<Roster>, index: usize) {
    if roster.is_single() {
        return std::future::pending().await;
    }
    loop {
        let seen = roster.news.count();
        if roster.should_leave(index) {
            return;
        }
        roster.news.after(seen).await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(node) = self.node() {
            node.streams.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What a node's answer is worth; one that did not take it makes the next that knows no better go to another.
fn judge(
    roster: &Roster,
    node: &Node,
    sent: Result<Response<Body>, DialError>,
) -> Result<Response<Body>, Miss> {
    match sent {
        Ok(response) => match metadata::refusing_master(response.headers()) {
            None => Ok(response),
            Some(urls) => {
                let named = roster.find(urls).filter(|named| *named != node.index);
                roster.leave(node.index, named);
                Err(Miss::NotMaster { named })
            }
        },
        Err(error) if error.surely_not_sent() => {
            roster.leave(node.index, None);
            Err(Miss::Unsent(error))
        }
        Err(_) => Err(Miss::Unknown),
    }
}

/// For the node's breaker.
fn note<T>(node: &Node, outcome: &Result<T, Miss>) {
    match outcome {
        Ok(_) | Err(Miss::NotMaster { .. }) => node.breaker.answered(),
        Err(Miss::Unsent(_) | Miss::Unknown) => node.has_failed(),
    }
}
