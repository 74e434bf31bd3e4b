//! [`Attempt`]: a request at the node that was picked for it.

use http::{Request, Response};
use tokio::time::Instant;
use tonic::body::Body;

use super::miss::{Miss, judge, note};
use super::node::Node;
use super::policy::RoutingPolicy;
use super::roster::Roster;
use super::standing::{Health, Place};

/// One request with an end, at the node that was picked for it.
pub(crate) struct Attempt<'a> {
    roster: &'a Roster,
    node: &'a Node,
    policy: RoutingPolicy,
    place: Place,
    began: Instant,
    /// How many changes there were before its node was picked.
    seen: u64,
    answered: bool,
}

/// How an [`Attempt`] begins.
pub(super) struct Beginning<'a> {
    pub(super) roster: &'a Roster,
    pub(super) node: &'a Node,
    pub(super) policy: RoutingPolicy,
    /// How many changes there were before the node was picked.
    pub(super) seen: u64,
    pub(super) began: Instant,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(beginning: Beginning<'a>) -> Self {
        let Beginning { roster, node, policy, seen, began } = beginning;
        node.load.enter();
        Self { roster, node, policy, place: node.place(), began, seen, answered: false }
    }

    /// What the node is good for, as far as was known when it began.
    pub(crate) const fn place(&self) -> Place {
        self.place
    }

    /// Where that is.
    pub(crate) fn address(&self) -> &str {
        &self.node.address
    }

    /// Sends, and opens the answer. Given up where the node becomes suspect: at once what has no effects, and all else
    /// when nothing was heard for a while.
    ///
    /// # Errors
    /// [`Miss`].
    ///
    /// # Cancel safety
    /// A dropped call resets the request; a write may have been carried out.
    pub(crate) async fn send<T, F>(
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
        if self.place.is_suspect() && self.policy.is_harmless() {
            return self.roster.changes.after(self.seen).await;
        }
        let gives_up = |health: &Health| match self.policy.is_harmless() {
            true => health.is_suspect(),
            false => *health == Health::Silent,
        };
        let mut health = self.node.health.subscribe();
        let _suspect = health.wait_for(gives_up).await;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.node.load.leave();
        // What a write takes says nothing of reads, and where there is no choice nobody asks.
        if self.policy != RoutingPolicy::Read || self.roster.is_single() {
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
