//! Clients that send nonsense, too much, or go away: an error for them, nothing for the others.

use std::time::Duration;

use bytes::Bytes;
use kubebrain_proto::etcdserverpb::{PutRequest, RangeRequest};
use kubebrain_shared::wire::{frame, frame_prefix};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::BINARY;
use kit::bystander::Bystander;
use kit::process::{Place, Process, Start};
use kit::raw::{Answer, Raw};
use kit::watch::create;
use kit::{in_time, until};

const GRPC: &str = "application/grpc";
const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// gRPC's numbers.
const INVALID_ARGUMENT: i32 = 3;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNIMPLEMENTED: i32 = 12;
const INTERNAL: i32 = 13;

/// A refusal needs nobody else and no disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

struct Case {
    name: &'static str,
    path: &'static str,
    body: Bytes,
    /// The first is ours, the others are as good.
    codes: &'static [i32],
    message: &'static str,
}

fn put(bytes: usize) -> Bytes {
    let put = PutRequest {
        key: "/registry/pods/large".into(),
        value: vec![b'x'; bytes].into(),
        ..Default::default()
    };
    frame(&put.encode_to_vec())
}

/// Field 1 says that it has 100 bytes and has 3.
fn malformed() -> Bytes {
    frame(b"\x0a\x64abc")
}

/// The frame says that there are 100 bytes and has 9.
fn truncated() -> Bytes {
    Bytes::from([&frame_prefix(100)[..], b"only this"].concat())
}

/// Whatever cannot be read.
const NONSENSE: &[i32] = &[INVALID_ARGUMENT, INTERNAL];
/// Requests and answers, one after the other.
const STREAMING: [&str; 2] = [WATCH, "/etcdserverpb.Lease/LeaseKeepAlive"];

const fn case(
    name: &'static str,
    path: &'static str,
    body: Bytes,
    codes: &'static [i32],
    message: &'static str,
) -> Case {
    Case { name, path, body, codes, message }
}

fn cases() -> Vec<Case> {
    let lists =
        [RANGE, PUT, "/etcdserverpb.KV/Txn", "/etcdserverpb.KV/DeleteRange", "/etcdserverpb.KV/Compact"];
    let mut cases = Vec::new();
    for path in lists.into_iter().chain(["/etcdserverpb.Lease/LeaseGrant", "/etcdserverpb.KV/RangeStream"]) {
        cases.push(case("malformed protobuf", path, malformed(), NONSENSE, ""));
        cases.push(case("no message", path, Bytes::new(), NONSENSE, ""));
        cases.push(case("a message cut off", path, truncated(), NONSENSE, ""));
        cases.push(case("a prefix cut off", path, Bytes::from_static(b"\0\0"), NONSENSE, ""));
        cases.push(case(
            "compressed",
            path,
            Bytes::from_static(b"\x01\0\0\0\x01a"),
            &[UNIMPLEMENTED, INTERNAL],
            "",
        ));
        cases.push(case("an unknown flag", path, Bytes::from_static(b"\x07\0\0\0\x01a"), &[INTERNAL], ""));
    }
    for path in STREAMING {
        cases.push(case("malformed protobuf on a stream", path, malformed(), NONSENSE, ""));
    }
    let empty = "etcdserver: key is not provided";
    cases.extend([
        case("an empty range", RANGE, frame(b""), &[INVALID_ARGUMENT], empty),
        case("an empty put", PUT, frame(b""), &[INVALID_ARGUMENT], empty),
        case(
            "1.6 MiB of a put",
            PUT,
            put(1_677_722),
            &[INVALID_ARGUMENT],
            "etcdserver: request is too large",
        ),
        case("an unknown method", "/etcdserverpb.KV/Frob", frame(b""), &[UNIMPLEMENTED], ""),
        case("an unknown service", "/frob.Frob/Frob", frame(b""), &[UNIMPLEMENTED], ""),
        case(
            "what only brains are asked",
            "/kubebrain.peer.v1.Peer/Advance",
            frame(b"\x08\x7f"),
            &[UNIMPLEMENTED],
            "",
        ),
        case("no path", "/", frame(b""), &[UNIMPLEMENTED], ""),
    ]);
    cases
}

