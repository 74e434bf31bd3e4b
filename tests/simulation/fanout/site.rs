//! [`Site`]: one group of three brains, as a proxy reaches them: late, cut, lagging, dead, and wrong on purpose.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use kubebrain_brain::config::{self, ValueCache};
use kubebrain_brain::engine::faulty::{Faulty, Mood};
use kubebrain_brain::service::{Announced, Announcer, Audience, Endpoint, EndpointConfig, Members, Standing};
use kubebrain_brain::store::{Fenced, Slave, Store, Upstream, UpstreamError};
use kubebrain_net::serve::{MemoryConnector, ServeConfig, memory, serve_memory};
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::peer::{FollowResponse, StandingResponse};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::method::{self, Answers};
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stopper;
use kubebrain_shared::{metadata, wire};
use parking_lot::Mutex;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::Broken;
use crate::engine::Disk;

/// What goes wrong in a run, drawn from its seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    pub(super) troubled: bool,
    /// How far slaves are behind, in milliseconds at most.
    lag: u64,
    /// How often an answer is late, and by how many milliseconds at most.
    late: (f64, u64),
    /// How often an answer is cut off in its body.
    cut: f64,
}

impl Traits {
    pub(super) fn new(rng: &mut StdRng) -> Self {
        let troubled = rng.random_bool(0.8);
        let chance =
            |rng: &mut StdRng, of: f64, value: f64| if troubled && rng.random_bool(of) { value } else { 0.0 };
        let lag = if rng.random_bool(0.5) { 40 } else { 400 };
        Self {
            troubled,
            lag: if troubled { lag } else { 2 },
            late: (chance(rng, 0.6, 0.1), if rng.random_bool(0.5) { 60 } else { 3000 }),
            cut: chance(rng, 0.4, 0.03),
        }
    }
}

/// See the module.
pub(super) struct Site {
    group: GroupName,
    disk: Arc<Disk>,
    table: Arc<Placement>,
    traits: Traits,
    broken: Broken,
    rng: Mutex<StdRng>,
    slots: Vec<Slot>,
    stopper: Stopper,
}

/// Where a brain is reached, whichever process it is.
struct Slot {
    announcer: Announcer,
    running: Mutex<Option<Running>>,
}

struct Running {
    store: Store,
    endpoint: Endpoint,
    engine: Arc<Faulty>,
    slave: Option<Slave>,
    gone: watch::Sender<bool>,
}

impl Site {
    pub(super) fn new(
        disk: Arc<Disk>,
        table: Arc<Placement>,
        traits: Traits,
        broken: Broken,
        seed: u64,
    ) -> Arc<Self> {
        let group = GroupName::parse("core").expect("a name");
        let stopper = Stopper::default();
        let slot = |index: usize| {
            let standing = StandingResponse {
                group: group.to_string(),
                name: format!("n{index}"),
                peer_urls: vec![format!("memory://#{index}")],
                ..StandingResponse::default()
            };
            Slot { announcer: Announcer::new(standing, stopper.handle()), running: Mutex::default() }
        };
        let slots = (0..3).map(slot).collect();
        let rng = Mutex::new(StdRng::seed_from_u64(seed ^ 0xfa_0017));
        Arc::new(Self { group, disk, table, traits, broken, rng, slots, stopper })
    }

    fn chance(&self, of: f64) -> bool {
        self.rng.lock().random_bool(of)
    }

    fn upto(&self, millis: u64) -> Duration {
        Duration::from_millis(self.rng.lock().random_range(0..=millis))
    }

    /// Ways to all brains.
    pub(super) fn connectors(self: &Arc<Self>) -> Vec<MemoryConnector> {
        let connectors = self.slots.iter().enumerate().map(|(index, slot)| {
            let (connector, listener) = memory();
            let door = Door { site: Arc::clone(self), index };
            let announced = Announced::new(slot.announcer.clone(), Audience::Peers, door);
            tokio::spawn(serve_memory(listener, announced, ServeConfig::default(), self.stopper.handle()));
            connector
        });
        connectors.collect()
    }

    fn process(&self) -> (config::Config, Arc<Faulty>) {
        let seed = self.rng.lock().random();
        let engine = Arc::new(Faulty::new(Arc::clone(&self.disk) as _, Mood::default(), seed));
        let small = self.chance(0.3);
        let config = config::Config {
            window_bytes: if small { 1 } else { 1 << 20 },
            value_cache: ValueCache::new(if small { 1 } else { 1 << 20 }),
            ..config::Config::new(self.group.clone(), "simulated")
        };
        (config, engine)
    }

