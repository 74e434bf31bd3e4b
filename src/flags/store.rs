//! Flags of what stores.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::duration;

/// What stores.
#[derive(Debug, Args)]
pub(crate) struct Store {
    /// Where the data is.
    #[arg(long, env = "KUBEBRAIN_ENGINE", value_enum, default_value_t = Engine::Embedded)]
    pub engine: Engine,
    /// The embedded engine's directory; one process at a time has it.
    #[arg(long, env = "ETCD_DATA_DIR", value_name = "DIR", default_value = "default.kubebrain")]
    pub data_dir: PathBuf,
    #[command(flatten)]
    pub tikv: TikvCluster,
    /// Goes before every stored key: several clusters can share one engine.
    #[arg(long, env = "KUBEBRAIN_STORE_PREFIX", default_value = "")]
    pub store_prefix: String,
    /// Makes the id of the cluster, at the first start of a store: stores that are given the same one have the same id.
    /// Without it the id is drawn. A store keeps the id that it has.
    #[arg(long, env = "ETCD_INITIAL_CLUSTER_TOKEN", value_name = "TOKEN")]
    pub initial_cluster_token: Option<String>,
    /// Bytes of values kept in memory, for all groups of the process together.
    #[arg(long, env = "KUBEBRAIN_VALUE_CACHE_BYTES", default_value_t = 256 << 20)]
    pub value_cache_bytes: u64,
    /// Bytes of blocks that the embedded engine keeps of what it read from disk.
    #[arg(long, env = "KUBEBRAIN_BLOCK_CACHE_BYTES", default_value_t = 64 << 20)]
    pub block_cache_bytes: u64,
    /// Bytes of rows that the embedded engine keeps in memory before it writes them out sorted; kept with a store.
    #[arg(long, env = "KUBEBRAIN_MEMTABLE_BYTES", default_value_t = 128 << 20)]
    pub memtable_bytes: u64,
    /// Bytes of recent events kept for watchers, for each group.
    #[arg(long, env = "KUBEBRAIN_WATCH_WINDOW_BYTES", default_value_t = 64 << 20)]
    pub watch_window_bytes: usize,
    /// Bytes of large answers that are made or wait for their clients, for all groups of the process together; more wait,
    /// and after a while they are refused. While an answer is made it may take twice its size.
    #[arg(long, env = "KUBEBRAIN_ANSWER_BYTES", value_name = "BYTES", default_value_t = kubebrain_net::budget::DEFAULT_BYTES)]
    pub answer_bytes: u64,
    /// Operations in each list of a transaction.
    #[arg(long, env = "ETCD_MAX_TXN_OPS", default_value_t = 128)]
    pub max_txn_ops: usize,
    /// Bytes of keys and values, uncompacted history included, that all groups of this store may keep together; above it
    /// puts are refused until keys are deleted, history is compacted and the alarm is disarmed. 0 and less is no bound:
    /// etcd's default of 2 GiB is not ours, the store does not need it.
    #[arg(
        long,
        env = "ETCD_QUOTA_BACKEND_BYTES",
        value_name = "BYTES",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub quota_backend_bytes: i64,
    /// How a read is known to be fresh where other brains can write the same engine. engine: by a look into it, which all
    /// reads that wait share. lease: by the master lease of the election, on this machine's clock, while it is held, else as
    /// engine; a machine that is paused together with its clock may answer old reads. trust: not at all; whoever starts brains sees to it that one runs at a time, or stale reads
    /// are harmless.
    #[arg(long, env = "KUBEBRAIN_READ_FENCE", value_enum, default_value_t = ReadFence::Engine)]
    pub read_fence: ReadFence,
    /// Between two times that what is left of a lease is written down: a restart gives a lease at most this much too
    /// much.
    #[arg(long, env = "KUBEBRAIN_LEASE_CHECKPOINT_INTERVAL", value_name = "DURATION", default_value = "5m",
          value_parser = duration::parse)]
    pub lease_checkpoint_interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// On this machine's disk.
    Embedded,
    /// In this process: everything is gone when it ends.
    Memory,
    /// In a TiKV cluster: see --pd.
    Tikv,
}

/// How reads are known to be fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReadFence {
    /// By the engine.
    Engine,
    /// By the master lease.
    Lease,
    /// By whoever starts brains.
    Trust,
}

/// A TiKV cluster. All of these go with --engine tikv alone.
#[derive(Debug, Args)]
pub(crate) struct TikvCluster {
    /// Members of TiKV's placement driver (PD).
    #[arg(long, env = "KUBEBRAIN_PD", value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub pd: Vec<String>,
    /// Certificates of the authorities that the certificates of TiKV and PD come from, PEM. The next two are needed with
    /// it; without the three nothing is encrypted. They are read again when connections are made anew.
    #[arg(long, env = "KUBEBRAIN_TIKV_CA_FILE", value_name = "FILE")]
    pub tikv_ca_file: Option<PathBuf>,
    /// The certificate that TiKV and PD are shown, PEM.
    #[arg(long, env = "KUBEBRAIN_TIKV_CERT_FILE", value_name = "FILE")]
    pub tikv_cert_file: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, env = "KUBEBRAIN_TIKV_KEY_FILE", value_name = "FILE")]
    pub tikv_key_file: Option<PathBuf>,
    /// on: one of the brains of the cluster moves PD's garbage collection on, 10 minutes behind the present; without
    /// that, or TiDB, TiKV keeps every version for ever. Leave it off where TiDB or another program does it.
    #[arg(long, env = "KUBEBRAIN_TIKV_GC", value_enum, default_value_t = Gc::Off)]
    pub tikv_gc: Gc,
}

/// Who collects garbage in TiKV.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Gc {
    /// Somebody else, such as TiDB.
    Off,
    /// One of the brains.
    On,
}
