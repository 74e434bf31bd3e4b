//! [`Metrics`]: what the groups of a process count together, under etcd's names where etcd has the thing, and each
//! for itself, under ours.
//!
//! Counters are kept where things happen. What is a matter of looking (sizes, revisions) is read when a page is made:
//! from the groups that are open then, so a group that is closed leaves the page. Helps are checked against
//! `docs/metrics.md`.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use kubebrain_shared::group::GroupName;
use kubebrain_net::metrics::{self as shared, disk_buckets};
use parking_lot::Mutex;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use tokio::sync::{mpsc, watch};

use super::answer::Answer;
use super::shared::Shared;
use super::writer::Command;
use crate::engine::CommitError;
use crate::watch::metrics::Metrics as WatchMetrics;

/// Of all groups of a process. Clones count together.
#[derive(Clone)]
pub struct Metrics {
    counted: Arc<Counted>,
    groups: Arc<Mutex<Groups>>,
}

/// What all groups count together.
pub(crate) struct Counted {
    pub(crate) ranges: IntCounter,
    pub(crate) puts: IntCounter,
    pub(crate) deletes: IntCounter,
    pub(crate) txns: IntCounter,
    pub(crate) committed: IntGauge,
    pub(crate) applied: IntGauge,
    pub(crate) pending: IntGauge,
    pub(crate) failed: IntCounter,
    pub(crate) slow_batches: IntCounter,
    pub(crate) events: IntCounter,
    pub(crate) leases_granted: IntCounter,
    pub(crate) leases_revoked: IntCounter,
    pub(crate) leases_renewed: IntCounter,
    pub(crate) leases_expired: IntCounter,
    pub(crate) lease_ttl: Histogram,
    pub(crate) swept_versions: IntCounter,
    pub(crate) sweep_ms: Histogram,
    pub(crate) sweep_page_ms: Histogram,
    pub(crate) sweep_last: IntGauge,
    commits: IntCounterVec,
    commit_seconds: HistogramVec,
    batch_writes: HistogramVec,
    fences: IntCounterVec,
    fence_seconds: HistogramVec,
    fence_waiters: HistogramVec,
    questions: IntCounterVec,
    question_seconds: HistogramVec,
    questioners: IntCounterVec,
    loads: IntCounterVec,
}

/// Of a slave.
pub(crate) struct FollowMetrics {
    questions: [IntCounter; 2],
    question_seconds: Histogram,
    /// Requests that a question was asked for.
    pub(crate) questioners: IntCounter,
    /// How often all keys were loaded.
    pub(crate) loads: IntCounter,
}

/// Of one group, in its [`Shared`].
pub(crate) struct GroupMetrics {
    /// What it counts together with the others.
    pub(crate) all: Arc<Counted>,
    pub(crate) watch: WatchMetrics,
    pub(crate) follow: FollowMetrics,
    pub(crate) commit_seconds: Histogram,
    pub(crate) batch_writes: Histogram,
    pub(crate) fence_seconds: Histogram,
    pub(crate) fence_waiters: Histogram,
    commits: [IntCounter; 4],
    fences: [IntCounter; 3],
}

/// The groups that are open, by name: one that is opened again takes its own place.
#[derive(Default)]
struct Groups {
    open: BTreeMap<GroupName, Open>,
    takeovers: HashMap<GroupName, u64>,
}

/// An open group. It is not kept open by being looked at.
struct Open {
    shared: Weak<Shared>,
    commands: mpsc::WeakSender<Command>,
    swept: watch::Receiver<u64>,
}

