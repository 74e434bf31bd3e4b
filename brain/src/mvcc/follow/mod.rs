//! [`Slave`]: a store that follows its group's master, answers reads and watches by itself, and can take over warm.
//!
//! ```text
//!            attach                 all keys loaded            stream closed what was loaded
//!  detached ───────▶ subscribed ───────────────▶ catching up ───────────────────────────▶ level ──promote──▶ master
//!      ▲                 ▲                            │  ▲                                 │
//!      │   detach        └──── history compacted ─────┤  └── stream lost: again, from the ─┘
//!      └──────────────────────────────────────────────┘      revision after the last one applied
//! ```
//!
//! **Bootstrap.** First it subscribes: the master's stream begins after its committed revision `C0`. Then it reads all
//! rows of the engine, from snapshots that are all taken after that, so each row of `C0` or before is in them or
//! superfluous, and everything later comes on the stream; what is in both is told by its revision. Rows may be newer than
//! what the stream has closed, and compacted further: so nothing is shown before the stream has closed every revision
//! that was read, and has told of the compacted revision that is stored after the last row was read.
//!
//! **What it applies** is what the master made visible, in the same order: index, values, committed revision, watchers,
//! compacted revision. So a watcher hears the same of either. Versions leave its index when the master has taken their
//! rows out of the engine, not before: whoever is promoted knows all rows that are left to be swept.
//!
//! **Fresh answers.** Before it answers anything as fresh it asks its master how far it must be, after the request arrived,
//! looks into the log whether that is the master, and waits until it has applied that: see `mvcc::fence`. An answer is
//! then never older than a moment between request and answer, however long this process sleeps anywhere in between: no
//! clock decides.
//!
//! **What it does not know**: leases, alarms and owners. They are read from the engine when it is promoted.
//!
//! **Values.** The master's sweep does not know what is read here. A version that was compacted may be gone from the
//! engine before this slave hears of it: then a read of "now" fences once more and begins anew at a newer revision.
//!
//! **A placement** holds here once this process has it and the stream says that it is the master's.

mod apply;
mod course;
mod follower;
mod load;
mod promote;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use kubebrain_proto::peer::FollowResponse;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) use course::{Course, Need};
use follower::Follower;

use super::Config;
#[cfg(doc)]
use super::Store;
use super::claim::Claim;
use super::open::OpenError;
use super::shared::{Shared, keep};
use super::writer::{Command, Writer};

/// A slave's way to its master.
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Everything that changes from revision `from` on, as in [`Store::feed`]; 0: after the first response's `closed`.
    ///
    /// # Errors
    /// [`UpstreamError`], at once or as the end of the stream.
    ///
    /// # Cancel safety
    /// Safe.
    async fn follow(
        &self,
        from: u64,
    ) -> Result<BoxStream<'static, Result<FollowResponse, UpstreamError>>, UpstreamError>;

    /// How far a slave must be, by [`Store::claim`]: a committed revision of the master's that is at least `floor`, and at
    /// least every write answered before the call, if the claim holds.
    ///
    /// # Errors
    /// [`UpstreamError::Lost`] where it is not the master, or does not answer.
    ///
    /// # Cancel safety
    /// Safe.
    async fn ask(&self, floor: Revision) -> Result<Fenced, UpstreamError>;
}

/// Why a master is not followed any further.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UpstreamError {
    /// What is wanted is compacted: the slave begins anew.
    #[error("what is to be followed next is compacted")]
    Compacted,
    /// It does not answer, or is no master; the sentence says why.
    #[error("{0}")]
    Lost(String),
}

/// A master's answer to [`Upstream::ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// Every write that was answered before the question is at or below it, if the claim holds.
    pub revision: Revision,
    /// Its compacted revision; -1 where nothing was compacted.
    pub compacted: i64,
    /// The version of its placement; 0 where it does not tell.
    pub placement: u64,
    /// What is left to be proven; `None` where the master is sure.
    pub claim: Option<Claim>,
}

