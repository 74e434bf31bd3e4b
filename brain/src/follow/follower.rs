//! [`Follower`]: the one task that moves a slave, from one subscription to the next.

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use kubebrain_proto::peer::{FollowResponse, PlacementState};
use kubebrain_shared::placement::{Pair, Placement};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::apply::{self, Told};
use super::load::Loading;
use crate::config::Config;
use crate::decide::held::Held;
use crate::fence::slave::ask_master;
use crate::state::group::GroupState;
use crate::state::upstream::{Upstream, UpstreamError};

/// A master that says nothing for so long, which is six times what it should, is given up.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Before a subscription is tried again; doubled up to a second.
const RETRY: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

type Responses = BoxStream<'static, Result<FollowResponse, UpstreamError>>;
/// The revision that the master had when it was asked.
type Goal = Pin<Box<dyn Future<Output = Result<u64, String>> + Send>>;

/// The task that applies what the master sends, and subscribes again where a stream is lost.
pub(super) struct Follower {
    state: Arc<GroupState>,
    config: Arc<Config>,
    upstream: watch::Receiver<Option<Arc<dyn Upstream>>>,
    /// By which it goes where its group goes by no document.
    table: Arc<Placement>,
    /// What it goes by once it has come as far as that was recorded.
    next: Option<Held>,
    /// All keys, before they are shown.
    loading: Option<Loading>,
    /// Level is whoever has applied up to here; `None` while the master is asked.
    goal: Option<u64>,
    /// Something was heard in this subscription.
    spoke: bool,
    #[cfg(any(test, feature = "faults"))]
    withheld: Vec<apply::Arrived>,
    #[cfg(any(test, feature = "faults"))]
    unheard: std::collections::VecDeque<PlacementState>,
}

/// Why a subscription ended.
enum End {
    /// It is tried again from where it was.
    Lost(String),
    /// What comes next is gone: everything is loaded anew.
    Compacted,
    /// Which keys are the group's is known only now: everything is loaded anew.
    Placed,
}

impl Follower {
    pub(super) fn new(state: Arc<GroupState>, config: Arc<Config>, table: Arc<Placement>) -> Self {
        let upstream = state.follow.upstream();
        Self {
            state,
            config,
            upstream,
            table,
            next: None,
            loading: None,
            goal: None,
            spoke: false,
            #[cfg(any(test, feature = "faults"))]
            withheld: Vec::new(),
            #[cfg(any(test, feature = "faults"))]
            unheard: std::collections::VecDeque::new(),
        }
    }

    /// Until it is aborted, which it may be anywhere: what is applied is applied at once.
    pub(super) async fn run(mut self) {
        let mut delay = RETRY;
        loop {
            let Some(upstream) = self.upstream.borrow_and_update().clone() else {
                match self.upstream.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            };
            let mut orders = self.upstream.clone();
            self.spoke = false;
            let end = tokio::select! {
                biased;
                _another = orders.changed() => continue,
                end = self.subscribe(&*upstream) => match end {
                    Ok(never) => match never {},
                    Err(end) => end,
                },
            };
            match end {
                End::Compacted => self.begin_anew("its history is compacted: everything is loaded anew"),
                End::Placed => {
                    self.begin_anew("the group goes by a placement now: everything is loaded anew")
                }
                End::Lost(why) => self.fall_behind(&why),
            }
            if self.spoke {
                delay = RETRY;
            }
            tokio::select! {
                _another = orders.changed() => {}
                () = sleep(delay) => {}
            }
            delay = (delay * 2).min(RETRY_MAX);
        }
    }

    fn fall_behind(&mut self, why: &str) {
        self.goal = None;
        self.state.follow.change(|following| {
            following.level = false;
            why.clone_into(&mut following.trouble);
        });
    }

    fn begin_anew(&mut self, why: &str) {
        tracing::warn!(group = %self.state.group, "{why}");
        self.loading = None;
        self.fall_behind(why);
        if self.state.follow.is_loaded() {
            self.state.follow.set_loaded(false);
            self.state.cut_off();
        }
    }

