//! Sockets in the file system.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Makes room for a socket: removes one that nobody listens on, as a process leaves it that was killed.
pub(super) fn clear(path: &Path) -> Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found.with_context(|| format!("{}", path.display()))?,
    };
    if !found.file_type().is_socket() {
        bail!("{} is there and no socket: remove it or name another path", path.display());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)
            .with_context(|| format!("{} is left over and cannot be removed", path.display())),
        _ => bail!("cannot listen on {}: another process does", path.display()),
    }
}

/// Removes a socket's file when dropped, unless another process has put its own there.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: Option<u64>,
}

impl SocketFile {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.into(), inode: inode(path) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|data| data.ino())
}