    fn running(&self, store: Store, engine: Arc<Faulty>, slave: Option<Slave>) -> Running {
        let config = EndpointConfig {
            audience: Audience::Peers,
            progress_interval: Duration::from_secs(1),
            name: "simulated".into(),
            client_urls: Vec::new(),
            peer_urls: Vec::new(),
            members: Members::led_by(store.state().identity().member),
        };
        let endpoint = Endpoint::new(store.clone(), config, self.stopper.handle());
        Running { store, endpoint, engine, slave, gone: watch::Sender::new(false) }
    }

    /// A brain becomes the master, and all others follow it.
    pub(super) async fn lead(self: &Arc<Self>, index: usize) {
        self.kill(index);
        let (config, engine) = self.process();
        let store = Store::open(config, engine.clone(), Arc::clone(&self.table)).await.expect("opens");
        let (epoch, slot) = (store.state().identity().epoch, &self.slots[index]);
        let standing = Standing {
            master: true,
            reads: true,
            epoch,
            master_peer_urls: vec![format!("memory://#{index}")],
            store: Some(store.clone()),
            ..Standing::default()
        };
        *slot.running.lock() = Some(self.running(store, engine, None));
        slot.announcer.tell(standing);
        for other in (0..self.slots.len()).filter(|other| *other != index) {
            self.follow(other, index, epoch);
        }
    }

    /// A brain begins anew, as a slave.
    pub(super) fn follow(self: &Arc<Self>, index: usize, master: usize, epoch: u64) {
        self.kill(index);
        let (config, engine) = self.process();
        let (store, mut slave) = Store::follow(config, engine.clone(), Arc::clone(&self.table));
        slave.attach(Arc::new(Link { site: Arc::clone(self), master }));
        let following = slave.state();
        let standing = Standing {
            epoch,
            master_peer_urls: vec![format!("memory://#{master}")],
            store: Some(store.clone()),
            following: Some(following.clone()),
            ..Standing::default()
        };
        let announcer = self.slots[index].announcer.clone();
        *self.slots[index].running.lock() = Some(self.running(store, engine, Some(slave)));
        announcer.tell(standing.clone());
        tokio::spawn(async move {
            let mut following = following;
            while following.changed().await.is_ok() {
                let reads = following.borrow_and_update().level;
                announcer.tell(Standing { reads, ..standing.clone() });
            }
        });
    }

    /// A process ends at once.
    pub(super) fn kill(&self, index: usize) {
        if let Some(running) = self.slots[index].running.lock().take() {
            running.engine.kill();
            running.gone.send_replace(true);
        }
    }

    /// Who is the master, and since when.
    pub(super) fn master(&self) -> Option<(usize, u64)> {
        self.slots.iter().enumerate().find_map(|(index, slot)| {
            let running = slot.running.lock();
            let running = running.as_ref().filter(|running| running.slave.is_none())?;
            Some((index, running.store.state().identity().epoch))
        })
    }

    fn store(&self, index: usize) -> Option<(Store, watch::Receiver<bool>)> {
        let running = self.slots[index].running.lock();
        running.as_ref().map(|running| (running.store.clone(), running.gone.subscribe()))
    }
}

/// A slave's way to its master.
struct Link {
    site: Arc<Site>,
    master: usize,
}

fn lost() -> UpstreamError {
    UpstreamError::Lost("it is gone".into())
}

#[async_trait]
impl Upstream for Link {
    async fn follow(
        &self,
        from: u64,
    ) -> Result<BoxStream<'static, Result<FollowResponse, UpstreamError>>, UpstreamError> {
        let (store, mut gone) = self.site.store(self.master).ok_or_else(lost)?;
        let site = Arc::clone(&self.site);
        let responses = store.feed(from).then(move |response| {
            let site = Arc::clone(&site);
            async move {
                sleep(site.upto(site.traits.lag)).await;
                response.map_err(|fault| match fault {
                    Fault::Compacted => UpstreamError::Compacted,
                    other => UpstreamError::Lost(other.wire().1.to_owned()),
                })
            }
        });
        let gone = async move { drop(gone.wait_for(|gone| *gone).await.map(|_| ())) };
        Ok(responses.take_until(Box::pin(gone)).boxed())
    }

    async fn ask(&self, floor: Revision) -> Result<Fenced, UpstreamError> {
        let (store, gone) = self.site.store(self.master).ok_or_else(lost)?;
        let fenced =
            store.claim(floor).await.map_err(|fault| UpstreamError::Lost(fault.wire().1.to_owned()))?;
        sleep(self.site.upto(3)).await;
        if *gone.borrow() { Err(lost()) } else { Ok(fenced) }
    }
}

