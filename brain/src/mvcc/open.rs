//! Taking a group over and loading it: takeover record first, then everything is read, then it serves.
//!
//! **Why nothing of the old master can come after the takeover.** Its batch n and the takeover n are commits under the
//! same condition, that record n is absent, and a condition is judged against the state that its batch's writes are
//! applied to. Whichever is applied first makes the other one false for good, however long that one has been on its way.
//! A database with locks does it like this: the record is the first key of each batch, so it is the one whose commit
//! decides for all of them. A batch that has locked its keys when the takeover comes holds that key too; the takeover
//! waits, or takes the lock away, after which that batch cannot be committed any more. Once the takeover is committed,
//! no batch n can lock it. The old master does not send n + 1 before it knows that its n was committed.
//!
//! So the snapshot that is loaded, asked for after the takeover was answered, shows all that the old master has ever
//! written, whole batches only, and nothing is added to it but by us. Loading may take as long as it likes and many
//! snapshots: where one expires the next page is read from a new one. What a deposed master's sweep still deletes
//! meanwhile is superfluous to everybody (see `sweep`). Only another takeover ends that: then later snapshots show what
//! its master writes beside what was read before. So the record after ours is looked for when everything is loaded; if
//! it is not there, there was nobody.
//!
//! **A takeover that comes late.** Between reading where the log ends and its commit the old master may write on and trim
//! the log: then the number that was the next one is absent *again*, and a takeover there would shut out nobody and be a
//! second master beside the first. So the takeover also demands that the trimmed mark is where it was: records go only
//! after it has moved past them.
//!
//! **Its outcome unknown.** The record is looked for; where it is not there the tail is read again and another takeover,
//! with a nonce of its own, is tried. If the first one lands after all, it is either the one that shuts us out as any
//! other master's would, and we take over behind it, or it comes to nothing.
//!
//! **The format** is written once under `absent` and never deleted; of two programs that find an empty store one writes
//! and both read what is there then.
//!
//! **Owners of other groups' keys** may be added while we load. They are looked at again where it matters: the first
//! write of a kind is a condition on its owner's row. If another group was faster, which takes two different placements
//! in use, the batch is refused and this group ends with a sentence about it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use parking_lot::Mutex;
use prost::Message;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::codec::{self, AlarmsRow, Damaged, FORMAT, LeaseRow, Record, Small, small_value};
use super::index::{Index, Version};
use super::lease::Leases;
use super::log::{self, LogError};
use super::values::Values;
use super::writer::Start;
use super::{Config, ownership};
use crate::engine::{Batch, CommitError, Engine, Page, ReadError, Refusal, Snapshot, Span};
use crate::mvcc::codec::Layout;

/// An engine that does not answer is asked again for so long, from the last time that it did.
const PATIENCE: Duration = Duration::from_secs(30);

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
    /// Another master took over while this one loaded.
    #[error(
        "group {group}: brain {by:?} took over (epoch {epoch}) while this one was loading; without elections only one brain \
        of a group may run"
    )]
    Deposed {
        /// The group.
        group: GroupName,
        /// The other master's name.
        by: String,
        /// Its term.
        epoch: u64,
    },
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
                matches!(
                    error,
                    CommitError::Unknown(_)
                        | CommitError::Refused(Refusal::Unavailable(_) | Refusal::NoSpace)
                )
            }
            Self::Damaged(_) | Self::Deposed { .. } | Self::Format { .. } | Self::Stranded { .. } => false,
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

/// All keys of a group, without their values.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub index: Index,
    /// What their rows take.
    pub bytes: u64,
    /// The highest revision of any of them; 0 where there is none.
    pub top: u64,
}

/// What a master has beside the keys.
pub(super) struct Office {
    pub leases: Leases,
    pub alarms: AlarmsRow,
    pub start: Start,
}

/// Takes the group over; gives the own term, and the number of the takeover record.
pub(super) async fn open(
    config: &Config,
    engine: &Arc<dyn Engine>,
    layout: &Layout,
    placement: &Placement,
    values: &Values,
) -> Result<(u64, Keys, Office), OpenError> {
    check_format(engine, layout).await?;
    #[cfg(any(test, feature = "faults"))]
    let before = Patient::new(engine).await?;
    let (epoch, number) = take_over(config, engine, layout, None).await?;
    let snapshot = Patient::new(engine).await?;
    #[cfg(any(test, feature = "faults"))]
    let snapshot = if config.planted.loads_before_takeover { before } else { snapshot };
    let (keys, office) = load(config, &snapshot, layout, placement, values, number).await?;
    Ok((epoch, keys, office))
}

