//! The engine under the groups of this process.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use kubebrain_brain::engine::Engine;
use kubebrain_brain::engine::embedded::{self, Embedded};
use kubebrain_brain::engine::memory::Memory;
use kubebrain_brain::mvcc;
use kubebrain_brain::mvcc::quota::Quota;
use kubebrain_brain::request::Limits;
use kubebrain_shared::budget::Budget;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::intake;
use kubebrain_shared::metrics::Metrics;

use crate::cli::{self, Clients};

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
}

pub(crate) async fn open(flags: &cli::Store, metrics: &Metrics) -> Result<Storage> {
    let (answers, requests) = (Budget::new(flags.answer_bytes), Budget::new(intake::DEFAULT_BYTES));
    let quota = Quota::new(u64::try_from(flags.quota_backend_bytes).ok().filter(|bytes| *bytes > 0));
    match flags.engine {
        cli::Engine::Memory => {
            Ok(Storage { engine: Arc::new(Memory::new()), embedded: None, quota, answers, requests })
        }
        cli::Engine::Embedded => {
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
                metrics: embedded::Metrics::new(metrics),
                ..embedded::Config::new(&flags.data_dir)
            };
            let opened = tokio::task::spawn_blocking(move || Embedded::open(&config)).await?;
            let embedded = Arc::new(opened.context("the store cannot be opened")?);
            tracing::debug!(bytes = embedded.size(), "store opened");
            Ok(Storage { engine: embedded.clone(), embedded: Some(embedded), quota, answers, requests })
        }
    }
}

/// For an error: which group, and where.
pub(crate) fn unopened(group: &GroupName, store: &cli::Store) -> String {
    match store.engine {
        cli::Engine::Memory => format!("group {group} cannot be opened"),
        cli::Engine::Embedded => {
            format!("group {group} in data directory {} cannot be opened", store.data_dir.display())
        }
    }
}

impl Storage {
    /// The store of one of `groups` groups in this process.
    pub(crate) fn config(
        &self,
        group: GroupName,
        groups: usize,
        store: &cli::Store,
        clients: &Clients,
    ) -> mvcc::Config {
        mvcc::Config {
            store_prefix: Bytes::copy_from_slice(store.store_prefix.as_bytes()),
            limits: Limits { txn_ops_max: store.max_txn_ops, request_bytes_max: clients.max_request_bytes },
            value_cache_bytes: store.value_cache_bytes / groups.max(1) as u64,
            window_bytes: store.watch_window_bytes,
            quota: self.quota.clone(),
            answers: self.answers.clone(),
            requests: self.requests.clone(),
            lease_checkpoint_interval: store.lease_checkpoint_interval,
            ..mvcc::Config::new(group, clients.name.clone())
        }
    }
}
