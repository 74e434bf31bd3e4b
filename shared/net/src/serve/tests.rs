use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use kubebrain_shared::stop::Stopper;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tonic::body::Body;

use super::*;

/// `/echo` streams back what comes; `/hang` never answers; `/slow` answers after half a second, `/kib` with 1 KiB,
/// every other path with itself.
pub(crate) fn echo() -> impl Serve {
    tower::service_fn(|request: http::Request<Incoming>| async move {
        let body = match request.uri().path() {
            "/echo" => Body::new(request.into_body()),
            "/hang" => std::future::pending().await,
            "/slow" => {
                tokio::time::sleep(Duration::from_millis(500)).await;
                Body::empty()
            }
            "/kib" => Body::new(Full::new(Bytes::from_static(&[7; 1024]))),
            path => Body::new(Full::new(Bytes::copy_from_slice(path.as_bytes()))),
        };
        Ok(http::Response::new(body))
    })
}

pub(crate) async fn listen(config: ServeConfig) -> (SocketAddr, Stopper) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let stopper = Stopper::default();
    tokio::spawn(serve_tcp(listener, echo(), config, stopper.handle()));
    (address, stopper)
}

pub(crate) async fn within<F: Future>(seconds: u64, work: F) -> F::Output {
    timeout(Duration::from_secs(seconds), work).await.expect("it does not stall")
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
/// END_HEADERS and END_STREAM.
const WHOLE: u8 = 5;

fn put_frame(buffer: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    buffer.put_uint(payload.len() as u64, 3);
    buffer.put_u8(kind);
    buffer.put_u8(flags);
    buffer.put_u32(stream);
    buffer.put_slice(payload);
}

/// HPACK without a table: POST http://a/<path>.
fn put_request(buffer: &mut BytesMut, stream: u32, path: &str) {
    let mut headers = BytesMut::from(&[0x83, 0x86, 0x01, 1, b'a', 0x04, path.len() as u8][..]);
    headers.put_slice(path.as_bytes());
    put_frame(buffer, HEADERS, WHOLE, stream, &headers);
}

/// Type, flags and stream of the next frame.
async fn read_frame(io: &mut (impl AsyncRead + Unpin)) -> (u8, u8, u32) {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.expect("the connection goes on");
    let [a, b, c, kind, flags, rest @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    io.read_exact(&mut payload).await.expect("the connection goes on");
    (kind, flags, u32::from_be_bytes(rest) & 0x7fff_ffff)
}

async fn answer_of(io: &mut (impl AsyncRead + Unpin), wanted: u32) {
    loop {
        let (kind, _, stream) = read_frame(io).await;
        assert_ne!(kind, GOAWAY, "the connection is given up");
        if kind == HEADERS && stream == wanted {
            return;
        }
    }
}

#[tokio::test]
async fn streams_reset_all_at_once_disturb_nobody_else() {
    let (address, stopper) = listen(ServeConfig { drain: Duration::ZERO, ..ServeConfig::default() }).await;
    let mut socket = TcpStream::connect(address).await.expect("it listens");
    let mut bytes = BytesMut::from(PREFACE);
    put_frame(&mut bytes, SETTINGS, 0, 0, &[]);
    put_request(&mut bytes, 1, "/slow");
    // The server finds request and reset together, before it has looked at any of them.
    for stream in (3..5003).step_by(2) {
        put_request(&mut bytes, stream, "/hang");
        put_frame(&mut bytes, RESET, 0, stream, &8_u32.to_be_bytes());
    }
    within(20, async {
        socket.write_all(&bytes).await.expect("it reads");
        answer_of(&mut socket, 1).await;
        bytes.clear();
        put_request(&mut bytes, 5003, "/later");
        socket.write_all(&bytes).await.expect("it reads");
        answer_of(&mut socket, 5003).await;
        assert_eq!(http1(address, "/other").await, "/other", "another connection");
    })
    .await;
    stopper.stop().await;
}

#[tokio::test]
async fn streams_that_are_reset_in_flight_disturb_nobody_else() {
    let (address, stopper) = listen(ServeConfig { drain: Duration::ZERO, ..ServeConfig::default() }).await;
    let socket = TcpStream::connect(address).await.expect("it listens");
    within(20, async {
        let (client, connection) = h2::client::handshake(socket).await.expect("it speaks HTTP/2");
        tokio::spawn(connection);
        let post = |path: &str| http::Request::post(format!("http://a{path}")).body(()).expect("a request");
        let mut client = client.ready().await.expect("a stream is free");
        let (echo, mut upload) = client.send_request(post("/echo"), false).expect("it is open");
        let mut hanging = Vec::new();
        for _ in 0..1500 {
            client = client.ready().await.expect("a stream is free");
            hanging.push(client.send_request(post("/hang"), false).expect("it is open"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        for (_, stream) in &mut hanging {
            stream.send_reset(h2::Reason::CANCEL);
        }
        drop(hanging);
        upload.send_data(Bytes::from_static(b"still here"), true).expect("its stream is open");
        let mut answer = echo.await.expect("it answers").into_body();
        assert_eq!(answer.data().await.expect("a body").expect("no reset"), "still here");
        client = client.ready().await.expect("a stream is free");
        let (later, _) = client.send_request(post("/later"), true).expect("it is open");
        assert_eq!(later.await.expect("it answers").status(), 200);
    })
    .await;
    stopper.stop().await;
}

#[tokio::test]
async fn pings_are_answered_however_many_come() {
    let (address, stopper) = listen(ServeConfig { drain: Duration::ZERO, ..ServeConfig::default() }).await;
    let mut socket = TcpStream::connect(address).await.expect("it listens");
    let mut bytes = BytesMut::from(PREFACE);
    put_frame(&mut bytes, SETTINGS, 0, 0, &[]);
    within(20, async {
        for index in 0..300_u64 {
            put_frame(&mut bytes, PING, 0, 0, &index.to_be_bytes());
            socket.write_all(&bytes.split()).await.expect("it reads");
            loop {
                let (kind, flags, _) = read_frame(&mut socket).await;
                assert_ne!(kind, GOAWAY, "after {index} pings");
                if (kind, flags) == (PING, ACK) {
                    break;
                }
            }
        }
    })
    .await;
    stopper.stop().await;
}

async fn http1(address: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("it answers and closes");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    answer.split("\r\n\r\n").nth(1).expect("a body").into()
}

#[tokio::test]
async fn one_port_speaks_http1_with_a_connection_kept_alive() {
    let (address, stopper) = listen(ServeConfig::default()).await;
    within(10, async {
        assert_eq!(http1(address, "/health").await, "/health");
        let mut socket = TcpStream::connect(address).await.expect("it listens");
        for path in ["/first", "/second"] {
            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
            socket.write_all(request.as_bytes()).await.expect("it reads");
            let mut answer = vec![0; 4096];
            let mut filled = 0;
            while !answer[..filled].ends_with(path.as_bytes()) {
                filled += socket.read(&mut answer[filled..]).await.expect("it answers");
            }
        }
        // The idle connection does not hold up the stop.
        stopper.stop().await;
    })
    .await;
}

#[tokio::test]
async fn requests_in_flight_end_before_the_server_does() {
    let (address, stopper) = listen(ServeConfig::default()).await;
    let channel =
        crate::dial::Channel::new(crate::dial::Connector::Tcp(address.to_string()), Default::default());
    let slow = tokio::spawn(call(channel.clone(), "/slow"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    within(5, stopper.stop()).await;
    assert!(begun.elapsed() > Duration::from_millis(200), "it waited for the request");
    assert_eq!(slow.await.expect("no panic").expect("it was answered"), "");
    let error = call(channel, "/new").await.expect_err("nobody listens");
    assert!(error.surely_not_sent(), "{error:?}");
}

#[tokio::test]
async fn requests_that_do_not_end_are_dropped_after_the_drain_time() {
    let (address, stopper) =
        listen(ServeConfig { drain: Duration::from_millis(300), ..ServeConfig::default() }).await;
    let channel =
        crate::dial::Channel::new(crate::dial::Connector::Tcp(address.to_string()), Default::default());
    let hanging = tokio::spawn(call(channel, "/hang"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    within(5, stopper.stop()).await;
    let error = hanging.await.expect("no panic").expect_err("it was dropped");
    assert!(!error.surely_not_sent(), "{error:?}");
}

pub(crate) async fn call(
    mut channel: crate::dial::Channel,
    path: &str,
) -> Result<Bytes, crate::dial::DialError> {
    let request = http::Request::post(path).body(Body::empty()).expect("a request");
    let response = channel.call(request).await?;
    Ok(response.into_body().collect().await.expect("a whole body").to_bytes())
}

/// Gives what it was told, then waits.
struct Scripted(VecDeque<io::Result<DuplexStream>>);

impl Accept for Scripted {
    type Io = DuplexStream;

    async fn next(&mut self) -> Option<io::Result<(DuplexStream, Peer)>> {
        match self.0.pop_front() {
            Some(next) => Some(next.map(|stream| (stream, None))),
            None => std::future::pending().await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_accept_is_tried_again_without_haste() {
    let (mut client, server) = tokio::io::duplex(4096);
    let no_descriptors = || io::Error::from_raw_os_error(24);
    let errors = [Err(no_descriptors()), Err(io::ErrorKind::ConnectionAborted.into()), Err(no_descriptors())];
    let script = Scripted(errors.into_iter().chain([Ok(server)]).collect());
    let stopper = Stopper::default();
    tokio::spawn(accept_all(script, echo(), ServeConfig::default(), None, stopper.handle()));
    let begun = Instant::now();
    client.write_all(b"GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.expect("it fits");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("it is served");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(begun.elapsed().as_millis() / 100, 2, "two pauses");
    stopper.stop().await;
}
