//! What the stream brings, as the index has it.

use bytes::Bytes;
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_proto::peer::FollowRevision;
use prost::Message as _;

use crate::decide::answer::Entry;
use crate::decide::evaluate::Change;
use crate::load::keys::Keys;
use crate::rows::codec::Layout;
use crate::rows::entry;
use crate::rows::version::Version;
use crate::state::changes::RevisionChanges;
use crate::state::group::GroupState;
use crate::state::values::Values;

/// One revision, read.
#[derive(Debug)]
pub(super) struct Arrived {
    pub revision: u64,
    pub events: Vec<Arrival>,
}

/// One change of a key. All of it in memory of its own: a message of many would live as long as the last of them.
#[derive(Debug)]
pub(super) struct Arrival {
    pub key: Bytes,
    pub version: Version,
    /// As stored; of a deletion what its event says.
    pub kv: Bytes,
}

impl Arrival {
    /// A put, by what is stored.
    pub(super) fn put(layout: &Layout, kv: &[u8]) -> Option<Self> {
        let kv = Bytes::copy_from_slice(kv);
        let message = KeyValue::decode(&kv[..]).ok()?;
        let bytes = layout.data_len(&message.key) + 1 + kv.len();
        let version = Version::of(&message).weighing(bytes);
        let key = Bytes::copy_from_slice(&message.key);
        (!version.is_tombstone()).then_some(Self { key, version, kv })
    }

    /// A deletion.
    pub(super) fn deletion(layout: &Layout, key: &[u8], revision: u64) -> Self {
        let version = Version::tombstone(revision).weighing(layout.data_len(key) + 1);
        Self { key: Bytes::copy_from_slice(key), version, kv: entry::deleted(key, revision) }
    }
}

/// Reads what a stream brought.
///
/// # Errors
/// A sentence about what makes no sense.
pub(super) fn read(layout: &Layout, revisions: Vec<FollowRevision>) -> Result<Vec<Arrived>, String> {
    let arrived = revisions.into_iter().map(|from| {
        let revision = from.revision.cast_unsigned();
        let events = from.events.iter().map(|event| match event.deleted {
            false => Arrival::put(layout, &event.kv).filter(|put| put.version.revision == revision),
            true => {
                let message = KeyValue::decode(&event.kv[..]).ok()?;
                Some(Arrival::deletion(layout, &message.key, revision))
            }
        });
        let events: Option<Vec<_>> = events.collect();
        events.map(|events| Arrived { revision, events })
    });
    let arrived: Option<Vec<_>> = arrived.collect();
    arrived.ok_or_else(|| "the master sends what is no event".to_owned())
}

impl Keys {
    /// Adds what is newer than what was read of its key.
    pub(super) fn add(&mut self, arrived: Vec<Arrived>, values: &Values) {
        for event in arrived.into_iter().flat_map(|revision| revision.events) {
            if self.index.newest_of(&event.key) >= event.version.revision {
                continue;
            }
            self.index.insert(&event.key, event.version);
            self.bytes += event.version.bytes;
            if !event.version.is_tombstone() {
                values.insert(event.key, event.version.revision, event.kv);
            }
        }
    }
}

/// How far a master is, as its stream tells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// All its revisions up to this one have come.
    pub closed: u64,
    /// Its compacted revision; -1 where nothing was compacted.
    pub compacted: i64,
}

/// Makes visible what a master has made visible: whole revisions, all that it has closed.
pub(super) fn apply(state: &GroupState, arrived: Vec<Arrived>, told: Told) {
    let Told { closed: closes, compacted } = told;
    let committed = state.committed().get();
    let mut revisions = Vec::with_capacity(arrived.len());
    if !arrived.is_empty() {
        let mut index = state.index.write();
        for arrived in arrived.into_iter().filter(|arrived| arrived.revision > committed) {
            let changes = arrived.events.into_iter().map(|event| {
                let before = index.before(&event.key, event.version.revision);
                index.insert(&event.key, event.version);
                state.share.add(event.version.bytes);
                state.follow.note_lease(&event.key, &event.version);
                let before = before.map(|version| Entry { key: event.key.clone(), version, kv: None });
                Change { key: event.key, version: event.version, kv: event.kv, before }
            });
            let changes = changes.collect();
            revisions.push(RevisionChanges { revision: arrived.revision, changes });
        }
    }
    let compacted = u64::try_from(compacted).ok().filter(|_| compacted > state.compacted());
    if !revisions.is_empty() || compacted.is_some() || closes > committed {
        state.show(revisions, closes, compacted);
    }
}