    async fn subscribe(&mut self, upstream: &dyn Upstream) -> Result<Infallible, End> {
        let loaded = self.state.follow.is_loaded();
        let from = match &self.loading {
            _ if loaded => self.state.committed().get() + 1,
            Some(loading) => loading.next(),
            None => 0,
        };
        let subscribed = timeout(SILENCE_MAX, upstream.follow(from)).await;
        let mut responses = subscribed.map_err(|_| lost("the master does not answer"))?.map_err(End::from)?;
        let mut response = hear(&mut responses).await?;
        self.note(&response)?;
        if !loaded && self.loading.is_none() {
            response = self.load(response).await?;
        }
        self.take(response)?;
        let mut goal = ask(&self.state);
        self.goal = None;
        loop {
            self.judge();
            let state = self.state.clone();
            tokio::select! {
                biased;
                reached = &mut goal => {
                    goal = Box::pin(pending());
                    self.goal = Some(reached.map_err(End::Lost)?);
                }
                response = hear(&mut responses) => {
                    let response = response?;
                    self.note(&response)?;
                    self.take(response)?;
                }
                () = state.follow.late() => {
                    self.fall_behind("it is far behind its master, or cannot look into the log");
                    goal = ask(&self.state);
                }
            }
        }
    }

    /// Loads everything, by the master's placement; gives the response back without its events: they are in what is read.
    async fn load(&mut self, response: FollowResponse) -> Result<FollowResponse, End> {
        self.state.follow.change(|following| "loading all keys".clone_into(&mut following.trouble));
        self.state.metrics.follow.loads.inc();
        let told = Told { closed: response.closed.cast_unsigned(), compacted: response.compacted };
        let loading = Loading::begin(&self.state, &self.config, told).await;
        self.loading = Some(loading.map_err(|error| End::Lost(format!("keys were not loaded: {error}")))?);
        Ok(FollowResponse { revisions: Vec::new(), ..response })
    }

    /// Takes down what a response says beside its events.
    fn note(&mut self, response: &FollowResponse) -> Result<(), End> {
        self.spoke = true;
        let placement = response.placement.as_ref();
        #[cfg(any(test, feature = "faults"))]
        let late = self.heard_late(response);
        #[cfg(any(test, feature = "faults"))]
        let placement = late.as_ref().or(placement);
        match placement {
            Some(told) => self.meet(told)?,
            None => {
                return Err(lost(
                    "the master is of an older version, which says nothing of placements: upgrade it",
                ));
            }
        }
        self.state.set_epoch(response.epoch);
        self.state.follow.change(|following| {
            following.epoch = response.epoch;
            following.leaving = response.leaving;
        });
        Ok(())
    }

    /// What the master goes by. What is given away is served no longer, before anything that came after that is applied;
    /// what is gained is served once everything that came before is.
    fn meet(&mut self, told: &PlacementState) -> Result<(), End> {
        let held = self.state.held.load_full();
        let latest = self.next.as_ref().unwrap_or(&held);
        let (document, pair) = (latest.document().id(), Pair { number: told.number, adopted: told.adopted });
        let same = document.lineage == told.lineage && latest.pair() == pair;
        if told.number == 0 && self.config.awaits_placement {
            // What is recorded is not known here.
            self.state.follow.set_placed();
            return Ok(());
        }
        if same && !latest.is_nothing() {
            return Ok(());
        }
        let next = latest.told(told).map_err(End::Lost)?;
        #[cfg(any(test, feature = "faults"))]
        if self.config.planted.compares_contents
            && next.table().owns_alike(latest.table())
            && next.adopted().or(latest.adopted()).is_none()
        {
            self.next = None;
            self.state.hold(next);
            return Ok(());
        }
        let first = held.pair().number == 0 && self.config.awaits_placement && pair.number > 0;
        if first && (self.state.follow.is_loaded() || self.loading.is_some()) {
            self.next = None;
            self.state.hold(Held::unheard(Placement::clone(&self.table)));
            self.state.follow.set_loaded(false);
            self.state.cut_off();
            self.state.hold(next);
            return Err(End::Placed);
        }
        if self.state.follow.is_loaded() {
            self.state.hold(held.until(&next));
            self.next = Some(next);
        } else {
            self.next = None;
            self.state.hold(next); // nothing is served yet
        }
        self.state.follow.set_placed();
        Ok(())
    }

