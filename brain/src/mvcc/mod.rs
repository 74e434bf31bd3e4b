//! [`Store`]: one group's keys, with their history since the last compaction.
//!
//! * A write is answered when it is durable and visible, never before. An unknown outcome is answered as a timeout.
//! * Revisions grow by one with each write, from 1, as in etcd; [`Store::advance`] lifts the counter where another
//!   group's answers have shown a higher one.
//! * Reads of "now" see every write answered before they began, by whichever process: see `fence`.

pub mod alarm;
pub mod answer;
pub mod claim;
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
pub mod log;
pub mod metrics;
mod open;
pub mod ownership;
pub mod pending;
pub mod quota;
mod read;
pub mod restore;
pub mod shared;
mod sweep;
#[cfg(test)]
mod tests;
pub mod values;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use kubebrain_proto::peer::FollowResponse;
use kubebrain_shared::budget::{self, Budget};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::intake;
use kubebrain_shared::metrics::One;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::request::{Delete, Limits, Op, Put, Range, ReadAt, Txn};
use crate::tenure::{Tenure, Term};
use crate::watch::feed::Feed;
use alarm::Alarm;
use answer::{Answer, Entry, Identity};
use codec::Layout;
pub use export::{Export, ExportPart};
pub use fence::ReadFence;
use fence::{Fence, Ticket};
use follow::Course;
pub use follow::{Fenced, Following, Slave, Upstream, UpstreamError};
use index::Index;
pub use kept::ContentAt;
use kept::Kept;
use lease::Renewal;
use metrics::Metrics;
pub use open::OpenError;
use quota::Quota;
use read::{Chunks, Reader, Unread};
use shared::{Contents, Ended, Shared};
use values::{ValueCache, Values};
use writer::{Command, Writer};
pub use writer::{Granted, PlaceError, Renewed, WriteError};

/// How long an answer is waited for: etcd's own bound, 5 s and two election timeouts.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(7);
/// etcd's bound on proposals that wait; above it clients are told to come back.
const COMMANDS_MAX: usize = 5000;
/// Reads of what goes away meanwhile, on a slave.
const READS_MAX: usize = 8;
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
            cluster_id: id_of("kubebrain"),
            member_id: id_of(&name),
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
            #[cfg(any(test, feature = "faults"))]
            planted: Planted::default(),
        }
    }
}

