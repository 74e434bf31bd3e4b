//! [`KindsTurn`]: which kind a request is about, by what the placement lets through of it, and that no kind takes all the
//! places at work.
//!
//! What a proxy refuses here its group would refuse too, which counts the requests of all proxies.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use kubebrain_net::kinds::{Entered, Kind, Kinds, has_place};
use kubebrain_net::trace;
use kubebrain_shared::fault::Fault;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::classify::Classified;
use super::held::Held;
use crate::classify::{Footprint, Shape, writes};
use crate::grpc::Answered;

/// Makes a [`KindsTurn`].
#[derive(Clone)]
pub(super) struct KindsLayer {
    kinds: Arc<Kinds>,
    at_work: Arc<Semaphore>,
    places: usize,
}

/// See the module.
#[derive(Clone)]
pub(super) struct KindsTurn<S> {
    inner: S,
    by: KindsLayer,
}

impl KindsLayer {
    /// Of `places` at work those in `at_work` are free.
    pub(super) fn new(kinds: &Arc<Kinds>, at_work: &Arc<Semaphore>, places: usize) -> Self {
        Self { kinds: Arc::clone(kinds), at_work: Arc::clone(at_work), places }
    }

    /// `None` for what is about no kind.
    fn enter(&self, path: &str, asked: &Classified) -> Result<Option<Entered>, Fault> {
        let Some(kind) = self.kind(&asked.footprint) else { return Ok(None) };
        trace::about(kind.name());
        // This request has one of the places already.
        let taken = self.places.saturating_sub(self.at_work.available_permits() + 1) as u64;
        if !has_place(kind.in_flight(), taken, self.places as u64) {
            return Err(kind.refuse());
        }
        let entered = kind.enter()?;
        if self.kinds.limit_writes()
            && let Some(shape) = Shape::of(path)
        {
            Kind::write(&writes(shape, &asked.message.message(), &self.kinds))?;
        }
        Ok(Some(entered))
    }

    /// By the first keys, which in a transaction are those that it compares.
    fn kind(&self, footprint: &Footprint) -> Option<Arc<Kind>> {
        let first = footprint.spans.first()?;
        match &first.end[..] {
            _ if footprint.touches_compact_key() => None, // API servers agree on a compaction there
            [] => Some(self.kinds.of_key(&first.key)),
            _ => Some(self.kinds.of_range(&first.range())),
        }
    }
}

impl<S> Layer<S> for KindsLayer {
    type Service = KindsTurn<S>;

    fn layer(&self, inner: S) -> KindsTurn<S> {
        KindsTurn { inner, by: self.clone() }
    }
}

impl<S> Service<Request<Classified>> for KindsTurn<S>
where
    S: Service<Request<Classified>, Response = Response<Body>, Error = Status>,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = Either<Held<S::Future, Option<Entered>>, Ready<Answered>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Classified>) -> Self::Future {
        match self.by.enter(request.uri().path(), request.body()) {
            Ok(entered) => Either::Left(Held::new(self.inner.call(request), entered)),
            Err(refused) => Either::Right(ready(Err(refused.into()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use bytes::Bytes;
    use kubebrain_proto::etcdserverpb as pb;
    use kubebrain_shared::method;
    use kubebrain_shared::placement::Placement;
    use prost::Message;
    use tower::service_fn;

    use super::*;
    use crate::classify::footprint;
    use crate::grpc::Framed;

    fn asked(path: &str, message: &impl Message) -> Request<Classified> {
        let message = Framed::of(message);
        let footprint = Shape::of(path).map(|shape| footprint(shape, &message.message()).expect("a request"));
        let asked = Classified { message, footprint: footprint.unwrap_or_default() };
        Request::post(path).body(asked).expect("a request")
    }

    fn put(key: &str, value: usize) -> pb::PutRequest {
        pb::PutRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: vec![0; value].into(),
            ..<_>::default()
        }
    }

    fn by(limits: &str) -> KindsLayer {
        let kinds = Arc::new(Kinds::default());
        let text = format!("home: a\ndefault: a\ngroups: {{ a: {{}} }}\nlimits: [{limits}]\n");
        kinds.go_by(&Placement::parse(&text).expect("a placement"));
        KindsLayer::new(&kinds, &Arc::new(Semaphore::new(80)), 80)
    }

    async fn refused(layer: &KindsLayer, request: Request<Classified>) -> Option<Fault> {
        let mut service = layer.layer(service_fn(async |_| Ok::<_, Status>(Response::new(Body::empty()))));
        service.call(request).await.err().map(|status| Fault::of(&status).expect("a known one"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_holds_for_whatever_writes_its_kind() {
        let layer = by(
            "{ kind: events, writesPerSecond: 2 }, { kind: secrets, inFlight: 0 }, { kind: other, inFlight: 0 }",
        );
        let op = |put| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
        let txn = |key: &str| pb::TxnRequest { success: vec![op(put(key, 1))], ..<_>::default() };
        let events = "/registry/events/ns/a";
        assert_eq!(refused(&layer, asked(method::PUT, &put(events, 1))).await, None);
        assert_eq!(refused(&layer, asked(method::TXN, &txn(events))).await, None);
        let full = Some(Fault::TooManyRequests);
        assert_eq!(refused(&layer, asked(method::TXN, &txn(events))).await, full);
        let delete = pb::DeleteRangeRequest { key: events.into(), ..<_>::default() };
        assert_eq!(refused(&layer, asked(method::DELETE_RANGE, &delete)).await, full);
        let read =
            |key: &str| pb::RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..<_>::default() };
        assert_eq!(refused(&layer, asked(method::RANGE, &read(events))).await, None);
        assert_eq!(refused(&layer, asked(method::RANGE, &read("/registry/secrets/a"))).await, full);
        assert_eq!(refused(&layer, asked(method::PUT, &put("key", 1))).await, full);
        assert_eq!(refused(&layer, asked(method::TXN, &txn("compact_rev_key"))).await, None);
        assert_eq!(refused(&layer, asked(method::LEASE_LEASES, &pb::LeaseLeasesRequest {})).await, None);
    }

    #[tokio::test]
    async fn the_last_eighth_of_the_places_is_for_other_kinds() {
        let layer = by("");
        let mut service = layer.layer(service_fn(|_| pending::<Answered>()));
        let mut at_work = Vec::new();
        let mut enter = |key: &str| {
            let place = layer.at_work.clone().try_acquire_owned().expect("admission has seen to it");
            match service.call(asked(method::PUT, &put(key, 1))) {
                Either::Left(answering) => at_work.push((answering, place)),
                Either::Right(_) => return false,
            }
            true
        };
        assert_eq!((0..80).filter(|_| enter("/registry/events/a")).count(), 70);
        assert_eq!((0..9).filter(|_| enter("/registry/leases/a")).count(), 9);
    }
}
