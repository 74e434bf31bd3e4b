//! From a snapshot to stored rows: [`restore`] fills an empty engine so that groups opened on it go on where the
//! snapshot was taken.
//!
//! * The first revision that a restored group gives out is the one after the snapshot's, plus what was bumped: none is
//!   used twice.
//! * Without `mark_compacted` rows, history and watches from any kept revision are as they were. With it everything up
//!   to the new revision counts as compacted, so only the newest version of each key is taken.
//! * Keys stay in their groups, or go where a placement says. History cannot go with them, so that takes
//!   `mark_compacted`.
//!
//! The engine is of no use before [`restore`] has returned: damage is found at the latest at the snapshot's end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::snapshot::{self as file, Reader, Record};
use prost::Message as _;
use thiserror::Error;

use crate::decide::identity;
use crate::engine::{Batch, CommitError, Engine};
use crate::rows::codec::{self, FORMAT, Layout, LeaseRow, Small, small_value};

/// Changes in one record of a restored log, about, and what they may take beside the engine's own bounds.
const LOG_CHANGES: usize = 1024;
const CHANGE_BYTES: usize = 16;
/// Kinds that an error names.
const KINDS_NAMED: usize = 20;
/// In the takeover record that a restored log begins with.
const NAME: &str = "restore";

/// What may be chosen.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Added to every group's revision.
    pub bump: u64,
    /// Everything up to the new revision counts as compacted.
    pub mark_compacted: bool,
    /// Which group gets which keys; without it those that had them.
    pub placement: Option<Arc<Placement>>,
    /// Goes before every stored key; without it the one that the snapshot names.
    pub store_prefix: Option<Bytes>,
    /// Only these groups; empty is all.
    pub groups: BTreeSet<GroupName>,
    /// The cluster's id. Without it a new one is made from what the snapshot holds: another than it had, and one for all
    /// directories that are made from it.
    pub cluster: Option<u64>,
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What the snapshot says of itself.
    pub header: file::Header,
    /// Groups that were made.
    pub groups: BTreeSet<GroupName>,
    /// Every group is at this revision.
    pub revision: Revision,
    /// Reads below it are refused; -1 where nothing is compacted.
    pub compacted: i64,
    /// Keys that are there at that revision.
    pub keys: u64,
    /// Versions of keys that were written, deletions not among them.
    pub versions: u64,
    /// Leases of all groups together.
    pub leases: u64,
    /// Goes before every stored key.
    pub store_prefix: Bytes,
}

/// Why nothing was restored.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The snapshot is none, or is damaged.
    #[error(transparent)]
    Snapshot(#[from] file::ReadError),
    /// The engine does not take it.
    #[error("the restored store cannot be written, so there is none: see the cause, then restore again")]
    Commit(#[from] CommitError),
    /// The placement gives keys to other groups than the snapshot.
    #[error(
        "the placement gives keys under {kinds} to other groups than those that the snapshot has them in; restore \
        with the placement of that time, or with --bump-revision and --mark-compacted, since history does not move \
        with keys"
    )]
    Moved {
        /// Which, in words.
        kinds: String,
    },
    /// A group that was asked for is not there.
    #[error("there is no group {group} in it: it has {known}")]
    NoGroup {
        /// What was asked for.
        group: GroupName,
        /// What there is, in words.
        known: String,
    },
    /// The new revision is out of bounds.
    #[error("revision {revision} cannot be raised by {bump}: choose a smaller number")]
    Bump {
        /// The snapshot's.
        revision: u64,
        /// What was to be added.
        bump: u64,
    },
    /// A name in it is not a group's.
    #[error("the snapshot names a group {name:?}, which is not a group's name; take another copy")]
    Name {
        /// The name.
        name: String,
    },
}