/// Above the bound of a request and gRPC's own on top.
fn too_large() -> Vec<Case> {
    let nothing = frame(&vec![0; 2_621_440]);
    // In etcd's words, which clients look for.
    let message = "received message larger than max";
    vec![
        case("2.5 MiB", PUT, nothing, &[RESOURCE_EXHAUSTED], message),
        case("2.5 MiB of a put", PUT, put(2_621_440), &[RESOURCE_EXHAUSTED], message),
    ]
}

/// The client has sent its last byte in the middle of a message. Not a clean end: that leaves a watch open.
fn cut_streams() -> Vec<Case> {
    STREAMING
        .into_iter()
        .map(|path| case("a message cut off on a stream", path, truncated(), NONSENSE, ""))
        .collect()
}

fn judge(case: &Case, answer: &Answer) {
    let what = format!("{} at {}: {answer:?}", case.name, case.path);
    assert_eq!(answer.status, 200, "{what}");
    let (code, message) = answer.grpc.as_ref().unwrap_or_else(|| panic!("{what}"));
    assert!(case.codes.contains(code), "{what}");
    assert!(message.contains(case.message), "{what}");
    assert!(answer.data.is_empty(), "{what}");
}

/// Sends them one after the other on one connection, which must be as good as before after each.
async fn each_is_refused(server: &Process, cases: Vec<Case>) {
    let bystander = Bystander::start(server.address(), "/registry/pods/bystander").await;
    let mut one = Raw::connect(server.address()).await;
    let good = RangeRequest { key: "/registry/pods/bystander".into(), ..Default::default() };
    let good = frame(&good.encode_to_vec());
    for case in cases {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, one.call(case.path, GRPC, case.body.clone())).await;
        let answer = answer.unwrap_or_else(|_| panic!("{} at {}: no answer", case.name, case.path));
        judge(&case, &answer.unwrap_or_else(|error| panic!("{} at {}: {error}", case.name, case.path)));
        let answer = one.call(RANGE, GRPC, good.clone()).await.expect("an answer");
        assert_eq!(answer.grpc.as_ref().map(|(code, _)| *code), Some(0), "after {}: {answer:?}", case.name);
    }
    let seen = bystander.stop().await;
    assert!(seen.writes >= 3, "{seen:?}");
}

