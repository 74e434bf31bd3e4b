//! [`Fence`]: the question after which an answer is known to be fresh, also where another process may be master since.
//!
//! ```text
//! request ──ticket──▶ read in memory ──▶ pass ──────── wait ────────▶ answered
//!                                          │   one read of the engine, begun after the ticket was taken:
//!                                          └──▶ has anybody written the log after my last settled batch?
//! ```
//!
//! An engine of several processes has no way to tell a master that it is none any more: it learns that from the record
//! of the next batch, where its successor's takeover stands. So nothing that is read in memory is answered before
//! either of these *proofs*, begun after the request arrived:
//! * a look into the log that does not refute this master's [`Claim`];
//! * a batch of ours was committed. Its condition was judged at that moment, and held.
//!
//! What is answered is then at least the state of a moment that lies between the request and its answer.
//!
//! * **The next read, never the one in flight.** That one may have looked before a write that was acknowledged before
//!   this request arrived. Proofs are numbered as they begin; a ticket is the number of the last one that had begun
//!   when the request arrived, and only a later one counts for it.
//! * **A claim that is refuted** ends the group here, as it ends the writer.
//!
//! One read is in flight at most, whatever waits. An engine that does not answer makes those who wait time out; it is
//! asked again until nobody waits.
//!
//! Where no other process can write the engine, nothing is asked. With [`ReadFence::Lease`] nothing is asked either while
//! the master lease is held: it was held when the answer was read, and nobody else takes over before it has run out. That
//! holds as far as clocks run while machines do, and as everybody who takes over was elected.
//!
//! **On a slave** the question goes to the master: how far must I be? It answers from memory, with its claim where it is
//! not sure by itself, and the slave looks into the log: so the look is the slave's, and costs the master nothing. The same
//! numbers order question and request. What is answered is read after the slave has applied that far, so tickets of slaves
//! pass before anything is read. Questions do not wait for each other's revisions to come: while one is waited for, the
//! next one may be asked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kubebrain_shared::fault::Fault;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::ANSWER_TIMEOUT;
use super::claim::{Claim, Refutation};
use super::follow::Need;
use super::log::LogError;
use super::shared::{Ended, Shared, keep};
use crate::tenure::Term;

/// A look that is not answered for so long is given up.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// After a read that failed; doubled up to a second, on a slave to less.
const RETRY: Duration = Duration::from_millis(10);
const SLAVE_RETRY_MAX: Duration = Duration::from_millis(200);
/// A slave that is not as far as it must be by then sends its readers elsewhere.
const SLAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// A slave's question that so many requests have shared shows that it is busy: the next one is not asked before
/// [`PACE`] times as long has passed as that one took, and more requests share it. A question costs the master as much as
/// two reads, and the look into the log costs the slave as much as ten (`bench/reads`).
const BUSY: usize = 16;
const PACE: u32 = 6;
const PACE_MAX: Duration = Duration::from_millis(10);
/// Above it requests are told to come back.
const WAITERS_MAX: usize = 50_000;

/// How a master makes sure that its answers are fresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFence {
    /// By a read of the engine, shared by all that wait. No effect where no other process can write the engine.
    #[default]
    Engine,
    /// By the master lease, on the monotonic clock, while it is held; else as `Engine`. A machine whose clock stood still
    /// while another brain took over, as a paused virtual machine's does, answers from its past for what its clock says is
    /// left of the lease. Needs [`Config::tenure`](super::Config::tenure).
    Lease,
    /// It trusts that whoever starts brains lets one run at a time. A brain that was asleep while another took over
    /// answers from its past until it writes.
    Trust,
}

/// When a request arrived, in numbers of proofs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    /// The last proof that had begun.
    begun: u64,
    /// The answer is not waited for any longer.
    until: Option<Instant>,
    /// Of a slave: the placement by which it was judged whose the keys are.
    placement: Option<u64>,
}

