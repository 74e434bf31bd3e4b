//! [`Slave`]: the owner of a store that follows.

use std::sync::Arc;

use kubebrain_shared::placement::Placement;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::follower::Follower;
use super::promote;
use crate::config::Config;
use crate::lead::command::Command;
use crate::lead::writer::task::Writer;
use crate::load::error::OpenError;
use crate::state::group::GroupState;
use crate::state::tasks::keep;
use crate::state::upstream::{Following, Upstream};
#[cfg(doc)]
use crate::store::Store;

/// The one owner of a [`Store`] that follows: attaches it to masters, and promotes it. Dropped without that, the store
/// stays what it is, without a master.
pub struct Slave {
    state: Arc<GroupState>,
    config: Arc<Config>,
    /// By which it goes where its group goes by no document.
    table: Arc<Placement>,
    follower: Option<JoinHandle<()>>,
    /// What a writer reads; it is none's until it is promoted.
    inbox: Option<mpsc::Receiver<Command>>,
    /// Counts the takeover, and shows the group as a master's.
    promoted: Box<dyn Fn() + Send + Sync>,
}

impl Slave {
    pub(crate) fn new(
        state: Arc<GroupState>,
        config: Config,
        table: Arc<Placement>,
        inbox: mpsc::Receiver<Command>,
        promoted: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        let (config, inbox) = (Arc::new(config), Some(inbox));
        Self { state, config, table, follower: None, inbox, promoted }
    }

    /// Follows this master from now on, instead of any other.
    pub fn attach(&mut self, upstream: Arc<dyn Upstream>) {
        if !self.state.is_slave() {
            return;
        }
        self.state.follow.attach(upstream);
        if self.follower.as_ref().is_none_or(JoinHandle::is_finished) {
            let follower = Follower::new(self.state.clone(), self.config.clone(), self.table.clone());
            self.follower = Some(keep(&self.state, "the task that follows the master", follower.run()));
        }
    }

    /// Follows nobody from now on; `why` is for people.
    pub fn detach(&self, why: &str) {
        self.state.follow.detach(why);
    }

    /// How it does. Not every change of [`Following::level_at`] is told.
    pub fn state(&self) -> watch::Receiver<Following> {
        self.state.follow.state()
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
        if !self.state.is_slave() {
            return Ok(());
        }
        self.detach("it takes the group over");
        if let Some(follower) = self.follower.take() {
            follower.abort();
            let _aborted = follower.await;
        }
        let start = promote::take_over(&self.state, &self.config, &self.table).await?;
        let Some(inbox) = self.inbox.take() else { return Ok(()) };
        self.state.follow.promoted();
        self.state.hub.stir(); // whoever waited for more to be applied waits for nothing now
        let writer = Writer::new(self.state.clone(), inbox, start).run();
        drop(keep(&self.state, "the task that orders writes", writer));
        (self.promoted)();
        Ok(())
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.take() {
            follower.abort();
        }
        if self.state.is_slave() {
            self.detach("nobody follows a master here any more");
        }
    }
}

impl std::fmt::Debug for Slave {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slave").field("state", &*self.state.follow.state().borrow()).finish_non_exhaustive()
    }
}
