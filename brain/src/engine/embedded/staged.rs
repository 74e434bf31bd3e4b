//! [`Staged`]: a store that is filled before its data directory has it.
//!
//! On disk: `DIR/restore.unfinished/` is a data directory of its own. When it is whole its store is renamed into
//! `DIR`; until then `DIR` has no store, and `DIR/lock` is held so that nobody begins one there. It lies inside and not
//! beside `DIR`, because `DIR` may be a mounted volume.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::config::Config;
use super::engine::Embedded;
use super::open::make_directory;
use super::place::{LOCK, Place, STAGED, STORE, sync_directory};
use super::private;
use crate::engine::error::OpenError;

/// A store in the making. Dropping it removes what there is.
#[derive(Debug)]
pub struct Staged {
    directory: PathBuf,
    engine: Option<Embedded>,
    _lock: File,
}

/// Why a store was not made, or not put into its place.
#[derive(Debug, Error)]
pub enum StageError {
    /// There is something in the way.
    #[error("data directory {} is not empty, it has {found}: choose another one, or remove what is in it", directory.display())]
    NotEmpty {
        /// The data directory.
        directory: PathBuf,
        /// One of its entries.
        found: String,
    },
    /// The system or the engine said no.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl Staged {
    /// Begins one in `config.directory`, which is empty or missing. What an interrupted one has left is removed.
    ///
    /// # Errors
    /// See [`StageError`]. A directory that was not empty is as it was.
    pub fn new(config: &Config) -> Result<Self, StageError> {
        let directory = config.directory.clone();
        let place = Place(&directory);
        make_directory(&directory).map_err(|source| place.io(source))?;
        check_empty(&directory)?;
        private::claim(&directory)?;
        let lock = place.lock()?;
        // Again: whoever had the lock may have made a store.
        check_empty(&directory)?;
        let unfinished = directory.join(STAGED);
        remove(&unfinished).map_err(|source| place.io(source))?;
        let engine = Embedded::open(&Config { directory: unfinished, ..config.clone() })?;
        Ok(Self { directory, engine: Some(engine), _lock: lock })
    }

    /// What to fill.
    pub fn engine(&self) -> &Embedded {
        self.engine.as_ref().expect("taken only at the end")
    }

    /// Puts the store into its place: after it the data directory has all of it, before it nothing.
    ///
    /// # Errors
    /// [`StageError::Open`]; the data directory has no store.
    pub fn finish(mut self) -> Result<(), StageError> {
        drop(self.engine.take());
        let unfinished = self.directory.join(STAGED);
        let publish = || -> io::Result<()> {
            // The store goes last: with it the data directory is one.
            let mut names = Vec::new();
            for entry in fs::read_dir(&unfinished)? {
                names.push(entry?.file_name());
            }
            names.retain(|name| name != LOCK);
            names.sort_by_key(|name| name == STORE);
            sync_directory(&unfinished)?;
            for name in names {
                fs::rename(unfinished.join(&name), self.directory.join(&name))?;
            }
            sync_directory(&self.directory)?;
            let _foreign = fs::canonicalize(&self.directory)?.parent().map(sync_directory);
            Ok(())
        };
        Ok(publish().map_err(|source| Place(&self.directory).io(source))?)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        drop(self.engine.take());
        if let Err(error) = remove(&self.directory.join(STAGED)) {
            tracing::warn!("{} was not removed: {error}", self.directory.join(STAGED).display());
        }
    }
}

fn check_empty(directory: &Path) -> Result<(), StageError> {
    let io = |source| Place(directory).io(source);
    for entry in fs::read_dir(directory).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if ![LOCK, STAGED].iter().any(|known| name == *known) && !private::is_the_volumes(&name) {
            let found = name.to_string_lossy().into_owned();
            return Err(StageError::NotEmpty { directory: directory.into(), found });
        }
    }
    Ok(())
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Batch, Engine};

    #[tokio::test]
    async fn a_directory_has_the_whole_store_or_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = Config::new(directory.path().join("data"));
        let fill = async |staged: &Staged| {
            let mut batch = Batch::new();
            batch.put(&b"key"[..], &b"value"[..]);
            staged.engine().commit(batch).await.expect("commits");
        };
        let staged = Staged::new(&config).expect("an absent directory will do");
        fill(&staged).await;
        assert!(
            matches!(Embedded::open(&config), Err(OpenError::InUse { .. })),
            "nobody begins one meanwhile"
        );
        drop(staged);
        assert!(!config.directory.join(STORE).exists() && !config.directory.join(STAGED).exists());

        fs::create_dir_all(config.directory.join(STAGED).join("rest")).expect("of a crash");
        let staged = Staged::new(&config).expect("what a crash leaves is no obstacle");
        fill(&staged).await;
        staged.finish().expect("is put into its place");
        assert!(!config.directory.join(STAGED).exists());
        let engine = Embedded::open(&config).expect("opens");
        let found = engine.snapshot().await.expect("reads").get(b"key").await.expect("reads");
        assert_eq!(found.as_deref(), Some(&b"value"[..]));
        drop(engine);
        assert!(matches!(Staged::new(&config), Err(StageError::NotEmpty { found, .. }) if found == STORE));
    }
}
