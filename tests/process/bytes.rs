//! A proxy changes nothing: bytes in are bytes out, also those that it does not know.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use kubebrain_proto::etcdserverpb::{PutRequest, RangeRequest, ResponseHeader, StatusResponse};
use kubebrain_proto::peer::{AdvanceResponse, PlacementResponse, StandingResponse};
use kubebrain_shared::wire::{frame, put_bytes_field, put_varint, put_varint_field};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::{TcpListener, TcpStream};

use crate::BINARY;
use kit::client::{Client, end_of};
use kit::process::Start;
use kit::raw::{Answer, Raw};

const GRPC: &str = "application/grpc";
const RANGE: &str = "/etcdserverpb.KV/Range";

/// A table of one group.
fn one_group(brain: &str) -> String {
    format!("home: default\ndefault: default\ngroups:\n  default: {{ brains: [\"http://{brain}\"] }}\n")
}

/// Fields of every wire type that no message of etcd has, one of them with a tag in more bytes than it needs.
fn unknown_fields(buffer: &mut BytesMut) {
    put_varint_field(buffer, 99, 7);
    put_bytes_field(buffer, 1234, b"from a later release");
    put_varint(buffer, 77 << 3 | 5);
    buffer.put_u32_le(0xdead_beef);
    put_varint(buffer, 78 << 3 | 1);
    buffer.put_u64_le(42);
    buffer.put_slice(&[0x80 | 0x78, 0x86, 0x00]); // field 111, varint, overlong
    buffer.put_u8(1);
}

