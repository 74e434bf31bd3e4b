//! `Peer/Standing` and `Admin`: what this brain is in its group, told to proxies and to people whatever its role; and the
//! cluster's placement, by whoever decides it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{Stream, stream};
use http::{Request, Response};
use kubebrain_proto::admin;
use kubebrain_proto::peer::{StandingRequest, StandingResponse, standing_response};
use kubebrain_shared::stop::Stop;
use kubebrain_shared::{metadata, method};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tower::{Service, service_fn};

use super::codec;
use super::codec::TypedCodec;
use super::inner::Audience;
use crate::request::Limits;
use crate::state::upstream::Following;
use crate::store::Store;

/// Proxies take a brain that says nothing for a few times as long for dead.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The master of the home group, wherever it is.
#[async_trait]
pub trait Decides: Send + Sync + 'static {
    /// See [`Authority::report`](crate::authority::Authority::report).
    ///
    /// # Errors
    /// As there; `Unavailable` where the home group's master is not reached. With `is_passed_on` only if it is here.
    ///
    /// # Cancel safety
    /// Safe: a read.
    async fn report(&self, query: admin::PlacementQuery, is_passed_on: bool) -> Decided;

    /// See [`Authority::change`](crate::authority::Authority::change).
    ///
    /// # Errors
    /// As of [`Decides::report`].
    ///
    /// # Cancel safety
    /// A dropped call may have been carried out.
    async fn change(&self, command: admin::PlacementCommand, is_passed_on: bool) -> Decided;
}

/// What whoever decides says.
pub type Decided = Result<admin::PlacementReport, Status>;

/// What a brain is at a moment.
#[derive(Clone, Default)]
pub struct Standing {
    /// It orders the group's writes.
    pub master: bool,
    /// It answers reads and serves watches.
    pub reads: bool,
    /// Why it does not, for people.
    pub trouble: String,
    /// The epoch of the master that it is or follows; 0 where it knows none.
    pub epoch: u64,
    /// The group's master and its peer URLs; empty while there is none.
    pub master_name: String,
    /// See `master_name`.
    pub master_peer_urls: Vec<String>,
    /// Whose revisions are told.
    pub store: Option<Store>,
    /// How a slave follows.
    pub following: Option<watch::Receiver<Following>>,
}

/// Tells what this brain is. Clones tell the same.
#[derive(Clone)]
pub struct Announcer {
    inner: Arc<Inner>,
}

struct Inner {
    /// What never changes.
    brain: StandingResponse,
    /// Its id; 0 until the store has told it.
    member: AtomicU64,
    standing: watch::Sender<Standing>,
    /// Who decides what the placement is; `None` of a brain that is part of no cluster.
    decides: Mutex<Option<Arc<dyn Decides>>>,
    stop: Stop,
}

impl Announcer {
    /// Of a brain that is nothing yet. `brain` says what stays: its group, name, URLs and version. Streams end with
    /// `stop`.
    pub fn new(brain: StandingResponse, stop: Stop) -> Self {
        let standing = watch::Sender::new(Standing::default());
        let member = AtomicU64::new(brain.member_id);
        Self { inner: Arc::new(Inner { brain, member, standing, decides: Mutex::default(), stop }) }
    }

    /// It is the member of this id, as its store says.
    pub fn call(&self, member: u64) {
        self.inner.member.store(member, Ordering::Relaxed);
    }

    /// Calls about the placement are answered so.
    pub fn decided_by(&self, decides: Arc<dyn Decides>) {
        *self.inner.decides.lock() = Some(decides);
    }

    fn decides(&self) -> Result<Arc<dyn Decides>, Status> {
        let why =
            "kubebrain: this brain is part of no cluster: its group owns everything, without a placement";
        self.inner.decides.lock().clone().ok_or_else(|| Status::failed_precondition(why))
    }

    /// From now on it is this.
    pub fn tell(&self, standing: Standing) {
        self.inner.standing.send_replace(standing);
    }

    /// Says whether it is its group's master, whenever that is asked. It keeps nothing from ending.
    pub fn leads(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let standing = self.inner.standing.subscribe();
        move || standing.borrow().master
    }

    /// What it is now.
    pub fn now(&self) -> StandingResponse {
        let standing = self.inner.standing.borrow();
        let role = match standing.master {
            true => standing_response::Role::Master,
            false => standing_response::Role::Slave,
        };
        let behind = standing.following.as_ref().filter(|_| !standing.master);
        let behind = behind.and_then(|following| following.borrow().level_at);
        let behind = behind.map_or(Duration::ZERO, |level_at| level_at.elapsed());
        let shared = standing.store.as_ref().map(Store::state);
        let held = shared.map(|shared| shared.held.load());
        let pair = held.as_ref().map(|held| held.pair()).unwrap_or_default();
        StandingResponse {
            role: role.into(),
            reads: standing.reads,
            trouble: match standing.trouble.is_empty() {
                true => shared.and_then(|shared| shared.unplaced()).unwrap_or_default(),
                false => standing.trouble.clone(),
            },
            epoch: standing.epoch,
            master: standing.master_name.clone(),
            master_peer_urls: standing.master_peer_urls.clone(),
            revision: shared.map_or(0, |shared| shared.committed().to_wire()),
            compacted: shared.map_or(-1, |shared| shared.compacted()),
            behind_ms: u64::try_from(behind.as_millis()).unwrap_or(u64::MAX),
            placement_lineage: held.as_ref().map_or(0, |held| held.document().id().lineage),
            placement_number: pair.number,
            placement_adopted: pair.adopted,
            is_home: held.as_ref().is_some_and(|held| {
                pair.number > 0 && held.table().home().as_str() == self.inner.brain.group
            }),
            stored_bytes: shared.map_or(0, |shared| shared.engine.size()),
            member_id: self.inner.member.load(Ordering::Relaxed),
            ..self.inner.brain.clone()
        }
    }

