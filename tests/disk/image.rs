//! [`Disk`]: what a disk holds for sure at some moment of a trace, and what a power cut there may leave of the rest.
//!
//! * A file's content up to its last sync is there. Of what was written later each sector of 512 bytes shows any one of
//!   the states that it went through, on its own; the size is any one that the file had.
//! * Names change in order: of the changes since those that are durable, any number from the front is there. A sync of
//!   a directory makes durable what was done to its names, a sync of a new file its own name.
//! * Old content never comes back under a new name: blocks of a file are its own until its removal is durable.
//!
//! Inodes are used again after a removal; a file here is an object of its own, which an inode leads to while it lives.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::trace::{Change, Step, Trace};

const SECTOR: u64 = 512;
const PAGE: usize = 4096;

/// See the module.
#[derive(Default)]
pub(crate) struct Disk {
    objects: Vec<Object>,
    /// The newest object of an inode.
    inodes: HashMap<u64, usize>,
    /// Names as they are for sure; paths below the directory.
    durable: BTreeMap<String, usize>,
    /// Changes of names since then, in order.
    pending: Vec<NameChange>,
    /// How many changes of names were made durable, ever.
    settled: usize,
    syncs: HashMap<u64, Sync>,
    root: Option<u64>,
}

#[derive(Default)]
struct Object {
    directory: bool,
    bytes: Vec<u8>,
    /// Not durable yet, in order.
    pending: Vec<ContentChange>,
    /// How many were made durable, ever.
    settled: usize,
    /// The number, among all changes of names, after the one that made it.
    born: usize,
}

enum ContentChange {
    Write { at: u64, data: std::ops::Range<usize> },
    Zero { at: u64, length: u64 },
    Size(u64),
}

#[derive(Clone, Debug)]
enum NameChange {
    Add { path: String, object: usize },
    Move { from: String, to: String },
    Remove { path: String },
}

/// What a sync that has begun will have made durable.
struct Sync {
    object: usize,
    content: usize,
    names: usize,
}

/// What a cut has left of what was not durable, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Torn {
    pub(crate) names_kept: usize,
    pub(crate) names_lost: usize,
    pub(crate) sectors_kept: usize,
    pub(crate) sectors_lost: usize,
}

/// How the sectors of one cut are drawn.
#[derive(Clone, Copy, Debug)]
enum Tear {
    Nothing,
    Everything,
    /// Each with this chance in a hundred.
    Some(u32),
}

impl Disk {
    /// Takes the next step of the trace.
    pub(crate) fn step(&mut self, trace: &Trace, step: &Step) {
        match &step.change {
            Change::Root { inode } => {
                if self.root.is_none() {
                    self.root = Some(*inode);
                    self.objects.push(Object { directory: true, ..Object::default() });
                    self.inodes.insert(*inode, 0);
                    self.durable.insert(String::new(), 0);
                }
                assert_eq!(self.root, Some(*inode), "one directory for one trace");
            }
            Change::Create { inode, path } => self.add(*inode, path, false),
            Change::MakeDirectory { inode, path } => self.add(*inode, path, true),
            Change::Link { inode, to } => {
                let object = self.inodes[inode];
                self.pending.push(NameChange::Add { path: to.clone(), object });
            }
            Change::Write { inode, at, data } => {
                self.change(*inode, ContentChange::Write { at: *at, data: data.clone() });
            }
            Change::Zero { inode, at, length } => {
                self.change(*inode, ContentChange::Zero { at: *at, length: *length });
            }
            Change::Size { inode, size } => self.change(*inode, ContentChange::Size(*size)),
            Change::Rename { from, to } => {
                self.pending.push(NameChange::Move { from: from.clone(), to: to.clone() });
            }
            Change::Unlink { path } | Change::RemoveDirectory { path } => {
                self.pending.push(NameChange::Remove { path: path.clone() });
            }
            Change::SyncBegins { inode, token } => {
                let object = self.inodes[inode];
                let content = self.objects[object].settled + self.objects[object].pending.len();
                let names = self.names_of(object);
                self.syncs.insert(*token, Sync { object, content, names });
            }
            Change::SyncEnds { token, done } => {
                let sync = self.syncs.remove(token).expect("a sync begins before it ends");
                if *done {
                    self.settle_content(trace, sync.object, sync.content);
                    self.settle_names(sync.names);
                }
            }
            Change::Fault => {}
        }
    }

    fn add(&mut self, inode: u64, path: &str, directory: bool) {
        let object = self.objects.len();
        self.pending.push(NameChange::Add { path: path.to_owned(), object });
        let born = self.settled + self.pending.len();
        self.objects.push(Object { directory, born, ..Object::default() });
        self.inodes.insert(inode, object);
    }

    fn change(&mut self, inode: u64, change: ContentChange) {
        let object = *self.inodes.get(&inode).expect("what is written to was made before, under the shim");
        self.objects[object].pending.push(change);
    }

