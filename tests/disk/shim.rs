//! [`Shim`]: the library that stands between a server and its disk, compiled for this run.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kit::process::{Place, Process, Start};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disk/shim.c");

/// What goes wrong on a disk. The numbers are those of `enum fault` in `shim.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing can be written, not even where something is: as where files are copied on write.
    NoSpace = 1,
    WriteFails = 2,
    SyncFails = 3,
    /// Half of it is written, and said so.
    ShortWrite = 4,
    /// No file grows.
    DiskFull = 5,
}

/// When something goes wrong, counted in operations of its kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Injection {
    pub(crate) fault: Fault,
    /// These still succeed.
    pub(crate) after: u64,
    /// How often it fails; 0 is for ever.
    pub(crate) times: u64,
}

/// One data directory under watch.
pub(crate) struct Shim {
    library: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) trace: PathBuf,
    control: PathBuf,
}

impl Shim {
    /// Compiles the library and makes the directory.
    ///
    /// # Panics
    /// If there is no C compiler.
    pub(crate) fn new(place: &Place) -> Self {
        let library = place.join("shim.so");
        let compiler =
            Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(SOURCE).output();
        let output = compiler.unwrap_or_else(|error| {
            panic!("these tests compile tests/disk/shim.c: install a C compiler as `cc` (build-essential): {error}")
        });
        assert!(output.status.success(), "cc {SOURCE}: {}", String::from_utf8_lossy(&output.stderr));
        let base = place.path().canonicalize().expect("the place is there");
        let directory = base.join("data");
        std::fs::create_dir(&directory).expect("a directory");
        let shim = Self { library, directory, trace: base.join("trace"), control: base.join("control") };
        std::fs::write(&shim.control, [0; 4096]).expect("a file");
        shim
    }

    /// A server that is started with the library before all others.
    pub(crate) fn under(&self, start: Start) -> Start {
        let mut start = start.data_dir(&self.directory);
        for (name, path) in [
            ("LD_PRELOAD", &self.library),
            ("SHIM_DIRECTORY", &self.directory),
            ("SHIM_TRACE", &self.trace),
            ("SHIM_CONTROL", &self.control),
        ] {
            start.environment.push((name.to_owned(), path.clone().into_os_string()));
        }
        start
    }

    /// As [`Self::under`], and syncs do nothing.
    pub(crate) fn without_syncs(&self, start: Start) -> Start {
        let mut start = self.under(start);
        start.environment.push(("SHIM_NO_SYNC".to_owned(), "1".into()));
        start
    }

    /// From now on operations fail.
    pub(crate) fn inject(&self, injection: Injection) {
        self.set(1, injection.after);
        self.set(2, injection.times);
        self.set(3, 0);
        self.set(0, injection.fault as u64); // last: the others hold for it
    }

    /// Kills the server between two operations: a signal from outside could come between one and its record.
    pub(crate) async fn kill(&self, mut server: Process) {
        self.set(5, 1);
        server.ended().await;
        self.set(5, 0);
    }

    /// The disk is well again.
    pub(crate) fn heal(&self) {
        self.set(0, 0);
    }

    /// How often an operation failed.
    pub(crate) fn hits(&self) -> u64 {
        let mut word = [0; 8];
        self.control().read_exact_at(&mut word, 4 * 8).expect("the control file");
        u64::from_le_bytes(word)
    }

    fn set(&self, place: u64, value: u64) {
        self.control().write_all_at(&value.to_le_bytes(), place * 8).expect("the control file");
    }

    fn control(&self) -> File {
        File::options().read(true).write(true).open(&self.control).expect("the control file")
    }
}

/// How long a trace is now: what is acknowledged now is durable by what stands before.
pub(crate) fn position(trace: &Path) -> u64 {
    std::fs::metadata(trace).map_or(0, |data| data.len())
}
