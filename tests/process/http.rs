//! Plain HTTP beside gRPC, by methods and encodings that probes and monitoring use.

use std::io::Read as _;

use flate2::read::GzDecoder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::BINARY;
use kit::in_time;
use kit::process::{Place, Process, Start};

/// An answer: its status, its head in small letters, and its body.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line == header)
    }
}

async fn ask(address: &str, line: &str, headers: &str) -> Answer {
    let mut socket = TcpStream::connect(address).await.expect("it listens");
    let request = format!("{line}\r\nhost: kubebrain\r\nconnection: close\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.expect("a connection");
    let mut answer = Vec::new();
    in_time(line, socket.read_to_end(&mut answer)).await.expect("an answer");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head, body: answer[end + 4..].to_vec() }
}

/// A standalone, a brain and a proxy, each with a listener for probes alone.
async fn programs(place: &Place) -> Vec<(&'static str, Process)> {
    let probes = |start: Start| start.flag("listen-metrics-urls", "http://127.0.0.1:0");
    let standalone = probes(Start::standalone(place)).run().await;
    let brain = probes(Start::brain(place, "default")).run().await;
    let brains = format!("{{ brains: [\"http://{}\"] }}", brain.peer_address());
    let table = format!("home: default\ndefault: default\ngroups: {{ default: {brains} }}\n");
    let proxy = probes(Start::proxy(place, "proxy", &place.file("placement.yaml", &table))).run().await;
    vec![("standalone", standalone), ("brain", brain), ("proxy", proxy)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_and_head_are_answered_as_etcd_answers_them() {
    let place = BINARY.place();
    for (program, server) in &programs(&place).await {
        // Paths, and what each of the three methods gets of the listener for clients, and of that for probes.
        for (path, clients, probes) in [
            ("/", [200, 404, 404], [404, 404, 404]),
            ("/health", [200, 405, 405], [405, 405, 405]),
            ("/livez", [200, 405, 405], [405, 405, 405]),
            ("/readyz", [200, 405, 405], [405, 405, 405]),
            ("/version", [200, 405, 405], [405, 405, 405]),
            ("/metrics", [200, 200, 200], [200, 200, 200]),
            ("/nothing", [200, 404, 404], [404, 404, 404]),
            ("*", [200, 400, 400], [200, 400, 400]),
        ] {
            for (address, expected, is_clients) in
                [(server.address(), clients, true), (server.probe_address(), probes, false)]
            {
                for (method, status) in ["OPTIONS", "HEAD", "POST"].into_iter().zip(expected) {
                    let answer = ask(address, &format!("{method} {path} HTTP/1.1"), "").await;
                    let what = format!("{program}, {method} {path}, clients': {is_clients}: {}", answer.head);
                    assert_eq!(answer.status, status, "{what}");
                    if method != "POST" && path != "/metrics" && (method == "HEAD" || is_clients) {
                        assert!(answer.body.is_empty(), "{what}");
                    }
                    assert_eq!(answer.has("allow: get"), status == 405, "{what}");
                    let browsers = is_clients && (path != "*" || method != "OPTIONS");
                    for header in [
                        "access-control-allow-origin: *",
                        "access-control-allow-methods: post, get, options, put, delete",
                        "access-control-allow-headers: accept, content-type, authorization",
                    ] {
                        assert_eq!(answer.has(header), browsers, "{what}");
                    }
                }
            }
        }
        // HAProxy's `option httpchk`.
        let check = ask(server.address(), "OPTIONS / HTTP/1.0", "").await;
        assert_eq!((check.status, check.has("content-length: 0")), (200, true), "{program}: {}", check.head);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_compressed_where_that_is_asked_for() {
    let place = BINARY.place();
    for (program, server) in &programs(&place).await {
        for address in [server.address(), server.probe_address()] {
            let plain = ask(address, "GET /metrics HTTP/1.1", "").await;
            assert!(!plain.head.contains("content-encoding"), "{program}: {}", plain.head);
            // As Prometheus asks.
            let packed = ask(address, "GET /metrics HTTP/1.1", "accept-encoding: gzip\r\n").await;
            assert!(packed.has("content-encoding: gzip"), "{program}: {}", packed.head);
            assert!(packed.body.len() * 5 < plain.body.len(), "{program}: {} bytes", packed.body.len());
            let mut page = String::new();
            GzDecoder::new(&packed.body[..]).read_to_string(&mut page).expect("gzip");
            assert!(page.contains("\nkubebrain_build_info{"), "{program}: {page}");
        }
    }
}
