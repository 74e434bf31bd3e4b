//! What this process makes in the file system is for its user alone, whatever umask it was started with: files of the
//! store that a library makes, and whatever else is written, may hold secrets.
//!
//! Sockets are the exception: who may connect is what the umask of the start says, as with etcd.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::Mode;
use rustix::process::umask;

/// Nothing for the group, nothing for others.
const CLOSED: u32 = 0o077;
/// What the system gives a socket before the umask is taken off.
const SOCKET: u32 = 0o777;

/// The umask that the process was started with. It is the process's own, as the umask is.
static FOUND: OnceLock<u32> = OnceLock::new();

/// Takes everything from others, in what is made from now on. Called once, before there is a second thread.
pub(crate) fn close() {
    let found = umask(Mode::from_raw_mode(CLOSED));
    FOUND.get_or_init(|| found.as_raw_mode());
}

/// Gives a socket the mode that it would have without [`close`].
pub(crate) fn open_socket(path: &Path) -> io::Result<()> {
    match FOUND.get() {
        Some(found) => fs::set_permissions(path, Permissions::from_mode(SOCKET & !found)),
        None => Ok(()),
    }
}
