//! [`Creating`]: a client's creates that are not answered yet, in the order of its requests.

use std::collections::VecDeque;
use std::pin::Pin;

use kubebrain_proto::etcdserverpb::WatchCreateRequest;
use kubebrain_shared::revision::Revision;

/// So many requests wait at most; then the client is not read until the first is through.
const WAITING_MAX: usize = 256;

/// What waits behind a create.
#[derive(Default)]
pub(super) struct Creating {
    /// The one whose groups are being raised; true where they were.
    pub(super) raising: Option<(WatchCreateRequest, Revision, Raising)>,
    pub(super) waiting: VecDeque<Waiting>,
}

pub(super) type Raising = Pin<Box<dyn Future<Output = bool> + Send>>;

pub(super) enum Waiting {
    Create(WatchCreateRequest),
    /// Of a watcher whose create waits.
    Cancel(i64),
}

impl Creating {
    /// False while so much waits that nothing more should be read.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    pub(super) fn will_create(&self, id: i64) -> bool {
        let raising = self.raising.iter().map(|(create, ..)| create.watch_id);
        let waiting = self.waiting.iter().filter_map(|waiting| match waiting {
            Waiting::Create(create) => Some(create.watch_id),
            Waiting::Cancel(_) => None,
        });
        id != 0 && raising.chain(waiting).any(|creates| creates == id)
    }
}
