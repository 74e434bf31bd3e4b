//! [`Authority`]: the master of the home group decides what the placement of the cluster is, and changes it in two steps.
//!
//! ```text
//!            apply, seed                       all have adopted
//!  current n ───────────▶ n and n + 1 prepared ────────────────▶ current n + 1
//!      ▲                        │
//!      └────────────────────────┘  refused, aborted, 10 s too late: what n said, as n + 2
//! ```
//!
//! Each arrow is one record in home's log, and nothing follows from it before it is there. So a master that dies leaves
//! nothing half done: the next one reads what is decided and asks all groups again, and a group repeats what it has said.
//! What groups have answered is in memory alone.
//!
//! * A number is given out once. Whoever goes by a lower one takes no older document.
//! * Whoever loses keys is asked last, since it serves them to nobody until the change is over.
//! * The revisions of a document never fall, not by an abort either.

mod apply;
mod change;
mod drive;
mod file;
mod groups;
pub mod here;
mod recover;
mod repair;
mod report;
mod row;
mod seed;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use kubebrain_proto::admin::placement_repair::Action;
use kubebrain_proto::admin::{PlacementCommand, PlacementQuery, PlacementReport, placement_command::Verb};
use kubebrain_proto::peer::{PlaceRequest, PlaceResponse, PlacementResponse, RepairRequest, RepairResponse};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::stop::Stop;
use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, watch};
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64;

pub use self::file::Applied;
use self::groups::Groups;
use self::row::Decided;
pub use self::seed::Seed;
use crate::lead::command::Decision;
use crate::store::Store;

/// The way to the masters of all groups, its own among them.
#[async_trait]
pub trait Reach: Send + Sync + 'static {
    /// One step, at the master of `group`, of which some brains are at these peer URLs; none where groups are in one process.
    ///
    /// # Errors
    /// [`Unreached`]: whether it was carried out is not known. Repeating it is harmless.
    ///
    /// # Cancel safety
    /// A dropped call may have been carried out.
    async fn place(
        &self,
        group: &GroupName,
        brains: &[String],
        request: PlaceRequest,
    ) -> Result<PlaceResponse, Unreached>;

    /// One step of a repair, at the master of `group`.
    ///
    /// # Errors
    /// [`Unreached`]: whether it was carried out is not known. Repeating it is harmless.
    ///
    /// # Cancel safety
    /// A dropped call may have been carried out.
    async fn repair(
        &self,
        group: &GroupName,
        brains: &[String],
        request: RepairRequest,
    ) -> Result<RepairResponse, Unreached>;

    /// What the group goes by, as any of its brains has heard.
    ///
    /// # Errors
    /// [`Unreached`].
    ///
    /// # Cancel safety
    /// Safe: a read.
    async fn held(&self, group: &GroupName, brains: &[String]) -> Result<PlacementResponse, Unreached>;
}

/// Why a group did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// Nobody answers for it; the sentence says who was asked and what came of it.
    #[error("{0}")]
    Gone(String),
    /// A brain that knows no such call: it is of an older version.
    #[error("the brain at {0} is of a version that reads a placement file of its own: upgrade it")]
    Old(String),
}

/// Decides what the placement of the cluster is, for as long as its store is the home group's master. Clones are one.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    store: Store,
    reach: Arc<dyn Reach>,
    seed: watch::Sender<Option<Seed>>,
    /// What groups have answered.
    groups: Groups,
    /// What is decided, as it was read last.
    read: Mutex<Option<Arc<Decided>>>,
    /// One decision at a time; and the numbers of the history, where they are known.
    deciding: Turn<Option<Vec<u64>>>,
}

impl Authority {
    /// At the master of the home group. With a seed the first placement of the cluster is made of it.
    pub fn new(store: Store, reach: Arc<dyn Reach>, seed: Option<Seed>) -> Self {
        Self(Arc::new(Inner {
            store,
            reach,
            seed: watch::Sender::new(seed),
            groups: Groups::default(),
            read: Mutex::default(),
            deciding: Turn::default(),
        }))
    }

    /// Carries changes out, and tells groups what holds, until it is asked to stop or the store is no master any more. To
    /// be begun anew, with a new authority, by whoever is master then.
    pub async fn run(&self, stop: Stop) {
        tokio::select! { biased;
            () = stop.asked() => {}
            _ended = self.0.store.ended() => {}
            () = self.live() => {}
        }
    }