fn range(request: RangeRequest) -> Bytes {
    let mut message = BytesMut::from(&request.encode_to_vec()[..]);
    unknown_fields(&mut message);
    frame(&message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_through_a_proxy_are_the_brains_byte_for_byte() {
    let place = BINARY.place();
    let brain = Start::brain(&place, "default").run().await;
    let table = place.file("placement.yaml", &one_group(brain.peer_address()));
    let proxy = Start::proxy(&place, "proxy", &table).run().await;
    let client = Client::new(proxy.address());
    for number in 0..300_usize {
        let key = format!("/registry/{}/ns/{number:03}", ["pods", "events", "leases"][number % 3]);
        client.put(&key, vec![number as u8; number * 7]).await.expect("a put");
    }
    for number in 0..30 {
        client.delete(&format!("/registry/pods/ns/{:03}", number * 3)).await.expect("a delete");
    }
    client.compact(150).await.expect("a compaction");

    let all = RangeRequest { key: "/".into(), range_end: end_of("/").into(), ..Default::default() };
    let key = |key: &str| RangeRequest { key: key.to_owned().into(), ..Default::default() };
    let put = PutRequest { key: "/registry/pods/x".into(), lease: 404, ..Default::default() };
    let cases = [
        ("a key", RANGE, range(key("/registry/pods/ns/297"))),
        ("no key", RANGE, range(key("/registry/pods/none"))),
        ("everything", RANGE, range(all.clone())),
        ("a page", RANGE, range(RangeRequest { limit: 7, ..all.clone() })),
        ("keys", RANGE, range(RangeRequest { keys_only: true, ..all.clone() })),
        ("a count", RANGE, range(RangeRequest { count_only: true, ..all.clone() })),
        ("sorted", RANGE, range(RangeRequest { sort_order: 2, sort_target: 3, ..all.clone() })),
        ("the past", RANGE, range(RangeRequest { revision: 200, ..all.clone() })),
        ("the forgotten", RANGE, range(RangeRequest { revision: 100, ..all.clone() })),
        ("the future", RANGE, range(RangeRequest { revision: 99_999, ..all.clone() })),
        ("serializable", RANGE, range(RangeRequest { serializable: true, ..all.clone() })),
        ("an empty key", RANGE, range(key(""))),
        ("a stream", "/etcdserverpb.KV/RangeStream", range(all)),
        ("an unknown lease", "/etcdserverpb.KV/Put", frame(&put.encode_to_vec())),
    ];
    let (mut direct, mut through) =
        (Raw::connect(brain.peer_address()).await, Raw::connect(proxy.address()).await);
    for (what, path, request) in cases {
        let expected = direct.call(path, GRPC, request.clone()).await.expect("an answer");
        let found = through.call(path, GRPC, request).await.expect("an answer");
        assert!(expected.grpc.is_some(), "{what}: {expected:?}");
        assert_eq!(found, expected, "{what}");
    }
}

/// A brain of our own: answers ranges with what it is told, and keeps what it was asked.
#[derive(Default)]
struct Fake {
    answer: Bytes,
    asked: Mutex<Vec<(HeaderMap, Bytes)>>,
}

impl Fake {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (socket, _) = listener.accept().await.expect("a listener");
            tokio::spawn(self.clone().connection(socket));
        }
    }

    async fn connection(self: Arc<Self>, socket: TcpStream) {
        let mut connection = h2::server::handshake(socket).await.expect("HTTP/2");
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let fake = self.clone();
            tokio::spawn(async move {
                let (head, mut body) = request.into_parts();
                let mut asked = BytesMut::new();
                while let Some(Ok(chunk)) = body.data().await {
                    let _gone = body.flow_control().release_capacity(chunk.len());
                    asked.extend_from_slice(&chunk);
                }
                let header = Some(ResponseHeader { cluster_id: 1, member_id: 2, revision: 42, raft_term: 3 });
                let answer = match head.uri.path() {
                    "/kubebrain.peer.v1.Peer/Advance" => frame(
                        &AdvanceResponse { revision: 42, compacted: -1, ..<_>::default() }.encode_to_vec(),
                    ),
                    "/etcdserverpb.Maintenance/Status" => frame(
                        &StatusResponse { header, version: "3.7.0".into(), ..Default::default() }
                            .encode_to_vec(),
                    ),
                    "/kubebrain.peer.v1.Peer/Standing" => {
                        frame(&StandingResponse { group: "default".into(), ..<_>::default() }.encode_to_vec())
                    }
                    "/kubebrain.peer.v1.Peer/Placement" => {
                        let alone =
                            PlacementResponse { group: "default".into(), alone: true, ..<_>::default() };
                        frame(&alone.encode_to_vec())
                    }
                    RANGE => {
                        fake.asked.lock().push((head.headers.clone(), asked.freeze()));
                        fake.answer.clone()
                    }
                    path => panic!("nobody asks for {path} here"),
                };
                let mut response = Response::new(());
                let headers = response.headers_mut();
                headers.insert("content-type", HeaderValue::from_static(GRPC));
                headers.insert("kubebrain-revision", HeaderValue::from_static("42"));
                headers.insert("from-a-later-release", HeaderValue::from_static("yes"));
                let mut stream = respond.send_response(response, false).expect("the stream is open");
                // In three pieces, one of them empty, as a network might.
                let middle = answer.len() / 2;
                for piece in [answer.slice(..middle), Bytes::new(), answer.slice(middle..)] {
                    stream.send_data(piece, false).expect("the stream is open");
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                stream.send_trailers(trailers).expect("the stream is open");
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_that_a_proxy_does_not_know_pass_both_ways() {
    let mut message = BytesMut::new();
    // Fields out of order, one twice, and unknown ones between: what no encoder of ours would write.
    put_varint_field(&mut message, 4, 1);
    unknown_fields(&mut message);
    let mut header = BytesMut::new();
    put_varint_field(&mut header, 3, 42);
    put_bytes_field(&mut header, 200, b"unknown");
    put_bytes_field(&mut message, 1, &header);
    let mut kv = BytesMut::new();
    put_bytes_field(&mut kv, 5, b"value before key");
    unknown_fields(&mut kv);
    put_bytes_field(&mut kv, 1, b"/registry/pods/a");
    put_bytes_field(&mut message, 2, &kv);
    put_varint_field(&mut message, 4, 2);

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a port").to_string();
    let fake = Arc::new(Fake { answer: frame(&message), ..Fake::default() });
    let serving = tokio::spawn(fake.clone().serve(listener));

    let place = BINARY.place();
    let table = place.file("placement.yaml", &one_group(&address));
    let proxy = Start::proxy(&place, "proxy", &table).run().await;
    let mut raw = Raw::connect(proxy.address()).await;
    let request = range(RangeRequest { key: "/registry/pods/a".into(), ..Default::default() });
    let mut headers = HeaderMap::new();
    headers.insert("x-of-the-client", HeaderValue::from_static("kept"));
    headers.insert("kubebrain-floor", HeaderValue::from_static("9999999"));
    headers.insert("kubebrain-part", HeaderValue::from_static("1"));
    let found = raw.call_with(RANGE, GRPC, &headers, request.clone()).await.expect("an answer");
    assert_eq!(found, Answer { status: 200, data: fake.answer.clone(), grpc: Some((0, String::new())) });

    let asked = fake.asked.lock();
    let [(headers, bytes)] = &asked[..] else { panic!("asked once: {asked:?}") };
    assert_eq!(*bytes, request);
    assert_eq!(headers.get("x-of-the-client").map(HeaderValue::as_bytes), Some(&b"kept"[..]));
    assert_eq!(
        headers.get("kubebrain-floor").map(HeaderValue::as_bytes),
        Some(&b"42"[..]),
        "the proxy's own"
    );
    assert_eq!(headers.get("kubebrain-part"), None, "what a client says is not for brains");
    serving.abort();
}
