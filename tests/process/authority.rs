//! Requests whose `:authority` is none: clients send paths of sockets, URLs, lists and names of resolvers there.

use bytes::{Buf as _, BytesMut};
use kubebrain_shared::wire::frame;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::BINARY;
use crate::load::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, RESET, SETTINGS, head_to, put_frame};
use kit::http1::get_over;
use kit::in_time;
use kit::pki::Authority;
use kit::process::{Process, Start};

const RANGE: &str = "/etcdserverpb.KV/Range";
const HEAD_BYTES: usize = 9;

const NONE: &[&str] = &[
    "#initially=[http://127.0.0.1:2379]", // clientv3 3.5.0, as Kubernetes 1.22 and 1.23 have it
    "%2Frun%2Fx.sock",                    // gRPC's core and grpc-go over a unix socket
    "/run/x.sock",                        // grpc-java and older grpc-go
    "http://a:1",
    "a:1,b:2",
    "[fe80::1%25eth0]:2379",
    "[fe80::1%eth0]",
    "",
    "a b",
    "127.0.0.1:2379", // and one that is one
];

/// Sends a call by hand; what the frames of its stream were, until it has ended, and its data.
async fn call<I: AsyncRead + AsyncWrite + Unpin>(mut io: I, authority: &str) -> (Vec<u8>, BytesMut) {
    let mut hello = BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]);
    put_frame(&mut hello, SETTINGS, 0, 0, b"");
    put_frame(&mut hello, HEADERS, END_HEADERS, 1, &head_to(authority, RANGE));
    put_frame(&mut hello, DATA, END_STREAM, 1, &frame(b"\x0a\x01a"));
    io.write_all(&hello).await.expect("a connection");
    let (mut kinds, mut data, mut buffer) = (Vec::new(), BytesMut::new(), BytesMut::new());
    loop {
        while buffer.len() >= HEAD_BYTES {
            let mut ahead = &buffer[..HEAD_BYTES];
            let (length, kind, flags) = (ahead.get_uint(3) as usize, ahead.get_u8(), ahead.get_u8());
            let stream = ahead.get_u32();
            if buffer.len() < HEAD_BYTES + length {
                break;
            }
            let payload = buffer.split_to(HEAD_BYTES + length).split_off(HEAD_BYTES);
            if stream != 1 {
                continue;
            }
            kinds.push(kind);
            if kind == DATA {
                data.extend_from_slice(&payload);
            }
            if kind == RESET || flags & END_STREAM != 0 {
                return (kinds, data);
            }
        }
        assert!(io.read_buf(&mut buffer).await.expect("a connection") > 0, "it was closed after {kinds:?}");
    }
}

async fn is_answered<I: AsyncRead + AsyncWrite + Unpin>(what: &str, io: I, authority: &str) {
    let answer = in_time("an answer", call(io, authority)).await;
    assert_eq!(answer.0, [HEADERS, DATA, HEADERS], "{what}, {authority:?}");
    assert!(answer.1.len() > 5, "{what}, {authority:?}: a header is in it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_whatever_their_authority() {
    let place = BINARY.place();
    let brain = Start::brain(&place, "default").run().await;
    let brains = format!("{{ brains: [\"http://{}\"] }}", brain.peer_address());
    let table = format!("home: default\ndefault: default\ngroups: {{ default: {brains} }}\n");
    let proxy = Start::proxy(&place, "proxy", &place.file("placement.yaml", &table)).run().await;
    let standalone = Start::standalone(&place).run().await;
    let places = [
        ("brain", brain.address()),
        ("a brain's peers", brain.peer_address()),
        ("proxy", proxy.address()),
        ("standalone", standalone.address()),
    ];
    for (what, address) in places {
        for authority in NONE {
            is_answered(what, TcpStream::connect(address).await.expect("it listens"), authority).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_are_those_over_tls_and_unix_sockets() {
    let place = BINARY.place();
    let ours = Authority::new(&place, "ours");
    let pair = ours.issue("server", 1);
    let server = Start::standalone(&place).https(&pair.certificate, &pair.key).run().await;
    let secure =
        async |server: &Process| ours.connect(server.address(), None, "h2").await.expect("a handshake");
    in_time("ready", ready_over_tls(&ours, &server)).await;
    for authority in NONE {
        is_answered("TLS", secure(&server).await, authority).await;
    }
    drop(server);
    let path = place.join("client.sock");
    let server = Start::standalone(&place)
        .clients("unix", path.to_str().expect("UTF-8"))
        .data_dir(&place.join("other"))
        .run()
        .await;
    loop {
        let socket = tokio::net::UnixStream::connect(&path).await.expect("it listens");
        if get_over(socket, "/readyz").await.is_ok_and(|(status, _)| status == 200) {
            break;
        }
    }
    for authority in NONE {
        let socket = tokio::net::UnixStream::connect(server.address()).await.expect("it listens");
        is_answered("a unix socket", socket, authority).await;
    }
}

async fn ready_over_tls(ours: &Authority, server: &Process) {
    loop {
        let io = ours.connect(server.address(), None, "http/1.1").await.expect("a handshake");
        if get_over(io, "/readyz").await.is_ok_and(|(status, _)| status == 200) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http1_takes_them_as_hosts() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    for host in NONE {
        let mut socket = TcpStream::connect(server.address()).await.expect("it listens");
        let request = format!("GET /livez HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("a connection");
        let mut answer = String::new();
        in_time("an answer", socket.read_to_string(&mut answer)).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host:?}: {answer}");
    }
}
