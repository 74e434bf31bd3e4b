//! [`PingGuard`]: ends a connection whose client pings too often, as gRPC servers do.
//!
//! h2 answers pings by itself and tells nobody, so the guard follows the heads of HTTP/2's frames on their way through,
//! in both directions. A ping that comes sooner than allowed after the one before is a strike, unless something was
//! sent meanwhile; the third strike is answered with GOAWAY, `ENHANCE_YOUR_CALM` and the very text by which clients of
//! gRPC know that they have to ping less.
//!
//! Invariants: bytes pass unchanged; the GOAWAY is written between two frames or not at all; a connection that does
//! not begin with HTTP/2's preface is not looked at.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::held::{Bound, Held};

/// What an HTTP/2 client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PING: u8 = 6;
pub(crate) const ACK: u8 = 1;

/// So many too early pings are overlooked.
const STRIKES_MAX: u32 = 2;

/// GOAWAY, no stream, ENHANCE_YOUR_CALM. The last stream is the highest there can be: nothing is said about streams.
const GOAWAY: &[u8] = b"\0\0\x16\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\x0btoo_many_pings";

/// A socket under watch: the module says how.
#[derive(Debug)]
pub(crate) struct PingGuard<T> {
    inner: T,
    rule: Option<Rule>,
    held: Held,
}

#[derive(Debug)]
struct Rule {
    interval_min: Duration,
    /// What of the preface has come.
    preface: usize,
    inbound: Frames,
    outbound: Frames,
    last_ping: Option<Instant>,
    strikes: u32,
}

/// Where a direction is between two heads.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    head: [u8; HEAD_BYTES],
    have: usize,
    /// Payload that is still to pass.
    payload: usize,
}

impl Frames {
    /// Follows `bytes`; tells each frame's type, flags and length.
    pub(crate) fn follow(&mut self, mut bytes: &[u8], mut frame: impl FnMut(u8, u8, usize)) {
        while !bytes.is_empty() {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD_BYTES - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD_BYTES {
                let [a, b, c, kind, flags, ..] = self.head;
                self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
                self.have = 0;
                frame(kind, flags, self.payload);
            }
        }
    }

    const fn is_between(&self) -> bool {
        self.have == 0 && self.payload == 0
    }
}

impl Rule {
    /// What the client sent. False once it is too much; `None` if this is no HTTP/2.
    fn received(&mut self, mut bytes: &[u8]) -> Option<bool> {
        let wanted = &PREFACE[self.preface..];
        let taken = wanted.len().min(bytes.len());
        if bytes[..taken] != wanted[..taken] {
            return None;
        }
        self.preface += taken;
        bytes = &bytes[taken..];
        let mut pings = 0;
        self.inbound.follow(bytes, |kind, flags, _| pings += u32::from(kind == PING && flags & ACK == 0));
        if pings > 0 {
            let now = Instant::now();
            // Those that come together are all too early but for the first.
            let early = self.last_ping.is_some_and(|last| now - last < self.interval_min);
            self.strikes = self.strikes.saturating_add(pings - u32::from(!early));
            self.last_ping = Some(now);
        }
        Some(self.strikes <= STRIKES_MAX)
    }

    fn sent(&mut self, bytes: &[u8]) {
        let strikes = &mut self.strikes;
        let last = &mut self.last_ping;
        // Clients measure the way when they get data: that is no keepalive.
        self.outbound.follow(bytes, |kind, _, _| {
            if matches!(kind, DATA | HEADERS) {
                *strikes = 0;
                *last = None;
            }
        });
    }
}

impl<T> PingGuard<T> {
    /// `None`: nothing is watched. `held` counts who was sent away.
    pub(crate) fn new(inner: T, interval_min: Option<Duration>, held: Held) -> Self {
        let rule = interval_min.filter(|interval| !interval.is_zero()).map(|interval_min| Rule {
            interval_min,
            preface: 0,
            inbound: Frames::default(),
            outbound: Frames::default(),
            last_ping: None,
            strikes: 0,
        });
        Self { inner, rule, held }
    }
}

impl<T: AsyncWrite + Unpin> PingGuard<T> {
    /// Says goodbye as far as that goes without waiting.
    fn refuse(&mut self, cx: &mut Context<'_>) -> io::Error {
        self.held.count(Bound::Pings);
        if self.rule.take().is_some_and(|rule| rule.outbound.is_between())
            && matches!(Pin::new(&mut self.inner).poll_write(cx, GOAWAY), Poll::Ready(Ok(_)))
        {
            // A cork puts a flush off, a shutdown it does not; and nothing comes after this.
            let _sent = Pin::new(&mut self.inner).poll_shutdown(cx);
        }
        io::Error::new(io::ErrorKind::ConnectionAborted, "the client pings too often")
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for PingGuard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Some(rule) = &mut self.rule {
            match rule.received(&buffer.filled()[before..]) {
                Some(true) => {}
                Some(false) => return Poll::Ready(Err(self.refuse(cx))),
                None => self.rule = None,
            }
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for PingGuard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let (Poll::Ready(Ok(written)), Some(rule)) = (&written, &mut self.rule) {
            rule.sent(&bytes[..*written]);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        if let (Poll::Ready(Ok(written)), Some(rule)) = (&written, &mut self.rule) {
            let mut left = *written;
            for slice in slices {
                let taken = slice.len().min(left);
                rule.sent(&slice[..taken]);
                left -= taken;
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
