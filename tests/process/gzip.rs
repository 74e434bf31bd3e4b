//! Requests that come compressed, as a client of gRPC sends them that is told to.

use std::io::{Read as _, Write as _};

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue};
use kubebrain_proto::etcdserverpb::{
    PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, WatchResponse, request_op,
};
use kubebrain_shared::wire::{FRAME_PREFIX_BYTES, frame, frame_prefix};
use prost::Message;
use tonic::Code;

use crate::BINARY;
use kit::process::{Place, Process, Start};
use kit::raw::{Answer, Raw};
use kit::watch::create;
use kit::{in_time, until};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";

fn flagged(packed: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_slice(&frame_prefix(packed.len()));
    frame.put_slice(packed);
    frame[0] = 1;
    frame.freeze()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut writer = GzEncoder::new(Vec::new(), Compression::default());
    writer.write_all(bytes).expect("memory");
    writer.finish().expect("memory")
}

fn encoding(encoding: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-encoding", HeaderValue::from_static(encoding));
    headers
}

async fn ask(raw: &mut Raw, path: &str, message: &impl Message) -> Answer {
    let body = flagged(&gzipped(&message.encode_to_vec()));
    raw.call_with(path, "application/grpc", &encoding("gzip"), body).await.expect("an answer")
}

/// The one message of an answer, which has to be compressed.
fn unpacked<M: Message + Default>(answer: &Answer) -> M {
    assert_eq!(answer.grpc, Some((0, String::new())), "{answer:?}");
    assert_eq!(answer.data.first(), Some(&1), "the answer is compressed as its request was");
    let mut message = Vec::new();
    GzDecoder::new(&answer.data[FRAME_PREFIX_BYTES..]).read_to_end(&mut message).expect("gzip");
    M::decode(&message[..]).expect("a message")
}

