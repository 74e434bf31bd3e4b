//! What a group shows on a page of metrics: looked at when the page is made.

use std::sync::{Arc, Weak};

use tokio::sync::watch;

use crate::state::group::GroupState;
use crate::state::metrics::{Figures, Look};

/// Looks at a group without keeping it open.
pub(super) fn look(state: &Arc<GroupState>, swept: watch::Receiver<u64>) -> Look {
    let state: Weak<GroupState> = Arc::downgrade(state);
    Box::new(move || Some(figures(&*state.upgrade()?, *swept.borrow())))
}

fn figures(state: &GroupState, swept: u64) -> Figures {
    let (keys, versions) = {
        let index = state.index.read();
        (index.keys(), index.versions())
    };
    let watch = &state.metrics.watch;
    Figures {
        has_ended: state.has_ended(),
        is_slave: state.is_slave(),
        is_level: state.follow.is_level(),
        committed: state.committed().to_wire(),
        compacted: state.compacted(),
        swept,
        keys,
        versions,
        leases: state.leases.lock().count(),
        queue: state.kinds.queued(),
        kinds: state.kinds.counts(),
        cache: state.values.cache(),
        window_bytes: state.hub.window_bytes(),
        watchers: watch.watchers.get(),
        watchers_behind: watch.behind.get(),
        streams: watch.streams.get(),
        followers: watch.followers.get(),
        engine: state.engine.clone(),
        quota: state.share.quota().clone(),
    }
}
