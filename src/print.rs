//! Standard output, for what a command answers.

use std::io::{ErrorKind, Write as _};

use anyhow::{Context as _, Result};

/// Writes `text` as it is. Whoever reads it may have had enough, as `head` has: that is no failure.
///
/// # Errors
/// It cannot be written, such as to a full disk.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
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
