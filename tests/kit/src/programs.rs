//! [`Programs`]: where a test finds programs that were built for it, and where they run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use tempfile::TempDir;

/// Programs and a directory for what they write. Whoever drops it has killed them; the directory goes with it, and is
/// kept where the test fails.
pub struct Programs {
    directory: Option<TempDir>,
    binaries: PathBuf,
}

impl Programs {
    /// The kit of `tests/FOLDER` with these programs. `None`, and said so, where it is not built, which is a failure with
    /// `CI=true`; and where the environment has `none` under `variable`.
    pub fn find(folder: &str, programs: &[&str], variable: &str) -> Option<Self> {
        if std::env::var(variable).is_ok_and(|value| value == "none") {
            eprintln!("skipped: {variable}=none");
            return None;
        }
        let folder = format!("tests/{folder}");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|path| path.join(&folder).is_dir());
        let binaries = root.expect("the kit's sources are in the workspace").join(&folder).join("bin");
        if !programs.iter().all(|name| binaries.join(name).exists()) {
            let ci = std::env::var("CI").is_ok_and(|value| value == "true");
            assert!(!ci, "{} is not built: {folder}/build", binaries.display());
            eprintln!("skipped: {} is not built: {folder}/build", binaries.display());
            return None;
        }
        let directory = tempfile::Builder::new().prefix("kubebrain-kit-").tempdir();
        Some(Self { directory: Some(directory.expect("a temporary directory")), binaries })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.as_ref().expect("until it is dropped").path()
    }

    /// The file of a program.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// A program in the directory. It ends with the thread that starts it, so that a killed test leaves nobody behind.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=KILL").arg(self.binary(name)).current_dir(self.path());
        command
    }

    /// Starts it; what it says is added to the file `log`.
    pub fn spawn(&self, mut command: Command, log: &str) -> Child {
        let open =
            || File::options().create(true).append(true).open(self.path().join(log)).expect("a log file");
        command.stdin(Stdio::null()).stdout(open()).stderr(open());
        command.spawn().expect("a binary of the kit runs")
    }

    /// The ends of these files.
    pub fn ends(&self, logs: &[&str]) -> String {
        let end = |name: &&str| {
            let text = std::fs::read(self.path().join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            format!("{name}:\n{}\n", lines[lines.len().saturating_sub(8)..].join("\n"))
        };
        logs.iter().map(end).collect()
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            eprintln!("kept: {}", directory.keep().display());
        }
    }
}

/// How the first of these that has ended did so.
pub fn ended<'a>(children: impl IntoIterator<Item = &'a mut Option<Child>>) -> Option<ExitStatus> {
    children.into_iter().flatten().filter_map(|child| child.try_wait().expect("a child")).next()
}

/// kill -9, if it runs; it returns when the process is gone.
pub fn kill(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        let _ended = child.kill();
        let _reaped = child.wait();
    }
}
