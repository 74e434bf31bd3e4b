//! [`Link`]: the clients of one cluster, and their replacement when they do not help any more.
//!
//! ```text
//!            first answer of PD             errors last
//!   absent ─────────────────────▶ present ─────────────▶ being replaced, in use meanwhile
//!                                    ▲                            │ PD answers, and serves the same cluster
//!                                    └────────────────────────────┘
//!          any of them ── PD serves another cluster ──▶ stopped, for good
//! ```
//!
//! The client finds stores, leaders and PD members by itself. What it does not get over: it keeps a region in its cache
//! whose store refuses connections, and waits without end for a PD that hangs. Both are cured by a new client. One task
//! makes them, so there is one attempt at a time.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::future::try_join_all;
use kubebrain_brain::engine::error::{Cause, Poison};
use parking_lot::Mutex;
use tikv_client::transaction::HeartbeatOption;
use tikv_client::{Backoff, CheckLevel, RetryOptions, Timestamp, TransactionClient, TransactionOptions};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::config::Config;
use crate::outcome;
use crate::pd::{Pd, PdError};

/// A lock of a dead writer lives 3 s, of a large batch up to 20 s: asked for again every 100 ms, and for longer than that.
const LOCKED: Backoff = Backoff::no_jitter_backoff(2, 100, 250);
/// Region and connection errors inside the client; longer ones are repeated here.
const MOVED: Backoff = Backoff::no_jitter_backoff(2, 200, 8);

/// Options of everything that reads.
pub(crate) fn options() -> TransactionOptions {
    TransactionOptions::new_optimistic()
        .drop_check(CheckLevel::None)
        .heartbeat_option(HeartbeatOption::NoHeartbeat)
        .retry_options(RetryOptions::new(MOVED, LOCKED))
}

/// Between two looks at how things stand.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// PD and a store are asked for something when nobody has had an answer for so long.
const IDLE: Duration = Duration::from_secs(2);
/// What does not answer for less is not worth a word.
const SILENCE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// An attempt to connect: the client tries PD's members one after the other, and has no bound of its own for one that
/// swallows packets. So attempts that fail are given more time, up to what a kernel takes to give up.
const ATTEMPT_MIN: Duration = Duration::from_secs(5);
const ATTEMPT_MAX: Duration = Duration::from_secs(160);
/// TiKV itself sends at most 10 MiB at once.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Who may not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Pd,
    Store,
}

/// The clients of one cluster.
pub(crate) struct Link {
    pub(crate) config: Config,
    pub(crate) pd: Pd,
    clients: ArcSwapOption<Clients>,
    next: AtomicUsize,
    present: watch::Sender<bool>,
    reachability: Mutex<Reachability>,
    /// A key that was asked for lately: its store is looked at when nobody asks.
    touched: Mutex<Option<Bytes>>,
    wake: Notify,
    cluster: OnceLock<u64>,
    stopped: OnceLock<Poison>,
}

struct Clients {
    all: Vec<TransactionClient>,
    /// When a connection was refused under these for the first time.
    refused: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Reachability {
    pd: Quiet,
    store: Quiet,
    /// Somebody found a client stuck.
    stuck: bool,
}

#[derive(Default)]
struct Quiet {
    answered: Option<Instant>,
    trouble: Option<Trouble>,
}

struct Trouble {
    since: Instant,
    cause: String,
}

/// Why there is no client to work with.
#[derive(Debug)]
pub(crate) enum Unlinked {
    /// Not now.
    Waiting(String),
    /// Never again.
    Stopped(Poison),
}

impl Link {
    pub(crate) fn new(config: Config, pd: Pd) -> Self {
        Self {
            config,
            pd,
            clients: ArcSwapOption::empty(),
            next: AtomicUsize::new(0),
            present: watch::channel(false).0,
            reachability: Mutex::default(),
            touched: Mutex::default(),
            wake: Notify::new(),
            cluster: OnceLock::new(),
            stopped: OnceLock::new(),
        }
    }

    /// One of the clients; waits for the first ones until `deadline`.
    pub(crate) async fn client(&self, deadline: Instant) -> Result<TransactionClient, Unlinked> {
        if self.clients.load().is_none() {
            let mut present = self.present.subscribe();
            let _waited = tokio::time::timeout_at(deadline, present.wait_for(|present| *present)).await;
        }
        if let Some(stopped) = self.stopped.get() {
            return Err(Unlinked::Stopped(stopped.clone()));
        }
        let clients = self.clients.load();
        let Some(clients) = &*clients else {
            let waits = self.waits_for();
            return Err(Unlinked::Waiting(
                waits.unwrap_or_else(|| "there is no connection to TiKV yet".to_owned()),
            ));
        };
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(clients.all[next % clients.all.len()].clone())
    }

