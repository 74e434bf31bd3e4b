//! [`Keys`]: all keys of a group, read from the engine.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_shared::range::KeyRange;

use super::error::OpenError;
use crate::config::Config;
use crate::decide::held::Held;
use crate::decide::index::Index;
use crate::engine::Snapshot;
use crate::rows::codec::{self, Layout};
use crate::rows::version::Version;
use crate::state::values::Values;

/// All keys of a group, without their values.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    pub index: Index,
    /// What their rows take.
    pub bytes: u64,
    /// The highest revision of any of them; 0 where there is none.
    pub top: u64,
}

/// All keys that are the group's by all that it goes by; newest values go into the cache.
pub(crate) async fn load_keys(
    config: &Config,
    snapshot: &dyn Snapshot,
    layout: &Layout,
    held: &Held,
    values: &Values,
) -> Result<Keys, OpenError> {
    let mut keys = Keys::default();
    let parts = held.table().partition(&KeyRange::ALL);
    let parts = parts.unwrap_or_else(|| vec![(KeyRange::ALL, config.group.clone())]);
    for (range, _) in parts.into_iter().filter(|(_, owner)| *owner == config.group) {
        load_range(config, snapshot, layout, held, &range, values, &mut keys).await?;
    }
    Ok(keys)
}

async fn load_range(
    config: &Config,
    snapshot: &dyn Snapshot,
    layout: &Layout,
    held: &Held,
    range: &KeyRange,
    values: &Values,
    keys: &mut Keys,
) -> Result<(), OpenError> {
    let mut span = layout.data_span(range);
    let mut current: Option<(Bytes, Vec<Version>)> = None;
    loop {
        let page = snapshot.scan(span.clone(), 4096).await?;
        config.loaded.fetch_add(page.rows.len() as u64, Ordering::Relaxed);
        for (row, value) in page.rows {
            let data = layout.read_data(&row, &value)?;
            if held.tables().any(|table| table.owner(&data.key) != &config.group) {
                continue;
            }
            let revision = data.revision.get();
            keys.top = keys.top.max(revision);
            let version = match &data.kv {
                None => Version::tombstone(revision),
                Some(kv) => read_version(&row, kv)?,
            };
            let version = version.taking(&row, &value);
            keys.bytes += version.bytes;
            match &mut current {
                Some((key, versions)) if *key == data.key => versions.push(version),
                _ => {
                    keys.finish(current.take());
                    if let Some(kv) = data.kv {
                        let own = Bytes::copy_from_slice(&kv);
                        values.insert(data.key.clone(), revision, own);
                    }
                    current = Some((data.key, vec![version]));
                }
            }
        }
        match page.next {
            Some(next) => span.start = next,
            None => break,
        }
    }
    keys.finish(current);
    Ok(())
}

fn read_version(row: &[u8], kv: &Bytes) -> Result<Version, OpenError> {
    let kv: KeyValue = codec::read_message(row, kv.clone())?;
    Ok(Version::of(&kv))
}

impl Keys {
    /// Versions come newest first.
    fn finish(&mut self, key: Option<(Bytes, Vec<Version>)>) {
        let Some((key, mut versions)) = key else { return };
        versions.reverse();
        self.index.load(key, versions);
    }
}
