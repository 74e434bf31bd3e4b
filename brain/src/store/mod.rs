//! [`Store`]: one group's keys, with their history since the last compaction.
//!
//! * A write is answered when it is durable and visible, never before. An unknown outcome is answered as a timeout.
//! * Revisions grow by one with each write, from 1, as in etcd; [`Store::advance`] lifts the counter where another
//!   group's answers have shown a higher one.
//! * Reads of "now" see every write answered before they began, by whichever process: see `fence`.

mod alarms;
mod ask;
mod figures;
mod fresh;
mod leasing;
mod open;
mod placing;
mod ranges;
mod repairing;
mod taking;
#[cfg(test)]
mod tests;
mod whole;
mod write;

use std::sync::Arc;

use bytes::Bytes;
use kubebrain_net::budget::{self, Budget};
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use self::repairing::{Done, Found, Looked, Stray};
pub use crate::copy::export::{Export, ExportPart};
pub use crate::copy::kept::ContentAt;
pub use crate::copy::restore;
pub use crate::decide::held::{Adopted, Held, Unserved};
pub use crate::follow::slave::Slave;
use crate::lead::command::Command;
pub use crate::lead::command::{Adoption, Decision, Granted, PlaceStep, Placed, Renewed, WriteError};
pub use crate::load::error::OpenError;
use crate::request::{Limits, Range, ReadAt};
pub use crate::state::alarm::{Alarm, AlarmKind};
pub use crate::state::claim::Claim;
pub use crate::state::ended::Ended;
pub use crate::state::group::GroupState;
pub use crate::state::lease::Leases;
pub use crate::state::upstream::{Fenced, Following, Upstream, UpstreamError};
pub use ranges::{Ranged, Terms};

/// The ids in every answer's header, and where a store keeps the one of its cluster.
pub mod cluster {
    pub use crate::decide::identity::{drawn, member, of_token, unnamed};
    pub use crate::load::cluster::learn;
}

/// Reads of the whole store at once: each holds a page of the engine in memory.
pub(crate) const SCANS_MAX: usize = 4;

/// An encoded answer and the revision in its header.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The message.
    pub message: Bytes,
    /// The header's revision.
    pub revision: Revision,
    /// What it takes of the budget of answers, unless it is small.
    pub share: Option<Arc<budget::Share>>,
}

/// One group's keys, with their history since the last compaction. Clones share one store.
#[derive(Clone)]
pub struct Store {
    state: Arc<GroupState>,
    commands: mpsc::Sender<Command>,
    swept: watch::Receiver<u64>,
    limits: Limits,
    sweeper: Arc<Mutex<Option<Stopper>>>,
    /// Reads of everything, which are long.
    scans: Arc<Semaphore>,
    answers: Arc<Budget>,
    requests: Arc<Budget>,
}

impl Store {
    /// How far the sweep is.
    pub(crate) fn swept(&self) -> &watch::Receiver<u64> {
        &self.swept
    }

    /// Tells those who follow that this master is about to hand the group over.
    pub fn leave(&self) {
        self.state.leave();
    }

    /// What large requests are counted by.
    pub fn requests(&self) -> &Arc<Budget> {
        &self.requests
    }

    /// What everybody reads.
    pub fn state(&self) -> &Arc<GroupState> {
        &self.state
    }

    /// Bounds on requests.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns when the store has ended by itself; the process should end too.
    pub async fn ended(&self) -> Ended {
        self.state.ended().await
    }

    /// Finishes what was taken on and ends the writer. Later writes are refused as stopped.
    pub async fn close(&self) {
        let sweeper = self.sweeper.lock().take();
        if let Some(sweeper) = sweeper {
            sweeper.stop().await;
        }
        if self.state.is_slave() {
            return; // nothing was taken on
        }
        let (reply, closed) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            let _ended = closed.await;
        }
    }
}

/// The widest read there is, for tests and tools.
pub fn read_all(at: ReadAt) -> Range {
    Range {
        keys: KeyRange::ALL,
        at,
        limit: None,
        sort: None,
        keys_only: false,
        count_only: false,
        filter: crate::request::Filter::default(),
        serializable: false,
    }
}
