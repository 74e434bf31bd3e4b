use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kubebrain_shared::stop::Stopper;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::serve::tests::{echo, within};
use crate::serve::{ServeConfig, serve_connection};

/// Counts the writes that reach it.
struct Counting<T> {
    inner: T,
    writes: Arc<AtomicUsize>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counting<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counting<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// How many writes a server makes to answer 300 requests of 30 streams with 1 KiB each.
async fn writes_of_300_answers(corked: bool) -> usize {
    let (client, server) = duplex(1 << 20);
    let writes = Arc::new(AtomicUsize::new(0));
    let server = Counting { inner: server, writes: writes.clone() };
    let stopper = Stopper::default();
    let stop = stopper.handle();
    tokio::spawn(async move {
        if corked {
            serve_connection(server, echo(), &ServeConfig::default(), stop).await;
        } else {
            let service = hyper_util::service::TowerToHyperService::new(echo());
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ended = builder.serve_connection(TokioIo::new(server), service).await;
        }
    });
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let workers: Vec<_> = (0..30)
        .map(|_| {
            let mut sender = sender.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    let request = http::Request::post("http://a/kib")
                        .body(Full::<Bytes>::default())
                        .expect("a request");
                    let answer = sender.send_request(request).await.expect("it answers");
                    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes().len(), 1024);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.expect("no panic");
    }
    writes.load(Ordering::Relaxed)
}

#[tokio::test]
async fn many_answers_go_out_in_few_writes() {
    let (plain, corked) =
        (within(20, writes_of_300_answers(false)).await, within(20, writes_of_300_answers(true)).await);
    assert!(corked * 4 < plain && corked <= 60, "{corked} writes with the cork, {plain} without");
}

/// Uploads to `/echo` and checks what comes back, on so many streams at once.
async fn ping_pong<C>(client: C, streams: usize, body_bytes: usize)
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(Cork::new(client))).await.expect("HTTP/2");
    tokio::spawn(connection);
    let workers: Vec<_> = (0..streams)
        .map(|index| {
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let body = Bytes::from_iter((0..body_bytes).map(|at| (at * 31 + index) as u8));
                let request =
                    http::Request::post("http://a/echo").body(Full::new(body.clone())).expect("a request");
                let answer = sender.send_request(request).await.expect("it answers");
                let echoed = answer.into_body().collect().await.expect("a whole body").to_bytes();
                assert!(echoed == body, "stream {index} came back with {} bytes", echoed.len());
            })
        })
        .collect();
    for worker in workers {
        worker.await.expect("no panic");
    }
}

fn serve<I: AsyncRead + AsyncWrite + Send + Unpin + 'static>(io: I, config: ServeConfig) -> Stopper {
    let stopper = Stopper::default();
    let stop = stopper.handle();
    tokio::spawn(async move { serve_connection(io, echo(), &config, stop).await });
    stopper
}

/// The windows of a peer that sets none: with large bodies their edges are met again and again. Only for few streams:
/// crumbs of many streams that nobody has read yet exceed what h2 lets a peer send in small frames.
fn narrow() -> ServeConfig {
    ServeConfig { stream_window_bytes: 65_535, connection_window_bytes: 65_535, ..ServeConfig::default() }
}

#[tokio::test]
async fn large_bodies_both_ways_never_stall_in_memory() {
    for (buffer_bytes, config) in [(1000, narrow()), (1 << 20, narrow()), (5000, ServeConfig::default())] {
        let (client, server) = duplex(buffer_bytes);
        let _stopper = serve(server, config);
        within(60, ping_pong(client, 1, 10 << 20)).await;
    }
}

