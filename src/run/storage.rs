//! The engine under the groups of this process.

#[cfg(feature = "tikv")]
mod tikv;
#[cfg(not(feature = "tikv"))]
#[path = "storage/without_tikv.rs"]
mod tikv;

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use kubebrain_brain::config::{self, Quota, ValueCache};
use kubebrain_brain::engine::Engine;
use kubebrain_brain::engine::embedded::{self, Embedded};
use kubebrain_brain::engine::memory::Memory;
use kubebrain_brain::request::Limits;
use kubebrain_brain::store::cluster;
use kubebrain_net::budget::Budget;
use kubebrain_net::intake;
use kubebrain_shared::group::GroupName;

use crate::flags::{self, Clients};
use crate::process::Process;
use crate::run::numbers::Numbers;
use crate::run::opening;

/// An open engine.
pub(crate) struct Storage {
    /// As groups use it.
    pub engine: Arc<dyn Engine>,
    /// The same, if it is on disk.
    pub embedded: Option<Arc<Embedded>>,
    /// What all groups in it may keep together.
    pub quota: Arc<Quota>,
    /// What their answers may take in memory together.
    pub answers: Arc<Budget>,
    /// And large requests to them.
    pub requests: Arc<Budget>,
    /// Values that they keep in memory together.
    pub values: ValueCache,
    /// The cluster's id, once it is learned.
    pub cluster: u64,
}

/// The cluster's id by the token that was given, if one was.
pub(crate) fn token(flags: &flags::Store) -> Option<u64> {
    flags.initial_cluster_token.as_deref().filter(|token| !token.is_empty()).map(cluster::of_token)
}

/// The cluster's id, should the store be a new one.
pub(crate) fn new_cluster(flags: &flags::Store) -> u64 {
    token(flags).unwrap_or_else(|| cluster::drawn(rand::random()))
}

/// Opens it. With TiKV that is not more than the intention to connect: who opens a group there waits for it.
pub(crate) async fn open(
    flags: &flags::Store,
    clients: &Clients,
    numbers: &Numbers,
    process: &Process,
) -> Result<Storage> {
    if flags.engine != flags::Engine::Tikv
        && let Some(flag) = flags.tikv.given()
    {
        bail!("{flag} goes with --engine tikv");
    }
    let storage = |engine, embedded| Storage {
        engine,
        embedded,
        quota: Quota::new(u64::try_from(flags.quota_backend_bytes).ok().filter(|bytes| *bytes > 0)),
        answers: Budget::of_answers(flags.answer_bytes, numbers.held.clone()),
        requests: Budget::of_requests(intake::DEFAULT_BYTES, numbers.held.clone()),
        values: ValueCache::new(flags.value_cache_bytes),
        cluster: cluster::unnamed(),
    };
    match flags.engine {
        flags::Engine::Memory => Ok(storage(Arc::new(Memory::new()), None)),
        flags::Engine::Embedded => {
            if flags.data_dir.join("member").exists() {
                bail!(
                    "--data-dir {dir}: this is etcd's data ({dir}/member), which kubebrain neither reads nor changes; \
                     name another directory",
                    dir = flags.data_dir.display()
                );
            }
            let config = embedded::Config {
                cache_bytes: flags.block_cache_bytes,
                memtable_bytes: flags.memtable_bytes,
                open_files_max: process.descriptors.tables,
                metrics: embedded::Metrics::new(&numbers.metrics),
                ..embedded::Config::new(&flags.data_dir)
            };
            let (replayed, what) =
                (config.replayed.clone(), format!("the store in {}", flags.data_dir.display()));
            process.systemd.status(&format!("opening {what}"));
            let work = tokio::task::spawn_blocking(move || Embedded::open(&config));
            let opened = tokio::select! { biased;
                opened = work => opened?,
                never = opening::progress(process, &what, "bytes of its log", &replayed, &drop) => match never {},
                never = process.systemd.live(|_| true) => match never {},
            };
            let embedded = Arc::new(opened.context("the store cannot be opened")?);
            tracing::info!(bytes = embedded.size(), "opened {what}");
            Ok(storage(embedded.clone(), Some(embedded)))
        }
        flags::Engine::Tikv => Ok(storage(tikv::open(flags, clients, numbers)?, None)),
    }
}

/// For an error: which group, and where.
pub(crate) fn unopened(group: &GroupName, store: &flags::Store) -> String {
    match store.engine {
        flags::Engine::Memory => format!("group {group} cannot be opened"),
        flags::Engine::Embedded => {
            format!("group {group} in data directory {} cannot be opened", store.data_dir.display())
        }
        flags::Engine::Tikv => {
            format!("group {group} in TiKV at {} cannot be opened", store.tikv.pd.join(","))
        }
    }
}

impl Storage {
    /// The store of a group in this process.
    pub(crate) fn config(&self, group: GroupName, store: &flags::Store, clients: &Clients) -> config::Config {
        config::Config {
            store_prefix: Bytes::copy_from_slice(store.store_prefix.as_bytes()),
            limits: Limits { txn_ops_max: store.max_txn_ops, request_bytes_max: clients.max_request_bytes },
            value_cache: self.values.clone(),
            window_bytes: store.watch_window_bytes,
            quota: self.quota.clone(),
            answers: self.answers.clone(),
            requests: self.requests.clone(),
            read_fence: match store.read_fence {
                flags::ReadFence::Engine => config::ReadFence::Engine,
                flags::ReadFence::Lease => config::ReadFence::Lease,
                flags::ReadFence::Trust => config::ReadFence::Trust,
            },
            lease_checkpoint_interval: store.lease_checkpoint_interval,
            cluster_id: self.cluster,
            member_id: cluster::member(self.cluster, &clients.name),
            ..config::Config::new(group, clients.name.clone())
        }
    }
}

impl flags::TikvCluster {
    /// A flag that was given, if any was.
    fn given(&self) -> Option<&'static str> {
        let given = [
            (!self.pd.is_empty(), "--pd"),
            (self.tikv_ca_file.is_some(), "--tikv-ca-file"),
            (self.tikv_cert_file.is_some(), "--tikv-cert-file"),
            (self.tikv_key_file.is_some(), "--tikv-key-file"),
            (self.tikv_gc == flags::Gc::On, "--tikv-gc"),
        ];
        given.into_iter().find_map(|(given, flag)| given.then_some(flag))
    }
}

impl flags::Store {
    /// Where the data is, for people.
    pub(crate) fn place(&self) -> String {
        match self.engine {
            flags::Engine::Memory => "in memory".to_owned(),
            flags::Engine::Embedded => self.data_dir.display().to_string(),
            flags::Engine::Tikv => format!("TiKV at {}", self.tikv.pd.join(",")),
        }
    }
}