/// Writes what `reader` gives into `engine`, which is empty.
///
/// # Errors
/// See [`RestoreError`]. The engine may hold a part then: throw it away.
///
/// # Cancel safety
/// A dropped call leaves what an error leaves: a part, to be thrown away.
pub async fn restore<R: Read>(
    reader: &mut Reader<R>,
    engine: &dyn Engine,
    options: &Options,
) -> Result<Restored, RestoreError> {
    let Some(Record::Header(header)) = reader.next_record()? else {
        return Err(file::ReadError::Truncated { offset: reader.offset() }.into());
    };
    let mut restore = Restore::new(header, engine, options)?;
    while let Some(record) = reader.next_record()? {
        restore.take(record).await?;
    }
    restore.finish().await
}

struct Restore<'a> {
    engine: &'a dyn Engine,
    options: &'a Options,
    batch: Batch,
    batch_bytes: usize,
    /// The section that is read, and whether it is wanted.
    section: Option<(GroupName, bool)>,
    layout: Layout,
    log: Option<Log>,
    /// The row's key before this one.
    key: Bytes,
    /// Where the placement is followed: recorded beginnings that were written, leases, and who holds them.
    units: BTreeSet<Bytes>,
    leases: BTreeMap<i64, LeaseRow>,
    holders: BTreeMap<i64, BTreeSet<GroupName>>,
    moved: BTreeSet<String>,
    restored: Restored,
}

/// The end of a log that is being written.
#[derive(Default)]
struct Log {
    number: u64,
    writes: Vec<codec::Write>,
    changes: usize,
    bytes: usize,
}

impl<'a> Restore<'a> {
    fn new(header: file::Header, engine: &'a dyn Engine, options: &'a Options) -> Result<Self, RestoreError> {
        let names = header.groups.iter().map(|name| named(name));
        let known: BTreeSet<GroupName> = match &options.placement {
            Some(placement) => placement.groups().map(|(group, _)| group.clone()).collect(),
            None => names.collect::<Result<_, _>>()?,
        };
        if let Some(group) = options.groups.difference(&known).next() {
            let known: Vec<_> = known.iter().map(GroupName::as_str).collect();
            return Err(RestoreError::NoGroup { group: group.clone(), known: known.join(", ") });
        }
        let revision = header.revision.checked_add(options.bump);
        let revision = revision.and_then(|revision| Revision::checked_from(i64::try_from(revision).ok()?));
        let revision =
            revision.ok_or(RestoreError::Bump { revision: header.revision, bump: options.bump })?;
        let compacted = if options.mark_compacted { revision.to_wire() } else { header.compacted };
        let store_prefix = options.store_prefix.clone().unwrap_or_else(|| header.store_prefix.clone());
        let groups: BTreeSet<_> = known.into_iter().filter(|group| wanted(options, group)).collect();
        let any = groups.first().cloned().unwrap_or_else(|| Placement::builtin().home().clone());
        let mut restore = Self {
            engine,
            options,
            batch: Batch::new(),
            batch_bytes: 0,
            section: None,
            layout: Layout::new(&store_prefix, &any),
            log: None,
            key: Bytes::new(),
            units: BTreeSet::new(),
            leases: BTreeMap::new(),
            holders: BTreeMap::new(),
            moved: BTreeSet::new(),
            restored: Restored {
                header,
                groups,
                revision,
                compacted,
                keys: 0,
                versions: 0,
                leases: 0,
                store_prefix,
            },
        };
        restore.put(restore.layout.format(), small_value(FORMAT));
        Ok(restore)
    }

