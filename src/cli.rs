//! Flags and environment variables. etcd's names where the meaning is the same.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kubebrain_shared::compaction::Policy;
use kubebrain_shared::group::GroupName;

use crate::ctl::Ctl;
use crate::duration;
use crate::listen::{PeerFiles, PeerServing, Serving};
use crate::log;

/// Kubernetes' state on a storage that scales out: etcd v3 over groups of brains.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub log: log::Flags,
    /// Print the settings that flags and environment come to, and end.
    #[arg(long, global = true)]
    pub print_config: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Proxy and all groups of a placement in one process, over one embedded store.
    Standalone(Standalone),
    /// One brain of one group.
    Brain(Box<Brain>),
    /// One etcd endpoint over the groups of a placement.
    Proxy(Proxy),
    /// What an operator does: looks at servers and groups, saves snapshots and restores them.
    Ctl(Ctl),
    /// Version, commit and compiler of this program.
    Version,
    /// The completion of command lines for a shell, to be loaded by it.
    Completion(Completion),
    /// The manual pages.
    Man(Man),
}

#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// As in `source <(kubebrain completion bash)`.
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The page of this command, as in `kubebrain man ctl restore | man -l -`. Without it: that of the program.
    pub command: Vec<String>,
    /// Write all pages into this directory instead, such as /usr/local/share/man/man1.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Standalone {
    #[command(flatten)]
    pub store: Store,
    #[command(flatten)]
    pub clients: Clients,
    #[command(flatten)]
    pub compaction: Compaction,
    /// Which group owns which keys. Without it: core, pods and events.
    #[arg(long, env = "KUBEBRAIN_PLACEMENT", value_name = "FILE")]
    pub placement: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Brain {
    /// The group to serve.
    #[arg(long, env = "KUBEBRAIN_GROUP", default_value = "default", value_parser = group)]
    pub group: GroupName,
    #[command(flatten)]
    pub store: Store,
    #[command(flatten)]
    pub clients: Clients,
    #[command(flatten)]
    pub compaction: Compaction,
    #[command(flatten)]
    pub peers: PeerServing,
    #[command(flatten)]
    pub election: Election,
    /// Which group owns which keys. Without it this group owns all.
    #[arg(long, env = "KUBEBRAIN_PLACEMENT", value_name = "FILE")]
    pub placement: Option<PathBuf>,
}

/// How the brains of a group agree on a master, with Kubernetes' words.
#[derive(Debug, Args)]
pub(crate) struct Election {
    /// Where the brains of a group agree on their master. Without it: engine, where other brains can share the engine, as
    /// with TiKV; else none.
    #[arg(long, env = "KUBEBRAIN_ELECTION", value_enum)]
    pub election: Option<Ballot>,
    /// With --election=kubernetes: how its API server is reached, a file as kubectl reads it. Without it: by the service
    /// account of the pod that this brain runs in. Not the cluster whose state is stored here.
    #[arg(long, env = "KUBEBRAIN_ELECTION_KUBECONFIG", value_name = "FILE")]
    pub election_kubeconfig: Option<PathBuf>,
    /// With --election=kubernetes: the lease's namespace. Without it: default.
    #[arg(long, env = "KUBEBRAIN_ELECTION_NAMESPACE", value_name = "NAMESPACE")]
    pub election_namespace: Option<String>,
    /// With --election=kubernetes: the lease's name, the same for all brains of the group and nobody else's. Without it:
    /// kubebrain-GROUP, with the store prefix where there is one.
    #[arg(long, env = "KUBEBRAIN_ELECTION_LEASE_NAME", value_name = "NAME")]
    pub election_lease_name: Option<String>,
    /// How long a brain waits after it last saw the master renew before it takes over. Falls: a dead master is replaced
    /// sooner, a slow storage costs mastership sooner.
    #[arg(long, env = "KUBEBRAIN_ELECTION_LEASE_DURATION", value_name = "DURATION", default_value = "2s",
          value_parser = duration::parse)]
    pub election_lease_duration: Duration,
    /// A master that could not renew for so long steps down; below the lease duration.
    #[arg(long, env = "KUBEBRAIN_ELECTION_RENEW_DEADLINE", value_name = "DURATION", default_value = "1500ms",
          value_parser = duration::parse)]
    pub election_renew_deadline: Duration,
    /// Between two tries to renew or to take over.
    #[arg(long, env = "KUBEBRAIN_ELECTION_RETRY_PERIOD", value_name = "DURATION", default_value = "250ms",
          value_parser = duration::parse)]
    pub election_retry_period: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ballot {
    /// In a row of the group's own engine.
    Engine,
    /// In a Lease of a Kubernetes cluster, another one than that whose state is stored here.
    Kubernetes,
    /// Nowhere: this brain is the only one of its group. Of two the newer one takes over, the older one ends.
    None,
}

