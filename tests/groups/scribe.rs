//! The scribe: a watcher of everything that never stops. What it hears is the history by which all others are judged,
//! and it is judged by them: acknowledged writes, lists and other watches must agree with it. Nothing is compacted that
//! it has not read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kubebrain_shared::placement::Placement;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::stage::Stage;
use crate::watching::{Wanted, Watcher};
use kit::judge::readback::Readback;

/// See the module.
pub(crate) struct Scribe {
    pub(crate) history: Arc<Mutex<Readback>>,
    task: JoinHandle<()>,
}

impl Scribe {
    /// Begins at the first revision.
    pub(crate) fn begin(stage: &Arc<Stage>, placement: &Arc<Placement>, mut random: SmallRng) -> Self {
        let history = Arc::<Mutex<Readback>>::default();
        let (stage, placement, written) = (stage.clone(), placement.clone(), history.clone());
        let task = tokio::spawn(async move {
            let door = stage.door(&mut random, false);
            let wanted = Wanted::everything(0, door, 1);
            let (_open, never) = watch::channel(None);
            let mut watcher = Watcher::new(stage.clone(), wanted, never);
            loop {
                watcher
                    .stream(|events, up_to| {
                        written.lock().take(&placement, events);
                        stage.read.fetch_max(up_to, Ordering::SeqCst);
                    })
                    .await;
                sleep(Duration::from_millis(50)).await;
                watcher.wanted.door = stage.door(&mut random, false);
            }
        });
        Self { history, task }
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.task.abort();
    }
}
