//! Taking a group over and loading it: takeover record first, then everything is read, then it serves.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use prost::Message;
use thiserror::Error;

use super::alarm::{AlarmKind, Alarms};
use super::answer::Identity;
use super::codec::{self, AlarmsRow, Damaged, FORMAT, LeaseRow, Record, Small, small_value};
use super::index::{Index, Version};
use super::lease::Leases;
use super::log::{self, LogError};
use super::quota::Share;
use super::values::Values;
use super::writer::Start;
use super::{Config, ownership};
use crate::engine::{Batch, CommitError, Engine, ReadError, Refusal, Snapshot};
use crate::mvcc::codec::Layout;

/// Why a group was not opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The storage did not answer.
    #[error("the storage cannot be read")]
    Read(#[from] ReadError),
    /// The storage did not take the takeover.
    #[error("the storage takes no writes")]
    Commit(#[from] CommitError),
    /// It answered nonsense.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// Another format.
    #[error(
        "the store has format {found}, this program reads format {FORMAT}: use the version that wrote it, or another store"
    )]
    Format {
        /// What the store says.
        found: u64,
    },
    /// The placement gives keys away that the store records for another group.
    #[error(
        "keys under {kind} belong to group {owner} since their first write, the placement gives them to group {group}; \
        a kind moves only while it is empty: correct the placement"
    )]
    Stranded {
        /// Whose keys.
        kind: String,
        /// The recorded owner.
        owner: GroupName,
        /// What the placement says.
        group: GroupName,
    },
}

impl OpenError {
    /// True where the same call may succeed later, for nothing but waiting.
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Read(error) => matches!(error, ReadError::Unavailable(_) | ReadError::Expired),
            Self::Commit(error) => {
                matches!(error, CommitError::Unknown(_) | CommitError::Refused(Refusal::Unavailable(_)))
            }
            Self::Damaged(_) | Self::Format { .. } | Self::Stranded { .. } => false,
        }
    }
}

impl From<LogError> for OpenError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Read(error) => Self::Read(error),
            LogError::Damaged(error) => Self::Damaged(error),
        }
    }
}

/// What loading gives.
pub(super) struct Loaded {
    pub index: Index,
    pub values: Values,
    pub leases: Leases,
    pub alarms: Alarms,
    pub share: Share,
    pub identity: Identity,
    pub start: Start,
}

pub(super) async fn open(
    config: &Config,
    engine: &Arc<dyn Engine>,
    layout: &Layout,
    placement: &Placement,
) -> Result<Loaded, OpenError> {
    check_format(engine, layout).await?;
    let (epoch, number) = take_over(config, engine, layout).await?;
    let snapshot = engine.snapshot().await?;
    let snapshot = &*snapshot;
    let owners = ownership::load(snapshot, layout).await?;
    check_placement(snapshot, layout, placement, &owners).await?;

    let values = Values::new(engine.clone(), layout.clone(), config.value_cache_bytes);
    let mut loaded = Loaded {
        index: Index::default(),
        values,
        leases: Leases::new(config.lease_checkpoint_interval),
        alarms: Alarms::default(),
        share: config.quota.share(0),
        identity: Identity { cluster: config.cluster_id, member: config.member_id, term: epoch },
        start: Start { counter: 1, number: number + 1, ceiling: 0, compacted: -1, owners },
    };
    let last: Record = log::record(snapshot, layout, number).await?.unwrap_or_default();
    loaded.start.ceiling = log::small(snapshot, layout, Small::Ceiling).await?.unwrap_or(0);
    loaded.start.counter = last.top.max(loaded.start.ceiling).max(1);
    if let Some(compacted) = log::small(snapshot, layout, Small::Compacted).await? {
        loaded.start.compacted = compacted.cast_signed();
    }
    load_leases(snapshot, layout, &mut loaded.leases).await?;
    let key = layout.alarms();
    if let Some(value) = snapshot.get(&key).await? {
        loaded.alarms = Alarms::of(&codec::read_message::<AlarmsRow>(&key, value)?);
        loaded.share.set_alarmed(loaded.alarms.has(AlarmKind::NoSpace));
    }
    let parts = placement.partition(&KeyRange::ALL);
    let parts = parts.unwrap_or_else(|| vec![(KeyRange::ALL, config.group.clone())]);
    for (range, _) in parts.into_iter().filter(|(_, owner)| *owner == config.group) {
        load_keys(snapshot, layout, placement, config, &range, &mut loaded).await?;
    }
    Ok(loaded)
}

/// Writes the format into a fresh store, refuses another one.
async fn check_format(engine: &Arc<dyn Engine>, layout: &Layout) -> Result<(), OpenError> {
    let key = layout.format();
    loop {
        if let Some(value) = engine.snapshot().await?.get(&key).await? {
            let found = codec::read_small(&key, &value)?;
            return if found == FORMAT { Ok(()) } else { Err(OpenError::Format { found }) };
        }
        let mut batch = Batch::new();
        batch.absent(key.clone()).put(key.clone(), small_value(FORMAT));
        match engine.commit(batch).await {
            Ok(()) | Err(CommitError::Conflict { .. } | CommitError::Unknown(_)) => {}
            Err(refused) => return Err(refused.into()),
        }
    }
}

