//! [`Held`]: an answer on its way, and what it holds until it begins.

use std::pin::Pin;
use std::task::{self, Context, Poll};

use pin_project_lite::pin_project;

use crate::grpc::Answered;

pin_project! {
    /// See the module.
    pub(super) struct Held<F, T> {
        #[pin]
        inner: F,
        // given back when the answer begins, or with the request
        held: Option<T>,
    }
}

impl<F, T> Held<F, T> {
    pub(super) fn new(inner: F, held: T) -> Self {
        Self { inner, held: Some(held) }
    }
}

impl<F: Future<Output = Answered>, T> Future for Held<F, T> {
    type Output = Answered;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        let this = self.project();
        let answered = task::ready!(this.inner.poll(cx));
        this.held.take();
        Poll::Ready(answered)
    }
}