/// What a proxy meets at a brain's address.
#[derive(Clone)]
struct Door {
    site: Arc<Site>,
    index: usize,
}

impl Door {
    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let (site, index) = (&self.site, self.index);
        if site.chance(site.traits.late.0) {
            sleep(site.upto(site.traits.late.1)).await;
        }
        let running = site.slots[index].running.lock().as_ref().map(|running| {
            (
                running.endpoint.clone(),
                running.store.clone(),
                running.slave.is_some(),
                running.gone.subscribe(),
            )
        });
        let Some((mut endpoint, store, is_slave, mut gone)) = running else {
            return Status::unavailable("nobody is there").into_http();
        };
        if is_slave && method::answers(request.uri().path()) == Answers::Master {
            return metadata::not_master(&[]).into_http();
        }
        let part = request.headers().contains_key(metadata::FENCED);
        let request = self.spoil(request.map(Body::new), &store, is_slave).await;
        let work = async {
            let Ok(response) = Service::call(&mut endpoint, request).await;
            if part { self.spoil_answer(response).await } else { response }
        };
        let response = tokio::select! {
            response = work => response,
            _gone = gone.wait_for(|gone| *gone) => return Status::unavailable("it is gone").into_http(),
        };
        match site.chance(site.traits.cut) {
            true => {
                let (head, body) = response.into_parts();
                let first = body.collect().await.map(|whole| whole.to_bytes()).unwrap_or_default();
                Response::from_parts(head, Body::new(Full::new(first.slice(..first.len() / 2))))
            }
            false => response,
        }
    }

    /// What a wrong brain understands.
    async fn spoil(&self, request: Request<Body>, store: &Store, is_slave: bool) -> Request<Body> {
        let (mut head, body) = request.into_parts();
        if head.uri.path() != method::RANGE && head.uri.path() != method::RANGE_STREAM {
            return Request::from_parts(head, body);
        }
        let whole = body.collect().await.map(|whole| whole.to_bytes()).unwrap_or_default();
        let mut buffer = BytesMut::from(&whole[..]);
        let message = wire::Message::split(&mut buffer).ok().flatten().unwrap_or_default();
        let mut range = pb::RangeRequest::decode(message).unwrap_or_default();
        let part = head.headers.contains_key(metadata::FENCED);
        let committed = store.state().committed().to_wire();
        match self.site.broken {
            Broken::AnotherRevision if part => range.revision = 0,
            Broken::SkipsCutKey if part => range.key = [&range.key[..], b"\0"].concat().into(),
            Broken::NotReached if part && is_slave => range.revision = range.revision.min(committed),
            Broken::UnfencedCut if head.headers.contains_key(metadata::CUT) => range.serializable = true,
            _ => {}
        }
        head.headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        Request::from_parts(head, Body::new(Full::new(wire::frame(&range.encode_to_vec()))))
    }

    /// One that shows what was never written: as long as what was.
    async fn spoil_answer(&self, response: Response<Body>) -> Response<Body> {
        if self.site.broken != Broken::Unsettled || !self.site.chance(0.2) {
            return response;
        }
        let (head, body) = response.into_parts();
        let Ok(whole) = body.collect().await else { return Status::unavailable("cut").into_http() };
        let trailers = whole.trailers().cloned();
        let mut bytes = BytesMut::from(&whole.to_bytes()[..]);
        if let Some(at) = bytes.windows(2).position(|two| two == b"vv") {
            bytes[at] = b'u';
        }
        let body = Full::new(Bytes::from(bytes)).with_trailers(async move { trailers.map(Ok) });
        Response::from_parts(head, Body::new(body))
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
        let door = self.clone();
        Box::pin(async move { Ok(door.answer(request).await) })
    }
}