impl Metrics {
    /// Registers the numbers of a process's groups.
    pub fn new(metrics: &shared::Metrics) -> Self {
        let milliseconds =
            |start, count| prometheus::exponential_buckets(start, 2.0, count).expect("a growing factor");
        let counter = |name: &str, help: &str| metrics.counter(name, help);
        let counted = Counted {
            ranges: counter("etcd_mvcc_range_total", "Ranges read, those in transactions included."),
            puts: counter("etcd_mvcc_put_total", "Puts done, those in transactions included."),
            deletes: counter("etcd_mvcc_delete_total", "Deletions done, those in transactions included."),
            txns: counter("etcd_mvcc_txn_total", "Transactions done with more than one operation."),
            committed: metrics.gauge(
                "etcd_server_proposals_committed_total",
                "Writes and other changes whose batch is durable.",
            ),
            applied: metrics.gauge(
                "etcd_server_proposals_applied_total",
                "Writes and other changes that are visible and answered.",
            ),
            pending: metrics.gauge(
                "etcd_server_proposals_pending",
                "Writes and other changes that wait for their answer.",
            ),
            failed: counter(
                "etcd_server_proposals_failed_total",
                "Writes and other changes turned away by a full queue, or without an answer in time.",
            ),
            slow_batches: counter(
                "etcd_server_slow_apply_total",
                "Batches that took longer than 100 ms from commit to visible.",
            ),
            events: counter("etcd_debugging_mvcc_events_total", "Events sent to watchers."),
            leases_granted: counter("etcd_debugging_lease_granted_total", "Leases granted."),
            leases_revoked: counter(
                "etcd_debugging_lease_revoked_total",
                "Leases ended, by revocation or expiry, in each group that held them.",
            ),
            leases_renewed: counter(
                "etcd_debugging_lease_renewed_total",
                "Leases renewed, in each group that holds them.",
            ),
            leases_expired: counter(
                "etcd_debugging_server_lease_expired_total",
                "Leases that ran out, in each group that held them.",
            ),
            lease_ttl: metrics.histogram(
                "etcd_debugging_lease_ttl_total",
                "Times to live of granted leases, in seconds.",
                milliseconds(1.0, 24),
            ),
            swept_versions: counter(
                "etcd_debugging_mvcc_db_compaction_keys_total",
                "Compacted versions taken out of the storage.",
            ),
            sweep_ms: metrics.histogram(
                "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
                "Duration of a sweep, which takes compacted versions out of the storage.",
                milliseconds(100.0, 14),
            ),
            sweep_page_ms: metrics.histogram(
                "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
                "Duration of one page of a sweep.",
                milliseconds(1.0, 13),
            ),
            sweep_last: metrics.gauge(
                "etcd_debugging_mvcc_db_compaction_last",
                "Unix time of the end of the last sweep; 0 before the first.",
            ),
            commits: metrics.counters(
                "kubebrain_mvcc_commits_total",
                "Batches handed to the storage, by what came back.",
                &["group", "outcome"],
            ),
            commit_seconds: metrics.histograms(
                "kubebrain_mvcc_commit_seconds",
                "Time of a batch in the storage.",
                disk_buckets(),
                &["group"],
            ),
            batch_writes: metrics.histograms(
                "kubebrain_mvcc_batch_writes",
                "Revisions in a batch.",
                milliseconds(1.0, 11),
                &["group"],
            ),
            fences: metrics.counters(
                "kubebrain_mvcc_fences_total",
                "Looks into the log whether the master still is one, this brain or the one that it follows, by what came of them.",
                &["group", "outcome"],
            ),
            fence_seconds: metrics.histograms(
                "kubebrain_mvcc_fence_seconds",
                "Time of a look into the log whether the master still is one.",
                disk_buckets(),
                &["group"],
            ),
            fence_waiters: metrics.histograms(
                "kubebrain_mvcc_fence_waiters",
                "Requests to a master that waited for a look into the log when it began.",
                milliseconds(1.0, 15),
                &["group"],
            ),
            questions: metrics.counters(
                "kubebrain_follow_questions_total",
                "Questions of a slave to its master how far it must be, by what came back.",
                &["group", "outcome"],
            ),
            question_seconds: metrics.histograms(
                "kubebrain_follow_question_seconds",
                "Time of a question of a slave to its master how far it must be.",
                disk_buckets(),
                &["group"],
            ),
            questioners: metrics.counters(
                "kubebrain_follow_questioners_total",
                "Requests to a slave that shared a question to its master.",
                &["group"],
            ),
            loads: metrics.counters(
                "kubebrain_follow_loads_total",
                "How often a slave loaded all keys.",
                &["group"],
            ),
        };
        let groups = Arc::<Mutex<Groups>>::default();
        let (gauges, looked) = (Gauges::new(metrics), groups.clone());
        metrics.refresh(move || gauges.look(&mut looked.lock()));
        Self { counted: Arc::new(counted), groups }
    }

