//! Standard output, for what a command answers. It may be a pipe that nobody reads any more, or a disk that is full.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};

/// Writes `text` as it is. Whoever reads it may have had enough, as `head` has: that is no failure.
///
/// # Errors
/// It cannot be written, such as to a full disk.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output cannot be written"),
    }
}

/// As [`print`], with a new line behind it.
///
/// # Errors
/// As there.
pub(crate) fn line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Lines for a person at a terminal; nothing where there is none. A terminal that stands still holds nobody up.
pub(crate) fn greet(text: String) {
    if !io::stdout().is_terminal() {
        return;
    }
    let write = move || {
        let mut out = io::stdout().lock();
        let _gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    };
    let _unspawned = std::thread::Builder::new().name("banner".to_owned()).spawn(write);
}
