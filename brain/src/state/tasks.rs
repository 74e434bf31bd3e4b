//! Tasks that a group cannot do without.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::ended::Ended;
use super::group::GroupState;

/// Dropped with a task that a group cannot do without.
struct Watched {
    state: Arc<GroupState>,
    what: &'static str,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (group, what) = (self.state.group.clone(), self.what);
            self.state.end(Ended::Panicked { group, what });
        }
    }
}

/// Starts a task that a group cannot do without: where it panics, the group ends.
pub(crate) fn keep<T: Send + 'static>(
    state: &Arc<GroupState>,
    what: &'static str,
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let watched = Watched { state: state.clone(), what };
    tokio::spawn(async move {
        let _watched = watched;
        task.await
    })
}