    /// For a group that opens.
    pub(super) fn of(&self, group: &GroupName) -> GroupMetrics {
        let name = group.as_str();
        let counted = &self.counted;
        GroupMetrics {
            all: counted.clone(),
            watch: WatchMetrics::default(),
            follow: FollowMetrics {
                questions: QUESTIONS.map(|outcome| counted.questions.with_label_values(&[name, outcome])),
                question_seconds: counted.question_seconds.with_label_values(&[name]),
                questioners: counted.questioners.with_label_values(&[name]),
                loads: counted.loads.with_label_values(&[name]),
            },
            commit_seconds: counted.commit_seconds.with_label_values(&[name]),
            batch_writes: counted.batch_writes.with_label_values(&[name]),
            commits: OUTCOMES.map(|outcome| counted.commits.with_label_values(&[name, outcome])),
            fence_seconds: counted.fence_seconds.with_label_values(&[name]),
            fence_waiters: counted.fence_waiters.with_label_values(&[name]),
            fences: FENCES.map(|outcome| counted.fences.with_label_values(&[name, outcome])),
        }
    }

    /// A group is open, or what was a slave is its master.
    pub(super) fn opened(
        &self,
        shared: &Arc<Shared>,
        commands: &mpsc::Sender<Command>,
        swept: &watch::Receiver<u64>,
    ) {
        let open =
            Open { shared: Arc::downgrade(shared), commands: commands.downgrade(), swept: swept.clone() };
        let groups = &mut *self.groups.lock();
        if !shared.is_slave() {
            *groups.takeovers.entry(shared.group.clone()).or_default() += 1;
        }
        groups.open.insert(shared.group.clone(), open);
    }
}

const OUTCOMES: [&str; 4] = ["ok", "conflict", "refused", "unknown"];
const QUESTIONS: [&str; 2] = ["answered", "failed"];
const FENCES: [&str; 3] = ["proven", "refuted", "failed"];

impl FollowMetrics {
    /// A question came back.
    pub(super) fn question(&self, taken: Duration, answered: bool) {
        self.question_seconds.observe(taken.as_secs_f64());
        self.questions[usize::from(!answered)].inc();
    }
}

impl GroupMetrics {
    /// A batch came back from the storage.
    pub(super) fn commit(&self, outcome: &Result<(), CommitError>) {
        let place = match outcome {
            Ok(()) => 0,
            Err(CommitError::Conflict { .. }) => 1,
            Err(CommitError::Refused(_)) => 2,
            Err(CommitError::Unknown(_)) => 3,
        };
        self.commits[place].inc();
    }

    /// A look into the log came back, as the so-and-so-many of [`FENCES`].
    pub(super) fn fence(&self, outcome: usize) {
        self.fences[outcome].inc();
    }

    /// A request was carried out.
    pub(super) fn done(&self, answer: &Answer) {
        let (ranges, puts, deletes) = operations(answer);
        self.all.ranges.inc_by(ranges);
        self.all.puts.inc_by(puts);
        self.all.deletes.inc_by(deletes);
        if ranges + puts + deletes > 1 {
            self.all.txns.inc();
        }
    }
}

/// Ranges, puts and deletions.
fn operations(answer: &Answer) -> (u64, u64, u64) {
    match answer {
        Answer::Range(_) => (1, 0, 0),
        Answer::Put { .. } => (0, 1, 0),
        Answer::Delete { .. } => (0, 0, 1),
        Answer::Txn { answers, .. } => answers.iter().fold((0, 0, 0), |sum, (_, answer)| {
            let more = operations(answer);
            (sum.0 + more.0, sum.1 + more.1, sum.2 + more.2)
        }),
    }
}

/// What is read when a page is made.
struct Gauges {
    has_leader: IntGauge,
    is_leader: IntGauge,
    leader_changes: IntCounter,
    current_revision: IntGauge,
    compact_revision: IntGauge,
    keys: IntGauge,
    watchers: IntGauge,
    slow_watchers: IntGauge,
    streams: IntGauge,
    db_bytes: IntGauge,
    db_bytes_in_use: IntGauge,
    /// No row where there is no bound: alerts would take 0 for one.
    quota_bytes: IntGaugeVec,
    of_group: GroupGauges,
}

