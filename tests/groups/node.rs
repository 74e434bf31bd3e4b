//! [`Node`]: a brain or a proxy, wherever it is in its life.

use std::path::PathBuf;

use kit::in_time;
use kit::process::{Beginning, Place, Process, Start};

/// See the module. Dropping it kills its process.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) place: Place,
    life: Life,
    stopped: bool,
}

enum Life {
    /// It may serve some time.
    Begins(Beginning),
    Serves(Process),
    /// It has no process.
    Down(Start),
}

impl Node {
    /// Of this start, which names all its ports.
    pub(crate) fn new(name: &str, place: Place, start: Start) -> Self {
        Self { name: name.to_owned(), place, life: Life::Down(start), stopped: false }
    }

    /// Starts its process, if it has none.
    pub(crate) fn start(&mut self) {
        if let Life::Down(start) = &self.life {
            self.life = Life::Begins(start.clone().begins());
        }
    }

    /// Waits until it serves; it has no reason to end.
    pub(crate) async fn ready(&mut self) {
        self.start();
        if let Life::Begins(_) = &self.life {
            let Life::Begins(beginning) = self.take() else { unreachable!("it was just looked at") };
            match in_time(&self.name, beginning.serves()).await {
                Ok(process) => self.life = Life::Serves(process),
                Err(failure) => panic!("{} has ended, {:?}:\n{}", self.name, failure.code, failure.message),
            }
        }
        self.must_run();
    }

    /// Its life, for a moment: what is left is how it is started.
    fn take(&mut self) -> Life {
        let start = match &self.life {
            Life::Begins(beginning) => beginning.process().start(),
            Life::Serves(process) => process.start(),
            Life::Down(start) => start.clone(),
        };
        std::mem::replace(&mut self.life, Life::Down(start))
    }

    /// kill -9; it returns when the process is gone.
    pub(crate) async fn kill(&mut self) {
        self.stopped = false;
        if let Some(process) = self.process_mut() {
            process.kill().await;
        }
        drop(self.take());
    }

    /// Ends it as an operator does; it has to end well. One that does not serve yet need not know the signal.
    pub(crate) async fn end(&mut self) {
        self.resume();
        if let Life::Begins(_) = &self.life {
            return self.kill().await;
        }
        if let Some(process) = self.process_mut() {
            process.signal("TERM");
            let status = process.ended().await;
            assert!(status.success(), "{}: {status}:\n{}", self.name, self.log());
        }
        drop(self.take());
    }

    /// SIGSTOP.
    pub(crate) fn stop(&mut self) {
        if let Some(process) = self.process() {
            process.signal("STOP");
            self.stopped = true;
        }
    }

    /// SIGCONT, if it is stopped.
    pub(crate) fn resume(&mut self) {
        if std::mem::take(&mut self.stopped)
            && let Some(process) = self.process()
        {
            process.signal("CONT");
        }
    }

    fn process(&self) -> Option<&Process> {
        match &self.life {
            Life::Begins(beginning) => Some(beginning.process()),
            Life::Serves(process) => Some(process),
            Life::Down(_) => None,
        }
    }

    fn process_mut(&mut self) -> Option<&mut Process> {
        match &mut self.life {
            Life::Begins(beginning) => Some(beginning.process_mut()),
            Life::Serves(process) => Some(process),
            Life::Down(_) => None,
        }
    }

    pub(crate) fn must_run(&mut self) {
        if let Some(process) = self.process_mut() {
            process.must_run();
        }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process().map(Process::pid)
    }

    /// Everything it has logged in all its lives.
    pub(crate) fn log(&self) -> String {
        let logs = self.logs();
        logs.iter()
            .map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned())
            .collect()
    }

    /// Where its logs are.
    pub(crate) fn logs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.place.path()).into_iter().flatten();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter(|path| path.extension().is_some_and(|end| end == "err")).collect()
    }
}
