//! How the tree of rows is set up.

use std::path::Path;
use std::sync::Arc;

use lsm_tree::config::{
    BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry, RestartIntervalPolicy,
};
use lsm_tree::{
    AnyTree, Cache, CompressionType, DescriptorTable, KvSeparationOptions, SequenceNumberCounter,
};

use super::blobs::Blobs;
use super::config::Config;

/// Values of this size and more are kept apart from keys and not moved when keys are merged (CPU of a write at 256 a
/// batch: 18 instead of 34 us). Most Kubernetes objects are larger.
const SEPARATE_BYTES_MIN: u32 = 1 << 10;

/// The tree that holds all rows. The settings are fjall's defaults, but for what is said beside them.
pub(super) fn tree(
    config: &Config,
    path: &Path,
    stamps: &SequenceNumberCounter,
    blobs: &Blobs,
) -> lsm_tree::Result<AnyTree> {
    let bloom = |policy| FilterPolicyEntry::Bloom(policy);
    let filters = [
        bloom(BloomConstructionPolicy::FalsePositiveRate(0.0001)),
        bloom(BloomConstructionPolicy::BitsPerKey(10.0)),
    ];
    let compression = [CompressionType::None, CompressionType::None, CompressionType::Lz4];
    // By default only the oldest quarter of the files with stale values is rewritten: of fewer than four, none ever.
    let separation = KvSeparationOptions::default().separation_threshold(SEPARATE_BYTES_MIN).age_cutoff(1.0);
    // What the tree itself takes for visible is of no use here: see `Moments`.
    lsm_tree::Config::new(path, stamps.clone(), SequenceNumberCounter::default())
        .use_cache(Arc::new(Cache::with_capacity_bytes(config.cache_bytes)))
        .use_descriptor_table(Some(Arc::new(DescriptorTable::new(config.open_files_max))))
        .data_block_restart_interval_policy(RestartIntervalPolicy::new([10, 16]))
        .data_block_compression_policy(CompressionPolicy::new(compression))
        .filter_policy(FilterPolicy::new(filters))
        .with_kv_separation(Some(separation))
        .with_compaction_filter_factory(Some(Arc::new(blobs.clone())))
        .open()
}