    /// At once, at every change, and with each heartbeat.
    fn stream(self) -> impl Stream<Item = Result<StandingResponse, Status>> + Send {
        let changes = self.inner.standing.subscribe();
        let begin = (self, changes, None::<watch::Receiver<u64>>, Instant::now());
        stream::unfold(begin, |(announcer, mut changes, placed, due)| async move {
            let placed = async move {
                match placed {
                    Some(mut placed) => drop(placed.changed().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! { biased;
                () = announcer.inner.stop.asked() => return None,
                _changed = changes.changed() => {}
                () = placed => {}
                () = sleep_until(due) => {}
            }
            changes.mark_unchanged();
            let placed = changes.borrow().store.as_ref().map(|store| store.state().placed());
            Some((Ok(announcer.now()), (announcer, changes, placed, Instant::now() + HEARTBEAT)))
        })
    }

    fn groups(&self) -> admin::GroupsResponse {
        let standing = self.now();
        admin::GroupsResponse {
            server: "brain".to_owned(),
            name: standing.name.clone(),
            version: standing.version.clone(),
            groups: vec![admin::Group {
                name: standing.group.clone(),
                brains: vec![admin::Brain { standing: Some(standing), ..admin::Brain::default() }],
            }],
        }
    }

    async fn answer(self, own: Own, request: Request<Body>) -> Response<Body> {
        let limits = Limits { request_bytes_max: codec::PLACE_BYTES_MAX, ..Limits::default() };
        let is_passed_on = request.headers().contains_key(metadata::PASSED_ON);
        match own {
            Own::Groups => {
                let call = service_fn(move |_request: tonic::Request<admin::GroupsRequest>| {
                    let groups = self.groups();
                    async move { Ok::<_, Status>(tonic::Response::new(groups)) }
                });
                codec::server(TypedCodec::default(), &limits).unary(call, request).await
            }
            Own::Standing => {
                let call = service_fn(move |_request: tonic::Request<StandingRequest>| {
                    let stream = self.clone().stream();
                    async move { Ok::<_, Status>(tonic::Response::new(stream)) }
                });
                codec::server(TypedCodec::default(), &limits).server_streaming(call, request).await
            }
            Own::Placement => {
                let call = service_fn(move |query: tonic::Request<admin::PlacementQuery>| {
                    let decides = self.decides();
                    async move {
                        decides?.report(query.into_inner(), is_passed_on).await.map(tonic::Response::new)
                    }
                });
                codec::server(TypedCodec::default(), &limits).unary(call, request).await
            }
            Own::ChangePlacement => {
                let call = service_fn(move |command: tonic::Request<admin::PlacementCommand>| {
                    let decides = self.decides();
                    async move {
                        decides?.change(command.into_inner(), is_passed_on).await.map(tonic::Response::new)
                    }
                });
                codec::server(TypedCodec::default(), &limits).unary(call, request).await
            }
        }
    }
}

/// A call that is about this brain, or about the placement.
#[derive(Clone, Copy)]
enum Own {
    Groups,
    Standing,
    Placement,
    ChangePlacement,
}

impl Own {
    fn of(audience: Audience, path: &str) -> Option<Self> {
        match (audience, path) {
            (Audience::Clients, method::GROUPS) => Some(Self::Groups),
            (Audience::Peers, method::STANDING) => Some(Self::Standing),
            (_, method::ADMIN_PLACEMENT) => Some(Self::Placement),
            (_, method::CHANGE_PLACEMENT) => Some(Self::ChangePlacement),
            _ => None,
        }
    }
}

/// A listener's service that also says what the brain is, also while there is nothing else that it can answer.
#[derive(Clone)]
pub struct Announced<S> {
    announcer: Announcer,
    audience: Audience,
    inner: S,
}

impl<S> Announced<S> {
    /// Before `inner`.
    pub const fn new(announcer: Announcer, audience: Audience, inner: S) -> Self {
        Self { announcer, audience, inner }
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S, B> Service<Request<B>> for Announced<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if let Some(own) = Own::of(self.audience, request.uri().path()) {
            let announcer = self.announcer.clone();
            return Box::pin(async move { Ok(announcer.answer(own, request.map(Body::new)).await) });
        }
        Box::pin(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt as _;
    use kubebrain_shared::stop::Stopper;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_standing_is_told_at_once_when_it_changes_and_each_second() {
        let stopper = Stopper::default();
        let brain = StandingResponse { name: "a".to_owned(), ..StandingResponse::default() };
        let announcer = Announcer::new(brain, stopper.handle());
        let mut told = pin!(announcer.clone().stream());
        let began = Instant::now();
        let first = told.next().await.expect("open").expect("told");
        assert_eq!(
            (first.role(), first.reads, first.name.as_str()),
            (standing_response::Role::Slave, false, "a")
        );
        announcer.tell(Standing { master: true, reads: true, epoch: 3, ..Standing::default() });
        let second = told.next().await.expect("open").expect("told");
        assert_eq!((second.role(), second.reads, second.epoch), (standing_response::Role::Master, true, 3));
        assert_eq!(began.elapsed(), Duration::ZERO);
        let third = told.next().await.expect("open").expect("told");
        assert_eq!((third, began.elapsed()), (second, HEARTBEAT));
        stopper.ask();
        assert!(told.next().await.is_none());
    }
}
