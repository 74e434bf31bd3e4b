//! Floods of frames that cost a client nothing.

use std::time::Duration;

use bytes::BytesMut;
use kubebrain_proto::etcdserverpb::RangeRequest;
use kubebrain_shared::wire::frame;
use prost::Message;
use tokio::time::Instant;

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RESET, SETTINGS, Wild, head, put_frame,
    put_header,
};
use super::{BOTH, Bounds, HEAP_BYTES, Hurt};
use kit::client::end_of;
use kit::full_tier;

const PODS: &str = "/registry/pods/large/";
const RANGE: &str = "/etcdserverpb.KV/Range";
/// Frames that are written at once.
const BURST: u32 = 100;

/// One connection's flood: connects again when it is thrown out. Gives how often it was, and the frames.
async fn flood(address: &str, time: Duration, mut burst: impl FnMut(u32, &mut BytesMut)) -> (u32, u32) {
    let (mut thrown_out, mut sent) = (0, 0);
    let end = Instant::now() + time;
    let mut wild = Wild::connect(address).await;
    // Streams count from one again on a new connection.
    let mut first = 0;
    while Instant::now() < end {
        let mut buffer = BytesMut::new();
        burst(first, &mut buffer);
        // A server that does not read any more must not hold the flood up either.
        if let Ok(true) = tokio::time::timeout(time, wild.send(&buffer)).await {
            first += BURST;
            sent += BURST;
        } else {
            thrown_out += 1;
            wild = Wild::connect(address).await;
            first = 0;
        }
    }
    (thrown_out, sent)
}

/// A list, and at once that it is not wanted.
fn ask_and_reset(first: u32, buffer: &mut BytesMut) {
    let request = RangeRequest { key: PODS.into(), range_end: end_of(PODS).into(), ..Default::default() };
    let (head, body) = (head(RANGE), frame(&request.encode_to_vec()));
    for number in first..first + BURST {
        let stream = number * 2 + 1;
        put_frame(buffer, HEADERS, END_HEADERS, stream, &head);
        put_frame(buffer, DATA, END_STREAM, stream, &body);
        put_frame(buffer, RESET, 0, stream, &8u32.to_be_bytes());
    }
}

fn pings(_: u32, buffer: &mut BytesMut) {
    for _ in 0..BURST {
        put_frame(buffer, PING, 0, 0, b"12345678");
    }
}

fn settings(_: u32, buffer: &mut BytesMut) {
    for _ in 0..BURST {
        put_frame(buffer, SETTINGS, 0, 0, b"");
    }
}

/// A head that never ends.
fn continuations(first: u32, buffer: &mut BytesMut) {
    if first == 0 {
        put_frame(buffer, HEADERS, 0, 1, &head(RANGE));
    }
    let mut block = BytesMut::new();
    for number in 0..100 {
        put_header(&mut block, &format!("x-{number:03}"), &"x".repeat(120));
    }
    for _ in 0..BURST {
        put_frame(buffer, CONTINUATION, 0, 1, &block);
    }
}

/// A request whose body has many frames and no bytes.
fn empty_data(first: u32, buffer: &mut BytesMut) {
    if first == 0 {
        put_frame(buffer, HEADERS, END_HEADERS, 1, &head(RANGE));
    }
    for _ in 0..BURST {
        put_frame(buffer, DATA, 0, 1, b"");
    }
}

type Burst = fn(u32, &mut BytesMut);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_cost_no_memory_and_hold_up_nobody() {
    let (connections, seconds) = if full_tier() { (8, 10) } else { (3, 1) };
    let floods: [(&str, Burst); 5] = [
        ("requests that are reset", ask_and_reset),
        ("pings", pings),
        ("settings", settings),
        ("heads without an end", continuations),
        ("empty data", empty_data),
    ];
    for mode in BOTH {
        let mut hurt = Hurt::start_with(mode, |start| start.flag("answer-bytes", "67108864")).await;
        hurt.fill(PODS, 64, 8 << 10).await;
        for (name, burst) in floods {
            let address = hurt.address().to_owned();
            let load = || {
                let floods = (0..connections).map(|_| flood(&address, Duration::from_secs(seconds), burst));
                futures_util::future::join_all(floods)
            };
            let bounds = Bounds { memory_bytes: (64 << 20) + HEAP_BYTES, share_permille: 60 };
            let floods = hurt.under_one_of(name, &bounds, load).await;
            let (thrown_out, sent) = floods.iter().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
            eprintln!("{sent} {name}; thrown out {thrown_out} times");
        }
    }
}
