//! [`StreamSlot`]: a watch stream's place at the node that was picked for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Request, Response};
use tonic::body::Body;

use super::miss::{Miss, judge, note};
use super::node::Node;
use super::roster::Roster;

/// A watch stream's place at a node, until it is dropped.
pub(crate) struct StreamSlot {
    roster: Arc<Roster>,
    index: usize,
}

impl StreamSlot {
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
        let seen = roster.changes.count();
        if roster.should_leave(index) {
            return;
        }
        roster.changes.after(seen).await;
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        if let Some(node) = self.node() {
            node.streams.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
