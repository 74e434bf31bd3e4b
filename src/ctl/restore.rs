//! `kubebrain ctl restore`: a data directory from a snapshot.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use kubebrain_brain::engine::embedded::{self, Staged};
use kubebrain_brain::store::cluster;
use kubebrain_brain::store::restore::{Options, Restored, restore};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::snapshot::Reader;

use crate::{flags, placement, print};

/// Makes a data directory from a snapshot, for `standalone` or for brains. The directory gets a whole store or none.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The snapshot.
    file: PathBuf,
    /// Where the store goes: a directory that is empty or not there yet.
    #[arg(long, env = "ETCD_DATA_DIR", value_name = "DIR", default_value = "default.kubebrain")]
    data_dir: PathBuf,
    /// Which group gets which keys. Without it each group gets what it had. Another table than that of the snapshot
    /// needs --mark-compacted, as history does not move with keys.
    #[arg(long, env = "KUBEBRAIN_PLACEMENT", value_name = "FILE")]
    placement: Option<PathBuf>,
    /// Restore only these groups: for a brain that has a directory of its own.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = flags::group)]
    group: Vec<GroupName>,
    /// Goes before every stored key. Without it: what did when the snapshot was taken.
    #[arg(long, env = "KUBEBRAIN_STORE_PREFIX")]
    store_prefix: Option<String>,
    /// Raise the revision by this, above all that clients have seen since the snapshot was taken.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "mark_compacted")]
    bump_revision: u64,
    /// Count everything up to the raised revision as compacted: clients that watch or list from before it are told to
    /// begin anew. Wanted with --bump-revision, and of no use without.
    #[arg(long, requires = "bump_revision")]
    mark_compacted: bool,
    /// Makes the id of the restored cluster, as it does of a new one. Without it the id is made from the snapshot: another
    /// one than it had, and the same in all directories that are restored from it.
    #[arg(long, env = "ETCD_INITIAL_CLUSTER_TOKEN", value_name = "TOKEN")]
    initial_cluster_token: Option<String>,
    /// Do not compare the sha256 at the end of the file. Each record's own checksum is compared anyway.
    #[arg(long)]
    skip_hash_check: bool,
}

pub(super) async fn run(flags: Restore) -> Result<()> {
    if flags.mark_compacted && flags.bump_revision == 0 {
        bail!(
            "--mark-compacted needs a --bump-revision above 0: without it clients could meet revisions again"
        );
    }
    let name = flags.file.display().to_string();
    let file = File::open(&flags.file).with_context(|| format!("snapshot {name}"))?;
    let source = BufReader::with_capacity(1 << 20, file);
    let mut reader = Reader::new(source, !flags.skip_hash_check).with_context(|| name.clone())?;
    let placement = flags.placement.as_deref().map(placement::read).transpose()?;
    let options = Options {
        bump: flags.bump_revision,
        mark_compacted: flags.mark_compacted,
        placement,
        store_prefix: flags.store_prefix.map(Bytes::from),
        groups: flags.group.into_iter().collect(),
        cluster: flags.initial_cluster_token.as_deref().map(cluster::of_token),
    };
    let config = embedded::Config::new(&flags.data_dir);
    let staged = tokio::task::spawn_blocking(move || Staged::new(&config)).await??;
    let restored = restore(&mut reader, staged.engine(), &options).await.with_context(|| name.clone())?;
    tokio::task::spawn_blocking(move || staged.finish()).await??;
    print::print(&told(&flags.file, &flags.data_dir, &restored))?;
    if !flags.mark_compacted {
        print::print(HINT)?;
    }
    Ok(())
}

/// Whoever has lived on may have seen revisions that the restored store will give out again.
const HINT: &str = "
Clients that were alive after the snapshot was taken, such as the API servers of a cluster, have seen revisions above
it. This store will give them out again, to other writes, and such a client would then miss changes without noticing. If
there are any, restore again, into another directory, with

    --bump-revision=1000000000 --mark-compacted

which raises the revision above all that they have seen, and makes them list anew. It is needed neither for a first start nor for
clients that begin anew themselves.
";

/// The same counts, by the same names, as `snapshot status` shows.
fn told(file: &Path, data_dir: &Path, restored: &Restored) -> String {
    let groups: Vec<_> = restored.groups.iter().map(GroupName::as_str).collect();
    let mut lines = vec![
        ("groups", groups.join(" ")),
        ("revision", format!("{} (the snapshot's: {})", restored.revision.get(), restored.header.revision)),
        ("compacted", restored.compacted.to_string()),
        ("keys", restored.keys.to_string()),
        ("versions", restored.versions.to_string()),
        ("leases", restored.leases.to_string()),
    ];
    if !restored.store_prefix.is_empty() {
        let prefix = restored.store_prefix.escape_ascii();
        lines.push(("prefix", format!("{prefix} (start with --store-prefix={prefix})")));
    }
    let lines: Vec<_> = lines.iter().map(|(label, value)| format!("  {label:<10} {value}\n")).collect();
    format!("restored {} into {}\n{}", file.display(), data_dir.display(), lines.concat())
}
