//! [`Store`]: one group's keys, with their history since the last compaction.
//!
//! * A write is answered when it is durable and visible, never before. An unknown outcome is answered as a timeout.
//! * Revisions grow by one with each write, from 1, as in etcd; [`Store::advance`] lifts the counter where another
//!   group's answers have shown a higher one.
//! * Reads of "now" see every write answered before they began, by whichever process: see `fence`.

pub mod alarm;
pub mod answer;
pub mod claim;
pub mod cluster;
pub mod codec;
pub mod entry;
pub mod evaluate;
mod export;
pub(crate) mod fence;
pub mod follow;
pub mod index;
mod kept;
mod landing;
pub mod lease;
mod leasing;
pub mod log;
pub mod metrics;
mod open;
pub mod ownership;
pub mod pending;
pub mod quota;
mod ranges;
mod read;
pub mod restore;
pub mod shared;
mod sweep;
#[cfg(test)]
mod tests;
pub mod values;
mod writer;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use kubebrain_proto::peer::FollowResponse;
use kubebrain_net::budget::{self, Budget};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_net::intake;
use kubebrain_net::metrics::One;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::engine::Engine;
use crate::request::{Delete, Limits, Op, Put, Range, ReadAt, Txn};
use crate::tenure::{Tenure, Term};
use crate::watch::feed::Feed;
use alarm::Alarm;
use answer::{Entry, Identity};
use codec::Layout;
pub use export::{Export, ExportPart};
pub use fence::ReadFence;
use fence::{Fence, Ticket};
use follow::Course;
pub use follow::{Fenced, Following, Slave, Upstream, UpstreamError};
use index::Index;
pub use kept::ContentAt;
use kept::Kept;
use metrics::Metrics;
pub use open::OpenError;
use quota::Quota;
use shared::{Contents, Ended, Shared, keep};
use values::{ValueCache, Values};
pub use writer::{Adoption, Granted, PlaceError, Renewed, WriteError};
use writer::{Command, Writer};

/// How long an answer is waited for: etcd's own bound, 5 s and two election timeouts.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(7);
/// etcd's bound on proposals that wait; above it clients are told to come back.
const COMMANDS_MAX: usize = 5000;
/// Reads of the whole store at once: each holds a page of the engine in memory.
const SCANS_MAX: usize = 4;

/// One group's store.
#[derive(Clone, Debug)]
pub struct Config {
    /// The group.
    pub group: GroupName,
    /// This process, in takeover records and member lists.
    pub name: String,
    /// Lets several clusters share one engine. Default: empty.
    pub store_prefix: Bytes,
    /// In each header; the same for all members of a cluster.
    pub cluster_id: u64,
    /// In each header; this process.
    pub member_id: u64,
    /// Bounds on requests.
    pub limits: Limits,
    /// Values kept in memory; shared by the groups of one engine. Larger: fewer reads of the engine. Default 256 MiB.
    pub value_cache: ValueCache,
    /// Bytes of recent events kept for watchers. Rises: slower watchers stay off the engine. Default 64 MiB.
    pub window_bytes: usize,
    /// What the groups of this store may keep; shared by them. Default: no bound.
    pub quota: Arc<Quota>,
    /// What answers of this process may take in memory; shared by its groups. Default 512 MiB.
    pub answers: Arc<Budget>,
    /// What large requests to this process may take in memory; shared by its groups. Default 256 MiB.
    pub requests: Arc<Budget>,
    /// Between two rows that say what is left of a long lease. Falls: a restart gives leases less time too much, and
    /// more is written. Default 5 min, as in etcd; at least 1 s.
    pub lease_checkpoint_interval: Duration,
    /// How answers are known to be fresh. Default: by the engine.
    pub read_fence: ReadFence,
    /// Until when this process holds the master lease, for [`ReadFence::Lease`]. Default: there is no election.
    pub tenure: Option<Tenure>,
    /// Where it counts. Default: nowhere to be seen.
    pub metrics: Metrics,
    /// Rows that were read to open or to follow, ever.
    pub loaded: Arc<AtomicU64>,
    /// What is wrong on purpose.
    #[cfg(any(test, feature = "faults"))]
    pub planted: Planted,
}