/// The same by group.
struct GroupGauges {
    committed: IntGaugeVec,
    compacted: IntGaugeVec,
    swept: IntGaugeVec,
    keys: IntGaugeVec,
    versions: IntGaugeVec,
    leases: IntGaugeVec,
    queue: IntGaugeVec,
    cache_bytes: IntGaugeVec,
    cache_hits: IntCounterVec,
    cache_misses: IntCounterVec,
    window_bytes: IntGaugeVec,
    watchers: IntGaugeVec,
    watchers_behind: IntGaugeVec,
    streams: IntGaugeVec,
    followers: IntGaugeVec,
    level: IntGaugeVec,
}

fn number(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

impl Gauges {
    fn new(metrics: &shared::Metrics) -> Self {
        let gauge = |name: &str, help: &str| metrics.gauge(name, help);
        let by_group = |name: &str, help: &str| metrics.gauges(name, help, &["group"]);
        let count_by_group = |name: &str, help: &str| metrics.counters(name, help, &["group"]);
        Self {
            has_leader: gauge("etcd_server_has_leader", "1 if every group here has a master."),
            is_leader: gauge("etcd_server_is_leader", "1 if this process is the master of every group here."),
            leader_changes: metrics.counter(
                "etcd_server_leader_changes_seen_total",
                "Takeovers of the group that had most of them here.",
            ),
            current_revision: gauge(
                "etcd_debugging_mvcc_current_revision",
                "The highest committed revision.",
            ),
            compact_revision: gauge(
                "etcd_debugging_mvcc_compact_revision",
                "The highest compacted revision; -1 where nothing was compacted.",
            ),
            keys: gauge("etcd_debugging_mvcc_keys_total", "Keys, deleted ones with history included."),
            watchers: gauge("etcd_debugging_mvcc_watcher_total", "Watchers of the groups."),
            slow_watchers: gauge(
                "etcd_debugging_mvcc_slow_watcher_total",
                "Watchers of the groups that have not read everything yet.",
            ),
            streams: gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams of the groups."),
            db_bytes: gauge(
                "etcd_mvcc_db_total_size_in_bytes",
                "Bytes of the storage on disk, once however many groups it holds; 0 in memory.",
            ),
            db_bytes_in_use: gauge(
                "etcd_mvcc_db_total_size_in_use_in_bytes",
                "Bytes of keys and values that compaction has not taken away, as the quota counts them.",
            ),
            quota_bytes: metrics.gauges(
                "etcd_server_quota_backend_bytes",
                "What the groups may keep together; not there without --quota-backend-bytes.",
                &[],
            ),
            of_group: GroupGauges {
                committed: by_group("kubebrain_mvcc_committed_revision", "The committed revision."),
                compacted: by_group("kubebrain_mvcc_compacted_revision", "The compacted revision, or -1."),
                swept: by_group(
                    "kubebrain_mvcc_swept_revision",
                    "Where the sweep is: compacted versions below it were taken out since the start.",
                ),
                keys: by_group("kubebrain_mvcc_keys", "Keys, deleted ones with history included."),
                versions: by_group("kubebrain_mvcc_versions", "Versions of all keys."),
                leases: by_group("kubebrain_mvcc_leases", "Leases that are granted."),
                queue: by_group("kubebrain_mvcc_writer_queue", "Commands that wait for the writer."),
                cache_bytes: by_group(
                    "kubebrain_mvcc_value_cache_bytes",
                    "Bytes of values in memory, of all groups of the process together.",
                ),
                cache_hits: count_by_group(
                    "kubebrain_mvcc_value_cache_hits_total",
                    "Values found in memory.",
                ),
                cache_misses: count_by_group(
                    "kubebrain_mvcc_value_cache_misses_total",
                    "Values not found in memory.",
                ),
                window_bytes: by_group(
                    "kubebrain_watch_window_bytes",
                    "Bytes of recent events for watchers.",
                ),
                watchers: by_group("kubebrain_watch_watchers", "Watchers."),
                watchers_behind: by_group(
                    "kubebrain_watch_watchers_behind",
                    "Watchers that have not read everything yet.",
                ),
                streams: by_group("kubebrain_watch_streams", "Watch streams."),
                followers: by_group("kubebrain_watch_followers", "Slaves that follow this master."),
                level: by_group(
                    "kubebrain_follow_level",
                    "1 where reads and watches are served: on a master, and on a slave that is level with it.",
                ),
            },
        }
    }

    fn look(&self, groups: &mut Groups) {
        self.of_group.reset();
        groups.open.retain(|_, open| open.shared.strong_count() > 0);
        let open: Vec<_> = groups
            .open
            .iter()
            .filter_map(|(group, open)| Some((group, open, open.shared.upgrade()?)))
            .collect();
        for (group, open, shared) in &open {
            self.of_group.look(group.as_str(), open, shared);
        }
        let stores = || open.iter().map(|(_, _, shared)| shared);
        let lives = |shared: &Arc<Shared>| !shared.has_ended();
        let led = |shared: &Arc<Shared>| lives(shared) && (!shared.is_slave() || shared.course.is_level());
        let leads = |shared: &Arc<Shared>| lives(shared) && !shared.is_slave();
        self.has_leader.set((!open.is_empty() && stores().all(led)).into());
        self.is_leader.set((!open.is_empty() && stores().all(leads)).into());
        self.leader_changes.reset();
        self.leader_changes.inc_by(groups.takeovers.values().max().copied().unwrap_or(0));
        let highest = |revision: fn(&Shared) -> i64| stores().map(|shared| revision(shared)).max();
        self.current_revision.set(highest(|shared| shared.committed().to_wire()).unwrap_or(0));
        self.compact_revision.set(highest(Shared::compacted).unwrap_or(-1));
        self.keys.set(stores().map(|shared| number(shared.index.read().keys())).sum());
        self.watchers.set(stores().map(|shared| shared.metrics.watch.watchers.get()).sum());
        self.slow_watchers.set(stores().map(|shared| shared.metrics.watch.behind.get()).sum());
        self.streams.set(stores().map(|shared| shared.metrics.watch.streams.get()).sum());
        let mut engines: Vec<_> = stores().map(|shared| &shared.engine).collect();
        engines.dedup_by(|one, other| Arc::ptr_eq(one, other)); // all groups of a process share one
        self.db_bytes.set(engines.iter().map(|engine| number(engine.size())).sum());
        let mut quotas: Vec<_> = stores().map(|shared| shared.share.quota()).collect();
        quotas.dedup_by_key(|quota| quota.store());
        self.db_bytes_in_use.set(quotas.iter().map(|quota| number(quota.used())).sum());
        self.quota_bytes.reset();
        if let Some(bytes) = quotas.first().and_then(|quota| quota.bytes_max()) {
            self.quota_bytes.with_label_values::<&str>(&[]).set(number(bytes));
        }
    }
}

impl GroupGauges {
    fn reset(&self) {
        let gauges = [
            &self.committed,
            &self.compacted,
            &self.swept,
            &self.keys,
            &self.versions,
            &self.leases,
            &self.queue,
            &self.cache_bytes,
            &self.window_bytes,
            &self.watchers,
            &self.watchers_behind,
            &self.streams,
            &self.followers,
            &self.level,
        ];
        gauges.iter().for_each(|gauge| gauge.reset());
        self.cache_hits.reset();
        self.cache_misses.reset();
    }

    fn look(&self, group: &str, open: &Open, shared: &Shared) {
        let set = |gauge: &IntGaugeVec, value: i64| gauge.with_label_values(&[group]).set(value);
        set(&self.committed, shared.committed().to_wire());
        set(&self.compacted, shared.compacted());
        set(&self.swept, number(*open.swept.borrow()));
        let (keys, versions) = {
            let index = shared.index.read();
            (index.keys(), index.versions())
        };
        set(&self.keys, number(keys));
        set(&self.versions, number(versions));
        set(&self.leases, number(shared.leases.lock().count()));
        let waiting = open.commands.upgrade().map_or(0, |queue| queue.max_capacity() - queue.capacity());
        set(&self.queue, number(waiting));
        let cache = shared.values.cache();
        set(&self.cache_bytes, number(cache.bytes));
        self.cache_hits.with_label_values(&[group]).inc_by(cache.hits);
        self.cache_misses.with_label_values(&[group]).inc_by(cache.misses);
        set(&self.window_bytes, number(shared.hub.window_bytes()));
        set(&self.watchers, shared.metrics.watch.watchers.get());
        set(&self.watchers_behind, shared.metrics.watch.behind.get());
        set(&self.streams, shared.metrics.watch.streams.get());
        set(&self.followers, shared.metrics.watch.followers.get());
        set(&self.level, (!shared.is_slave() || shared.course.is_level()).into());
    }
}

impl Default for Metrics {
    /// Counted and shown nowhere.
    fn default() -> Self {
        Self::new(&shared::Metrics::new())
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}
