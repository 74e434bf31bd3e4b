//! Flags of the election.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::duration;

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
