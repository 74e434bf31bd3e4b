//! [`Journal`]: systemd's journal, by its native protocol: one datagram for an entry, one field on a line.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::Level;

use super::sink::Sink;

const SOCKET: &str = "/run/systemd/journal/socket";

pub(super) struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    pub(super) fn connect() -> io::Result<Self> {
        Self::at(Path::new(SOCKET))
    }

    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self { socket })
    }
}

impl Sink for Journal {
    fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        self.socket.send(&entry(level, line)).map(drop)
    }
}

/// `syslog`'s priorities. A text with ends of lines in it goes with its length, as the protocol wants it.
fn entry(level: Level, line: &[u8]) -> Vec<u8> {
    let priority = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    };
    let text = line.trim_ascii_end();
    let mut entry = format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=kubebrain\n").into_bytes();
    if text.contains(&b'\n') {
        entry.extend_from_slice(b"MESSAGE\n");
        entry.extend_from_slice(&(text.len() as u64).to_le_bytes());
    } else {
        entry.extend_from_slice(b"MESSAGE=");
    }
    entry.extend_from_slice(text);
    entry.push(b'\n');
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_datagram_with_its_priority() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal");
        let reader = UnixDatagram::bind(&path).expect("a socket");
        let mut journal = Journal::at(&path).expect("somebody listens");
        let mut read = |level, line: &[u8]| {
            journal.write(level, line).expect("it is taken");
            let mut buffer = [0; 1024];
            let length = reader.recv(&mut buffer).expect("an entry");
            buffer[..length].to_vec()
        };
        let head = b"PRIORITY=4\nSYSLOG_IDENTIFIER=kubebrain\n".to_vec();
        assert_eq!(read(Level::WARN, b"one line\n"), [&head[..], b"MESSAGE=one line\n"].concat());
        let two = read(Level::WARN, b"two\nlines\n");
        assert_eq!(two, [&head[..], b"MESSAGE\n", &9_u64.to_le_bytes(), b"two\nlines\n"].concat());
        assert!(read(Level::ERROR, b"x").starts_with(b"PRIORITY=3\n"));
        assert!(read(Level::DEBUG, b"x").starts_with(b"PRIORITY=7\n"));
    }
}