#[tokio::test]
async fn many_streams_both_ways_never_stall_in_memory() {
    let (client, server) = duplex(5000);
    let _stopper = serve(server, ServeConfig::default());
    within(60, ping_pong(client, 80, 200_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_and_many_streams_never_stall_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let rounds = [
        (1, 10 << 20, narrow()),
        (100, 200_000, ServeConfig::default()),
        (500, 5000, ServeConfig::default()),
    ];
    for (streams, body_bytes, config) in rounds {
        let client = TcpStream::connect(address).await.expect("it listens");
        let (server, _) = listener.accept().await.expect("it was called");
        let _stopper = serve(server, config);
        within(60, ping_pong(client, streams, body_bytes)).await;
    }
}

/// One turn of a task: what the closure does with the cork, and whether it woke itself.
fn turn<T, R>(cork: &mut Cork<T>, act: impl FnOnce(Pin<&mut Cork<T>>, &mut Context<'_>) -> R) -> (R, bool)
where
    T: Unpin,
{
    struct Woken(AtomicUsize);
    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let woken = Arc::new(Woken(AtomicUsize::new(0)));
    let waker = Waker::from(woken.clone());
    let result = act(Pin::new(cork), &mut Context::from_waker(&waker));
    (result, woken.0.load(Ordering::Relaxed) > 0)
}

fn write(cork: &mut Cork<DuplexStream>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    turn(cork, |cork, cx| cork.poll_write(cx, bytes)).0
}

fn read(cork: &mut Cork<DuplexStream>) -> Poll<io::Result<Vec<u8>>> {
    let mut space = [0; 64];
    let mut buffer = ReadBuf::new(&mut space);
    let read = turn(cork, |cork, cx| cork.poll_read(cx, &mut buffer)).0;
    read.map_ok(|()| buffer.filled().to_vec())
}

fn arrived(peer: &mut DuplexStream) -> Vec<u8> {
    let mut space = vec![0; 1 << 20];
    let mut buffer = ReadBuf::new(&mut space);
    let _pending = Pin::new(peer).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
    buffer.filled().to_vec()
}

#[tokio::test]
async fn a_flush_waits_for_the_next_read_and_wakes_for_it() {
    let (ours, mut peer) = duplex(1 << 20);
    let mut cork = Cork::new(ours);
    for part in [b"one ", b"two "] {
        assert!(matches!(write(&mut cork, part), Poll::Ready(Ok(4))));
        let (flushed, woken) = turn(&mut cork, |cork, cx| cork.poll_flush(cx));
        assert!(matches!(flushed, Poll::Ready(Ok(()))) && woken);
        assert_eq!(arrived(&mut peer), b"", "not yet");
    }
    assert!(read(&mut cork).is_pending());
    assert_eq!(arrived(&mut peer), b"one two ");
}

#[tokio::test]
async fn a_user_that_only_flushes_makes_progress() {
    let (ours, mut peer) = duplex(1 << 20);
    let mut cork = Cork::new(ours);
    assert!(matches!(write(&mut cork, b"bytes"), Poll::Ready(Ok(5))));
    for _ in 0..2 {
        assert!(matches!(turn(&mut cork, |cork, cx| cork.poll_flush(cx)).0, Poll::Ready(Ok(()))));
    }
    assert_eq!(arrived(&mut peer), b"bytes");
}

#[tokio::test]
async fn a_full_cork_pushes_back_and_still_reads() {
    let (ours, mut peer) = duplex(10_000);
    let mut cork = Cork::new(ours);
    let chunk = vec![7; 100_000];
    let mut sent = 0;
    while let Poll::Ready(taken) = write(&mut cork, &chunk) {
        sent += taken.expect("the peer is there");
        assert!(cork.kept.len() <= BUFFER_BYTES_MAX && sent <= BUFFER_BYTES_MAX + 10_000);
    }
    assert_eq!(sent, BUFFER_BYTES_MAX + 10_000, "the cork and the peer's buffer are full");
    let slices = [IoSlice::new(&chunk), IoSlice::new(&chunk)];
    assert!(turn(&mut cork, |cork, cx| cork.poll_write_vectored(cx, &slices)).0.is_pending());
    assert!(turn(&mut cork, |cork, cx| cork.poll_flush(cx)).0.is_ready(), "deferred");
    assert!(turn(&mut cork, |cork, cx| cork.poll_flush(cx)).0.is_pending(), "cannot be carried out");

    peer.write_all(b"from the peer").await.expect("it fits");
    assert_eq!(read(&mut cork).map(Result::ok), Poll::Ready(Some(b"from the peer".to_vec())));

    let mut received = 0;
    while received < sent {
        received += arrived(&mut peer).len();
        let _pending = read(&mut cork);
        tokio::task::yield_now().await;
    }
    assert_eq!(received, sent);
    let taken = turn(&mut cork, |cork, cx| cork.poll_write_vectored(cx, &slices)).0;
    assert!(matches!(taken, Poll::Ready(Ok(200_000))), "{taken:?}");
    assert!(cork.kept.len() == 200_000);
}

#[tokio::test]
async fn a_writer_waiting_for_room_is_woken_by_a_reader_in_another_task() {
    let (ours, mut peer) = duplex(100);
    let (mut reader, mut writer) = tokio::io::split(Cork::new(ours));
    let bytes = 2 * BUFFER_BYTES_MAX;
    let writing = tokio::spawn(async move {
        writer.write_all(&vec![1; bytes]).await.expect("the peer is there");
        writer.shutdown().await.expect("the peer is there");
    });
    let reading = tokio::spawn(async move { reader.read_to_end(&mut Vec::new()).await });
    let mut received = Vec::new();
    within(10, peer.read_to_end(&mut received)).await.expect("it ends well");
    assert_eq!(received.len(), bytes);
    drop(peer);
    writing.await.expect("no panic");
    reading.await.expect("no panic").expect("it ends well");
}

#[tokio::test]
async fn a_shutdown_sends_what_is_kept() {
    let (ours, mut peer) = duplex(100);
    let mut cork = Cork::new(ours);
    let task = tokio::spawn(async move {
        cork.write_all(&[3; 5000]).await.expect("the peer is there");
        cork.shutdown().await.expect("the peer is there");
    });
    let mut received = Vec::new();
    within(10, peer.read_to_end(&mut received)).await.expect("it ends well");
    assert_eq!(received, [3; 5000]);
    task.await.expect("no panic");
}

#[tokio::test]
async fn a_peer_that_closed_its_half_still_gets_its_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let mut peer = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
    let mut cork = Cork::new(listener.accept().await.expect("it was called").0);
    peer.write_all(b"question").await.expect("open");
    peer.shutdown().await.expect("open");
    let mut question = Vec::new();
    within(10, cork.read_to_end(&mut question)).await.expect("it ends well");
    assert_eq!(question, b"question");
    cork.write_all(b"answer").await.expect("open");
    cork.shutdown().await.expect("open");
    let mut answer = Vec::new();
    within(10, peer.read_to_end(&mut answer)).await.expect("it ends well");
    assert_eq!(answer, b"answer");
}

#[tokio::test]
async fn what_a_peer_said_before_it_vanished_is_read_and_then_writing_fails() {
    let (ours, mut peer) = duplex(1000);
    let mut cork = Cork::new(ours);
    assert!(matches!(write(&mut cork, b"too late"), Poll::Ready(Ok(8))));
    peer.write_all(b"farewell").await.expect("open");
    drop(peer);
    assert_eq!(read(&mut cork).map(Result::ok), Poll::Ready(Some(b"farewell".to_vec())));
    assert!(matches!(write(&mut cork, b"more"), Poll::Ready(Err(_))));
    assert!(matches!(turn(&mut cork, |cork, cx| cork.poll_flush(cx)).0, Poll::Ready(Err(_))));
    assert!(cork.kept.is_empty(), "nothing is kept for nobody");
}

#[tokio::test]
async fn a_flush_that_fails_is_told_and_so_is_every_write_after_it() {
    let (ours, peer) = duplex(1000);
    let mut cork = Cork::new(ours);
    assert!(matches!(write(&mut cork, b"too late"), Poll::Ready(Ok(8))));
    drop(peer);
    let mut flush = || turn(&mut cork, |cork, cx| cork.poll_flush(cx)).0;
    assert!(matches!(
        [flush(), flush(), flush()],
        [Poll::Ready(Ok(())), Poll::Ready(Err(_)), Poll::Ready(Err(_))]
    ));
    assert!(matches!(write(&mut cork, b"more"), Poll::Ready(Err(_))));
}

#[tokio::test]
async fn an_idle_cork_gives_its_memory_back() {
    let (ours, mut peer) = duplex(1 << 20);
    let mut cork = Cork::new(ours);
    assert!(matches!(write(&mut cork, &[0; 200_000]), Poll::Ready(Ok(200_000))));
    assert!(read(&mut cork).is_pending());
    assert_eq!(arrived(&mut peer).len(), 200_000);
    assert!(!cork.kept.try_reclaim(IDLE_BYTES_MAX + 1));
}

/// As TLS does when its socket is full: takes bytes and holds them back until it is flushed.
struct Holding {
    inner: tokio::io::DuplexStream,
    held: BytesMut,
}

impl AsyncRead for Holding {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Holding {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while !this.held.is_empty() {
            let written = ready!(Pin::new(&mut this.inner).poll_write(cx, &this.held))?;
            this.held.advance(written);
        }
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_socket_holds_back_is_flushed_by_reading() {
    let (ours, mut theirs) = tokio::io::duplex(64);
    let mut cork = Cork::new(Holding { inner: ours, held: BytesMut::new() });
    let sent = vec![5; 1000];
    cork.write_all(&sent).await.expect("kept");
    cork.flush().await.expect("deferred");
    let reading = tokio::spawn(async move { cork.read(&mut [0]).await.map(|_| ()) });
    let mut got = vec![0; 1000];
    tokio::time::timeout(std::time::Duration::from_secs(1), theirs.read_exact(&mut got))
        .await
        .expect("nothing is held back")
        .expect("it is open");
    assert_eq!(got, sent);
    reading.abort();
}

/// A turn of a connection's task, by its count.
fn take_turn<R>(turns: &Turns, mut act: impl FnMut(&mut Context<'_>) -> R) -> (R, bool) {
    let mut cork = Cork::new(tokio::io::empty());
    turn(&mut cork, |_, cx| {
        let mut done = None;
        let connection = std::future::poll_fn(|cx| {
            done = Some(act(cx));
            Poll::<()>::Pending
        });
        assert!(turns.poll(std::pin::pin!(connection), cx).is_pending());
        done.expect("it was polled")
    })
}

#[tokio::test]
async fn what_becomes_ready_by_the_next_turn_joins_what_was_put_off() {
    let (ours, mut peer) = duplex(1 << 20);
    let turns = Turns::default();
    let mut cork = Cork::by_turns(ours, &turns);
    let ((), woken) = take_turn(&turns, |cx| {
        for part in [b"ack ", b"and "] {
            assert!(Pin::new(&mut cork).poll_write(cx, part).is_ready());
            assert!(matches!(Pin::new(&mut cork).poll_flush(cx), Poll::Ready(Ok(()))));
            let mut space = [0; 8];
            assert!(Pin::new(&mut cork).poll_read(cx, &mut ReadBuf::new(&mut space)).is_pending());
        }
    });
    assert!(woken && arrived(&mut peer).is_empty(), "reading in the same turn sends nothing");
    let ((), woken) = take_turn(&turns, |cx| {
        let mut space = [0; 8];
        assert!(Pin::new(&mut cork).poll_read(cx, &mut ReadBuf::new(&mut space)).is_pending());
        assert!(Pin::new(&mut cork).poll_write(cx, b"answer").is_ready());
        assert!(matches!(Pin::new(&mut cork).poll_flush(cx), Poll::Ready(Ok(()))));
    });
    assert_eq!(arrived(&mut peer), b"ack and answer");
    assert!(!woken, "nothing is left to do");
}

#[tokio::test]
async fn a_turn_without_a_flush_is_followed_by_one_that_sends() {
    let (ours, mut peer) = duplex(1 << 20);
    let turns = Turns::default();
    let mut cork = Cork::by_turns(ours, &turns);
    let read_only = |cork: &mut Cork<DuplexStream>, cx: &mut Context<'_>| {
        let mut space = [0; 8];
        assert!(Pin::new(cork).poll_read(cx, &mut ReadBuf::new(&mut space)).is_pending());
    };
    let ((), woken) = take_turn(&turns, |cx| {
        assert!(Pin::new(&mut cork).poll_write(cx, b"settings").is_ready());
        assert!(Pin::new(&mut cork).poll_flush(cx).is_ready());
    });
    assert!(woken);
    let ((), woken) = take_turn(&turns, |cx| read_only(&mut cork, cx));
    assert!(woken && arrived(&mut peer).is_empty());
    let ((), woken) = take_turn(&turns, |cx| read_only(&mut cork, cx));
    assert!(!woken && arrived(&mut peer) == b"settings");
}

#[tokio::test]
async fn a_socket_that_takes_nothing_does_not_keep_its_task_awake() {
    let (ours, mut peer) = duplex(4);
    let turns = Turns::default();
    let mut cork = Cork::by_turns(ours, &turns);
    let mut use_it = |bytes: &'static [u8]| {
        take_turn(&turns, |cx| {
            let mut space = [0; 8];
            let _pending = Pin::new(&mut cork).poll_read(cx, &mut ReadBuf::new(&mut space));
            let _taken = Pin::new(&mut cork).poll_write(cx, bytes);
            Pin::new(&mut cork).poll_flush(cx).is_ready()
        })
    };
    assert_eq!(use_it(b"12345678"), (true, true), "put off");
    assert_eq!(use_it(b""), (false, false), "the socket will wake it");
    assert_eq!(use_it(b"9"), (false, false));
    let mut got = arrived(&mut peer);
    while got.len() < 9 {
        assert!(!use_it(b"").1);
        got.extend(arrived(&mut peer));
    }
    assert_eq!(got, b"123456789");
}

/// A PING and a whole request, as Go's client sends them together once it has had an answer.
#[tokio::test]
async fn an_answer_goes_out_with_the_answer_to_the_ping_that_came_with_its_request() {
    let (mut client, server) = duplex(1 << 20);
    let writes = Arc::new(AtomicUsize::new(0));
    let server = Counting { inner: server, writes: writes.clone() };
    let _stopper = serve(server, ServeConfig::default());
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("open");
    let mut space = [0; 1024];
    let mut settled = 0;
    while settled < 9 + 9 {
        settled += within(10, client.read(&mut space)).await.expect("settings");
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await; // its acknowledgement too
    }
    let before = writes.load(Ordering::Relaxed);
    // GET http /, :path from the static table; END_STREAM and END_HEADERS.
    let ask = b"\0\0\x08\x06\0\0\0\0\0\x02\x04\x10\x10\x09\x0e\x07\x07\0\0\x03\x01\x05\0\0\0\x01\x82\x86\x84";
    client.write_all(ask).await.expect("open");
    let mut got = Vec::new();
    while !got.windows(5).any(|head| head[0] == 1 && head[1] & 4 != 0 && head[2..] == [0, 0, 0]) {
        let read = within(10, client.read(&mut space)).await.expect("an answer");
        got.extend_from_slice(&space[..read]);
    }
    assert!(
        got.windows(17).any(|frame| frame == b"\0\0\x08\x06\x01\0\0\0\0\x02\x04\x10\x10\x09\x0e\x07\x07")
    );
    assert_eq!(writes.load(Ordering::Relaxed) - before, 1, "in one write");
}