/// Inserts the takeover record after the last batch. From here on, an older master is refused.
async fn take_over(
    config: &Config,
    engine: &Arc<dyn Engine>,
    layout: &Layout,
) -> Result<(u64, u64), OpenError> {
    loop {
        let snapshot = engine.snapshot().await?;
        let tail = log::tail(&*snapshot, layout).await?;
        let last = log::record(&*snapshot, layout, tail).await?.unwrap_or_default();
        let record = Record {
            epoch: last.epoch + 1,
            nonce: rand::random(),
            top: last.top,
            takeover: config.name.clone(),
            writes: Vec::new(),
        };
        let key = layout.log(tail + 1);
        let mut batch = Batch::new();
        batch.absent(key.clone()).put(key, record.encode_to_vec());
        match engine.commit(batch).await {
            Ok(()) => return Ok((record.epoch, tail + 1)),
            Err(CommitError::Conflict { .. } | CommitError::Unknown(_)) => {
                let snapshot = engine.snapshot().await?;
                let found = log::record(&*snapshot, layout, tail + 1).await?;
                if found.is_some_and(|found| found.nonce == record.nonce) {
                    return Ok((record.epoch, tail + 1));
                }
            }
            Err(refused) => return Err(refused.into()),
        }
    }
}

/// Every stored key belongs to the group that is recorded for it; the placement must agree.
async fn check_placement(
    snapshot: &dyn Snapshot,
    layout: &Layout,
    placement: &Placement,
    owners: &HashMap<Bytes, GroupName>,
) -> Result<(), OpenError> {
    // Owners change only at beginnings that are recorded or named by the placement: between two of these all keys
    // have one recorded and one new owner, so one stored key of each stretch tells.
    let mut cuts: Vec<Bytes> = vec![Bytes::new()];
    let beginnings = owners.keys().chain(placement.boundaries()).cloned();
    for beginning in beginnings {
        let range = KeyRange::prefix(beginning);
        cuts.extend(range.end().cloned());
        cuts.push(range.start().clone());
    }
    cuts.sort();
    cuts.dedup();
    for (position, start) in cuts.iter().enumerate() {
        let stretch = KeyRange::new(start.clone(), cuts.get(position + 1).cloned());
        let first = snapshot.scan(layout.data_span(&stretch), 1).await?.rows.pop();
        let Some((row, value)) = first else { continue };
        let key = layout.read_data(&row, &value)?.key;
        let (recorded, group) = (ownership::recorded(owners, &key), placement.owner(&key));
        if let Some(owner) = recorded.filter(|owner| *owner != group) {
            let kind = placement.unit(&key).start().escape_ascii().to_string();
            return Err(OpenError::Stranded { kind, owner: owner.clone(), group: group.clone() });
        }
    }
    Ok(())
}

async fn load_leases(snapshot: &dyn Snapshot, layout: &Layout, leases: &mut Leases) -> Result<(), OpenError> {
    let mut span = layout.lease_span();
    loop {
        let page = snapshot.scan(span.clone(), 1024).await?;
        for (row, value) in page.rows {
            let lease: LeaseRow = codec::read_message(&row, value)?;
            leases.load(layout.read_lease_id(&row)?, lease);
        }
        match page.next {
            Some(next) => span.start = next,
            None => return Ok(()),
        }
    }
}

async fn load_keys(
    snapshot: &dyn Snapshot,
    layout: &Layout,
    placement: &Placement,
    config: &Config,
    range: &KeyRange,
    loaded: &mut Loaded,
) -> Result<(), OpenError> {
    let mut span = layout.data_span(range);
    let mut current: Option<(Bytes, Vec<Version>)> = None;
    loop {
        let page = snapshot.scan(span.clone(), 4096).await?;
        for (row, value) in page.rows {
            let data = layout.read_data(&row, &value)?;
            if placement.owner(&data.key) != &config.group {
                continue;
            }
            let revision = data.revision.get();
            loaded.start.counter = loaded.start.counter.max(revision);
            let version = match &data.kv {
                None => Version::tombstone(revision),
                Some(kv) => read_version(&row, kv)?,
            };
            let version = version.taking(&row, &value);
            loaded.share.add(version.bytes);
            match &mut current {
                Some((key, versions)) if *key == data.key => versions.push(version),
                _ => {
                    finish(current.take(), loaded);
                    if let Some(kv) = data.kv {
                        let own = Bytes::copy_from_slice(&kv);
                        loaded.values.insert(data.key.clone(), revision, own);
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
    finish(current, loaded);
    Ok(())
}

fn read_version(row: &[u8], kv: &Bytes) -> Result<Version, OpenError> {
    let kv: KeyValue = codec::read_message(row, kv.clone())?;
    Ok(Version {
        revision: kv.mod_revision.cast_unsigned(),
        create: kv.create_revision.cast_unsigned(),
        count: kv.version.cast_unsigned(),
        lease: kv.lease,
        bytes: 0,
    })
}

/// Versions come newest first.
fn finish(key: Option<(Bytes, Vec<Version>)>, loaded: &mut Loaded) {
    let Some((key, mut versions)) = key else { return };
    if let Some(newest) = versions.first().filter(|newest| newest.lease != 0) {
        loaded.leases.move_key(&key, 0, newest.lease);
    }
    versions.reverse();
    loaded.index.load(key, versions);
}