/// Loads everything, after the takeover record `number`.
pub(super) async fn load(
    config: &Config,
    snapshot: &Patient<'_>,
    layout: &Layout,
    placement: &Placement,
    values: &Values,
    number: u64,
) -> Result<(Keys, Office), OpenError> {
    let mut office = load_office(config, snapshot, layout, number).await?;
    check_placement(snapshot, layout, placement, &office.start.owners).await?;
    let keys = load_keys(config, snapshot, layout, placement, values).await?;
    office.start.counter = office.start.counter.max(keys.top);
    office.leases.attach(&keys.index);
    check_still_master(config, snapshot.engine, layout, number).await?;
    Ok((keys, office))
}

/// Snapshots that came after another takeover may show what its master has written, in part.
pub(super) async fn check_still_master(
    config: &Config,
    engine: &Arc<dyn Engine>,
    layout: &Layout,
    number: u64,
) -> Result<(), OpenError> {
    match log::record(&Patient::new(engine).await?, layout, number + 1).await? {
        None => Ok(()),
        Some(record) => {
            Err(OpenError::Deposed { group: config.group.clone(), by: record.takeover, epoch: record.epoch })
        }
    }
}

/// Leases, without their keys; owners, alarms and numbers.
pub(super) async fn load_office(
    config: &Config,
    snapshot: &dyn Snapshot,
    layout: &Layout,
    number: u64,
) -> Result<Office, OpenError> {
    let mut leases = Leases::new(config.lease_checkpoint_interval);
    let keys =
        [layout.log(number), layout.small(Small::Ceiling), layout.small(Small::Compacted), layout.alarms()];
    let (small, owners, _) = futures_util::try_join!(
        async { Ok(snapshot.get_many(keys.to_vec()).await?) },
        ownership::load(snapshot, layout),
        load_leases(snapshot, layout, &mut leases),
    )?;
    let mut rows = keys.iter().zip(small);
    let mut next = || rows.next().and_then(|(key, value)| Some((key, value?)));
    let last: Record =
        next().map(|(key, value)| codec::read_message(key, value)).transpose()?.unwrap_or_default();
    let ceiling = next().map(|(key, value)| codec::read_small(key, &value)).transpose()?.unwrap_or(0);
    let compacted = next().map(|(key, value)| codec::read_small(key, &value)).transpose()?;
    let alarms = next().map(|(key, value)| codec::read_message(key, value)).transpose()?.unwrap_or_default();
    let start = Start {
        counter: last.top.max(ceiling).max(1),
        number: number + 1,
        ceiling,
        compacted: compacted.map_or(-1, u64::cast_signed),
        owners,
    };
    Ok(Office { leases, alarms, start })
}

/// Writes the format into a fresh store, refuses another one.
pub(super) async fn check_format(engine: &Arc<dyn Engine>, layout: &Layout) -> Result<(), OpenError> {
    let key = layout.format();
    let mut tries = Tries::default();
    loop {
        let Some(snapshot) = tries.of(engine.snapshot().await).await? else { continue };
        let Some(value) = tries.of(snapshot.get(&key).await).await? else { continue };
        if let Some(value) = value {
            let found = codec::read_small(&key, &value)?;
            return if found == FORMAT { Ok(()) } else { Err(OpenError::Format { found }) };
        }
        let mut batch = Batch::new();
        batch.absent(key.clone()).put(key.clone(), small_value(FORMAT));
        match engine.commit(batch).await {
            Ok(()) | Err(CommitError::Conflict { .. }) => {}
            Err(CommitError::Unknown(_)) => tries.pause().await,
            Err(refused) => return Err(refused.into()),
        }
    }
}