/// Faults that are planted by tests, of which each must be found.
#[cfg(any(test, feature = "faults"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    /// A fence joins the read that is in flight.
    pub early_fence: bool,
    /// A fence is content where the next record is its own.
    pub mine_is_fresh: bool,
    /// A slave does not look whether its master's claim holds.
    pub believes_claims: bool,
    /// Not a fault of ours: the machine slept so long, and its clock did not count it.
    pub clock_stood_still: Duration,
    /// A trim takes takeover records too.
    pub trims_takeovers: bool,
    /// A trim takes the record before a takeover.
    pub trims_before_takeovers: bool,
    /// A batch whose outcome is not known, and that is not there, counts as failed.
    pub unknown_is_failed: bool,
    /// A new master goes on from what it read before its takeover.
    pub loads_before_takeover: bool,
    /// A record does not say that the batch before it was tried more than once.
    pub forgets_repeats: bool,
    /// A takeover does not look at whether the log was trimmed meanwhile.
    pub takeover_ignores_trims: bool,
    /// A slave counts as closed what it has not applied.
    pub closes_before_events: bool,
    /// A slave that is promoted does not read what the log has after what it applied.
    pub skips_tail: bool,
}

/// Of a whole process, by `KUBEBRAIN_PLANTED`: `panic=KEY` or `hang=KEY` is what the writer does when it is to put KEY.
#[cfg(any(test, feature = "faults"))]
pub(crate) async fn planted_at(key: &[u8]) {
    static PLANTED: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("KUBEBRAIN_PLANTED").ok());
    match PLANTED.as_deref().and_then(|planted| planted.split_once('=')) {
        Some((what, at)) if at.as_bytes() == key => match what {
            "hang" => std::future::pending().await,
            _ => panic!("planted"),
        },
        _ => {}
    }
}

impl Config {
    /// True where a master has to ask the engine whether it still is one.
    fn asks(&self, engine: &dyn Engine) -> bool {
        self.read_fence != ReadFence::Trust && engine.is_shared()
    }

    /// The time as holder of the master lease that answers are given by, where they are.
    fn term(&self) -> Option<Term> {
        self.tenure.as_ref().filter(|_| self.read_fence == ReadFence::Lease)?.term()
    }

    /// Defaults for a group.
    pub fn new(group: GroupName, name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            group,
            cluster_id: cluster::unnamed(),
            member_id: cluster::member(cluster::unnamed(), &name),
            name,
            store_prefix: Bytes::new(),
            limits: Limits::default(),
            value_cache: ValueCache::new(256 << 20),
            window_bytes: 64 << 20,
            quota: Quota::new(None),
            answers: Budget::new(budget::DEFAULT_BYTES),
            requests: Budget::new(intake::DEFAULT_BYTES),
            lease_checkpoint_interval: lease::CHECKPOINT_INTERVAL,
            read_fence: ReadFence::default(),
            tenure: None,
            metrics: Metrics::default(),
            loaded: Arc::default(),
            #[cfg(any(test, feature = "faults"))]
            planted: Planted::default(),
        }
    }
}

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

