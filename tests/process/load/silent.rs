//! Clients that connect and say nothing, or half of what they should.

use std::time::Duration;

use bytes::BytesMut;
use kubebrain_shared::wire::frame_prefix;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frames::{DATA, END_HEADERS, HEADERS, Wild, head, put_frame};
use super::{BOTH, Bounds, HEAP_BYTES, Hurt, Mode};
use kit::raw::Raw;
use kit::{full_tier, in_time};

const PUT: &str = "/etcdserverpb.KV/Put";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_are_closed_and_hold_up_nobody() {
    let count = if full_tier() { 1000 } else { 200 };
    let mut hurt = Hurt::start(Mode::Brain).await;
    let address = hurt.address().to_owned();
    let load = async {
        let mut sockets = Vec::new();
        for number in 0..count {
            let mut socket = TcpStream::connect(&address).await.expect("it listens");
            // Some begin with half of HTTP/2's first words, some with half of HTTP/1's.
            let begin: &[u8] = [&b""[..], b"PRI * HTTP/2.0\r\n", b"GET /health HTTP/1.1\r\n"][number % 3];
            socket.write_all(begin).await.expect("it is open");
            sockets.push(socket);
        }
        for mut socket in sockets {
            let mut said = Vec::new();
            let _reset = in_time("the end of a silent connection", socket.read_to_end(&mut said)).await;
        }
    };
    let bounds = Bounds { memory_bytes: HEAP_BYTES, share_permille: 50 };
    hurt.under(&format!("{count} silent connections"), &bounds, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_do_not_come_whole_hold_up_nobody() {
    // More than a proxy works on at once.
    let (connections, each) = if full_tier() { (20, 1000) } else { (10, 1700) };
    for mode in BOTH {
        let mut hurt = Hurt::start(mode).await;
        let address = hurt.address().to_owned();
        let load = async {
            let mut all = Vec::new();
            for number in 0..connections {
                let mut wild = Wild::connect(&address).await;
                let mut buffer = BytesMut::new();
                for stream in 0..each {
                    put_frame(&mut buffer, HEADERS, END_HEADERS, stream * 2 + 1, &head(PUT));
                    if number % 2 == 0 {
                        put_frame(&mut buffer, DATA, 0, stream * 2 + 1, &frame_prefix(1 << 20)[..3]);
                    }
                }
                assert!(wild.send(&buffer).await, "nothing is wrong with it yet");
                all.push(wild);
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            all
        };
        let bounds = Bounds {
            memory_bytes: u64::from(connections * each) * (16 << 10) + HEAP_BYTES,
            share_permille: 20,
        };
        drop(hurt.under(&format!("{} half requests", connections * each), &bounds, load).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_requests_that_do_not_end_take_bounded_memory() {
    let (connections, each) = if full_tier() { (40, 40) } else { (20, 25) };
    for mode in BOTH {
        let mut hurt = Hurt::start(mode).await;
        let address = hurt.address().to_owned();
        let load = async {
            let mut all = Vec::new();
            for _ in 0..connections {
                let mut raw = Raw::connect(&address).await;
                for _ in 0..each {
                    // All of it but its last bytes.
                    let mut body = BytesMut::from(&frame_prefix(3 << 19)[..]);
                    body.resize((3 << 19) - 100, 0);
                    all.push(raw.trickle(PUT, body.freeze()).await);
                }
                all.push(tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    drop(raw);
                }));
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            all
        };
        // What is let in, and the windows of the connections; in standalone both once more on the way to a brain.
        let memory_bytes = (256 << 20) + connections * (4 << 20) + 2 * HEAP_BYTES;
        let bounds = Bounds { memory_bytes, share_permille: 5 };
        let name = format!("{} MiB of requests without an end", connections * each * 3 / 2);
        for task in hurt.under(&name, &bounds, load).await {
            task.abort();
        }
    }
}