/// A standalone, and a brain behind a proxy.
async fn programs(place: &Place) -> Vec<(&'static str, Process)> {
    let standalone = Start::standalone(place).run().await;
    let brain = Start::brain(place, "default").run().await;
    let brains = format!("{{ brains: [\"http://{}\"] }}", brain.peer_address());
    let table = format!("home: default\ndefault: default\ngroups: {{ default: {brains} }}\n");
    let proxy = Start::proxy(place, "proxy", &place.file("placement.yaml", &table)).run().await;
    vec![("standalone", standalone), ("brain", brain), ("proxy", proxy)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_requests_are_taken_and_answered_so() {
    let place = BINARY.place();
    for (program, server) in &programs(&place).await {
        let mut raw = Raw::connect(server.address()).await;
        let key = format!("/registry/pods/{program}");
        let value = "value ".repeat(50_000);
        let put = |value: &str| PutRequest {
            key: key.clone().into(),
            value: value.to_owned().into(),
            ..Default::default()
        };
        ask(&mut raw, PUT, &put(&value)).await;
        let range = RangeRequest { key: key.clone().into(), ..Default::default() };
        // A large message is not compressed, whatever its request was.
        let found = ask(&mut raw, RANGE, &range).await;
        assert_eq!(found.data.first(), Some(&0), "{program}");
        let found = RangeResponse::decode(&found.data[FRAME_PREFIX_BYTES..]).expect("a message");
        assert_eq!(found.kvs[0].value, value.as_bytes(), "{program}");
        let op = RequestOp { request: Some(request_op::Request::RequestPut(put("small"))) };
        let txn = TxnRequest { success: vec![op], ..Default::default() };
        let done: TxnResponse = unpacked(&ask(&mut raw, "/etcdserverpb.KV/Txn", &txn).await);
        assert!(done.succeeded, "{program}");
        let found: RangeResponse = unpacked(&ask(&mut raw, RANGE, &range).await);
        assert_eq!(found.kvs[0].value, &b"small"[..], "{program}");

        let plain = frame(&range.encode_to_vec());
        let mixed = raw.call_with(RANGE, "application/grpc", &encoding("gzip"), plain.clone()).await;
        let found: RangeResponse = unpacked(&mixed.expect("an answer"));
        assert_eq!(found.kvs.len(), 1, "{program}: each message says for itself whether it is compressed");
        let plain = raw.call(RANGE, "application/grpc", plain).await.expect("an answer");
        assert_eq!(plain.data.first(), Some(&0), "{program}: nobody else gets one");
        watches(&mut raw, program, &key).await;
    }
}

async fn watches(raw: &mut Raw, program: &str, key: &str) {
    let mut request = raw.request("/etcdserverpb.Watch/Watch", "application/grpc", &encoding("gzip"));
    request.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static("gzip"));
    let mut sender = raw.sender.clone().ready().await.expect("the connection takes streams");
    let (response, mut stream) = sender.send_request(request, false).expect("the connection takes streams");
    let asked = flagged(&gzipped(&create(key, 1).encode_to_vec()));
    stream.send_data(asked, false).expect("the stream is open");
    let response = in_time("a head", response).await.expect("a head");
    assert_eq!(response.headers()["grpc-encoding"], "gzip", "{program}");
    let (mut body, mut buffer, mut events) = (response.into_body(), BytesMut::new(), 0);
    while events < 2 {
        let data = in_time("data", body.data()).await.expect("it goes on").expect("it goes on");
        body.flow_control().release_capacity(data.len()).expect("what came");
        buffer.extend_from_slice(&data);
        while let Some(&[flag, a, b, c, d]) = buffer.first_chunk::<FRAME_PREFIX_BYTES>() {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if buffer.len() < FRAME_PREFIX_BYTES + length {
                break;
            }
            let message = buffer.split_to(FRAME_PREFIX_BYTES + length).split_off(FRAME_PREFIX_BYTES);
            let mut plain = message.to_vec();
            if flag == 1 {
                plain.clear();
                GzDecoder::new(&message[..]).read_to_end(&mut plain).expect("gzip");
            }
            events += WatchResponse::decode(&plain[..]).expect("a message").events.len();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_and_what_cannot_be_inflated_are_refused_as_etcd_refuses_them() {
    let place = BINARY.place();
    for (program, server) in &programs(&place).await {
        let mut raw = Raw::connect(server.address()).await;
        let before = server.resident_bytes();
        let mut lies = gzipped(&vec![0; 1 << 30]);
        let honest = flagged(&lies);
        let at = lies.len() - 4;
        lies[at..].copy_from_slice(&1000_u32.to_le_bytes());
        let too_large = "grpc: received message after decompression larger than max 2097152";
        for (what, encoded, body, code, text) in [
            ("a bomb", "gzip", honest, Code::ResourceExhausted, too_large),
            (
                "a bomb that lies",
                "gzip",
                flagged(&lies),
                Code::Internal,
                "grpc: failed to read decompressed data",
            ),
            (
                "no gzip",
                "gzip",
                flagged(&[b'x'; 100]),
                Code::Internal,
                "grpc: failed to decompress the message: gzip: invalid header",
            ),
            (
                "another encoding",
                "snappy",
                flagged(b"x"),
                Code::Unimplemented,
                "grpc: Decompressor is not installed for grpc-encoding \"snappy\"",
            ),
            (
                "no encoding",
                "identity",
                flagged(&gzipped(b"x")),
                Code::Internal,
                "grpc: compressed flag set with identity or empty encoding",
            ),
        ] {
            let answer = raw.call_with(RANGE, "application/grpc", &encoding(encoded), body).await;
            let (said, message) = answer.expect("an answer").grpc.expect("a status");
            let message = message.replace("%22", "\"");
            assert_eq!(Code::from(said), code, "{program}, {what}: {message}");
            assert!(message.starts_with(text), "{program}, {what}: {message}");
        }
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 64 << 20, "{program}: it grew by {} MiB", grown >> 20);
        until("it serves", async || {
            let answer = raw.call(RANGE, "application/grpc", frame(b"\x0a\x01a")).await.expect("an answer");
            (answer.grpc == Some((0, String::new()))).then_some(())
        })
        .await;
    }
}
