//! [`Gate`]: the network before one group. It stays when brains come and go, delays what passes, and cuts connections.
//!
//! A cut ends every stream at once and every connection with its next request: hyper makes a copy of the service for
//! each request in the connection's own task, and a copy that unwinds takes that task, and nothing else, with it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use kubebrain_brain::service::Endpoint;
use kubebrain_net::serve::{MemoryConnector, ServeConfig, memory, serve_memory};
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

/// What everybody on the way shares.
pub(crate) struct State {
    /// The brain that serves; none while it is down.
    endpoint: Mutex<Option<Endpoint>>,
    /// Grows with each cut.
    epoch: watch::Sender<u64>,
    cuts: AtomicU64,
    /// Nothing passes before.
    stalled: Mutex<Instant>,
    rng: Mutex<StdRng>,
    /// How often something is late, and by how much at most.
    late: Mutex<(f64, u64)>,
}

/// See the module.
pub(crate) struct Gate {
    state: Arc<State>,
    connector: MemoryConnector,
    _accepting: Stopper,
}

struct Door {
    state: Arc<State>,
    /// Of the connection that this copy serves; the first copy serves none.
    connection: Option<u64>,
}

impl Gate {
    pub(crate) fn open(seed: u64, late: (f64, u64)) -> Self {
        let state = Arc::new(State {
            endpoint: Mutex::new(None),
            epoch: watch::Sender::new(0),
            cuts: AtomicU64::new(0),
            stalled: Mutex::new(Instant::now()),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            late: Mutex::new(late),
        });
        let (connector, listener) = memory();
        let accepting = Stopper::default();
        let door = Door { state: Arc::clone(&state), connection: None };
        tokio::spawn(serve_memory(listener, door, ServeConfig::default(), accepting.handle()));
        Self { state, connector, _accepting: accepting }
    }

    pub(crate) fn connector(&self) -> MemoryConnector {
        self.connector.clone()
    }

    /// Who serves from now on; without anybody every connection is cut.
    pub(crate) fn lead_to(&self, endpoint: Option<Endpoint>) {
        let down = endpoint.is_none();
        *self.state.endpoint.lock() = endpoint;
        if down {
            self.cut();
        }
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        self.state.cuts.fetch_add(1, Ordering::Relaxed);
        self.state.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// Lets nothing pass for a while.
    pub(crate) fn stall(&self, time: Duration) {
        *self.state.stalled.lock() = Instant::now() + time;
    }

    /// No more trouble from here on.
    pub(crate) fn calm(&self) {
        *self.state.late.lock() = (0.0, 0);
        *self.state.stalled.lock() = Instant::now();
    }
}

impl State {
    fn delay(&self) -> Option<Pin<Box<Sleep>>> {
        let stalled = *self.stalled.lock();
        if stalled > Instant::now() {
            return Some(Box::pin(sleep_until(stalled)));
        }
        let (chance, millis_max) = *self.late.lock();
        let mut rng = self.rng.lock();
        let late = rng.random_bool(chance).then(|| rng.random_range(0..=millis_max));
        late.map(|millis| Box::pin(sleep(Duration::from_millis(millis))))
    }
}

impl Clone for Door {
    fn clone(&self) -> Self {
        let epoch = self.state.cuts.load(Ordering::Relaxed);
        if let Some(connection) = self.connection
            && (connection != epoch || self.state.endpoint.lock().is_none())
        {
            std::panic::resume_unwind(Box::new("a connection is cut"));
        }
        Self { state: Arc::clone(&self.state), connection: Some(epoch) }
    }
}

impl Service<Request<Incoming>> for Door {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let state = Arc::clone(&self.state);
        Box::pin(async move {
            let mut cut = state.epoch.subscribe();
            cut.mark_unchanged();
            let answer = async {
                if let Some(delay) = state.delay() {
                    delay.await;
                }
                let endpoint = state.endpoint.lock().clone();
                let Some(mut endpoint) = endpoint else {
                    std::panic::resume_unwind(Box::new("nobody serves"))
                };
                let answer = endpoint.call(request).await;
                if let Some(delay) = state.delay() {
                    delay.await;
                }
                answer
            };
            let mut heard = cut.clone();
            let answer = tokio::select! {
                biased;
                _ = heard.changed() => std::panic::resume_unwind(Box::new("a stream is cut")),
                answer = answer => answer,
            };
            let Ok(answer) = answer;
            let cut = Box::pin(async move {
                let _gone = cut.changed().await;
            });
            Ok(answer.map(|body| {
                Body::new(Passing { body, cut, state: Arc::clone(&state), delay: None, looked: false })
            }))
        })
    }
}

/// An answer on its way.
struct Passing {
    body: Body,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    state: Arc<State>,
    delay: Option<Pin<Box<Sleep>>>,
    /// The next frame was delayed already.
    looked: bool,
}

impl http_body::Body for Passing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(Status::unavailable("cut"))));
        }
        loop {
            if let Some(delay) = &mut this.delay {
                ready!(delay.as_mut().poll(cx));
                this.delay = None;
            }
            if this.looked {
                let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
                this.looked = false;
                return Poll::Ready(frame);
            }
            this.looked = true;
            this.delay = this.state.delay();
        }
    }
}
