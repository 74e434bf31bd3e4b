//! The placement file: read, and read again when it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use kubebrain_shared::placement::Placement;

/// A file that is looked at once in this time is noticed soon enough and costs nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(crate) fn read(path: &Path) -> Result<Arc<Placement>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("placement {}", path.display()))?;
    let placement =
        Placement::parse(&text).map_err(|errors| anyhow!("placement {}:\n{errors}", path.display()))?;
    for (kind, meant) in placement.doubts() {
        tracing::warn!(
            "placement {}: Kubernetes stores nothing as kind {kind}, so the rule for it probably matches no key: is \
             `{meant}` meant?",
            path.display()
        );
    }
    Ok(Arc::new(placement))
}

/// Notices changes of a placement file.
pub(crate) struct Watched {
    path: Option<PathBuf>,
    seen: Option<(SystemTime, u64)>,
}

impl Watched {
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        let mut watched = Self { path, seen: None };
        watched.seen = watched.stamp();
        watched
    }

    fn stamp(&self) -> Option<(SystemTime, u64)> {
        let metadata = std::fs::metadata(self.path.as_ref()?).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    }

    /// Returns when the file is another one. For ever if there is no file. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let stamp = self.stamp();
            if stamp.is_some() && stamp != self.seen {
                self.seen = stamp;
                return;
            }
        }
    }

    /// Reads it again. `None`: there is no file, or nothing is new in it, wherever brains are.
    pub(crate) fn reload(&self, current: &Placement) -> Option<Arc<Placement>> {
        self.reload_unless(|next| next.version() == current.version())
    }

    /// The same for who has to reach the brains.
    pub(crate) fn reload_with_addresses(&self, current: &Placement) -> Option<Arc<Placement>> {
        self.reload_unless(|next| next == current)
    }

    fn reload_unless(&self, is_same: impl Fn(&Placement) -> bool) -> Option<Arc<Placement>> {
        let path = self.path.as_ref()?;
        match read(path) {
            Ok(placement) if is_same(&placement) => {
                tracing::info!(file = %path.display(), "the placement file was read again: nothing has changed");
                None
            }
            Ok(placement) => Some(placement),
            Err(error) => {
                tracing::error!("the old placement stays: {error:#}");
                None
            }
        }
    }
}