/// How a slave does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Following {
    /// It has all keys, as of some moment: serializable reads are answered.
    pub loaded: bool,
    /// It is as far as its master was a moment ago: reads and watches are served.
    pub level: bool,
    /// The term of the master that it follows, or followed last; 0 where it has heard of none.
    pub epoch: u64,
    /// Why it is not level, for people; empty where it is.
    pub trouble: String,
    /// When it last heard of its master while it was level; `None` if it never was.
    pub level_at: Option<Instant>,
    /// The master is about to hand the group over.
    pub leaving: bool,
}

impl Default for Following {
    fn default() -> Self {
        Self {
            loaded: false,
            level: false,
            epoch: 0,
            trouble: "no master is known".to_owned(),
            level_at: None,
            leaving: false,
        }
    }
}

/// The one owner of a [`Store`] that follows: attaches it to masters, and promotes it. Dropped without that, the store
/// stays what it is, without a master.
pub struct Slave {
    shared: Arc<Shared>,
    config: Arc<Config>,
    /// The newest table of this process.
    offered: watch::Sender<Arc<Placement>>,
    follower: Option<JoinHandle<()>>,
    /// What a writer reads; it is none's until it is promoted.
    inbox: Option<mpsc::Receiver<Command>>,
    commands: mpsc::WeakSender<Command>,
    swept: watch::Receiver<u64>,
}

impl Slave {
    pub(super) fn new(
        shared: Arc<Shared>,
        config: Config,
        inbox: mpsc::Receiver<Command>,
        commands: mpsc::WeakSender<Command>,
        swept: watch::Receiver<u64>,
    ) -> Self {
        let offered = watch::Sender::new(shared.placement.load_full());
        let (config, inbox) = (Arc::new(config), Some(inbox));
        Self { shared, config, offered, follower: None, inbox, commands, swept }
    }

    /// Follows this master from now on, instead of any other.
    pub fn attach(&mut self, upstream: Arc<dyn Upstream>) {
        if !self.shared.is_slave() {
            return;
        }
        self.shared.course.attach(upstream);
        if self.follower.as_ref().is_none_or(JoinHandle::is_finished) {
            let follower = Follower::new(self.shared.clone(), self.config.clone(), self.offered.subscribe());
            self.follower = Some(keep(&self.shared, "the task that follows the master", follower.run()));
        }
    }

    /// Follows nobody from now on; `why` is for people.
    pub fn detach(&self, why: &str) {
        self.shared.course.detach(why);
    }

    /// The newest table of this process. It holds once the master says that it is its own.
    pub fn offer(&self, placement: Arc<Placement>) {
        self.offered.send_replace(placement);
    }

    /// How it does. Not every change of [`Following::level_at`] is told.
    pub fn state(&self) -> watch::Receiver<Following> {
        self.shared.course.state()
    }

    /// Takes the group over: the same store, its handles and its watchers go on as a master's. Where all is loaded and
    /// the log still tells what is missing, that is read alone; else everything is loaded anew, and watch streams end.
    ///
    /// # Errors
    /// See [`OpenError`]: afterwards an older master may be refused. Unless it was [`OpenError::Deposed`], this may be
    /// called again; or another master attached.
    ///
    /// # Cancel safety
    /// Safe: the store is a slave still, without a master.
    pub async fn promote(&mut self) -> Result<(), OpenError> {
        if !self.shared.is_slave() {
            return Ok(());
        }
        self.detach("it takes the group over");
        if let Some(follower) = self.follower.take() {
            follower.abort();
            let _aborted = follower.await;
        }
        let start = promote::take_over(&self.shared, &self.config, &self.offered).await?;
        let Some(inbox) = self.inbox.take() else { return Ok(()) };
        self.shared.course.promoted();
        self.shared.hub.stir(); // whoever waited for more to be applied waits for nothing now
        let writer = Writer::new(self.shared.clone(), inbox, start).run();
        drop(keep(&self.shared, "the task that orders writes", writer));
        if let Some(commands) = self.commands.upgrade() {
            self.config.metrics.opened(&self.shared, &commands, &self.swept);
        }
        Ok(())
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.take() {
            follower.abort();
        }
        if self.shared.is_slave() {
            self.detach("nobody follows a master here any more");
        }
    }
}

impl std::fmt::Debug for Slave {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slave").field("state", &*self.shared.course.state().borrow()).finish_non_exhaustive()
    }
}
