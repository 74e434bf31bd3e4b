//! Sockets in the file system.

use std::os::unix::net::UnixListener as Bound;

use tokio::net::UnixStream;

use crate::BINARY;
use kit::http1::get_over;
use kit::pki::Authority;
use kit::process::{Process, Start};
use kit::raw::Raw;
use kit::until;

const RANGE: &str = "/etcdserverpb.KV/Range";

async fn ready(server: &Process) {
    until("a server that is ready", async || {
        let socket = UnixStream::connect(server.address()).await.expect("it listens");
        let (status, _) = get_over(socket, "/readyz").await.expect("an answer");
        (status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_is_served_left_clean_and_taken_over_from_the_dead() {
    let place = BINARY.place();
    let path = place.join("client.sock");
    let start = || Start::standalone(&place).clients("unix", path.to_str().expect("UTF-8"));
    let mut server = start().run().await;
    ready(&server).await;
    let socket = UnixStream::connect(&path).await.expect("it listens");
    let mut raw = Raw::over(socket, "localhost", h2::client::Builder::new()).await;
    let answer =
        raw.call(RANGE, "application/grpc", b"\0\0\0\0\x03\x0a\x01a"[..].into()).await.expect("an answer");
    assert_eq!(answer.grpc, Some((0, String::new())));

    let in_use = start().data_dir(&place.join("other")).fails().await;
    assert!(in_use.message.contains("another process does"), "{in_use:?}");
    server.signal("TERM");
    assert!(server.ended().await.success());
    assert!(!path.exists(), "the socket is removed at the end");

    drop(Bound::bind(&path).expect("a socket")); // nobody listens any more
    let server = start().run().await;
    ready(&server).await;
    drop(server);

    std::fs::remove_file(&path).expect("it was killed");
    std::fs::write(&path, "mine").expect("a file");
    let not_ours = start().fails().await;
    assert!(not_ours.message.contains("client.sock is there and no socket"), "{not_ours:?}");
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "mine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_speaks_tls_where_its_url_says_so() {
    let place = BINARY.place();
    let ours = Authority::new(&place, "ours");
    let pair = ours.issue("server", 1);
    let path = place.join("secure.sock");
    let server = Start::standalone(&place)
        .https(&pair.certificate, &pair.key)
        .clients("unixs", path.to_str().expect("UTF-8"))
        .run()
        .await;
    let socket = UnixStream::connect(server.address()).await.expect("it listens");
    get_over(socket, "/health").await.expect_err("no plain HTTP");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_shared_where_all_processes_agree() {
    let place = BINARY.place();
    let one = Start::standalone(&place).flag("socket-reuse-port", "true").run().await;
    let two = one.start().data_dir(&place.join("two")).run().await;
    assert_eq!(one.address(), two.address());
    let alone = two.start().data_dir(&place.join("three")).flag("socket-reuse-port", "false").fails().await;
    assert!(alone.message.contains("cannot listen"), "{alone:?}");
}
