//! [`Classify`]: which keys a request touches, read from its bytes. What cannot be read is refused.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::classify::{Footprint, Shape, footprint};
use crate::grpc::{Answered, Framed};

/// Makes a [`Classify`].
#[derive(Clone, Copy)]
pub(super) struct ClassifyLayer;

/// See the module.
#[derive(Clone)]
pub(super) struct Classify<S> {
    inner: S,
}

/// A message, and what it touches.
#[derive(Debug)]
pub(super) struct Classified {
    pub(super) message: Framed,
    /// Nothing where the method names no keys.
    pub(super) footprint: Footprint,
}

impl<S> Layer<S> for ClassifyLayer {
    type Service = Classify<S>;

    fn layer(&self, inner: S) -> Classify<S> {
        Classify { inner }
    }
}

impl<S> Service<Request<Framed>> for Classify<S>
where
    S: Service<Request<Classified>, Response = Response<Body>, Error = Status>,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = Either<S::Future, Ready<Answered>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Framed>) -> Self::Future {
        let found = Shape::of(request.uri().path())
            .map_or_else(|| Ok(Footprint::default()), |shape| footprint(shape, &request.body().message()));
        match found {
            Ok(footprint) => {
                let request = request.map(|message| Classified { message, footprint });
                Either::Left(self.inner.call(request))
            }
            Err(refused) => Either::Right(ready(Err(refused))),
        }
    }
}

#[cfg(test)]
mod tests {
    use kubebrain_proto::etcdserverpb as pb;
    use tower::service_fn;

    use super::*;

    #[tokio::test]
    async fn the_method_says_how_a_message_is_read() {
        let inner = service_fn(|request: Request<Classified>| {
            let keys = request.body().footprint.spans.iter().map(|span| format!("{:?} ", span.range()));
            ready(Err::<Response<Body>, _>(Status::aborted(keys.collect::<String>())))
        });
        let mut classify = ClassifyLayer.layer(inner);
        let put = Framed::of(&pb::PutRequest { key: "k".into(), lease: 7, ..Default::default() });
        for (path, message, keys) in [
            ("/etcdserverpb.KV/Put", put.clone(), 1),
            ("/etcdserverpb.KV/Range", Framed::of(&pb::RangeRequest::default()), 0),
            ("/etcdserverpb.Lease/LeaseLeases", put, 0),
        ] {
            let request = Request::post(path).body(message).expect("a request");
            let asked = classify.call(request).await.expect_err("by the next layer");
            assert_eq!(
                (asked.code(), asked.message().split_whitespace().count()),
                (tonic::Code::Aborted, keys)
            );
        }
        let broken = Request::post("/etcdserverpb.KV/Txn").body(Framed::new(b"\xff")).expect("a request");
        let refused = classify.call(broken).await.expect_err("not protobuf");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}