    /// The present moment by PD's clock.
    pub(crate) async fn timestamp(&self, client: &TransactionClient) -> Result<Timestamp, String> {
        match timeout(self.config.timestamp_timeout, client.current_timestamp()).await {
            Ok(Ok(timestamp)) => {
                self.answered(Peer::Pd);
                Ok(timestamp)
            }
            Ok(Err(error)) => Err(self.failed(Peer::Pd, &error)),
            Err(_) => {
                let cause = format!("no timestamp within {:?}", self.config.timestamp_timeout);
                self.silent(Peer::Pd, &cause);
                Err(cause)
            }
        }
    }

    /// Notes which keys matter to whoever uses this.
    pub(crate) fn touch(&self, key: &Bytes) {
        if !key.is_empty() {
            *self.touched.lock() = Some(key.clone());
        }
    }

    pub(crate) fn answered(&self, peer: Peer) {
        let mut reachability = self.reachability.lock();
        let quiet = reachability.of(peer);
        quiet.answered = Some(Instant::now());
        if quiet.trouble.take().is_some() {
            drop(reachability);
            self.config.metrics.waits.with_label_values(&[peer.name()]).set(0);
            tracing::debug!("{peer:?} answers again");
        }
    }

    /// Notes an error that is a failure of the other side; gives it in words.
    pub(crate) fn failed(&self, peer: Peer, error: &tikv_client::Error) -> String {
        let cause = outcome::describe(error);
        if outcome::is_unreachable(error)
            && let Some(clients) = &*self.clients.load()
        {
            let mut refused = clients.refused.lock();
            let first = *refused.get_or_insert_with(Instant::now);
            if first.elapsed() > self.config.rebuild_after {
                self.reachability.lock().stuck = true;
                self.wake.notify_one();
            }
        }
        self.silent(peer, &cause);
        cause
    }

    /// Notes that there was no answer.
    pub(crate) fn silent(&self, peer: Peer, cause: &str) {
        let mut reachability = self.reachability.lock();
        let trouble = &mut reachability.of(peer).trouble;
        match trouble {
            Some(trouble) => cause.clone_into(&mut trouble.cause),
            None => *trouble = Some(Trouble { since: Instant::now(), cause: cause.to_owned() }),
        }
        drop(reachability);
        self.config.metrics.waits.with_label_values(&[peer.name()]).set(1);
    }

    pub(crate) fn waits_for(&self) -> Option<String> {
        if let Some(stopped) = self.stopped.get() {
            return Some(stopped.to_string());
        }
        let mut reachability = self.reachability.lock();
        let long = |trouble: &&mut Trouble| trouble.since.elapsed() >= SILENCE_MIN;
        if let Some(trouble) = reachability.pd.trouble.as_mut().filter(long) {
            let (names, seconds) = (self.pd.names(), trouble.since.elapsed().as_secs());
            return Some(format!("PD at {names} does not answer since {seconds} s: {}", trouble.cause));
        }
        let trouble = reachability.store.trouble.as_mut().filter(long)?;
        let seconds = trouble.since.elapsed().as_secs();
        Some(format!("a TiKV store does not answer since {seconds} s: {}", trouble.cause))
    }

    /// Waits until there are clients.
    ///
    /// # Errors
    /// PD serves another cluster.
    pub(crate) async fn ready(&self) -> Result<(), Poison> {
        let mut present = self.present.subscribe();
        let _present = present.wait_for(|present| *present).await;
        self.stopped.get().cloned().map_or(Ok(()), Err)
    }

    /// Makes the first clients, and new ones whenever that may help. Ends only when stopped for good.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut pause = PAUSE_MIN;
        let mut attempt = ATTEMPT_MIN;
        let mut tried: Option<Instant> = None;
        loop {
            let due = self.is_due(pause, tried);
            if due {
                let rebuilt = self.clients.load().is_some();
                tried = Some(Instant::now());
                let connected = timeout(attempt, self.connect()).await;
                let failure = match connected {
                    Ok(Ok(clients)) => {
                        if rebuilt {
                            self.config.metrics.rebuilds.inc();
                            tracing::info!("connections to TiKV are made anew");
                        }
                        self.clients.store(Some(Arc::new(clients)));
                        self.reachability.lock().stuck = false;
                        self.present.send_replace(true);
                        attempt = ATTEMPT_MIN;
                        None
                    }
                    Ok(Err(PdError::Foreign(sentence))) if self.cluster.get().is_some() => {
                        tracing::error!("{sentence}");
                        let _first = self.stopped.set(Poison::new(sentence));
                        self.present.send_replace(true);
                        return;
                    }
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => {
                        let failure = format!("no connection within {} s", attempt.as_secs());
                        attempt = (attempt * 2).min(ATTEMPT_MAX);
                        Some(failure)
                    }
                };
                if let Some(failure) = failure {
                    self.silent(Peer::Pd, &failure);
                }
                pause = (pause * 2).min(PAUSE_MAX);
            } else if tried.is_some_and(|tried| tried.elapsed() > PAUSE_MAX) && !self.is_troubled() {
                pause = PAUSE_MIN;
            }
            let _woken = timeout(LOOK_EVERY.min(pause), self.wake.notified()).await;
            self.look().await;
        }
    }