/// See the module. Clones share one store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
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
    /// Takes the group over and loads it.
    ///
    /// # Errors
    /// See [`OpenError`]. Afterwards an older master of the group is refused, also where this fails.
    pub async fn open(
        config: Config,
        engine: Arc<dyn Engine>,
        placement: Arc<Placement>,
    ) -> Result<Self, OpenError> {
        let layout = Layout::new(&config.store_prefix, &config.group);
        let values = Values::new(engine.clone(), layout.clone(), config.value_cache.clone());
        let term = config.term(); // of before the takeover
        let (epoch, keys, office) = open::open(&config, &engine, &layout, &placement, &values).await?;
        let open::Office { leases, alarms, start } = office;
        let fence = Fence::new(config.asks(&*engine), start.number - 1).within(term);
        let contents = Contents {
            index: keys.index,
            bytes: keys.bytes,
            committed: start.counter,
            compacted: start.compacted,
        };
        let (store, inbox, sweeps) =
            Self::new(&config, engine, layout, values, placement, epoch, contents, fence, Course::master());
        let shared = &store.shared;
        *shared.leases.lock() = leases;
        shared.set_alarms(&alarms);
        drop(keep(shared, "the task that orders writes", Writer::new(shared.clone(), inbox, start).run()));
        store.sweep(sweeps);
        config.metrics.opened(shared, &store.commands, &store.swept);
        Ok(store)
    }

    /// A store that follows its group's master, once it is attached to one: see [`follow`].
    pub fn follow(config: Config, engine: Arc<dyn Engine>, placement: Arc<Placement>) -> (Self, Slave) {
        let layout = Layout::new(&config.store_prefix, &config.group);
        let values = Values::new(engine.clone(), layout.clone(), config.value_cache.clone());
        let contents = Contents { index: Index::default(), bytes: 0, committed: 0, compacted: -1 };
        let (fence, course) = (Fence::new(false, 0), Course::slave());
        let (store, inbox, sweeps) =
            Self::new(&config, engine, layout, values, placement, 0, contents, fence, course);
        store.sweep(sweeps);
        config.metrics.opened(&store.shared, &store.commands, &store.swept);
        let (shared, swept) = (store.shared.clone(), store.swept.clone());
        let slave = Slave::new(shared, config, inbox, store.commands.downgrade(), swept);
        (store, slave)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a store, from one of two places")]
    fn new(
        config: &Config,
        engine: Arc<dyn Engine>,
        layout: Layout,
        values: Values,
        placement: Arc<Placement>,
        epoch: u64,
        contents: Contents,
        fence: Fence,
        course: Course,
    ) -> (Self, mpsc::Receiver<Command>, watch::Sender<u64>) {
        #[cfg(any(test, feature = "faults"))]
        let fence = fence.planted(config.planted);
        #[cfg_attr(
            not(any(test, feature = "faults")),
            expect(unused_mut, reason = "faults are planted in it")
        )]
        let mut shared = Shared::new(
            config.group.clone(),
            Identity { cluster: config.cluster_id, member: config.member_id, term: epoch },
            layout,
            engine,
            values,
            config.quota.share(contents.bytes),
            config.window_bytes,
            placement,
            contents,
            config.metrics.of(&config.group),
            fence,
            course,
        );
        #[cfg(any(test, feature = "faults"))]
        {
            shared.planted = config.planted;
        }
        let shared = Arc::new(shared);
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (sweeps, swept) = watch::channel(0);
        let sweeper = Arc::default();
        let scans = Arc::new(Semaphore::new(SCANS_MAX));
        let (limits, answers, requests) = (config.limits, config.answers.clone(), config.requests.clone());
        let store = Self { shared, commands, swept, limits, sweeper, scans, answers, requests };
        (store, inbox, sweeps)
    }

    fn sweep(&self, sweeps: watch::Sender<u64>) {
        let sweeper = Stopper::default();
        let run = sweep::run(self.shared.clone(), self.commands.downgrade(), sweeps, sweeper.handle());
        drop(keep(&self.shared, "the task that frees compacted history", run));
        *self.sweeper.lock() = Some(sweeper);
    }

    /// Everything that changes from revision `from` on, in order and whole revisions, with how far that is; 0: what comes
    /// after the first response's `closed`. The first response comes at once, others whenever one of their numbers
    /// changes, and each half second. It ends when the store is closed and has said everything.
    ///
    /// # Errors
    /// As the end of the stream: [`Fault::Compacted`] where what comes next is compacted, [`Fault::LeaderChanged`] of one
    /// that is not the master, [`Fault::Timeout`] where history was not read.
    pub fn feed(
        &self,
        from: u64,
    ) -> impl Stream<Item = Result<FollowResponse, Fault>> + Send + 'static + use<> {
        Feed::new(self.shared.clone(), self.swept.clone(), from).into_stream()
    }

    /// Tells those who follow that this master is about to hand the group over.
    pub fn leave(&self) {
        self.shared.leave();
    }

    /// What large requests are counted by.
    pub fn requests(&self) -> &Arc<Budget> {
        &self.requests
    }

    /// What everybody reads.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Bounds on requests.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns when the store has ended by itself; the process should end too.
    pub async fn ended(&self) -> Ended {
        self.shared.ended().await
    }

    /// Finishes what was taken on and ends the writer. Later writes are refused as stopped.
    pub async fn close(&self) {
        let sweeper = self.sweeper.lock().take();
        if let Some(sweeper) = sweeper {
            sweeper.stop().await;
        }
        if self.shared.is_slave() {
            return; // nothing was taken on
        }
        let (reply, closed) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            let _ended = closed.await;
        }
    }

    /// A committed revision that is at least `floor` and at least every write answered before the call.
    ///
    /// # Errors
    /// [`Fault::Timeout`] if that takes too long, [`Fault::LeaderChanged`] on a slave that is not as far.
    pub async fn advance(&self, floor: Revision) -> Result<Revision, Fault> {
        let ticket = self.ticket();
        if ticket.is_slaves() {
            self.shared.fence_slave(ticket, floor.get()).await?;
            return Ok(self.shared.committed());
        }
        if floor > self.shared.committed() {
            return self.ask(|reply| Command::Advance { floor, reply }).await;
        }
        self.shared.fence(ticket).await?;
        Ok(self.shared.committed())
    }

    /// As [`Self::advance`], for a slave: from memory, with a claim where this master is not sure that it still is one.
    /// Whoever asked proves that by a look into the log, which begins after the answer has come.
    ///
    /// # Errors
    /// As [`Self::advance`]; [`Fault::LeaderChanged`] on a slave.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn claim(&self, floor: Revision) -> Result<Fenced, Fault> {
        let shared = &self.shared;
        if shared.is_slave() {
            return Err(Fault::LeaderChanged);
        }
        let claim = shared.fence.claim(shared.identity().term); // first: the rest shows that batch, or more
        let lifted = match floor > shared.committed() {
            true => Some(self.advance(floor).await?),
            false => None,
        };
        let revision = lifted.unwrap_or_else(|| shared.committed());
        let (compacted, placement) = (shared.compacted(), shared.placement.load().version());
        let is_sure = shared.fence.is_sure()?; // last: what was read before is covered
        let claim = (lifted.is_none() && !is_sure).then_some(claim);
        Ok(Fenced { revision, compacted, placement, claim })
    }

    /// For a request that arrives now; see [`Self::fence`].
    pub(crate) fn ticket(&self) -> Ticket {
        self.shared.ticket()
    }

    /// Returns when what was read in memory since `ticket` may be answered.
    ///
    /// # Errors
    /// [`Fault::LeaderChanged`], [`Fault::Timeout`].
    pub(crate) async fn fence(&self, ticket: Ticket) -> Result<(), Fault> {
        self.shared.fence(ticket).await
    }

    /// Puts a key.
    ///
    /// # Errors
    /// See [`WriteError`]; [`Fault::Timeout`] is the only one that may have happened.
    pub async fn put(&self, put: Put, floor: Revision) -> Result<Reply, WriteError> {
        self.write(Op::Put(put), floor, None).await
    }

    /// Deletes a range.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn delete(
        &self,
        delete: Delete,
        floor: Revision,
        part: Option<u64>,
    ) -> Result<Reply, WriteError> {
        self.write(Op::Delete(delete), floor, part).await
    }

    /// Runs a transaction.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn txn(&self, txn: Txn, floor: Revision) -> Result<Reply, WriteError> {
        self.write(Op::Txn(txn), floor, None).await
    }

    async fn write(&self, op: Op, floor: Revision, part: Option<u64>) -> Result<Reply, WriteError> {
        let changes = op.changes();
        if changes {
            self.shared.alarms.trusted()?;
        }
        // What the answer shows was there at or after this revision: it is not swept before it is read.
        let _pin = self.shared.pin();
        let written = self.ask(|reply| Command::Write { op, floor, part, reply }).await?;
        let mut answer = written.answer;
        let (mut missing, mut bytes) = (Vec::new(), 0);
        answer.entries(&mut |entry| {
            bytes += Entry::weight(entry);
            if entry.kv.is_none() {
                missing.push(entry.clone());
            }
        });
        // What was applied is answered, also if that has to wait for too long.
        let share = self.answers.take(bytes).await.unwrap_or(None);
        if !missing.is_empty() {
            self.shared.values.fill(&mut missing).await.map_err(|error| {
                let fault = read::read_fault(&self.shared, &error);
                // What was written stays written: this says that it may have been.
                if changes { Fault::Timeout } else { fault }
            })?;
            let mut filled = missing.into_iter();
            answer.entries(&mut |entry| {
                if entry.kv.is_none() {
                    entry.kv = filled.next().and_then(|found| found.kv);
                }
            });
        }
        answer.ranges(&mut answer::RangeAnswer::settle);
        let message = answer.encode(Some(&self.shared.identity()), written.revision);
        Ok(Reply { message, revision: written.revision, share })
    }

    /// Refuses reads below `revision` from now on. With `physical`, returns when their space is free.
    ///
    /// # Errors
    /// [`Fault::Compacted`] at or below the compacted revision, [`Fault::FutureRevision`] above the current one.
    pub async fn compact(&self, revision: i64, physical: bool, floor: Revision) -> Result<Revision, Fault> {
        self.shared.alarms.trusted()?;
        let header = self.ask(|reply| Command::Compact { revision, floor, reply }).await?;
        if physical {
            let revision = u64::try_from(revision).unwrap_or(0);
            let mut swept = self.swept.clone();
            tokio::select! {
                _closed = swept.wait_for(|swept| *swept >= revision) => {}
                // Who has taken over sweeps on.
                _ = self.shared.ended() => return Err(Fault::LeaderChanged),
            }
        }
        Ok(header)
    }

    /// The hash of what is there at a revision: see [`ContentAt`]. `at` 0 is now. It is refused below `compacted`, where
    /// that is above the own compacted revision.
    ///
    /// # Errors
    /// [`Fault::Compacted`] below either of them, [`Fault::FutureRevision`] above the current revision,
    /// [`Fault::TooManyRequests`] beside too many like it.
    ///
    /// # Cancel safety
    /// Safe: a read.
    pub async fn content(&self, at: Revision, compacted: i64, floor: Revision) -> Result<ContentAt, Fault> {
        self.leads()?;
        let _permit = self.scans.try_acquire().map_err(|_| Fault::TooManyRequests)?;
        self.advance(floor).await?;
        let content = Kept::begin(&self.shared, at, compacted)?.content().await?;
        // Nobody else has swept what was read.
        self.fence(self.ticket()).await?;
        Ok(content)
    }

    /// The hash of everything: what is kept now, and the leases.
    ///
    /// # Errors
    /// As [`Self::content`].
    pub async fn content_of_all(&self) -> Result<ContentAt, Fault> {
        let mut all = self.content(Revision::ZERO, -1, Revision::ZERO).await?;
        all.add_leases(&self.shared.leases.lock().all());
        Ok(all)
    }

    /// Begins to export the group's section of a snapshot, as of `at` (0 is now) and as compacted as
    /// [`Self::content`] says. What it reads stays as it is until the export is dropped.
    ///
    /// # Errors
    /// As [`Self::content`].
    pub async fn export(&self, at: Revision, compacted: i64, floor: Revision) -> Result<Export, Fault> {
        self.leads()?;
        let permit = self.scans.clone().try_acquire_owned().map_err(|_| Fault::TooManyRequests)?;
        self.advance(floor).await?;
        Export::begin(self.shared.clone(), at, compacted, permit).await
    }

    /// Alarms that stand.
    pub fn alarms(&self) -> Vec<Alarm> {
        self.shared.alarms.standing()
    }

    /// Raises an alarm, durably. False if it stood already.
    ///
    /// # Errors
    /// [`Fault::TooManyRequests`] above the bound on alarms, [`Fault::Timeout`].
    pub async fn raise_alarm(&self, alarm: Alarm) -> Result<bool, Fault> {
        self.ask(|reply| Command::Raise { alarm, reply }).await
    }

    /// Ends an alarm, durably. False if it did not stand. Where its cause stays, the next write raises it again.
    ///
    /// # Errors
    /// [`Fault::Timeout`].
    pub async fn disarm(&self, alarm: Alarm) -> Result<bool, Fault> {
        self.ask(|reply| Command::Disarm { alarm, reply }).await
    }

    /// Returns when everything that can be seen now is durable and known to be fresh.
    ///
    /// # Errors
    /// [`Fault::Timeout`].
    pub async fn settle(&self) -> Result<(), Fault> {
        self.ask(|reply| Command::Settle { reply }).await
    }

    /// First half of a new placement: from now on only keys that this group owns by both are written.
    ///
    /// # Errors
    /// [`PlaceError`]; nothing changed.
    pub async fn prepare(&self, placement: Arc<Placement>) -> Result<(), PlaceError> {
        self.leads().map_err(|_| PlaceError::Slave)?;
        let (reply, done) = oneshot::channel();
        let sent = self.commands.send(Command::Prepare { placement, reply }).await;
        sent.map_err(|_| PlaceError::Stopped)?;
        done.await.unwrap_or(Err(PlaceError::Stopped))
    }

    /// Second half: the prepared placement holds.
    ///
    /// # Errors
    /// [`PlaceError`]; the old one holds.
    pub async fn commit_placement(&self) -> Result<(), PlaceError> {
        self.leads().map_err(|_| PlaceError::Slave)?;
        let (reply, done) = oneshot::channel();
        self.commands.send(Command::Commit { reply }).await.map_err(|_| PlaceError::Stopped)?;
        done.await.unwrap_or(Err(PlaceError::Stopped))
    }

    /// Instead of the second half.
    pub async fn abort_placement(&self) {
        if self.leads().is_ok() {
            let _stopped = self.commands.send(Command::Abort).await;
        }
    }

    /// Refuses what only a master does.
    fn leads(&self) -> Result<(), Fault> {
        if self.shared.is_slave() { Err(Fault::LeaderChanged) } else { Ok(()) }
    }

    /// Refuses ranges of keys that are not this group's.
    ///
    /// # Errors
    /// A sentence about what is not.
    pub fn owns(&self, ranges: &[KeyRange], part: Option<u64>) -> Result<(), String> {
        ownership::check(&self.shared.placement.load(), &self.shared.group, ranges, part)
    }

    async fn ask<T, E: From<Fault>>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Command,
    ) -> Result<T, E> {
        let ticket = self.ticket();
        if ticket.is_slaves() {
            return Err(Fault::LeaderChanged.into());
        }
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        let metrics = &self.shared.metrics;
        let proposes = command.proposes();
        let _waiting = proposes.then(|| One::of(&metrics.all.pending));
        let failed = |fault: Fault| {
            metrics.all.failed.inc_by(proposes.into());
            fault
        };
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => failed(Fault::TooManyRequests),
            mpsc::error::TrySendError::Closed(_) => failed(Fault::Stopped),
        })?;
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(answer)) => {
                self.shared.fence_answer(ticket).await?;
                answer
            }
            #[cfg(any(test, feature = "faults"))]
            Ok(Err(_)) if self.shared.planted.unknown_is_failed && !self.shared.has_ended() => {
                Err(failed(Fault::NoSpace).into())
            }
            // The writer ended with this on its way, or it is stuck: the outcome is not known.
            Ok(Err(_)) | Err(_) => Err(failed(Fault::Timeout).into()),
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