    /// Goes by what it was told, if it has come so far.
    fn settle(&mut self) {
        let applied = self.state.committed();
        if let Some(next) = self.next.take_if(|next| next.at() <= applied) {
            self.state.hold(next);
            self.state.hub.stir(); // who waits for it may go on
        }
    }

    /// Applies a response.
    fn take(&mut self, response: FollowResponse) -> Result<(), End> {
        let told = Told { closed: response.closed.cast_unsigned(), compacted: response.compacted };
        let arrived = apply::read(&self.state.layout, response.revisions).map_err(End::Lost)?;
        #[cfg(any(test, feature = "faults"))]
        let arrived = self.hold(arrived);
        match &mut self.loading {
            None => apply::apply(&self.state, arrived, told),
            Some(loading) => loading.apply(&self.state, arrived, told),
        }
        // What was shown before everything was loaded anew is not taken back, whatever the master says.
        let shown = self.state.committed().get();
        if let Some(loading) = self.loading.take_if(|loading| loading.is_whole(shown)) {
            let contents = loading.into_contents();
            self.state.follow.set_leased(&contents.index);
            self.state.replace(contents);
            self.state.follow.set_loaded(true);
        }
        if self.state.follow.is_loaded() {
            self.settle();
        }
        // Last: a batch counts as applied once all of it is.
        self.state.follow.raise_batch(response.batch);
        self.state.follow.raise_swept(u64::try_from(response.swept).unwrap_or(0));
        Ok(())
    }

    /// Planted: see `Planted::hears_late`.
    #[cfg(any(test, feature = "faults"))]
    fn heard_late(&mut self, response: &FollowResponse) -> Option<PlacementState> {
        if !self.config.planted.hears_late || !self.state.follow.is_loaded() {
            self.unheard.clear();
            return None;
        }
        self.unheard.extend(response.placement.clone());
        if self.unheard.len() > 6 { self.unheard.pop_front() } else { self.unheard.front().cloned() }
    }

    /// Planted: see `Planted::closes_before_events`.
    #[cfg(any(test, feature = "faults"))]
    fn hold(&mut self, arrived: Vec<apply::Arrived>) -> Vec<apply::Arrived> {
        match self.config.planted.closes_before_events {
            true => std::mem::replace(&mut self.withheld, arrived),
            false => arrived,
        }
    }

    /// Says whether it is level.
    fn judge(&self) {
        let course = &self.state.follow;
        let trouble = if self.config.awaits_placement && self.state.held.load().pair().number == 0 {
            "its group has no placement yet".to_owned()
        } else if !course.is_loaded() {
            match self.loading {
                Some(_) => "loaded, and waiting for the master to confirm what was read".to_owned(),
                None => "loading all keys".to_owned(),
            }
        } else {
            let applied = self.state.committed().get();
            match self.goal {
                None => "asking the master how far it is".to_owned(),
                Some(goal) if applied < goal => format!("behind its master: {applied} of {goal}"),
                Some(_) => String::new(),
            }
        };
        course.change(|following| {
            following.level = trouble.is_empty();
            following.trouble = trouble;
        });
        if course.is_level() {
            course.heard();
        }
    }
}

fn ask(state: &Arc<GroupState>) -> Goal {
    let state = state.clone();
    async move { ask_master(&state, 0).await.map(|need| need.revision) }.boxed()
}

/// The next response of a master that lives.
async fn hear(responses: &mut Responses) -> Result<FollowResponse, End> {
    match timeout(SILENCE_MAX, responses.next()).await {
        Ok(Some(response)) => response.map_err(End::from),
        Ok(None) => Err(lost("the master has ended the stream")),
        Err(_) => Err(lost("the master is silent")),
    }
}

fn lost(why: &str) -> End {
    End::Lost(why.to_owned())
}

impl From<UpstreamError> for End {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Compacted => Self::Compacted,
            UpstreamError::Lost(why) => Self::Lost(why),
        }
    }
}
