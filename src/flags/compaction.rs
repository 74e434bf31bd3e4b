//! Flags of compaction.

use clap::Args;
use kubebrain_shared::compaction::Policy;

use super::duration;

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