/// What is no gRPC, and what is no HTTP.
async fn others_are_refused(server: &Process) {
    let bystander = Bystander::start(server.address(), "/registry/pods/bystander").await;
    let mut one = Raw::connect(server.address()).await;
    for content_type in ["text/plain", "application/json", "application/x-protobuf"] {
        let answer = one.call(RANGE, content_type, frame(b"\x0a\x01a")).await.expect("an answer");
        assert!((400..500).contains(&answer.status) && answer.grpc.is_none(), "{content_type}: {answer:?}");
    }
    for nonsense in
        [&b"\0\0\0\0\0\0\0\0"[..], b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame"]
    {
        let mut socket = tokio::net::TcpStream::connect(server.address()).await.expect("it listens");
        socket.write_all(nonsense).await.expect("a socket");
        socket.shutdown().await.expect("a socket");
        let mut answer = Vec::new();
        let _ended = in_time("the end of the connection", socket.read_to_end(&mut answer)).await;
    }
    bystander.stop().await;
}

async fn standalone(place: &Place) -> Process {
    Start::standalone(place).run().await
}

async fn brain(place: &Place) -> Process {
    Start::brain(place, "default").run().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standalone_refuses_bad_input_and_goes_on() {
    let place = BINARY.place();
    let server = standalone(&place).await;
    each_is_refused(&server, cases()).await;
    others_are_refused(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brain_refuses_bad_input_and_goes_on() {
    let place = BINARY.place();
    let server = brain(&place).await;
    each_is_refused(&server, cases()).await;
    others_are_refused(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standalone_refuses_what_is_too_large_in_etcds_words() {
    let place = BINARY.place();
    each_is_refused(&standalone(&place).await, too_large()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brain_refuses_what_is_too_large_in_etcds_words() {
    let place = BINARY.place();
    each_is_refused(&brain(&place).await, too_large()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standalone_refuses_a_stream_that_is_cut_inside_a_message() {
    let place = BINARY.place();
    each_is_refused(&standalone(&place).await, cut_streams()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brain_refuses_a_stream_that_is_cut_inside_a_message() {
    let place = BINARY.place();
    each_is_refused(&brain(&place).await, cut_streams()).await;
}

/// More than the 10 000 resets that a connection may have pending is somebody else's bug; this many is a proxy whose
/// client has gone.
const STREAMS: usize = 1200;
/// What memory may grow from one such client to the next.
const GROWTH_BYTES: u64 = 32 << 20;

/// Memory goes back to what it was, as soon as what the clients had sent is worked off: resets have a pace.
async fn settles(server: &Process, before: u64, sizes: &[u64]) {
    println!("memory after each: {sizes:?}");
    let settled = async || (server.resident_bytes().saturating_sub(before) < GROWTH_BYTES).then_some(());
    until("memory is given back", settled).await;
}

/// Opens watches, reads and writes on one connection and resets it.
async fn open_and_vanish(address: &str, round: usize) {
    let builder = h2::client::Builder::new().initial_max_send_streams(STREAMS * 2).clone();
    let mut raw = Raw::connect_with(address, builder, true).await;
    let mut open = Vec::new();
    for number in 0..STREAMS {
        let key = format!("/registry/pods/vanishing/{round}/{number}");
        let (path, message) = match number % 3 {
            0 => (WATCH, create("/registry/pods/", 1).encode_to_vec()),
            1 => {
                (PUT, PutRequest { key: key.into(), value: "x".into(), ..Default::default() }.encode_to_vec())
            }
            _ => (RANGE, RangeRequest { key: key.into(), ..Default::default() }.encode_to_vec()),
        };
        open.push(raw.open(path, frame(&message)).await);
    }
    // Some have been answered, some are at work, some are on their way.
    tokio::time::sleep(Duration::from_millis(50)).await;
    raw.cut().await;
    drop(open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_open_a_thousand_streams_and_vanish_harm_nobody() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    let mut others = Vec::new();
    for key in ["/registry/pods/bystander", "/registry/events/bystander"] {
        others.push(Bystander::start(server.address(), key).await);
    }
    let mut sizes = Vec::new();
    for round in 0..8 {
        open_and_vanish(server.address(), round).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        sizes.push(server.resident_bytes());
    }
    // The first two make the heap as large as one such client needs.
    settles(&server, sizes[2], &sizes).await;
    for other in others {
        let seen = other.stop().await;
        assert!(seen.slowest < Duration::from_secs(20), "{seen:?}");
    }
}

/// Streams that are reset as soon as they are open (CVE-2023-44487).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_resets_harms_nobody() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    let other = Bystander::start(server.address(), "/registry/pods/bystander").await;
    let put = PutRequest { key: "/registry/pods/reset".into(), value: "x".into(), ..Default::default() };
    let (put, watch) = (frame(&put.encode_to_vec()), frame(&create("/registry/", 1).encode_to_vec()));
    let mut sizes = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::connect(server.address()).await;
        for number in 0..5000 {
            let (path, body) = if number % 2 == 0 { (PUT, &put) } else { (WATCH, &watch) };
            let request = raw.request(path, GRPC, &Default::default());
            // The server may give this connection up, and only this one.
            let Ok(mut sender) = raw.sender.clone().ready().await else { break };
            let Ok((_, mut stream)) = sender.send_request(request, false) else { break };
            let _gone = stream.send_data(body.clone(), false);
            stream.send_reset(h2::Reason::CANCEL);
            if number % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let good = frame(
            &RangeRequest { key: "/registry/pods/bystander".into(), ..Default::default() }.encode_to_vec(),
        );
        let _maybe_given_up = raw.call(RANGE, GRPC, good).await;
        sizes.push(server.resident_bytes());
    }
    settles(&server, sizes[1], &sizes).await;
    other.stop().await;
}
