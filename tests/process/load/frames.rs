//! HTTP/2 frames by hand, for what no client library sends.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RESET: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A connection on which anything can be sent; what comes is thrown away.
pub(crate) struct Wild {
    socket: tokio::net::tcp::OwnedWriteHalf,
    reader: tokio::task::JoinHandle<()>,
}

impl Wild {
    pub(crate) async fn connect(address: &str) -> Self {
        let socket = TcpStream::connect(address).await.expect("it listens");
        let (mut inbound, mut socket) = socket.into_split();
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while inbound.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {}
        });
        let mut hello = BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]);
        put_frame(&mut hello, SETTINGS, 0, 0, b"");
        socket.write_all(&hello).await.expect("it is open");
        Self { socket, reader }
    }

    /// False once the server has closed it.
    pub(crate) async fn send(&mut self, frames: &[u8]) -> bool {
        !self.reader.is_finished() && self.socket.write_all(frames).await.is_ok()
    }
}

impl Drop for Wild {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

pub(crate) fn put_frame(buffer: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    buffer.put_uint(payload.len() as u64, 3);
    buffer.put_u8(kind);
    buffer.put_u8(flags);
    buffer.put_u32(stream);
    buffer.put_slice(payload);
}

/// The header block of a gRPC call, without any compression.
pub(crate) fn head(path: &str) -> Bytes {
    head_to("load", path)
}

/// The same, with this `:authority`.
pub(crate) fn head_to(authority: &str, path: &str) -> Bytes {
    let mut block = BytesMut::new();
    block.put_slice(&[0x83, 0x86]); // POST, http
    for (index, value) in [(4, path), (1, authority)] {
        block.put_u8(index);
        put_text(&mut block, value);
    }
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        put_header(&mut block, name, value);
    }
    block.freeze()
}

pub(crate) fn put_header(block: &mut BytesMut, name: &str, value: &str) {
    block.put_u8(0);
    put_text(block, name);
    put_text(block, value);
}

/// Shorter than 127 bytes, so that its length is one.
fn put_text(block: &mut BytesMut, text: &str) {
    assert!(text.len() < 127, "{text}");
    block.put_u8(text.len() as u8);
    block.put_slice(text.as_bytes());
}
