//! [`Heard`]: a connection that says whether the other side has said anything.
//!
//! With TLS 1.3 a client's handshake is over before the server has looked at the client's certificate. A refusal comes
//! where the first bytes of HTTP/2 would: until then a request that was sent could have had any outcome.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// See the module. Bytes pass unchanged.
pub(super) struct Heard<I> {
    inner: I,
    first: Option<oneshot::Sender<io::Result<()>>>,
}

impl<I> Heard<I> {
    /// The receiver gets what came of the first read.
    pub(super) fn new(inner: I) -> (Self, oneshot::Receiver<io::Result<()>>) {
        let (first, heard) = oneshot::channel();
        (Self { inner, first: Some(first) }, heard)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Heard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let Poll::Ready(outcome) = read else { return Poll::Pending };
        let Some(first) = self.first.take() else { return Poll::Ready(outcome) };
        // Whoever waits for it may have given up.
        match outcome {
            Ok(()) if buffer.filled().len() > before => drop(first.send(Ok(()))),
            Ok(()) => drop(first.send(Err(io::ErrorKind::UnexpectedEof.into()))),
            Err(error) => {
                let kind = error.kind();
                drop(first.send(Err(error)));
                return Poll::Ready(Err(kind.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Heard<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