    /// True if new clients are wanted now.
    fn is_due(&self, pause: Duration, tried: Option<Instant>) -> bool {
        if tried.is_some_and(|tried| tried.elapsed() < pause) {
            return false;
        }
        let lasting = |trouble: &Option<Trouble>| {
            trouble.as_ref().is_some_and(|trouble| trouble.since.elapsed() >= self.config.rebuild_after)
        };
        let reachability = self.reachability.lock();
        self.clients.load().is_none()
            || reachability.stuck
            || lasting(&reachability.pd.trouble)
            || lasting(&reachability.store.trouble)
    }

    fn is_troubled(&self) -> bool {
        let reachability = self.reachability.lock();
        reachability.pd.trouble.is_some() || reachability.store.trouble.is_some()
    }

    /// Finds out how PD and the stores are when nobody else does.
    async fn look(&self) {
        let clients = self.clients.load_full();
        let Some(client) = clients.as_ref().and_then(|clients| clients.all.first()) else { return };
        let idle = |quiet: &Quiet| quiet.answered.is_none_or(|answered| answered.elapsed() >= IDLE);
        let touched = self.touched.lock().clone();
        let (pd, key) = {
            let reachability = self.reachability.lock();
            (idle(&reachability.pd), touched.filter(|_| idle(&reachability.store)))
        };
        if !pd && key.is_none() {
            return;
        }
        let Ok(timestamp) = self.timestamp(client).await else { return };
        let Some(key) = key else { return };
        let mut snapshot = client.snapshot(timestamp, options().no_resolve_locks());
        match timeout(self.config.request_timeout, snapshot.key_exists(key.to_vec())).await {
            // Somebody's lock is an answer too.
            Ok(Ok(_) | Err(tikv_client::Error::ResolveLockError(_))) => self.answered(Peer::Store),
            Ok(Err(error)) => drop(self.failed(Peer::Store, &error)),
            Err(_) => self.silent(Peer::Store, "no answer to a read"),
        }
    }

    async fn connect(&self) -> Result<Clients, PdError> {
        self.pd.refresh().await; // the client reads them itself
        let wanted = self.cluster.get().copied();
        let members = self.pd.members(wanted).await?;
        let mut config = tikv_client::Config::default()
            .with_timeout(self.config.request_timeout)
            .with_grpc_max_decoding_message_size(ANSWER_BYTES_MAX);
        if let Some(tls) = &self.config.tls {
            config = config.with_security(&tls.ca, &tls.certificate, &tls.key);
        }
        let made = (0..self.config.clients.max(1))
            .map(|_| TransactionClient::new_with_config(members.reachable.clone(), config.clone()));
        let all = try_join_all(made).await.map_err(|error| PdError::Refused(outcome::describe(&error)))?;
        // An address can have moved to another cluster between the two questions; a third one would find it out.
        let again = self.pd.members(Some(members.cluster)).await?;
        let cluster = *self.cluster.get_or_init(|| again.cluster);
        if cluster != members.cluster {
            return Err(PdError::Refused(format!("PD has served cluster {} and {cluster}", members.cluster)));
        }
        Ok(Clients { all, refused: Mutex::new(None) })
    }
}

impl Peer {
    const fn name(self) -> &'static str {
        match self {
            Self::Pd => "pd",
            Self::Store => "store",
        }
    }
}

impl Reachability {
    const fn of(&mut self, peer: Peer) -> &mut Quiet {
        match peer {
            Peer::Pd => &mut self.pd,
            Peer::Store => &mut self.store,
        }
    }
}

impl Unlinked {
    pub(crate) fn into_cause(self) -> Cause {
        match self {
            Self::Waiting(cause) => cause.into(),
            Self::Stopped(poison) => poison.into(),
        }
    }
}