    async fn take(&mut self, record: Record) -> Result<(), RestoreError> {
        match record {
            Record::Header(_) => {}
            Record::End(end) => {
                let made = || {
                    let file::Header { revision, compacted, .. } = &self.restored.header;
                    identity::of_token(&format!("restored at {revision} {compacted} {:08x}", end.hash))
                };
                let id = self.options.cluster.unwrap_or_else(made);
                self.put(self.layout.cluster(), small_value(id));
            }
            Record::Group(group) => {
                let group = named(&group.name)?;
                self.key = Bytes::new();
                self.layout = self.layout_of(&group);
                let wanted = self.options.placement.is_some() || wanted(self.options, &group);
                self.log = self.restored.groups.contains(&group).then(Log::default);
                self.section = Some((group, wanted));
            }
            Record::Owner(owner) => {
                if let Some((group, true)) = self.section.clone().filter(|_| self.options.placement.is_none())
                {
                    self.put(self.layout.owner(&owner.unit), text(&group));
                }
            }
            Record::Put(kv) => self.row(kv, false),
            Record::Tombstone(kv) => self.row(kv, true),
            Record::Lease(lease) => self.lease(lease),
            Record::Write(write) => self.write(write),
            Record::GroupEnd(_) => {
                self.close_log();
                self.section = None;
            }
        }
        self.flush(self.engine.bounds().batch_bytes).await
    }

    fn row(&mut self, kv: Bytes, deleted: bool) {
        let Some((section, true)) = self.section.clone() else { return };
        // The reader has decoded it once.
        let Ok(row) = KeyValue::decode(kv.clone()) else { return };
        let newest = row.key != self.key;
        self.key = row.key.clone();
        if self.options.mark_compacted && (deleted || !newest) {
            return;
        }
        if let Some(placement) = &self.options.placement {
            let owner = placement.owner(&row.key).clone();
            if owner != section && !self.options.mark_compacted {
                let unit = placement.unit(&row.key).start().escape_ascii().to_string();
                self.moved.insert(unit);
            }
            if !wanted(self.options, &owner) {
                return;
            }
            if newest && row.lease != 0 {
                self.holders.entry(row.lease).or_default().insert(owner.clone());
            }
            let unit = placement.unit(&row.key).start().clone();
            if !deleted && !self.units.contains(&unit) {
                self.units.insert(unit.clone());
                self.put(self.layout.owner(&unit), text(&owner));
            }
        }
        let revision = Revision::checked_from(row.mod_revision).unwrap_or_default();
        let stored = codec::data_value((!deleted).then_some(&kv[..]));
        self.put(self.layout.data(&row.key, revision), stored);
        self.restored.keys += u64::from(newest && !deleted);
        self.restored.versions += u64::from(!deleted);
    }

    fn lease(&mut self, lease: file::Lease) {
        let seconds = (lease.remaining_ms.max(0) + 999) / 1000;
        // 0 would be all of them: what has run out has a last second.
        let row = LeaseRow {
            ttl: lease.ttl.max(1),
            holders: lease.holders,
            remaining: seconds.max(1),
            offered: false,
        };
        if self.options.placement.is_some() {
            let known = self.leases.entry(lease.id).or_insert_with(|| row.clone());
            // A group that holds it too may know less of it.
            known.ttl = known.ttl.max(row.ttl);
            known.remaining = known.remaining.max(row.remaining);
        } else if self.section.as_ref().is_some_and(|(_, wanted)| *wanted) {
            self.restored.leases += 1;
            self.put(self.layout.lease(lease.id), row.encode_to_vec().into());
        }
    }

    fn write(&mut self, write: file::Write) {
        let Some(log) = self.log.as_mut().filter(|_| !self.options.mark_compacted) else { return };
        let change = |change: file::Change| codec::Change { key: change.key, deleted: change.deleted };
        let changes: Vec<_> = write.changes.into_iter().map(change).collect();
        log.changes += changes.len() + 1;
        log.bytes += changes.iter().map(|change| change.key.len() + CHANGE_BYTES).sum::<usize>();
        log.writes.push(codec::Write { revision: write.revision, changes });
        let bounds = self.engine.bounds();
        if log.changes >= LOG_CHANGES || log.bytes >= bounds.batch_bytes.min(bounds.record_bytes_max()) {
            let top = write.revision;
            self.log_record(top);
        }
    }

