//! [`Gate`]: what may come in on a connection, and how fast.
//!
//! * Which of the two HTTPs it speaks stands in the first bytes. hyper waits for them without end; the gate notices
//!   whether they came. What follows has bounds of its own: a head of HTTP/1 its timeout, an idle connection our pings.
//! * h2 reads on as long as something is there, so that one busy connection would keep a thread and fill the queue of
//!   tasks before any of them runs. The gate ends a turn after [`TURN_BYTES`]: requests that came run first.
//! * Frames that cost their sender nothing and make work here (resets, settings, pings, empty data) have a pace. Who
//!   sends more is read more slowly; nobody is thrown out, as a client may well give up thousands of requests at once.
//!   So have small messages of streams, which h2 throws out too many of.
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

use crate::pings::{ACK, DATA, Frames, PING, PREFACE};

/// What is read of one connection before others get their turn.
const TURN_BYTES: usize = 16 << 10;
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
    /// Bytes of this turn.
    turn: usize,
    pace: Option<Pace>,
    rest: Option<Pin<Box<Sleep>>>,
}

/// Whether a connection has spoken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spoken(Arc<AtomicBool>);

/// How fast frames may come.
#[derive(Debug)]
struct Pace {
    frames: Frames,
    /// Of frames that make work.
    control: Option<Bucket>,
    /// Of small messages of streams.
    small: Bucket,
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
        let (mut control, mut small) = (0, 0);
        self.frames.follow(bytes, |kind, flags, payload| match kind {
            RESET | PRIORITY => control += 1,
            SETTINGS | PING if flags & ACK == 0 => control += 1,
            DATA if flags & END_STREAM != 0 => {}
            DATA if payload == 0 => control += 1,
            DATA if payload < SMALL_BYTES => small += 1,
            _ => {}
        });
        let control = self.control.as_mut().and_then(|bucket| bucket.take(control));
        control.max(self.small.take(small))
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
    /// `per_second` frames that make work; `None`: as many as come.
    pub(crate) fn new(inner: T, per_second: Option<NonZeroU32>) -> (Self, Spoken) {
        let spoken = Spoken::default();
        let pace = Pace {
            frames: Frames::default(),
            control: per_second.map(|count| Bucket::new(count, count.get())),
            small: Bucket::new(SMALL_PER_SECOND, SMALL_BURST),
        };
        (Self { inner, matched: 0, spoken: spoken.clone(), turn: 0, pace: Some(pace), rest: None }, spoken)
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
        if self.turn >= TURN_BYTES {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let bytes = &buffer.filled()[before..];
        self.turn = if read.is_pending() { 0 } else { self.turn + bytes.len() };
        self.hear(bytes);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gate<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
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
mod tests {
    use std::future::poll_fn;

    use bytes::{BufMut, BytesMut};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const PER_SECOND: u32 = 100;

    fn put_frame(buffer: &mut BytesMut, kind: u8, flags: u8, payload: &[u8]) {
        buffer.put_uint(payload.len() as u64, 3);
        buffer.put_slice(&[kind, flags, 0, 0, 0, 1]);
        buffer.put_slice(payload);
    }

    fn begin() -> BytesMut {
        let mut bytes = BytesMut::from(PREFACE);
        put_frame(&mut bytes, SETTINGS, 0, b"");
        bytes
    }

    /// How long it takes to read these bytes, which come unchanged.
    async fn seconds_for(bytes: &[u8]) -> u64 {
        let (mut theirs, ours) = tokio::io::duplex(2 << 20);
        theirs.write_all(bytes).await.expect("there is room");
        let (mut gate, _spoken) = Gate::new(ours, NonZeroU32::new(PER_SECOND));
        let (began, mut read) = (Instant::now(), vec![0; bytes.len()]);
        for part in read.chunks_mut(100) {
            gate.read_exact(part).await.expect("all of it");
        }
        assert_eq!(read, bytes);
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_make_work_have_a_pace_and_others_have_none() {
        type Frame = (u8, u8, &'static [u8]);
        let paced: [Frame; 5] = [
            (RESET, 0, b"1234"),
            (SETTINGS, 0, b""),
            (PING, 0, b"12345678"),
            (DATA, 0, b""),
            (PRIORITY, 0, b"12345"),
        ];
        let free: [Frame; 4] =
            [(SETTINGS, ACK, b""), (PING, ACK, b"12345678"), (DATA, 0, b"x"), (DATA, END_STREAM, b"x")];
        for (paced, (kind, flags, payload)) in
            paced.map(|frame| (true, frame)).into_iter().chain(free.map(|frame| (false, frame)))
        {
            let mut bytes = begin();
            for _ in 0..PER_SECOND * 10 {
                put_frame(&mut bytes, kind, flags, payload);
            }
            let seconds = seconds_for(&bytes).await;
            // One second's come at once, the last ones are not waited for.
            assert_eq!(seconds, if paced { 8 } else { 0 }, "frames of type {kind}, flags {flags}");
        }
        let mut burst = begin();
        for _ in 0..PER_SECOND - 1 {
            put_frame(&mut burst, RESET, 0, b"1234");
        }
        assert_eq!(seconds_for(&burst).await, 0, "a burst passes");
        let mut small = begin();
        for _ in 0..SMALL_BURST + 3 * SMALL_PER_SECOND.get() {
            put_frame(&mut small, DATA, 0, b"a watch");
        }
        assert!(seconds_for(&small).await >= 2, "messages of streams have a pace of their own");
        let http1 = b"GET / HTTP/1.1\r\n\r\n".repeat(1000);
        assert_eq!(seconds_for(&http1).await, 0, "no HTTP/2");
    }

    #[tokio::test]
    async fn a_turn_ends_however_much_there_is() {
        let (mut theirs, ours) = tokio::io::duplex(1 << 20);
        theirs.write_all(&begin()).await.expect("there is room");
        theirs.write_all(&vec![0; 1 << 20][..1 << 19]).await.expect("there is room");
        let (mut gate, _spoken) = Gate::new(ours, None);
        let mut turns = Vec::new();
        let (mut memory, mut all) = (vec![0; 4 << 10], 0);
        while all < 1 << 19 {
            let mut turn = 0;
            poll_fn(|cx| {
                loop {
                    let mut buffer = ReadBuf::new(&mut memory);
                    match Pin::new(&mut gate).poll_read(cx, &mut buffer) {
                        Poll::Ready(read) => read.expect("it is open"),
                        // It has woken itself, or this would not end.
                        Poll::Pending if turn == 0 => return Poll::Pending,
                        Poll::Pending => return Poll::Ready(()),
                    }
                    turn += buffer.filled().len();
                }
            })
            .await;
            all += turn;
            turns.push(turn);
        }
        assert!(turns.iter().all(|turn| *turn < TURN_BYTES + (4 << 10)), "{turns:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_preface_says_nothing() {
        for (said, spoken) in [
            (&b""[..], false),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", false),
            (PREFACE, true),
            (b"G", true),
            (b"PRI * HTTP/1.1\r\n", true),
        ] {
            let (mut theirs, ours) = tokio::io::duplex(1 << 10);
            theirs.write_all(said).await.expect("there is room");
            let (mut gate, heard) = Gate::new(ours, None);
            let mut buffer = [0; 64];
            if !said.is_empty() {
                let _bytes = gate.read(&mut buffer).await.expect("what was said");
            }
            let silent =
                tokio::time::timeout(Duration::from_secs(20), heard.not_within(Duration::from_secs(10)));
            assert_eq!(silent.await.is_err(), spoken, "{}", said.escape_ascii());
        }
    }
}