    /// The number of changes of names that a sync of this object makes durable.
    fn names_of(&self, object: usize) -> usize {
        if !self.objects[object].directory {
            return self.objects[object].born;
        }
        let mut now = self.durable.clone();
        let mut last = self.objects[object].born;
        for (place, change) in self.pending.iter().enumerate() {
            let inside = |path: &str| now.get(parent(path)) == Some(&object);
            let touches = match change {
                NameChange::Add { path, .. } | NameChange::Remove { path } => inside(path),
                NameChange::Move { from, to } => inside(from) || inside(to),
            };
            if touches {
                last = self.settled + place + 1;
            }
            apply(&mut now, change);
        }
        last
    }

    fn settle_names(&mut self, to: usize) {
        let count = to.saturating_sub(self.settled);
        for change in self.pending.drain(..count) {
            apply(&mut self.durable, &change);
        }
        self.settled += count;
    }

    fn settle_content(&mut self, trace: &Trace, object: usize, to: usize) {
        let object = &mut self.objects[object];
        let count = to.saturating_sub(object.settled);
        let pending: Vec<_> = object.pending.drain(..count).collect();
        for change in &pending {
            write(&mut object.bytes, trace, change);
        }
        object.settled += count;
    }

    /// Writes to a directory what is there when everything was written: what a kill leaves, and no power cut.
    pub(crate) fn whole(&self, trace: &Trace, directory: &Path) {
        let mut names = self.durable.clone();
        self.pending.iter().for_each(|change| apply(&mut names, change));
        let content = |object: &Object| {
            let mut bytes = object.bytes.clone();
            object.pending.iter().for_each(|change| write(&mut bytes, trace, change));
            bytes
        };
        self.lay_out(&names, directory, content);
    }

    /// Writes to a directory what a power cut now may leave.
    pub(crate) fn cut(&self, trace: &Trace, random: &mut SmallRng, directory: &Path) -> Torn {
        let mut torn = Torn::default();
        let mut names = self.durable.clone();
        let kept = match random.random_range(0..4) {
            0 => 0,
            1 => self.pending.len(),
            _ => random.random_range(0..=self.pending.len()),
        };
        self.pending[..kept].iter().for_each(|change| apply(&mut names, change));
        (torn.names_kept, torn.names_lost) = (kept, self.pending.len() - kept);
        let tear = match random.random_range(0..6) {
            0 => Tear::Nothing,
            1 => Tear::Everything,
            2 => Tear::Some(95),
            3 => Tear::Some(80),
            4 => Tear::Some(10),
            _ => Tear::Some(50),
        };
        self.lay_out(&names, directory, |object| object.torn(trace, tear, random, &mut torn));
        torn
    }

    fn lay_out(
        &self,
        names: &BTreeMap<String, usize>,
        directory: &Path,
        mut content: impl FnMut(&Object) -> Vec<u8>,
    ) {
        for (path, object) in names {
            let (path, object) = (directory.join(path), &self.objects[*object]);
            if object.directory {
                std::fs::create_dir_all(path).expect("a directory");
            } else {
                write_sparse(&path, &content(object));
            }
        }
    }
}

impl Object {
    /// The content that a cut leaves.
    fn torn(&self, trace: &Trace, tear: Tear, random: &mut SmallRng, torn: &mut Torn) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if self.pending.is_empty() {
            return bytes;
        }
        // How many of the changes to a sector still happen; drawn when the first one comes.
        let mut left: HashMap<u64, u32> = HashMap::new();
        let mut sizes = vec![bytes.len() as u64];
        let mut size = bytes.len() as u64;
        for change in &self.pending {
            let (at, length) = match change {
                ContentChange::Write { at, data } => (*at, data.len() as u64),
                ContentChange::Zero { at, length } => (*at, *length),
                ContentChange::Size(now) => {
                    size = *now;
                    sizes.push(size);
                    continue;
                }
            };
            size = size.max(at + length);
            sizes.push(size);
            if bytes.len() < size as usize {
                bytes.resize(size as usize, 0);
            }
            let mut begin = at;
            while begin < at + length {
                let end = ((begin / SECTOR + 1) * SECTOR).min(at + length);
                let left =
                    left.entry(begin / SECTOR).or_insert_with(|| match tear {
                        Tear::Nothing => 0,
                        Tear::Everything => u32::MAX,
                        Tear::Some(chance) if random.random_ratio(chance, 100) => {
                            if random.random_ratio(1, 2) { u32::MAX } else { random.random_range(1..4) }
                        }
                        Tear::Some(_) => 0,
                    });
                if *left > 0 {
                    *left -= 1;
                    torn.sectors_kept += 1;
                    let target = &mut bytes[begin as usize..end as usize];
                    match change {
                        ContentChange::Write { data, .. } => target
                            .copy_from_slice(&trace.data(data)[(begin - at) as usize..(end - at) as usize]),
                        _ => target.fill(0),
                    }
                } else {
                    torn.sectors_lost += 1;
                }
                begin = end;
            }
        }
        let size = match tear {
            Tear::Nothing => sizes[0],
            Tear::Everything => size,
            Tear::Some(_) => match random.random_range(0..3) {
                0 => size,
                _ => sizes[random.random_range(0..sizes.len())],
            },
        };
        bytes.resize(size as usize, 0);
        bytes
    }
}

