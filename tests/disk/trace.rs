//! [`Trace`]: what a server did to its data directory, as the shim wrote it down.

use std::ops::Range;
use std::path::Path;

/// Of the header of a record: see `struct record` in `shim.c`.
const HEADER_BYTES: usize = 40;
const MAGIC: u32 = 0x5348_494d;

/// A whole trace in memory.
pub(crate) struct Trace {
    bytes: Vec<u8>,
    pub(crate) steps: Vec<Step>,
}

/// One operation, and where its record ends: a cut after it is named by this number.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) end: u64,
    pub(crate) change: Change,
}

/// What was done. Files are named by inode, which is theirs as long as they exist.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A process begins; the inode of the directory.
    Root {
        inode: u64,
    },
    Create {
        inode: u64,
        path: String,
    },
    MakeDirectory {
        inode: u64,
        path: String,
    },
    /// Bytes, as a place in the trace.
    Write {
        inode: u64,
        at: u64,
        data: Range<usize>,
    },
    Zero {
        inode: u64,
        at: u64,
        length: u64,
    },
    Size {
        inode: u64,
        size: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    Link {
        inode: u64,
        to: String,
    },
    Unlink {
        path: String,
    },
    RemoveDirectory {
        path: String,
    },
    /// A sync covers what was done before it began, once it has ended well.
    SyncBegins {
        inode: u64,
        token: u64,
    },
    SyncEnds {
        token: u64,
        done: bool,
    },
    /// Something failed on demand.
    Fault,
}

impl Trace {
    /// Reads a trace up to its last whole record.
    ///
    /// # Panics
    /// If the server did something that the shim cannot follow.
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).expect("a trace");
        let mut steps = Vec::new();
        let mut at = 0;
        while let Some(header) = bytes.get(at..at + HEADER_BYTES) {
            let half =
                |place: usize| u32::from_le_bytes(header[place..place + 4].try_into().expect("4 bytes"));
            let whole =
                |place: usize| u64::from_le_bytes(header[place..place + 8].try_into().expect("8 bytes"));
            assert_eq!(half(0), MAGIC, "a trace holds records, at {at}");
            let (kind, inode, a, b) = (half(4), whole(8), whole(16), whole(24));
            let first = at + HEADER_BYTES..at + HEADER_BYTES + half(32) as usize;
            let second = first.end..first.end + half(36) as usize;
            if second.end > bytes.len() {
                break;
            }
            at = second.end;
            let text = |range: &Range<usize>| {
                String::from_utf8(bytes[range.clone()].to_vec()).expect("paths of the test are UTF-8")
            };
            let change = match kind {
                1 => Change::Root { inode },
                2 => Change::Create { inode, path: text(&first) },
                3 => Change::MakeDirectory { inode, path: text(&first) },
                4 => Change::Write { inode, at: a, data: first },
                5 => Change::Zero { inode, at: a, length: b },
                6 => Change::Size { inode, size: a },
                7 => Change::Rename { from: text(&first), to: text(&second) },
                8 => Change::Link { inode, to: text(&second) },
                9 => Change::Unlink { path: text(&first) },
                10 => Change::RemoveDirectory { path: text(&first) },
                11 => Change::SyncBegins { inode, token: a },
                12 => Change::SyncEnds { token: a, done: b == 1 },
                13 => panic!("the server did what the shim cannot follow: {}", text(&first)),
                14 => Change::Fault,
                _ => panic!("a record of kind {kind}"),
            };
            steps.push(Step { end: at as u64, change });
        }
        Self { bytes, steps }
    }

    /// Made by hand.
    #[cfg(test)]
    pub(crate) fn of(bytes: Vec<u8>, changes: Vec<Change>) -> Self {
        let steps = changes.into_iter().zip(1..).map(|(change, end)| Step { end, change }).collect();
        Self { bytes, steps }
    }

    pub(crate) fn data(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }

    /// Where the last record ends.
    pub(crate) fn end(&self) -> u64 {
        self.steps.last().map_or(0, |step| step.end)
    }
}

impl Change {
    /// True for what changes names.
    pub(crate) const fn is_of_names(&self) -> bool {
        matches!(
            self,
            Self::Create { .. }
                | Self::MakeDirectory { .. }
                | Self::Rename { .. }
                | Self::Link { .. }
                | Self::Unlink { .. }
                | Self::RemoveDirectory { .. }
        )
    }

    pub(crate) const fn is_of_sync(&self) -> bool {
        matches!(self, Self::SyncBegins { .. } | Self::SyncEnds { .. })
    }
}