    /// The placement, how a change of it stands, and how groups stand to both.
    ///
    /// # Errors
    /// `NotFound`: a number that is not kept. `Unavailable` while the store cannot be read.
    ///
    /// # Cancel safety
    /// Safe: a read.
    pub async fn report(&self, query: PlacementQuery) -> Result<PlacementReport, Status> {
        match query.repair {
            None => self.report_of(&query).await,
            Some(repair) if repair.action() == Action::List => self.repair(repair).await,
            Some(_) => {
                Err(Status::invalid_argument("kubebrain: a repair that changes something is a command"))
            }
        }
    }

    /// Begins a change, or ends one. The report tells what is decided at once; how it ends is asked for by [`Self::report`].
    ///
    /// # Errors
    /// `InvalidArgument`: what is asked for can never be. `FailedPrecondition`: it cannot be now, nothing has changed.
    /// `Unavailable`: whether it was decided is not known.
    ///
    /// # Cancel safety
    /// A dropped call may have been carried out, and never by half.
    pub async fn change(&self, command: PlacementCommand) -> Result<PlacementReport, Status> {
        match command.verb {
            None => Err(Status::invalid_argument("kubebrain: the command lacks its verb")),
            Some(Verb::Apply(apply)) => self.apply(apply, None).await,
            Some(Verb::Abort(_)) => {
                self.abort_by_command().await?;
                self.report_of(&PlacementQuery::default()).await
            }
            Some(Verb::Recover(recover)) => {
                self.recover(recover).await?;
                self.report_of(&PlacementQuery::default()).await
            }
            Some(Verb::Repair(repair)) => self.repair(repair).await,
        }
    }

    /// What is decided.
    fn decided(&self) -> Result<Arc<Decided>, Status> {
        let row = self.0.store.state().decided();
        let mut read = self.0.read.lock();
        if let Some(decided) = read.as_ref().filter(|decided| Arc::ptr_eq(&decided.row, &row)) {
            return Ok(decided.clone());
        }
        let decided = Decided::read(row).map_err(|error| {
            Status::internal(format!("kubebrain: what the home group has decided cannot be read: {error}"))
        })?;
        Ok(read.insert(Arc::new(decided)).clone())
    }

    /// Returns when something else is decided than this. Cancel safe.
    async fn decided_other_than(&self, known: &Decided) {
        let mut placed = self.0.store.state().placed();
        while Arc::ptr_eq(&self.0.store.state().decided(), &known.row) {
            if placed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Decides by what is decided, one after the other; nothing where `choose` gives nothing. A dropped call goes on.
    async fn decide(
        &self,
        choose: impl FnOnce(&Decided) -> Result<Option<Decision>, Status> + Send + 'static,
    ) -> Result<Arc<Decided>, Status> {
        let authority = self.clone();
        let task = tokio::spawn(async move { authority.decide_now(choose).await });
        task.await.unwrap_or_else(|_| Err(Status::internal("kubebrain: the decision has panicked")))
    }

    async fn decide_now(
        &self,
        choose: impl FnOnce(&Decided) -> Result<Option<Decision>, Status>,
    ) -> Result<Arc<Decided>, Status> {
        let store = &self.0.store;
        let mut numbers = self.0.deciding.lock().await;
        let Some(mut decision) = choose(&*self.decided()?)? else { return self.decided() };
        if let Some(entry) = &decision.entry {
            let mut kept = match numbers.take() {
                Some(kept) => kept,
                None => self.kept().await?.iter().filter_map(number_of).collect(),
            };
            decision.forget = change::forgotten(&kept).to_vec();
            kept.drain(..decision.forget.len());
            kept.extend(number_of(entry));
            *numbers = Some(kept);
        }
        let Err(fault) = store.decide(decision).await else { return self.decided() };
        *numbers = None;
        // It may be on its way: what is decided next has to be decided by it.
        while store.settle().await == Err(kubebrain_shared::fault::Fault::Timeout) {}
        Err(fault.into())
    }

    async fn kept(&self) -> Result<Vec<crate::rows::codec::HistoryRow>, Status> {
        self.0.store.placements().await.map_err(|error| {
            Status::unavailable(format!("kubebrain: the history of placements cannot be read: {error}"))
        })
    }
}

fn number_of(entry: &crate::rows::codec::HistoryRow) -> Option<u64> {
    entry.document.as_ref().map(|document| document.number)
}

/// Of a text; 0 is none.
fn hash_of(text: &str) -> u64 {
    xxh3_64(text.as_bytes()).max(1)
}

/// In seconds since 1970, for people.
#[expect(clippy::disallowed_methods, reason = "for people; nothing is decided by it")]
fn wall_clock() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

fn refused(why: impl std::fmt::Display) -> Status {
    Status::failed_precondition(format!("kubebrain: {why}"))
}