fn write(bytes: &mut Vec<u8>, trace: &Trace, change: &ContentChange) {
    let (at, length) = match change {
        ContentChange::Write { at, data } => (*at as usize, data.len()),
        ContentChange::Zero { at, length } => (*at as usize, *length as usize),
        ContentChange::Size(size) => return bytes.resize(*size as usize, 0),
    };
    if bytes.len() < at + length {
        bytes.resize(at + length, 0);
    }
    match change {
        ContentChange::Write { data, .. } => bytes[at..at + length].copy_from_slice(trace.data(data)),
        _ => bytes[at..at + length].fill(0),
    }
}

/// Changes names; those below a directory move with it.
fn apply(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Add { path, object } => drop(names.insert(path.clone(), *object)),
        NameChange::Remove { path } => drop(names.remove(path)),
        NameChange::Move { from, to } => {
            let below = format!("{from}/");
            let moved: Vec<_> = names.keys().filter(|path| path.starts_with(&below)).cloned().collect();
            for path in moved {
                let object = names.remove(&path).expect("it was there");
                names.insert(format!("{to}/{}", &path[below.len()..]), object);
            }
            let object = names.remove(from).expect("what is renamed is there");
            names.insert(to.clone(), object);
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Writes a file without its pages of zeros.
pub(crate) fn write_sparse(path: &Path, bytes: &[u8]) {
    let file = File::create(path).expect("a file");
    file.set_len(bytes.len() as u64).expect("its size");
    for (number, page) in bytes.chunks(PAGE).enumerate() {
        if page != &[0; PAGE][..page.len()] {
            file.write_all_at(page, (number * PAGE) as u64).expect("its content");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    /// A file of two sectors is written, synced with its directory, written again and renamed.
    fn trace() -> Trace {
        let data = [[b'1'; 1024], [b'2'; 1024]].concat();
        let sync =
            |inode, token| [Change::SyncBegins { inode, token }, Change::SyncEnds { token, done: true }];
        let mut changes = vec![Change::Root { inode: 1 }, Change::Create { inode: 2, path: "f".to_owned() }];
        changes.push(Change::Write { inode: 2, at: 0, data: 0..1024 });
        changes.extend(sync(2, 7));
        changes.push(Change::Create { inode: 3, path: "never synced".to_owned() });
        changes.push(Change::Write { inode: 2, at: 0, data: 1024..2048 });
        changes.push(Change::Rename { from: "f".to_owned(), to: "g".to_owned() });
        Trace::of(data, changes)
    }

    fn after(trace: &Trace, steps: usize) -> Disk {
        let mut disk = Disk::default();
        trace.steps[..steps].iter().for_each(|step| disk.step(trace, step));
        disk
    }

    /// All that cuts leave: names, and of the file what its two sectors begin with.
    fn outcomes(disk: &Disk, trace: &Trace) -> BTreeSet<(Vec<String>, String)> {
        let mut outcomes = BTreeSet::new();
        for seed in 0..300 {
            let directory = tempfile::tempdir().expect("a directory");
            disk.cut(trace, &mut SmallRng::seed_from_u64(seed), directory.path());
            let entries = std::fs::read_dir(directory.path()).expect("a directory");
            let mut names: Vec<String> = entries
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
                .collect();
            names.sort();
            let file =
                ["f", "g"].into_iter().find_map(|name| std::fs::read(directory.path().join(name)).ok());
            let sectors = file.unwrap_or_default();
            let text = sectors.chunks(512).map(|sector| char::from(sector[0])).collect();
            outcomes.insert((names, text));
        }
        outcomes
    }

    #[test]
    fn a_cut_keeps_what_was_synced_and_tears_the_rest() {
        let trace = trace();
        let at_end = outcomes(&after(&trace, trace.steps.len()), &trace);
        let contents: BTreeSet<&str> = at_end.iter().map(|(_, text)| &text[..]).collect();
        assert_eq!(contents, BTreeSet::from(["11", "12", "21", "22"]), "each sector is old or new");
        let names: BTreeSet<String> = at_end.iter().map(|(names, _)| names.join(" ")).collect();
        let expected = ["f", "f never synced", "g never synced"].map(str::to_owned);
        assert_eq!(names, BTreeSet::from(expected), "names change in order, from the front");

        let synced = outcomes(&after(&trace, 5), &trace);
        assert_eq!(synced, BTreeSet::from([(vec!["f".to_owned()], "11".to_owned())]), "nothing is open");
        let unsynced = outcomes(&after(&trace, 4), &trace);
        assert!(unsynced.contains(&(Vec::new(), String::new())), "not even the name: {unsynced:?}");
        assert!(unsynced.iter().any(|(_, text)| text == "\u{0}1"), "zeros where nothing was: {unsynced:?}");
    }
}