    /// Puts the changes that wait into a record. The first record of a log is a takeover: whatever opens the group
    /// comes after it.
    fn log_record(&mut self, top: u64) {
        let Some(mut log) = self.log.take() else { return };
        if log.number == 0 {
            log.number = 1;
            let first = codec::Record { epoch: 1, takeover: NAME.to_owned(), ..codec::Record::default() };
            self.put(self.layout.log(1), first.encode_to_vec().into());
        }
        log.number += 1;
        let writes = std::mem::take(&mut log.writes);
        let record =
            codec::Record { epoch: 1, nonce: rand::random(), top, writes, ..codec::Record::default() };
        self.put(self.layout.log(log.number), record.encode_to_vec().into());
        (log.changes, log.bytes) = (0, 0);
        self.log = Some(log);
    }

    /// The last record says where the group goes on.
    fn close_log(&mut self) {
        if self.log.is_some() {
            if self.log.as_ref().is_some_and(|log| !log.writes.is_empty()) {
                let top = self.restored.header.revision;
                self.log_record(top);
            }
            self.log_record(self.restored.revision.get());
            if let Ok(compacted) = u64::try_from(self.restored.compacted) {
                self.put(self.layout.small(Small::Compacted), small_value(compacted));
            }
        }
        self.log = None;
    }

    async fn finish(mut self) -> Result<Restored, RestoreError> {
        if !self.moved.is_empty() {
            let more = self.moved.len().saturating_sub(KINDS_NAMED);
            let named: Vec<_> = self.moved.into_iter().take(KINDS_NAMED).collect();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            return Err(RestoreError::Moved { kinds: named.join(", ") + &more });
        }
        if let Some(placement) = self.options.placement.clone() {
            self.place_leases(placement.home()).await?;
            let had: BTreeSet<&str> = self.restored.header.groups.iter().map(String::as_str).collect();
            let new = self.restored.groups.iter().filter(|group| !had.contains(group.as_str()));
            for group in new.cloned().collect::<Vec<_>>() {
                self.layout = self.layout_of(&group);
                self.log = Some(Log::default());
                self.close_log();
            }
        }
        self.flush(0).await?;
        Ok(self.restored)
    }

    /// The home group has every lease and knows who holds it too; each group has those that its keys name.
    async fn place_leases(&mut self, home: &GroupName) -> Result<(), RestoreError> {
        for (id, row) in std::mem::take(&mut self.leases) {
            let mut others = self.holders.remove(&id).unwrap_or_default();
            others.remove(home);
            let holders = others.iter().map(|group| group.as_str().to_owned()).collect();
            let own = std::iter::once((home.clone(), LeaseRow { holders, ..row.clone() }));
            let theirs =
                others.into_iter().map(|group| (group, LeaseRow { holders: Vec::new(), ..row.clone() }));
            for (group, row) in own.chain(theirs).filter(|(group, _)| wanted(self.options, group)) {
                self.restored.leases += 1;
                self.put(self.layout_of(&group).lease(id), row.encode_to_vec().into());
            }
            self.flush(self.engine.bounds().batch_bytes).await?;
        }
        Ok(())
    }

    fn layout_of(&self, group: &GroupName) -> Layout {
        Layout::new(&self.restored.store_prefix, group)
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.batch_bytes += key.len() + value.len();
        self.batch.put(key, value);
    }

    async fn flush(&mut self, bytes: usize) -> Result<(), RestoreError> {
        if self.batch_bytes > bytes {
            self.batch_bytes = 0;
            self.engine.commit(std::mem::take(&mut self.batch)).await?;
        }
        Ok(())
    }
}

fn wanted(options: &Options, group: &GroupName) -> bool {
    options.groups.is_empty() || options.groups.contains(group)
}

fn named(name: &str) -> Result<GroupName, RestoreError> {
    GroupName::parse(name).ok_or_else(|| RestoreError::Name { name: name.to_owned() })
}

fn text(group: &GroupName) -> Bytes {
    Bytes::copy_from_slice(group.as_str().as_bytes())
}

#[cfg(test)]
mod tests;