impl Ticket {
    /// True of a request that came to a slave.
    pub(super) const fn is_slaves(&self) -> bool {
        self.placement.is_some()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Fence {
    /// Of a master: it has to ask the engine.
    asks: AtomicBool,
    /// The time as holder of the master lease in which the group was taken over here.
    term: OnceLock<Term>,
    /// The group has ended here.
    over: AtomicBool,
    begun: AtomicU64,
    /// The latest proof that has succeeded.
    proven: AtomicU64,
    /// The number of the last settled batch.
    settled: AtomicU64,
    waiting: Mutex<Waiting>,
    /// Planted faults, of which tests must find each.
    #[cfg(any(test, feature = "faults"))]
    planted: super::Planted,
}

#[derive(Debug, Default)]
struct Waiting {
    waiters: Vec<Waiter>,
    /// A task looks after them.
    working: bool,
    /// Of a slave: what its master answered last, and to which question.
    answered: Option<(u64, Need)>,
}

#[derive(Debug)]
struct Waiter {
    begun: u64,
    /// Of a slave: what its master is to be lifted to.
    floor: u64,
    /// On a slave it hears how far it must be.
    passed: oneshot::Sender<Option<Need>>,
}

impl Fence {
    /// After batch `settled`. Without `asks` every answer counts as fresh until the group ends.
    pub(super) fn new(asks: bool, settled: u64) -> Self {
        Self {
            asks: AtomicBool::new(asks),
            term: OnceLock::new(),
            over: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            proven: AtomicU64::new(0),
            settled: AtomicU64::new(settled),
            waiting: Mutex::default(),
            #[cfg(any(test, feature = "faults"))]
            planted: super::Planted::default(),
        }
    }

    /// Nothing is asked while `term` is held. It has to have begun before the takeover did: whoever took over before it
    /// is then refused, and whoever comes after ends it.
    pub(super) fn within(self, term: Option<Term>) -> Self {
        if let Some(term) = term {
            let _set_once = self.term.set(term);
        }
        self
    }

    #[cfg(any(test, feature = "faults"))]
    pub(super) fn planted(mut self, planted: super::Planted) -> Self {
        self.planted = planted;
        self
    }

    /// Of a master from now on, after batch `settled`; `term` as in [`Self::within`].
    pub(super) fn lead(&self, asks: bool, settled: u64, term: Option<Term>) {
        if let Some(term) = term {
            let _set_once = self.term.set(term);
        }
        self.settled.store(settled, Ordering::SeqCst);
        self.asks.store(asks, Ordering::SeqCst);
    }

    fn asks(&self) -> bool {
        self.asks.load(Ordering::SeqCst)
    }

    /// The last batch whose outcome is known, and visible.
    pub(crate) fn settled_batch(&self) -> u64 {
        self.settled.load(Ordering::SeqCst)
    }

    /// A proof begins: what it looks at, it looks at after this.
    pub(super) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// It has succeeded.
    fn prove(&self, index: u64) {
        let proven = self.proven.fetch_max(index, Ordering::SeqCst).max(index);
        let waiters = &mut self.waiting.lock().waiters;
        let passed: Vec<_> = waiters.extract_if(.., |waiter| waiter.begun < proven).collect();
        for waiter in passed {
            let _gone = waiter.passed.send(None);
        }
    }

    /// A slave's question has been answered; gives those that it was asked for.
    fn answered(&self, index: u64, need: Need) -> Vec<Waiter> {
        let waiting = &mut *self.waiting.lock();
        waiting.answered = Some((index, need));
        waiting.waiters.extract_if(.., |waiter| waiter.begun < index).collect()
    }

    /// A batch of ours is durable; the commit that made it so was proof `index`.
    pub(super) fn settled(&self, number: u64, index: u64) {
        self.settled.store(number, Ordering::SeqCst);
        if self.asks() {
            self.prove(index);
        }
    }

    /// The group has ended here: nothing is fresh any more.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.waiting.lock().waiters.clear();
    }

    #[cfg(any(test, feature = "faults"))]
    pub(super) const fn planted_faults(&self) -> &super::Planted {
        &self.planted
    }

    /// Of the master in `term`. It is made before anything is read that is to be answered on its strength.
    pub(super) fn claim(&self, term: u64) -> Claim {
        Claim { term, batch: self.settled_batch() }
    }

    /// Nobody else was master when this was called; whatever was read before may be answered.
    ///
    /// # Errors
    /// [`Fault::LeaderChanged`] if the group has ended here.
    pub(super) fn is_sure(&self) -> Result<bool, Fault> {
        if self.is_over() { Err(Fault::LeaderChanged) } else { Ok(!self.asks() || self.is_leased()) }
    }

    fn is_passed(&self, ticket: Ticket) -> bool {
        self.proven.load(Ordering::SeqCst) > ticket.begun || (!self.is_over() && self.is_leased())
    }

    /// Nobody else was master when this was called, so neither when anything was read before.
    fn is_leased(&self) -> bool {
        let Some(term) = self.term.get() else { return false };
        let now = Instant::now();
        #[cfg(any(test, feature = "faults"))]
        let now = now.checked_sub(self.planted.clock_stood_still).unwrap_or(now);
        term.is_held(now)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// For a request that arrives now.
    pub(crate) fn ticket(&self) -> Ticket {
        let fence = &self.fence;
        let slave = self.is_slave();
        let placement = slave.then(|| self.placement.load().version());
        let wait = if slave { SLAVE_TIMEOUT } else { ANSWER_TIMEOUT };
        let until = (slave || fence.asks()).then(|| Instant::now() + wait);
        let begun = fence.begun.load(Ordering::SeqCst);
        #[cfg(any(test, feature = "faults"))]
        let begun = if fence.planted.early_fence { begun.saturating_sub(1) } else { begun };
        Ticket { begun, until, placement }
    }

    /// Returns when what was read in memory since `ticket` may be answered; on a slave, what is read from then on.
    ///
    /// # Errors
    /// [`Fault::LeaderChanged`] if the group has ended here, or a slave is not as far as it must be in time;
    /// [`Fault::Timeout`] if the engine does not answer in time.
    ///
    /// # Cancel safety
    /// Safe: a read.
    pub(crate) async fn fence(self: &Arc<Self>, ticket: Ticket) -> Result<(), Fault> {
        if ticket.placement.is_some() {
            return self.fence_slave(ticket, 0).await;
        }
        self.pass(ticket, 0).await.map(drop)
    }

    /// As [`Self::fence`], of one that was a slave when the request arrived: it is at or above `floor` then.
    ///
    /// # Errors
    /// [`Fault::LeaderChanged`].
    pub(super) async fn fence_slave(self: &Arc<Self>, mut ticket: Ticket, floor: u64) -> Result<(), Fault> {
        let Some(until) = ticket.until else { return Err(Fault::LeaderChanged) };
        loop {
            if self.is_slave() {
                self.course.may_ask()?;
            }
            let need = match self.pass(ticket, floor).await {
                Ok(need) => need,
                Err(Fault::Timeout) => return Err(Fault::LeaderChanged),
                Err(fault) => return Err(fault),
            };
            if let Some(need) = &need
                && timeout_at(until, self.reach(need)).await.is_err()
            {
                self.course.is_late();
                return Err(Fault::LeaderChanged);
            }
            // Whose keys are whose was judged by a placement that may have been replaced when the question was asked.
            if ticket.placement != Some(self.placement.load().version()) {
                return Err(Fault::LeaderChanged);
            }
            if self.committed().get() >= floor {
                return Ok(());
            }
            // The question had begun, for a lower floor, when this one joined those who wait for it; or it was asked of
            // the engine, as a master, who lifts nothing.
            if need.is_none() {
                return Err(Fault::LeaderChanged);
            }
            ticket.begun = self.fence.begun.load(Ordering::SeqCst);
        }
    }

    /// Returns when a proof, or a slave's question, that began after the ticket was taken has been answered well.
    async fn pass(self: &Arc<Self>, ticket: Ticket, floor: u64) -> Result<Option<Need>, Fault> {
        let fence = &self.fence;
        let Some(until) = ticket.until else {
            return if fence.is_over() { Err(Fault::LeaderChanged) } else { Ok(None) };
        };
        if fence.is_passed(ticket) {
            return Ok(None);
        }
        let (passed, passes) = oneshot::channel();
        {
            let mut waiting = fence.waiting.lock();
            // Under the lock: whoever succeeds or ends from here on finds the waiter.
            if fence.is_passed(ticket) {
                return Ok(None);
            }
            if let Some((_, need)) = waiting.answered.filter(|(index, _)| *index > ticket.begun) {
                return Ok(Some(need));
            }
            if fence.is_over() {
                return Err(Fault::LeaderChanged);
            }
            if waiting.waiters.len() >= WAITERS_MAX {
                return Err(Fault::TooManyRequests);
            }
            waiting.waiters.push(Waiter { begun: ticket.begun, floor, passed });
            if !waiting.working {
                waiting.working = true;
                drop(keep(self, "the task that keeps reads fresh", ask(Arc::clone(self))));
            }
        }
        match timeout_at(until, passes).await {
            Ok(Ok(need)) => Ok(need),
            Ok(Err(_)) => Err(Fault::LeaderChanged),
            Err(_) => Err(Fault::Timeout),
        }
    }

    /// As [`Self::fence`], for an answer of the writer: where its batch was committed, that stands whatever came after.
    pub(super) async fn fence_answer(self: &Arc<Self>, ticket: Ticket) -> Result<(), Fault> {
        if ticket.until.is_some() { self.fence(ticket).await } else { Ok(()) }
    }
}

/// Asks for all that wait, until nobody does.
async fn ask(shared: Arc<Shared>) {
    let (fence, metrics) = (&shared.fence, &shared.metrics);
    let mut delay = RETRY;
    // Of a slave: how many have shared a question lately.
    let mut shared_by = 0;
    loop {
        // Whoever was let go by the last question may come back at once: it joins instead of waiting for one more.
        tokio::task::yield_now().await;
        let slave = shared.is_slave();
        let (index, floor) = {
            let waiting = &mut *fence.waiting.lock();
            waiting.waiters.retain(|waiter| !waiter.passed.is_closed());
            if fence.is_over() {
                waiting.waiters.clear();
            }
            if waiting.waiters.is_empty() {
                waiting.working = false;
                return;
            }
            if !slave {
                metrics.fence_waiters.observe(waiting.waiters.len() as f64);
            }
            let floor = waiting.waiters.iter().map(|waiter| waiter.floor).max().unwrap_or(0);
            (fence.begin(), floor)
        };
        if slave {
            let began = Instant::now();
            let answer = shared.ask_master(floor).await;
            metrics.follow.question(began.elapsed(), answer.is_ok());
            match answer {
                Ok(need) => {
                    let waiters = fence.answered(index, need);
                    metrics.follow.questioners.inc_by(waiters.len() as u64);
                    shared_by = waiters.len().max(shared_by * 3 / 4);
                    if shared.has(&need) {
                        release(waiters, need);
                    } else {
                        tokio::spawn(wait_for_all(shared.clone(), waiters, need));
                    }
                    if shared_by >= BUSY {
                        sleep_until(began + (began.elapsed() * PACE).min(PACE_MAX)).await;
                    }
                    delay = RETRY;
                }
                Err(why) => {
                    tracing::debug!(group = %shared.group, "reads wait, the master was not asked: {why}");
                    sleep(delay).await;
                    delay = (delay * 2).min(SLAVE_RETRY_MAX);
                }
            }
            continue;
        }
        if !fence.asks() {
            // They have waited since this was a slave; it is the only one to write the engine.
            fence.prove(index);
            continue;
        }
        match look(&shared, fence.claim(shared.identity().term)).await {
            Ok(None) => {
                fence.prove(index);
                delay = RETRY;
            }
            Ok(Some((number, record))) => shared.end(Ended::deposed(&shared, number, &record)),
            Err(LookError::Log(error)) => {
                tracing::warn!(group = %shared.group, "reads wait, the log was not read: {error}");
                sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(1));
            }
            Err(LookError::Late) => {}
        }
    }
}

/// Why a look told nothing.
#[derive(Debug, Error)]
pub(super) enum LookError {
    #[error("the log was not read: {0}")]
    Log(#[from] LogError),
    #[error("the log was not read in time")]
    Late,
}

/// Looks into the log for what refutes a claim. Counted.
///
/// # Errors
/// See [`LookError`].
pub(super) async fn look(shared: &Shared, claim: Claim) -> Result<Option<Refutation>, LookError> {
    let began = Instant::now();
    let looked = timeout(LOOK_MAX, shared.refute(claim)).await;
    shared.metrics.fence_seconds.observe(began.elapsed().as_secs_f64());
    shared.metrics.fence(match &looked {
        Ok(Ok(None)) => 0,
        Ok(Ok(Some(_))) => 1,
        Ok(Err(_)) | Err(_) => 2,
    });
    Ok(looked.map_err(|_| LookError::Late)??)
}

/// Lets those go that a question was asked for. They are told at once, and not each woken whenever something is applied.
fn release(waiters: Vec<Waiter>, need: Need) {
    for waiter in waiters {
        let _gone = waiter.passed.send(Some(need));
    }
}

async fn wait_for_all(shared: Arc<Shared>, waiters: Vec<Waiter>, need: Need) {
    match timeout(SLAVE_TIMEOUT, shared.reach(&need)).await {
        Ok(()) => release(waiters, need),
        Err(_) => shared.course.is_late(),
    }
}

#[cfg(test)]
mod tests;
