//! What passes a gate at once, and what has a pace.

mod traces;

use std::future::poll_fn;
use std::pin::pin;

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
    let turns = Turns::default();
    let (mut gate, _spoken) = Gate::new(ours, NonZeroU32::new(PER_SECOND), Held::default(), &turns);
    let (began, mut read) = (Instant::now(), vec![0; bytes.len()]);
    let reading = pin!(async {
        for part in read.chunks_mut(100) {
            gate.read_exact(part).await.expect("all of it");
        }
    });
    turns.around(reading).await;
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
    let (counted, mut turns) = (Turns::default(), Vec::new());
    let (mut gate, _spoken) = Gate::new(ours, None, Held::default(), &counted);
    let (mut memory, mut all) = (vec![0; 4 << 10], 0);
    while all < 1 << 19 {
        let mut turn = 0;
        let reading = pin!(poll_fn(|cx| {
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
        }));
        counted.around(reading).await;
        all += turn;
        turns.push(turn);
    }
    assert!(turns.iter().all(|turn| *turn < TURN_BYTES + (4 << 10)), "{turns:?}");
}

/// As hyper does it, which reads again for each request that it takes.
#[tokio::test]
async fn whoever_reads_again_in_one_turn_gets_nothing_more() {
    let (mut theirs, ours) = tokio::io::duplex(1 << 20);
    theirs.write_all(&begin()).await.expect("there is room");
    theirs.write_all(&vec![0; 1 << 19]).await.expect("there is room");
    let turns = Turns::default();
    let (mut gate, _spoken) = Gate::new(ours, None, Held::default(), &turns);
    let mut memory = vec![0; 4 << 10];
    for _ in 0..10 {
        let mut got = 0;
        let mut reading = pin!(poll_fn(|cx| {
            let mut pending = 0;
            while pending < 5 {
                let mut buffer = ReadBuf::new(&mut memory);
                pending += usize::from(Pin::new(&mut gate).poll_read(cx, &mut buffer).is_pending());
                got += buffer.filled().len();
            }
            Poll::<()>::Pending
        }));
        poll_fn(|cx| Poll::Ready(turns.poll(reading.as_mut(), cx).is_pending())).await;
        assert!((TURN_BYTES..TURN_BYTES + (4 << 10)).contains(&got), "{got}");
    }
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
        let (mut gate, heard) = Gate::new(ours, None, Held::default(), &Turns::default());
        let mut buffer = [0; 64];
        if !said.is_empty() {
            let _bytes = gate.read(&mut buffer).await.expect("what was said");
        }
        let silent = tokio::time::timeout(Duration::from_secs(20), heard.not_within(Duration::from_secs(10)));
        assert_eq!(silent.await.is_err(), spoken, "{}", said.escape_ascii());
    }
}
