//! Events, encoded once and shared by all watchers.

use std::sync::Arc;

use bytes::Bytes;

/// What a key was before an event.
#[derive(Clone, Debug)]
pub enum Prior {
    /// Nothing.
    None,
    /// This `KeyValue`.
    Known(Bytes),
    /// The version of this revision; to be read if somebody asks.
    At(u64),
}

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Event {
    /// The key.
    pub key: Bytes,
    /// A deletion.
    pub deleted: bool,
    /// `KeyValue` bytes: of a put the entry, of a deletion key and revision.
    pub kv: Bytes,
    /// The entry before.
    pub prior: Prior,
}

impl Event {
    /// What it takes in the window.
    pub fn bytes(&self) -> usize {
        let prior = match &self.prior {
            Prior::Known(kv) => kv.len(),
            Prior::None | Prior::At(_) => 0,
        };
        self.key.len() + self.kv.len() + prior + 128
    }
}

/// All events of one revision, in order.
#[derive(Clone, Debug)]
pub struct RevisionEvents {
    /// The revision.
    pub revision: u64,
    /// Its events in the order of its operations; there is at least one.
    pub events: Arc<[Event]>,
}
