//! [`Sink`]: where a thread of the log writes.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use tracing::Level;

/// Between two tries to write to what takes nothing now and does not wait: a terminal or pipe that somebody has set so.
const AGAIN: Duration = Duration::from_millis(10);

/// Where a thread writes.
pub(super) trait Sink: Send + 'static {
    /// Writes one line, with its end. After an error some of it may be there.
    fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()>;
}

/// All of it. The error comes with how much was written before.
pub(super) fn write(file: &mut File, bytes: &[u8]) -> Result<(), (io::Error, usize)> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return Err((ErrorKind::WriteZero.into(), written)),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(AGAIN),
            Err(error) => return Err((error, written)),
        }
    }
    Ok(())
}

/// A log file, for its owner alone: lines name keys.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}