/// The id of a member, or a cluster, of this name.
pub fn id_of(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash >> 1
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
        tokio::spawn(Writer::new(shared.clone(), inbox, start).run());
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
        tokio::spawn(sweep::run(self.shared.clone(), self.commands.downgrade(), sweeps, sweeper.handle()));
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

    /// Reads a range.
    ///
    /// # Errors
    /// What etcd answers.
    pub async fn range(&self, range: &Range, floor: Revision) -> Result<Reply, Fault> {
        self.raise(range, floor).await?;
        self.shared.metrics.all.ranges.inc();
        for _ in 0..READS_MAX {
            match self.read(range).await {
                Ok(reply) => return Ok(reply),
                Err(Unread::Fault(fault)) => return Err(fault),
                Err(Unread::Gone) => {
                    self.advance(floor).await?;
                }
            }
        }
        Err(Fault::Timeout)
    }

    async fn read(&self, range: &Range) -> Result<Reply, Unread> {
        let reader = Reader::new(&self.shared, range.at).map_err(Unread::Fault)?;
        let read = self.read_with(&reader, range).await;
        read.map_err(|fault| reader.unread(fault))
    }

    async fn read_with(&self, reader: &Reader<'_>, range: &Range) -> Result<Reply, Fault> {
        // One key is read sooner than weighed.
        let single = range.keys.as_one().is_some();
        let bytes = if single { 0 } else { reader.weigh(range, u64::MAX, &self.answers).await? };
        let mut share = self.answers.take(bytes).await?;
        let _turn = if share.is_some() { self.answers.turn().await } else { None };
        let answer = reader.range(range).await?;
        if single {
            share = self.answers.take(answer.entries.iter().map(Entry::weight).sum()).await?;
        }
        let answer = Answer::Range(answer);
        Ok(Reply {
            message: answer.encode(Some(&self.shared.identity()), reader.header),
            revision: reader.header,
            share,
        })
    }

    async fn raise(&self, range: &Range, floor: Revision) -> Result<(), Fault> {
        if !range.serializable {
            self.advance(floor).await?;
        }
        Ok(())
    }

    /// Reads a range in chunks. The revision is the header's; it is known at once. The share is for a few chunks, as many
    /// as may wait for the client.
    ///
    /// # Errors
    /// What etcd answers, at once or as the end of the stream.
    pub async fn range_stream(
        &self,
        range: Range,
        floor: Revision,
    ) -> Result<Streamed<impl Stream<Item = Result<Bytes, Fault>> + Send + use<>>, Fault> {
        self.raise(&range, floor).await?;
        self.shared.metrics.all.ranges.inc();
        let reader = Reader::new(&self.shared, range.at)?;
        let share =
            self.answers.take(reader.weigh(&range, stream_bytes(&self.limits), &self.answers).await?).await?;
        let header = reader.header;
        // The reader borrows the store, so both live in a task.
        let (chunks, messages) = mpsc::channel::<Result<Bytes, Fault>>(1);
        let (store, answers) = (self.clone(), share.is_some());
        let (begun, begins) = oneshot::channel();
        tokio::spawn(async move {
            let sent = store.stream(&range, answers, begun, &chunks).await;
            if let Err(fault) = sent {
                let _gone = chunks.send(Err(fault)).await;
            }
        });
        let header = begins.await.unwrap_or(header);
        let messages = futures_util::stream::unfold(messages, |mut messages| async move {
            messages.recv().await.map(|message| (message, messages))
        });
        Ok((header, messages, share))
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

    /// The hash of what is kept at a revision: see [`ContentAt`]. `at` 0 is now. Deletions and old versions count as if
    /// `compacted` were compacted, where that is above the own compacted revision.
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

    /// Grants a lease; id 0 lets the store choose one.
    ///
    /// # Errors
    /// What etcd answers.
    pub async fn grant(&self, id: i64, ttl: i64, floor: Revision) -> Result<Granted, Fault> {
        self.shared.alarms.trusted()?;
        self.ask(|reply| Command::Grant { id, ttl, remaining: None, floor, reply }).await
    }

    /// Takes over a lease that another group granted. Repeating it is harmless.
    ///
    /// # Errors
    /// [`Fault::Timeout`].
    pub async fn adopt(&self, id: i64, ttl: i64, remaining: Duration) -> Result<Granted, Fault> {
        let (remaining, floor) = (Some(remaining), Revision::ZERO);
        self.ask(|reply| Command::Grant { id, ttl, remaining, floor, reply }).await
    }

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// [`Fault::LeaseNotFound`].
    pub async fn revoke(&self, id: i64, floor: Revision) -> Result<Revision, Fault> {
        self.shared.alarms.trusted()?;
        self.ask(|reply| Command::Revoke { id, floor, reply }).await
    }

    /// Records durably that `group` is about to hold a lease of this one. Gives its whole and its remaining time.
    ///
    /// # Errors
    /// [`Fault::LeaseNotFound`].
    pub async fn share(&self, id: i64, group: GroupName) -> Result<(i64, Duration), Fault> {
        self.ask(|reply| Command::Share { id, group, reply }).await
    }

    /// Starts a lease's time again, also in the eyes of a later master. `None` if it is not granted.
    ///
    /// # Errors
    /// [`Fault::Timeout`] if its row has a checkpoint and is not written in time.
    pub async fn renew(&self, id: i64) -> Result<Option<Renewed>, Fault> {
        let ticket = self.ticket();
        let renewed = match self.shared.leases.lock().renew(id) {
            Some(Renewal::Done(lease)) => Some((lease.row.ttl, lease.row.holders.clone())),
            // What is gone, or not there yet, may be on its way only: the writer knows.
            None | Some(Renewal::NeedsWrite) => None,
        };
        if renewed.is_some() {
            self.fence(ticket).await?;
            self.shared.metrics.all.leases_renewed.inc();
            return Ok(renewed);
        }
        let renewed = self.ask(|reply| Command::Renew { id, reply }).await;
        if matches!(renewed, Ok(Some(_))) {
            self.shared.metrics.all.leases_renewed.inc();
        }
        renewed
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

    /// What the leases say, once everything that they say is durable and known to be fresh; and the revision of that.
    ///
    /// # Errors
    /// [`Fault::Timeout`].
    pub async fn of_leases<T>(
        &self,
        floor: Revision,
        read: impl FnOnce(&lease::Leases) -> T,
    ) -> Result<(Revision, T), Fault> {
        let mut revision = self.shared.committed();
        if floor > revision {
            revision = self.advance(floor).await?;
        }
        let found = read(&self.shared.leases.lock());
        self.settle().await?;
        Ok((revision, found))
    }

    /// Returns when everything that can be seen now is durable and known to be fresh.
    ///
    /// # Errors
    /// [`Fault::Timeout`].
    pub async fn settle(&self) -> Result<(), Fault> {
        self.ask(|reply| Command::Settle { reply }).await
    }

    /// A lease: seconds granted, and what is left. `None` if it is not granted.
    pub fn remaining(&self, id: i64) -> Option<(i64, Duration)> {
        let leases = self.shared.leases.lock();
        let lease = leases.get(id)?;
        Some((lease.row.ttl, lease.deadline.saturating_duration_since(Instant::now())))
    }

    /// The keys of a lease, in order.
    pub fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        let leases = self.shared.leases.lock();
        leases.get(id).map(|lease| lease.keys.iter().cloned().collect()).unwrap_or_default()
    }

    /// The groups that hold a lease too.
    pub fn holders(&self, id: i64) -> Option<Vec<String>> {
        self.shared.leases.lock().get(id).map(|lease| lease.row.holders.clone())
    }

    /// All granted leases.
    pub fn leases(&self) -> Vec<i64> {
        self.shared.leases.lock().ids()
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

/// The header's revision, the chunks, and their share of the budget.
type Streamed<S> = (Revision, S, Option<Arc<budget::Share>>);

/// What a streamed range may have in memory for a client that does not read: a chunk that is made, one that waits, and
/// one that is sent, each up to twice what it should be.
fn stream_bytes(limits: &Limits) -> u64 {
    limits.request_bytes_max as u64 * 3
}

impl Store {
    /// Sends a range in chunks, at most one ahead of the client.
    async fn stream(
        &self,
        range: &Range,
        answers: bool,
        begun: oneshot::Sender<Revision>,
        messages: &mpsc::Sender<Result<Bytes, Fault>>,
    ) -> Result<(), Fault> {
        let mut begun = Some(begun);
        for _ in 0..READS_MAX {
            let reader = Reader::new(&self.shared, range.at)?.unpinned();
            match self.stream_with(&reader, range, answers, &mut begun, messages).await {
                Ok(()) => return Ok(()),
                // What a client has is of a revision that cannot be read on.
                Err(fault) if begun.is_none() => return Err(fault),
                Err(Fault::Compacted) if range.at == ReadAt::Latest => {
                    self.advance(Revision::ZERO).await?;
                }
                Err(fault) => match reader.unread(fault) {
                    Unread::Fault(fault) => return Err(fault),
                    Unread::Gone => {
                        self.advance(Revision::ZERO).await?;
                    }
                },
            }
        }
        Err(Fault::Timeout)
    }

    /// Says that it has begun, and at which revision, as soon as there is no way back.
    async fn stream_with(
        &self,
        reader: &Reader<'_>,
        range: &Range,
        answers: bool,
        begun: &mut Option<oneshot::Sender<Revision>>,
        messages: &mpsc::Sender<Result<Bytes, Fault>>,
    ) -> Result<(), Fault> {
        let mut begin = || begun.take().map(|begun| begun.send(reader.header));
        if !reader.may_be_gone() {
            begin();
        }
        let identity = &self.shared.identity();
        let mut sizes = Chunks::new(self.limits.request_bytes_max);
        let mut cursor = reader.cursor(range);
        let mut sent = 0;
        if range.count_only {
            let count = reader.left(&mut cursor).await?;
            begin();
            let message = read::stream_message(&[], Some((identity, reader.header, false, count)));
            let _gone = messages.send(Ok(message)).await;
            return Ok(());
        }
        loop {
            let turn = if answers { self.answers.turn().await } else { None };
            let entries = reader.chunk(&mut cursor, sizes.size(), range.keys_only).await?;
            sent += entries.len();
            let done = cursor.is_done();
            let message = match done {
                false => read::stream_message(&entries, None),
                true => {
                    let left = reader.left(&mut cursor).await?;
                    read::stream_message(&entries, Some((identity, reader.header, left > 0, sent + left)))
                }
            };
            drop(turn);
            begin();
            sizes.sent(message.len());
            if messages.send(Ok(message)).await.is_err() || done {
                return Ok(());
            }
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
