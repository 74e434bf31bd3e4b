//! The placement file: read, and read again when it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use kubebrain_shared::placement::{Placement, limit_doubt};

/// A file that is looked at once in this time is noticed soon enough and costs nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What `standalone` begins with where no file is given.
pub(crate) const BUILTIN: &str = "\
home: core
default: core
groups: { core: {}, pods: {}, events: {} }
kinds:
  - { kind: pods, group: pods }
  - { kind: events, group: events }
";

/// A file that was read.
#[derive(Clone)]
pub(crate) struct File {
    /// As people know it.
    pub name: String,
    pub text: String,
    pub table: Arc<Placement>,
}

impl File {
    pub(crate) fn builtin() -> Self {
        let table = Arc::new(Placement::builtin());
        Self { name: "the builtin placement".to_owned(), text: BUILTIN.to_owned(), table }
    }
}

pub(crate) fn read(path: &Path) -> Result<Arc<Placement>> {
    Ok(read_file(path)?.table)
}

/// With its text.
pub(crate) fn read_file(path: &Path) -> Result<File> {
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
    for (kind, meant) in placement.limit_doubts() {
        tracing::warn!("placement {}: {}", path.display(), limit_doubt(kind, &meant));
    }
    Ok(File { name: path.display().to_string(), text, table: Arc::new(placement) })
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

    /// Reads it again for the addresses in it, for who goes by the cluster's placement. `None`: there is no file, or nothing
    /// is new in it.
    pub(crate) fn reload_with_addresses(&self, current: &Placement) -> Option<Arc<Placement>> {
        let read = self.reload("the contact addresses stay as they were")?;
        if *read.table == *current {
            tracing::info!(file = read.name, "the placement file was read again: nothing has changed");
            return None;
        }
        Some(read.table)
    }

    /// Reads it again. `None`: there is no file, or it cannot be used, which is said with what comes of it.
    pub(crate) fn reload(&self, otherwise: &str) -> Option<File> {
        match read_file(self.path.as_ref()?) {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::error!("{otherwise}: {error:#}");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_placement_has_a_text() {
        assert_eq!(Placement::parse(BUILTIN), Ok(Placement::builtin()));
    }
}
