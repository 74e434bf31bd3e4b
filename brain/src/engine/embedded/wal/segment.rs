//! [`Segment`]: one file of the log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::sector::{self, Mark, Part, SECTOR};
use crate::engine::embedded::private;

/// Files of the log end so.
const SUFFIX: &str = "wal";
/// A file that is being made. One that is found is left from a crash and holds nothing.
const UNFINISHED: &str = "unfinished";
/// Begins the payload of a head: the log's layout.
const MAGIC: &[u8; 8] = b"KBWAL\0\0\x01";
/// Zeros are written in pieces of this size.
const PIECE: usize = 1 << 20;

/// A file, and the life that it has now.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    number: u64,
    sectors: u32,
}

/// What the first sector says, besides the segment's number and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The next record when it was written: the first one of this segment is that or a later one.
    pub(super) record: u64,
    /// The oldest segment that was needed then.
    pub(super) oldest: u64,
}

impl Segment {
    /// Makes a file full of zeros with a head; its name is durable, too.
    pub(super) fn create(directory: &Path, number: u64, bytes: u64, head: Head) -> io::Result<Self> {
        let path = directory.join(format!("{number:016}.{SUFFIX}"));
        let unfinished = path.with_extension(UNFINISHED);
        let made = Self::fill(&unfinished, path, number, bytes, head);
        if made.is_err() {
            let _gone = fs::remove_file(&unfinished); // room for others, if it was for room
        }
        made
    }

    fn fill(unfinished: &Path, path: PathBuf, number: u64, bytes: u64, head: Head) -> io::Result<Self> {
        let sectors = u32::try_from(bytes / SECTOR as u64).map_err(io::Error::other)?;
        let mut options = private::options();
        let mut file = options.read(true).write(true).create(true).truncate(true).open(unfinished)?;
        let zeros = vec![0; PIECE];
        let mut rest = sectors as usize * SECTOR;
        while rest > 0 {
            let piece = rest.min(PIECE);
            file.write_all(&zeros[..piece])?;
            rest -= piece;
        }
        let segment = Self { path, file, number, sectors };
        segment.write_head(head)?;
        segment.file.sync_all()?;
        fs::rename(unfinished, &segment.path)?;
        // Not for want of room, whatever the system says: the number is taken now.
        sync_directory(&segment.path).map_err(io::Error::other)?;
        Ok(segment)
    }

    /// Gives the file another life. All that it held is old from now on.
    pub(super) fn reuse(&mut self, number: u64, head: Head) -> io::Result<()> {
        debug_assert!(number > self.number);
        self.number = number;
        self.write_head(head)?;
        self.file.sync_data()
    }

    fn write_head(&self, head: Head) -> io::Result<()> {
        let mark = Mark { segment: self.number, index: 0, part: Part::Head, record: head.record };
        let mut payload = MAGIC.to_vec();
        payload.extend_from_slice(&head.oldest.to_le_bytes());
        payload.extend_from_slice(&self.sectors.to_le_bytes());
        let mut sector = Vec::with_capacity(SECTOR);
        mark.write(&payload, &mut sector);
        self.file.write_all_at(&sector, 0)
    }

    /// Opens a file and reads its head. The inner error says what is wrong with it.
    pub(super) fn open(path: PathBuf) -> io::Result<Result<(Self, Head), String>> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let bytes = file.metadata()?.len();
        let mut first = [0; SECTOR];
        if bytes < SECTOR as u64 {
            return Ok(Err("the file is cut off".to_owned()));
        }
        file.read_exact_at(&mut first, 0)?;
        let Some((mark, payload)) = sector::read(&first) else {
            return Ok(Err("the head of the segment is unreadable".to_owned()));
        };
        let Some(numbers) =
            payload.strip_prefix(MAGIC).filter(|_| mark.part == Part::Head && mark.index == 0)
        else {
            return Ok(Err("the head of the segment is of another kind".to_owned()));
        };
        let oldest = u64::from_le_bytes(numbers[..8].try_into().expect("eight bytes"));
        let sectors = u32::from_le_bytes(numbers[8..12].try_into().expect("four bytes"));
        if bytes != u64::from(sectors) * SECTOR as u64 {
            return Ok(Err(format!("the file has {bytes} bytes instead of {sectors} sectors of {SECTOR}")));
        }
        let head = Head { record: mark.record, oldest };
        Ok(Ok((Self { path, file, number: mark.segment, sectors }, head)))
    }

    /// All of it.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.bytes() as usize];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Removes the file. After a crash it may be there again.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn sectors(&self) -> u32 {
        self.sectors
    }

    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.sectors) * SECTOR as u64
    }
}

/// The files of a log in no order. What was not finished is removed.
pub(super) fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is = |suffix| path.extension().is_some_and(|found| found == suffix);
        if is(UNFINISHED) {
            fs::remove_file(path)?;
        } else if is(SUFFIX) {
            files.push(path);
        }
    }
    Ok(files)
}

/// Makes the name of a file durable.
fn sync_directory(file: &Path) -> io::Result<()> {
    let directory = file.parent().ok_or_else(|| io::Error::other("a file without a directory"))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
impl Segment {
    /// Writes fail from now on.
    pub(super) fn make_read_only(&mut self) {
        self.file = File::open(&self.path).expect("opens");
    }
}
