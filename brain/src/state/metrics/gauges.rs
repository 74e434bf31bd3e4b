//! What is read when a page is made, of all groups together and of each.

use std::sync::Arc;

use super::kinds::KindCounters;
use kubebrain_net::metrics as shared;
use kubebrain_shared::group::GroupName;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::figures::Figures;

/// What is read when a page is made.
pub(super) struct Gauges {
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
    kinds: KindCounters,
}

fn number(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

impl Gauges {
    /// Registers all of it.
    // Long: there is much, a name and a help for each.
    pub(super) fn new(metrics: &shared::Metrics) -> Self {
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
                queue: by_group("kubebrain_mvcc_writer_queue", "Writes that wait for the writer."),
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
                kinds: KindCounters::new(metrics),
            },
        }
    }

    /// Shows the groups that are open; `takeovers` are those of the group that had most of them.
    pub(super) fn look(&self, open: &[(GroupName, Figures)], takeovers: u64) {
        self.of_group.reset();
        for (group, figures) in open {
            self.of_group.show(group.as_str(), figures);
        }
        let groups = || open.iter().map(|(_, figures)| figures);
        let led = |of: &Figures| !of.has_ended && (!of.is_slave || of.is_level);
        let leads = |of: &Figures| !of.has_ended && !of.is_slave;
        self.has_leader.set((!open.is_empty() && groups().all(led)).into());
        self.is_leader.set((!open.is_empty() && groups().all(leads)).into());
        self.leader_changes.reset();
        self.leader_changes.inc_by(takeovers);
        self.current_revision.set(groups().map(|of| of.committed).max().unwrap_or(0));
        self.compact_revision.set(groups().map(|of| of.compacted).max().unwrap_or(-1));
        self.keys.set(groups().map(|of| number(of.keys)).sum());
        self.watchers.set(groups().map(|of| of.watchers).sum());
        self.slow_watchers.set(groups().map(|of| of.watchers_behind).sum());
        self.streams.set(groups().map(|of| of.streams).sum());
        let mut engines: Vec<_> = groups().map(|of| &of.engine).collect();
        engines.dedup_by(|one, other| Arc::ptr_eq(one, other)); // all groups of a process share one
        self.db_bytes.set(engines.iter().map(|engine| number(engine.size())).sum());
        let mut quotas: Vec<_> = groups().map(|of| &of.quota).collect();
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
        self.kinds.reset();
    }

    fn show(&self, group: &str, of: &Figures) {
        let set = |gauge: &IntGaugeVec, value: i64| gauge.with_label_values(&[group]).set(value);
        set(&self.committed, of.committed);
        set(&self.compacted, of.compacted);
        set(&self.swept, number(of.swept));
        set(&self.keys, number(of.keys));
        set(&self.versions, number(of.versions));
        set(&self.leases, number(of.leases));
        set(&self.queue, number(of.queue));
        set(&self.cache_bytes, number(of.cache.bytes));
        self.cache_hits.with_label_values(&[group]).inc_by(of.cache.hits);
        self.cache_misses.with_label_values(&[group]).inc_by(of.cache.misses);
        set(&self.window_bytes, number(of.window_bytes));
        set(&self.watchers, of.watchers);
        set(&self.watchers_behind, of.watchers_behind);
        set(&self.streams, of.streams);
        set(&self.followers, of.followers);
        set(&self.level, (!of.is_slave || of.is_level).into());
        self.kinds.show(group, &of.kinds);
    }
}
