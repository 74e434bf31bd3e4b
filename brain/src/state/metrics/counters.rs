//! What is counted where it happens: of all groups together, and of each.

use std::sync::Arc;
use std::time::Duration;

use kubebrain_net::metrics::{self as shared, disk_buckets};
use kubebrain_shared::group::GroupName;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::watch::WatchMetrics;
use crate::decide::answer::Answer;
use crate::engine::CommitError;

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

/// What a slave counts.
pub(crate) struct FollowMetrics {
    questions: [IntCounter; 2],
    question_seconds: Histogram,
    /// Requests that a question was asked for.
    pub(crate) questioners: IntCounter,
    /// How often all keys were loaded.
    pub(crate) loads: IntCounter,
}

/// What one group counts, kept in its [`GroupState`](crate::state::group::GroupState).
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

const OUTCOMES: [&str; 4] = ["ok", "conflict", "refused", "unknown"];
const QUESTIONS: [&str; 2] = ["answered", "failed"];
const FENCES: [&str; 3] = ["proven", "refuted", "failed"];

impl Counted {
    /// Registers all of it.
    // Long: there is much, a name and a help for each.
    pub(super) fn new(metrics: &shared::Metrics) -> Self {
        let milliseconds =
            |start, count| prometheus::exponential_buckets(start, 2.0, count).expect("a growing factor");
        let counter = |name: &str, help: &str| metrics.counter(name, help);
        Self {
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
        }
    }

    /// The counters of a group that opens.
    pub(super) fn of(self: &Arc<Self>, group: &GroupName) -> GroupMetrics {
        let name = group.as_str();
        let counted = self;
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
}

impl FollowMetrics {
    /// A question came back.
    pub(crate) fn question(&self, taken: Duration, answered: bool) {
        self.question_seconds.observe(taken.as_secs_f64());
        self.questions[usize::from(!answered)].inc();
    }
}

impl GroupMetrics {
    /// A batch came back from the storage.
    pub(crate) fn commit(&self, outcome: &Result<(), CommitError>) {
        let place = match outcome {
            Ok(()) => 0,
            Err(CommitError::Conflict { .. }) => 1,
            Err(CommitError::Refused(_)) => 2,
            Err(CommitError::Unknown(_)) => 3,
        };
        self.commits[place].inc();
    }

    /// A look into the log came back, as the so-and-so-many of [`FENCES`].
    pub(crate) fn fence(&self, outcome: usize) {
        self.fences[outcome].inc();
    }

    /// A request was carried out.
    pub(crate) fn done(&self, answer: &Answer) {
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
