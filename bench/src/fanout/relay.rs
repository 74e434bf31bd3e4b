//! [`Cards`]: what a network card is to a brain: a port before its socket that lets so many bytes a second through, each way.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

const PIECE_BYTES: usize = 64 << 10;
/// What was not used of the last milliseconds may be used at once: timers are no finer.
const SAVED_MAX: Duration = Duration::from_millis(5);

/// Lets bytes through at a rate, whichever connection they are of.
struct Bucket {
    bytes_per_second: f64,
    /// When all that has passed would have passed, evenly.
    paid: Mutex<Instant>,
}

impl Bucket {
    fn new(bytes_per_second: f64) -> Self {
        Self { bytes_per_second, paid: Mutex::new(Instant::now()) }
    }

    /// When so many bytes more have passed.
    fn pay(&self, bytes: usize, now: Instant) -> Instant {
        let mut paid = self.paid.lock();
        let begin = now.checked_sub(SAVED_MAX).map_or(*paid, |oldest| oldest.max(*paid));
        *paid = begin + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        *paid
    }
}

/// All cards, on a thread of their own: they go on while the client works. Dropping it cuts what is connected.
pub(super) struct Cards {
    pub(super) addresses: Vec<String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Cards {
    /// One before each socket, which need not be there yet.
    pub(super) fn start(sockets: Vec<PathBuf>, bytes_per_second: f64) -> Result<Self> {
        let mut addresses = Vec::new();
        let mut listeners = Vec::new();
        for socket in sockets {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no port is free")?;
            listener.set_nonblocking(true)?;
            addresses.push(listener.local_addr()?.to_string());
            listeners.push((listener, socket));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async move {
                for (listener, socket) in listeners {
                    tokio::spawn(serve(listener, socket, bytes_per_second));
                }
                // Its sender is dropped.
                let _stopped = stopped.await;
            });
        });
        Ok(Self { addresses, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Cards {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, socket: PathBuf, bytes_per_second: f64) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let (there, back) = (Arc::new(Bucket::new(bytes_per_second)), Arc::new(Bucket::new(bytes_per_second)));
    while let Ok((client, _)) = listener.accept().await {
        let (socket, there, back) = (socket.clone(), Arc::clone(&there), Arc::clone(&back));
        // Either side sees the end of the other; who dials again finds out why.
        tokio::spawn(async move { drop(join(client, &socket, &there, &back).await) });
    }
}

async fn join(client: TcpStream, socket: &Path, there: &Bucket, back: &Bucket) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let brain = UnixStream::connect(socket).await?;
    let ((client_reads, client_writes), (brain_reads, brain_writes)) =
        (client.into_split(), brain.into_split());
    tokio::select! {
        ended = pass(client_reads, brain_writes, there) => ended,
        ended = pass(brain_reads, client_writes, back) => ended,
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    bucket: &Bucket,
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let bytes = from.read(&mut piece).await?;
        let Some(read) = piece.get(..bytes).filter(|read| !read.is_empty()) else { return Ok(()) };
        sleep_until(bucket.pay(bytes, Instant::now())).await;
        to.write_all(read).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_its_rate_through_and_saves_little() {
        let bucket = Bucket::new(1e6);
        let begin = Instant::now() + Duration::from_secs(1);
        let mut now = begin;
        for _ in 0..100 {
            now = bucket.pay(50_000, now).max(now);
        }
        let took = (now - begin).as_secs_f64();
        assert!((4.99..=5.0).contains(&took), "5 MB at 1 MB/s took {took} s");
        let later = now + Duration::from_secs(60);
        let paid = bucket.pay(50_000, later);
        assert_eq!(paid - later, Duration::from_millis(45), "a minute's rest is not saved");
    }
}
