//! [`Blobs`]: the directory of large values.
//!
//! The tree syncs the files that it makes there, but not their names, and then names them in its manifest. After a
//! power cut the manifest could name a file that is not there. So the directory is synced in between: in a flush by
//! the flush thread, and in a merge by a filter that keeps everything, whose end is called after the last file was
//! made and before the manifest is written.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use lsm_tree::compaction::filter::{Context, ItemAccessor};
use lsm_tree::compaction::{CompactionFilter, Factory, Verdict};
use parking_lot::Mutex;

use crate::engine::embedded::exhaustion::{lacks_descriptors, patiently};

/// The directory, and whether a sync in a merge has failed.
#[derive(Clone, Debug)]
pub(super) struct Blobs {
    path: Arc<PathBuf>,
    failed: Arc<Mutex<Option<io::Error>>>,
}

impl Blobs {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path: Arc::new(path), failed: Arc::default() }
    }

    /// Makes the names of its files durable.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&*self.path)?.sync_all()
    }

    /// To be asked after each merge.
    ///
    /// # Errors
    /// What the system said when the names were made durable in it.
    pub(super) fn synced(&self) -> io::Result<()> {
        match self.failed.lock().take() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }
}

impl std::panic::RefUnwindSafe for Blobs {}

impl Factory for Blobs {
    fn name(&self) -> &'static str {
        "sync the names of files"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(self.clone())
    }
}

impl CompactionFilter for Blobs {
    fn filter_item(&mut self, _: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        Ok(Verdict::Keep)
    }

    fn finish(self: Box<Self>) {
        let sync = || self.sync();
        let synced = patiently("a merge of tables", lacks_descriptors, || false, sync);
        *self.failed.lock() = synced.err();
    }
}
