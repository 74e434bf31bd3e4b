//! [`Gate`]: what may come in on a connection, and how fast.
//!
//! * Which of the two HTTPs it speaks stands in the first bytes. hyper waits for them without end; the gate notices
//!   whether they came. What follows has bounds of its own: a head of HTTP/1 its timeout, an idle connection our pings.
//! * h2 reads on as long as something is there, and hyper reads again for each request that it takes, so that one busy
//!   connection would keep a thread and fill the queue of tasks before any of them runs. The gate gives [`TURN_BYTES`] in
//!   one turn of the connection's task ([`Turns`]): requests that came run first.
//! * Frames that cost their sender nothing and make work here (resets, settings, pings, empty data) have a pace. Who
//!   sends more is read more slowly; nobody is thrown out, as a client may well give up thousands of requests at once.
//!   So have small messages of streams, which h2 throws out too many of.
//! * What our own answers provoke is free ([`Owed`]): clients of gRPC measure their bandwidth by a ping whenever data
//!   comes and none is under way, and reset a stream that they are done with before it has ended.
//!
//! Invariants: bytes pass unchanged and in order. It lies below the cork, which must be reached on every turn.

use std::io::{self, IoSlice};
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::held::{Bound, Held};
use crate::pings::{ACK, DATA, Frames, HEADERS, PING, PREFACE};
use crate::turns::Turns;

/// What is read of one connection before others get their turn: some twenty requests. With 16 KiB three connections that
/// ask for lists and reset them leave a bystander 22 to 70 of 1000 of its pace, with this 80 to 340.
const TURN_BYTES: usize = 4 << 10;
/// Below this h2 counts a frame of a stream as small, and gives the connection up above some eight thousand that are not
/// read. Whoever reads them may not get a processor for a while, so they have a pace too.
const SMALL_BYTES: usize = 256;
const SMALL_PER_SECOND: NonZeroU32 = NonZeroU32::new(20_000).expect("it is not zero");
const SMALL_BURST: u32 = 2000;

const RESET: u8 = 3;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;

/// A socket behind a gate: the module says how.
#[derive(Debug)]
pub(crate) struct Gate<T> {
    inner: T,
    /// Of HTTP/2's preface; all of it where something else came.
    matched: usize,
    spoken: Spoken,
    turns: Turns,
    /// The last turn in which something was asked for, and the bytes that came in it.
    turn: u64,
    taken: usize,
    pace: Option<Pace>,
    rest: Option<Pin<Box<Sleep>>>,
}

/// Whether a connection has spoken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spoken(Arc<AtomicBool>);

/// How fast frames may come.
#[derive(Debug)]
struct Pace {
    inbound: Frames,
    outbound: Frames,
    owed: Owed,
    /// Of frames that make work.
    control: Option<Bucket>,
    /// Of small messages of streams.
    small: Bucket,
    held: Held,
}

/// What may come for nothing, since we have sent what provokes it. An answer was work that its client asked for, so this
/// gives a flood nothing that it has not paid for, up to the bursts.
#[derive(Debug, Default)]
struct Owed {
    /// After data or a head: grpc-go, grpc-java, gRPC's core, .NET and hyper have one ping under way at most, and begin
    /// the next one only when data comes after its answer.
    ping: bool,
    /// One for each frame of data and for each trailers: with either a client may be done with a stream that it has not
    /// ended. Go's `KeepAliveOnce` resets each of its streams. Not for a head: who reads nothing gets those without end,
    /// while data stops at the connection's window, and so lists that are asked for and reset at once keep their pace.
    resets: u32,
    /// One for each frame of an answer: whoever answers has read. tonic and Node's clients end their requests by a
    /// frame of its own, so that all their requests are small messages of streams.
    small: u32,
}

impl Owed {
    /// Takes off what is owed; gives what is left.
    fn settle(owed: &mut u32, came: u32) -> u32 {
        let free = came.min(*owed);
        *owed -= free;
        came - free
    }
}

/// So many at once, and then one in each so often.
#[derive(Debug)]
struct Bucket {
    each: Duration,
    burst: u32,
    /// When all that came would have come at its pace.
    due: Instant,
}

impl Bucket {
    fn new(per_second: NonZeroU32, burst: u32) -> Self {
        Self { each: Duration::from_secs(1) / per_second.get(), burst, due: Instant::now() }
    }