#[derive(Debug, Args)]
pub(crate) struct Proxy {
    #[command(flatten)]
    pub clients: Clients,
    #[command(flatten)]
    pub compaction: Compaction,
    #[command(flatten)]
    pub peers: PeerFiles,
    /// Which group owns which keys, and where its brains are.
    #[arg(long, env = "KUBEBRAIN_PLACEMENT", value_name = "FILE")]
    pub placement: PathBuf,
}

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

/// Which history is kept.
#[derive(Debug, Args)]
pub(crate) struct Compaction {
    /// periodic: history is kept for a time; revision: a number of revisions is kept.
    #[arg(long, env = "ETCD_AUTO_COMPACTION_MODE", value_name = "MODE", default_value = "periodic")]
    pub auto_compaction_mode: String,
    /// How much history is kept: hours or a duration such as 5m, or a number of revisions. 0: all, until a client
    /// compacts, as kube-apiserver does every five minutes. All groups are compacted at one revision.
    #[arg(
        long,
        env = "ETCD_AUTO_COMPACTION_RETENTION",
        value_name = "RETENTION",
        default_value = "0",
        allow_hyphen_values = true
    )]
    pub auto_compaction_retention: String,
}

impl Compaction {
    /// `None` where nothing is compacted automatically.
    pub(crate) fn policy(&self) -> anyhow::Result<Option<Policy>> {
        Policy::parse(&self.auto_compaction_mode, &self.auto_compaction_retention, duration::parse)
            .map_err(anyhow::Error::msg)
    }
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

/// Who collects garbage in TiKV.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Gc {
    /// Somebody else, such as TiDB.
    Off,
    /// One of the brains.
    On,
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

/// What clients see.
#[derive(Debug, Args)]
pub(crate) struct Clients {
    /// This member's name.
    #[arg(long, env = "ETCD_NAME", default_value = "default")]
    pub name: String,
    /// Where clients reach this process.
    #[arg(
        long,
        env = "ETCD_LISTEN_CLIENT_URLS",
        value_name = "URL,...",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379"
    )]
    pub listen_client_urls: Vec<String>,
    /// Where clients are told to reach it. Without it: where it listens.
    #[arg(long, env = "ETCD_ADVERTISE_CLIENT_URLS", value_name = "URL,...", value_delimiter = ',')]
    pub advertise_client_urls: Vec<String>,
    /// Between two progress notifications of a quiet watcher.
    #[arg(long, env = "ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL", value_name = "DURATION", default_value = "10m",
          value_parser = duration::parse)]
    pub watch_progress_notify_interval: Duration,
    /// Bytes of the largest request.
    #[arg(long, env = "ETCD_MAX_REQUEST_BYTES", default_value_t = 3 << 19)]
    pub max_request_bytes: usize,
    /// A unary request that takes longer is worth a line in the log.
    #[arg(long, env = "ETCD_WARNING_UNARY_REQUEST_DURATION", value_name = "DURATION", default_value = "300ms",
          value_parser = duration::parse)]
    pub warning_unary_request_duration: Duration,
    /// Streams that one connection may have open.
    #[arg(long, env = "ETCD_MAX_CONCURRENT_STREAMS", default_value_t = u32::MAX)]
    pub max_concurrent_streams: u32,
    #[command(flatten)]
    pub serving: Serving,
}

pub(crate) fn group(text: &str) -> Result<GroupName, String> {
    GroupName::parse(text).ok_or_else(|| "a group's name has 1 to 63 of a-z, 0-9 and -".to_owned())
}
