//! [`Loading`]: all keys on their way into a slave, not to be seen yet.

use std::sync::Arc;

use super::apply::{Arrived, Told};
use crate::config::Config;
use crate::load::error::OpenError;
use crate::load::keys::{Keys, load_keys};
use crate::rows::codec::Small;
use crate::rows::log;
use crate::rows::retry::RetryingSnapshot;
use crate::state::group::{Contents, GroupState};

/// All keys that were read, and how far the stream has come meanwhile.
pub(super) struct Loading {
    keys: Keys,
    /// Stored once the last row had been read: nothing is shown before the stream has told of it.
    compacted_then: i64,
    /// What the stream has told so far.
    told: Told,
}

impl Loading {
    /// Reads everything. The master has told so much before this begins.
    ///
    /// # Errors
    /// What the engine says.
    ///
    /// # Cancel safety
    /// Safe: nothing has changed.
    pub(super) async fn begin(
        state: &Arc<GroupState>,
        config: &Config,
        told: Told,
    ) -> Result<Self, OpenError> {
        let held = state.held.load_full();
        let snapshot = RetryingSnapshot::new(&state.engine).await?;
        let keys = load_keys(config, &snapshot, &state.layout, &held, &state.values).await?;
        // Whatever was swept under the snapshots was compacted before, durably.
        let after = RetryingSnapshot::new(&state.engine).await?;
        let stored = log::small(&after, &state.layout, Small::Compacted).await?;
        let compacted_then = stored.map_or(-1, u64::cast_signed);
        Ok(Self { keys, compacted_then, told })
    }

    /// The revision to go on from.
    pub(super) const fn next(&self) -> u64 {
        self.told.closed + 1
    }

    /// Adds what the stream has brought.
    pub(super) fn apply(&mut self, state: &GroupState, arrived: Vec<Arrived>, told: Told) {
        self.keys.add(arrived, &state.values);
        self.told.closed = self.told.closed.max(told.closed);
        self.told.compacted = self.told.compacted.max(told.compacted);
    }

    /// True once it is whole, as of what the stream has closed, and not before `shown`.
    pub(super) const fn is_whole(&self, shown: u64) -> bool {
        self.told.closed >= self.keys.top
            && self.told.closed >= shown
            && self.told.compacted >= self.compacted_then
    }

    /// All keys as of now.
    pub(super) fn into_contents(self) -> Contents {
        let Self { keys, told: Told { closed, compacted }, .. } = self;
        Contents { index: keys.index, bytes: keys.bytes, committed: closed, compacted }
    }
}