    /// Until when nothing more is read.
    fn take(&mut self, count: u32) -> Option<Instant> {
        if count == 0 {
            return None;
        }
        let now = Instant::now();
        self.due = self.due.max(now) + self.each * count;
        Some(self.due - self.each * self.burst).filter(|until| *until > now)
    }
}

impl Pace {
    fn hear(&mut self, bytes: &[u8]) -> Option<Instant> {
        let (mut control, mut resets, mut small) = (0, 0, 0);
        let owed = &mut self.owed;
        self.inbound.follow(bytes, |kind, flags, payload| match kind {
            RESET => resets += 1,
            PRIORITY => control += 1,
            PING if flags & ACK == 0 => control += u32::from(!std::mem::take(&mut owed.ping)),
            SETTINGS if flags & ACK == 0 => control += 1,
            DATA if flags & END_STREAM != 0 => {}
            DATA if payload == 0 => control += 1,
            DATA if payload < SMALL_BYTES => small += 1,
            _ => {}
        });
        control += Owed::settle(&mut owed.resets, resets);
        let small = Owed::settle(&mut owed.small, small);
        let control = self.control.as_mut().and_then(|bucket| bucket.take(control));
        let small = self.small.take(small);
        for (until, bound) in [(control, Bound::ControlFrames), (small, Bound::SmallMessages)] {
            if until.is_some() {
                self.held.count(bound);
            }
        }
        control.max(small)
    }

    fn said(&mut self, bytes: &[u8]) {
        let owed = &mut self.owed;
        let resets_max = self.control.as_ref().map_or(0, |bucket| bucket.burst);
        self.outbound.follow(bytes, |kind, flags, _| {
            if !matches!(kind, DATA | HEADERS) {
                return;
            }
            owed.ping = true;
            owed.small = (owed.small + 1).min(SMALL_BURST);
            if kind == DATA || flags & END_STREAM != 0 {
                owed.resets = (owed.resets + 1).min(resets_max);
            }
        });
    }
}

impl Spoken {
    /// Returns if nothing was said for so long; else never.
    pub(crate) async fn not_within(&self, limit: Duration) {
        tokio::time::sleep(limit).await;
        if self.0.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

impl<T> Gate<T> {
    /// Of a connection that is polled by `turns`. `per_second` frames that make work; `None`: as many as come. `held`
    /// counts whom a pace held back.
    pub(crate) fn new(inner: T, per_second: Option<NonZeroU32>, held: Held, turns: &Turns) -> (Self, Spoken) {
        let spoken = Spoken::default();
        let pace = Pace {
            inbound: Frames::default(),
            outbound: Frames::default(),
            owed: Owed::default(),
            control: per_second.map(|count| Bucket::new(count, count.get())),
            small: Bucket::new(SMALL_PER_SECOND, SMALL_BURST),
            held,
        };
        (
            Self {
                inner,
                matched: 0,
                spoken: spoken.clone(),
                turns: turns.clone(),
                turn: 0,
                taken: 0,
                pace: Some(pace),
                rest: None,
            },
            spoken,
        )
    }

    /// Whether this turn has had what is its.
    fn is_full(&mut self) -> bool {
        let turn = self.turns.now();
        if turn != self.turn {
            (self.turn, self.taken) = (turn, 0);
        }
        self.taken >= TURN_BYTES
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        if self.matched < PREFACE.len() {
            let wanted = &PREFACE[self.matched..];
            let compared = bytes.len().min(wanted.len());
            if bytes[..compared] != wanted[..compared] {
                // HTTP/1 has no frames.
                self.pace = None;
                self.matched = PREFACE.len();
            } else {
                self.matched += compared;
            }
            bytes = &bytes[compared..];
            self.spoken.0.store(self.matched == PREFACE.len(), Ordering::Relaxed);
        }
        let until = self.pace.as_mut().and_then(|pace| pace.hear(bytes));
        self.rest = until.map(|until| Box::pin(tokio::time::sleep_until(until)));
    }

    fn said(&mut self, bytes: &[u8]) {
        if let Some(pace) = &mut self.pace {
            pace.said(bytes);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gate<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(rest) = &mut self.rest {
            ready!(rest.as_mut().poll(cx));
            self.rest = None;
        }
        if self.is_full() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let bytes = &buffer.filled()[before..];
        self.taken += bytes.len();
        self.hear(bytes);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gate<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = written {
            self.said(&bytes[..written]);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        if let Poll::Ready(Ok(mut left)) = written {
            for slice in slices {
                let taken = slice.len().min(left);
                self.said(&slice[..taken]);
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