/// Inserts the takeover record after the last batch. From here on, an older master is refused. The log's end is looked
/// for from batch `near` on, where one is known.
pub(super) async fn take_over(
    config: &Config,
    engine: &Arc<dyn Engine>,
    layout: &Layout,
    near: Option<u64>,
) -> Result<(u64, u64), OpenError> {
    let mut tries = Tries::default();
    // The last try: its number, and what was to stand there.
    let mut tried: Option<(u64, Record)> = None;
    loop {
        let snapshot = Patient::new(engine).await?;
        // Before anything else of the log: what is trimmed from here on shows.
        let mark = layout.small(Small::Trimmed);
        let trimmed = snapshot.get(&mark).await?;
        // A master that writes without pause is always ahead of one who searches its log from the beginning. So the
        // next try begins where the last one was too late.
        let ends = match tried.as_ref().map(|(number, _)| *number).or(near) {
            Some(number) => log::ends_from(&snapshot, layout, number).await?,
            None => None,
        };
        let (tail, last) = match (ends, tried.take()) {
            (Some((found, ..)), Some((number, ours))) if found.nonce == ours.nonce => {
                return Ok((ours.epoch, number));
            }
            (Some((_, tail, last)), _) => (tail, last),
            (None, tried) => {
                if tried.is_some() {
                    tries.pause().await;
                }
                let tail = log::tail(&snapshot, layout).await?;
                (tail, log::record(&snapshot, layout, tail).await?.unwrap_or_default())
            }
        };
        let record = Record {
            epoch: last.epoch + 1,
            nonce: rand::random(),
            top: last.top,
            takeover: config.name.clone(),
            ..Record::default()
        };
        let key = layout.log(tail + 1);
        let mut batch = Batch::new();
        batch.absent(key.clone()).put(key, record.encode_to_vec());
        #[cfg(any(test, feature = "faults"))]
        let mark = if config.planted.takeover_ignores_trims { layout.log(u64::MAX) } else { mark };
        #[cfg(any(test, feature = "faults"))]
        let trimmed = trimmed.filter(|_| !config.planted.takeover_ignores_trims);
        match trimmed {
            None => batch.absent(mark),
            Some(trimmed) => batch.equals(mark, trimmed),
        };
        match engine.commit(batch).await {
            Ok(()) => return Ok((record.epoch, tail + 1)),
            Err(CommitError::Conflict { .. }) => tried = Some((tail + 1, record)),
            Err(CommitError::Unknown(_)) => {
                tried = Some((tail + 1, record));
                tries.pause().await;
            }
            Err(refused) => return Err(refused.into()),
        }
    }
}

/// How often something was tried in vain.
#[derive(Default)]
pub(super) struct Tries {
    delay: Duration,
    since: Option<Instant>,
}

impl Tries {
    pub(super) async fn pause(&mut self) {
        self.delay = (self.delay * 2).clamp(Duration::from_millis(1), Duration::from_secs(1));
        sleep(self.delay).await;
    }

    /// What was read; `None` after a pause where it may be asked for again.
    pub(super) async fn of<T>(&mut self, read: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
        match read {
            Err(ReadError::Unavailable(_) | ReadError::Expired)
                if self.since.get_or_insert_with(Instant::now).elapsed() < PATIENCE =>
            {
                self.pause().await;
                Ok(None)
            }
            read => {
                *self = Self::default();
                read.map(Some)
            }
        }
    }
}

/// A snapshot that is replaced by a newer one where it is lost or not answered. For what does not change any more.
pub(super) struct Patient<'a> {
    engine: &'a Arc<dyn Engine>,
    snapshot: Mutex<Arc<dyn Snapshot>>,
}

impl<'a> Patient<'a> {
    pub(super) async fn new(engine: &'a Arc<dyn Engine>) -> Result<Self, ReadError> {
        let mut tries = Tries::default();
        loop {
            if let Some(snapshot) = tries.of(engine.snapshot().await).await? {
                return Ok(Self { engine, snapshot: Mutex::new(snapshot.into()) });
            }
        }
    }

    async fn read<T, F: Future<Output = Result<T, ReadError>>>(
        &self,
        read: impl Fn(Arc<dyn Snapshot>) -> F,
    ) -> Result<T, ReadError> {
        let mut tries = Tries::default();
        loop {
            let snapshot = self.snapshot.lock().clone();
            if let Some(found) = tries.of(read(snapshot).await).await? {
                return Ok(found);
            }
            if let Ok(snapshot) = self.engine.snapshot().await {
                *self.snapshot.lock() = snapshot.into();
            }
        }
    }
}

#[async_trait]
impl Snapshot for Patient<'_> {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.read(|snapshot| async move { snapshot.get(key).await }).await
    }

    async fn get_many(&self, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, ReadError> {
        self.read(|snapshot| {
            let keys = keys.clone();
            async move { snapshot.get_many(keys).await }
        })
        .await
    }

    async fn scan(&self, span: Span, limit: usize) -> Result<Page, ReadError> {
        self.read(|snapshot| {
            let span = span.clone();
            async move { snapshot.scan(span, limit).await }
        })
        .await
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

/// All keys that the placement gives to the group; newest values go into the cache.
pub(super) async fn load_keys(
    config: &Config,
    snapshot: &dyn Snapshot,
    layout: &Layout,
    placement: &Placement,
    values: &Values,
) -> Result<Keys, OpenError> {
    let mut keys = Keys::default();
    let parts = placement.partition(&KeyRange::ALL);
    let parts = parts.unwrap_or_else(|| vec![(KeyRange::ALL, config.group.clone())]);
    for (range, _) in parts.into_iter().filter(|(_, owner)| *owner == config.group) {
        load_range(config, snapshot, layout, placement, &range, values, &mut keys).await?;
    }
    Ok(keys)
}

async fn load_range(
    config: &Config,
    snapshot: &dyn Snapshot,
    layout: &Layout,
    placement: &Placement,
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
            if placement.owner(&data.key) != &config.group {
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
