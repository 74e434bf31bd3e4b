//! What a proxy keeps in its directory, to start with where the home group is away: the document that it went by, who the
//! cluster says that it is, and a ceiling of the revisions that it has shown.
//!
//! Each file is written beside and renamed, so it is the old one or the new one. One that is damaged is as if it were not
//! there. The ceiling is ahead of the floor by a million or so, so that it is seldom written; whoever starts at the ceiling
//! shows nothing below what was shown before. It is written when the floor has come half way: only a floor that rises by
//! more than that within the time of one write could pass it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kubebrain_proto::peer::PlacementDocument;
use kubebrain_shared::placement::Document;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stop;
use tokio::time::sleep;

use crate::core::Core;
use crate::identity::Identity;

const PLACEMENT: &str = "placement";
const FLOOR: &str = "floor";
/// What a file begins with, before the checksum of the rest.
const MAGIC: &[u8; 8] = b"kbproxy1";
/// How far a ceiling is ahead of the floor.
const AHEAD: u64 = 1_000_000;
/// Who the cluster is may change without a word; what could not be written is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What was kept, as far as it is there and whole.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) document: Option<Document>,
    pub(crate) identity: Option<Identity>,
    pub(crate) left: Vec<u64>,
    /// At or above whatever was shown.
    pub(crate) ceiling: Option<Revision>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PlacementFile {
    #[prost(message, optional, tag = "1")]
    document: Option<PlacementDocument>,
    #[prost(fixed64, tag = "2")]
    cluster_id: u64,
    #[prost(fixed64, tag = "3")]
    member_id: u64,
    #[prost(uint64, tag = "4")]
    raft_term: u64,
    #[prost(fixed64, repeated, tag = "5")]
    left: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FloorFile {
    #[prost(int64, tag = "1")]
    ceiling: i64,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    directory: Arc<Path>,
}

impl Kept {
    /// Reads what is there. What cannot be read is said and left out.
    pub(crate) fn open(directory: PathBuf) -> (Self, Found) {
        let kept = Self { directory: directory.into() };
        if let Err(error) = kept.make() {
            tracing::warn!(
                directory = %kept.directory.display(),
                "the proxy's directory cannot be made: {error}. It goes on and keeps nothing for its next start"
            );
        }
        let placement: Option<PlacementFile> = kept.read(PLACEMENT);
        let floor: Option<FloorFile> = kept.read(FLOOR);
        let mut found = Found {
            ceiling: floor.and_then(|floor| Revision::checked_from(floor.ceiling)),
            ..Found::default()
        };
        if let Some(file) = placement {
            let read = file.document.as_ref().map(Document::from_wire).transpose();
            match read {
                Ok(document) => found.document = document.filter(|document| document.number() > 0),
                Err(error) => kept.say_damaged(PLACEMENT, &error.to_string()),
            }
            let PlacementFile { cluster_id, member_id, raft_term, left, .. } = file;
            found.identity = Some(Identity { cluster_id, member_id, raft_term });
            found.left = left;
        }
        (kept, found)
    }

    fn make(&self) -> io::Result<()> {
        if let Ok(found) = fs::read_dir(&self.directory) {
            // one that has something else in it is somebody else's to close
            let is_ours = |name: &std::ffi::OsStr| {
                name.to_str().is_some_and(|name| name.starts_with(PLACEMENT) || name.starts_with(FLOOR))
            };
            return match found.flatten().all(|entry| is_ours(&entry.file_name())) {
                true => fs::set_permissions(&self.directory, Permissions::from_mode(0o700)),
                false => Ok(()),
            };
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        fs::set_permissions(&self.directory, Permissions::from_mode(0o700))
    }

    fn read<M: prost::Message + Default>(&self, name: &str) -> Option<M> {
        let bytes = match fs::read(self.directory.join(name)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                self.say_damaged(name, &error.to_string());
                return None;
            }
        };
        let whole = || {
            let (sum, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
            (crc32c::crc32c(rest) == u32::from_le_bytes(*sum)).then_some(rest)
        };
        let read = whole().and_then(|rest| M::decode(rest).ok());
        if read.is_none() {
            self.say_damaged(name, "it is not what was written");
        }
        read
    }

    fn say_damaged(&self, name: &str, why: &str) {
        tracing::warn!(
            file = %self.directory.join(name).display(),
            "what this proxy has kept cannot be read: {why}. It goes on as if there were nothing"
        );
    }

    fn write(&self, name: &str, message: &impl prost::Message) -> io::Result<()> {
        let body = message.encode_to_vec();
        let (path, beside) = (self.directory.join(name), self.directory.join(format!("{name}.tmp")));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(MAGIC)?;
        file.write_all(&crc32c::crc32c(&body).to_le_bytes())?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(&self.directory)?.sync_all()
    }

    /// Keeps what changes, until the stop.
    pub(crate) async fn run(self, core: Arc<Core>, stop: Stop) {
        let mut keeper = Keeper { kept: self, core, placement: None, ceiling: Revision::ZERO, fails: false };
        let mut tables = keeper.core.tables();
        let core = Arc::clone(&keeper.core);
        let mut ready = core.ready().subscribe();
        loop {
            keeper.keep().await;
            tokio::select! {
                () = stop.asked() => return,
                _changed = tables.changed() => {}
                _changed = ready.changed() => {}
                () = core.floor.passed() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }
}

struct Keeper {
    kept: Kept,
    core: Arc<Core>,
    /// As it was written last.
    placement: Option<PlacementFile>,
    ceiling: Revision,
    fails: bool,
}

impl Keeper {
    async fn keep(&mut self) {
        let kept = self.keep_placement().await;
        let kept = kept.and(self.keep_floor().await);
        match kept {
            Ok(()) => self.fails = false,
            Err(error) => {
                self.core.floor.mark(Revision::MAX); // tried again after a while, and not with every answer
                if !std::mem::replace(&mut self.fails, true) {
                    tracing::warn!(
                        directory = %self.kept.directory.display(),
                        "what this proxy needs for a start without the home group cannot be kept: {error}. It goes on"
                    );
                }
            }
        }
    }

    async fn keep_placement(&mut self) -> io::Result<()> {
        let table = self.core.table();
        if !table.is_known() || table.document().number() == 0 {
            return Ok(());
        }
        let Identity { cluster_id, member_id, raft_term } = self.core.identity();
        let document = Some(table.document().to_wire());
        let file = PlacementFile { document, cluster_id, member_id, raft_term, left: self.core.left() };
        if self.placement.as_ref() != Some(&file) {
            self.write(PLACEMENT, file.clone()).await?;
            self.placement = Some(file);
        }
        Ok(())
    }

    /// Once it serves: before, its floor says nothing of what was shown.
    async fn keep_floor(&mut self) -> io::Result<()> {
        if !*self.core.ready().borrow() {
            return Ok(());
        }
        let floor = self.core.floor.get();
        if floor.get() + AHEAD / 2 >= self.ceiling.get() {
            let ceiling = Revision::new((floor.get() + AHEAD).min(Revision::MAX.get()));
            self.write(FLOOR, FloorFile { ceiling: ceiling.to_wire() }).await?;
            self.ceiling = ceiling;
            self.core.floor.mark(Revision::new(ceiling.get().saturating_sub(AHEAD / 2)));
        }
        Ok(())
    }

    async fn write(&self, name: &'static str, message: impl prost::Message + 'static) -> io::Result<()> {
        let kept = self.kept.clone();
        let written = tokio::task::spawn_blocking(move || kept.write(name, &message)).await;
        written.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}
