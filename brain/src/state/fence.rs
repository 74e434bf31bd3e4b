//! [`Fence`]: what is known of how fresh answers are, and who waits to hear it. `fence` asks, and says what it is for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kubebrain_shared::fault::Fault;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::claim::Claim;
use super::follow::Need;
#[cfg(any(test, feature = "faults"))]
use crate::planted::Planted;
use crate::rows::number::BatchNumber;
use crate::tenure::Term;

/// Above it requests are told to come back.
const WAITERS_MAX: usize = 50_000;

/// Proofs that answers are fresh, numbered as they begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Proof(pub(crate) u64);

/// When a request arrived, in numbers of proofs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    /// The last proof that had begun.
    pub(crate) begun: Proof,
    /// The answer is not waited for any longer.
    pub(crate) until: Option<Instant>,
    /// The request came to a slave.
    pub(crate) to_slave: bool,
}

impl Ticket {
    /// True of a request that came to a slave.
    pub(crate) const fn is_slaves(&self) -> bool {
        self.to_slave
    }
}

/// Which proofs have begun and succeeded, and who waits for one.
#[derive(Debug)]
pub(crate) struct Fence {
    /// True on a master that has to ask the engine whether it still is one.
    asks: AtomicBool,
    /// The time as holder of the master lease in which the group was taken over here.
    term: OnceLock<Term>,
    /// The group has ended in this process: nothing is fresh any more.
    over: AtomicBool,
    begun: AtomicU64,
    /// The latest proof that has succeeded.
    proven: AtomicU64,
    /// The number of the last settled batch.
    settled: AtomicU64,
    waiting: Mutex<Waiting>,
    /// Planted faults, of which tests must find each.
    #[cfg(any(test, feature = "faults"))]
    planted: Planted,
}

#[derive(Debug, Default)]
struct Waiting {
    waiters: Vec<Waiter>,
    /// A task asks for those who wait; it ends when nobody does.
    working: bool,
    /// What the master of this slave answered last, and to which question.
    answered: Option<(Proof, Need)>,
}

/// A request that is not answered before it is known to be fresh.
#[derive(Debug)]
pub(crate) struct Waiter {
    begun: Proof,
    /// The revision to which a slave asks its master to advance.
    floor: u64,
    /// On a slave it hears how far it must be.
    passed: oneshot::Sender<Option<Need>>,
}

impl Waiter {
    /// Lets it go. On a slave it hears how far it must be.
    pub(crate) fn release(self, need: Option<Need>) {
        let _gone = self.passed.send(need);
    }
}

/// What became of a request that must be fresh.
pub(crate) enum Joined {
    /// It is; on a slave, once that is so far.
    Passed(Option<Need>),
    /// It is among those who wait.
    Waits {
        passes: oneshot::Receiver<Option<Need>>,
        /// Nobody looks after those who wait: whoever joined has to start a task that does.
        starts: bool,
    },
}

/// What is to be asked for all that wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) proof: Proof,
    /// Of a slave: what its master is to be lifted to.
    pub(crate) floor: u64,
    /// How many wait.
    pub(crate) waiters: usize,
}

impl Fence {
    /// After batch `settled`. Without `asks` every answer counts as fresh until the group ends.
    pub(crate) fn new(asks: bool, settled: BatchNumber) -> Self {
        Self {
            asks: AtomicBool::new(asks),
            term: OnceLock::new(),
            over: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            proven: AtomicU64::new(0),
            settled: AtomicU64::new(settled.0),
            waiting: Mutex::default(),
            #[cfg(any(test, feature = "faults"))]
            planted: Planted::default(),
        }
    }

    /// Nothing is asked while `term` is held. It has to have begun before the takeover did: whoever took over before it
    /// is then refused, and whoever comes after ends it.
    pub(crate) fn within(self, term: Option<Term>) -> Self {
        if let Some(term) = term {
            let _set_once = self.term.set(term);
        }
        self
    }

    #[cfg(any(test, feature = "faults"))]
    pub(crate) fn planted(mut self, planted: Planted) -> Self {
        self.planted = planted;
        self
    }

    /// Of a master from now on, after batch `settled`; `term` as in [`Self::within`].
    pub(crate) fn lead(&self, asks: bool, settled: BatchNumber, term: Option<Term>) {
        if let Some(term) = term {
            let _set_once = self.term.set(term);
        }
        self.settled.store(settled.0, Ordering::SeqCst);
        self.asks.store(asks, Ordering::SeqCst);
    }

    pub(crate) fn asks(&self) -> bool {
        self.asks.load(Ordering::SeqCst)
    }

    /// The last batch whose outcome is known, and visible.
    pub(crate) fn settled_batch(&self) -> u64 {
        self.settled.load(Ordering::SeqCst)
    }

    /// A proof begins: what it looks at, it looks at after this.
    pub(crate) fn begin(&self) -> Proof {
        Proof(self.begun.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// The last proof that has begun.
    pub(crate) fn begun(&self) -> Proof {
        Proof(self.begun.load(Ordering::SeqCst))
    }

    /// Passes, or waits for the next proof, or a slave's next question.
    ///
    /// # Errors
    /// [`Fault::LeaderChanged`] if the group has ended here, [`Fault::TooManyRequests`] beside too many that wait.
    pub(crate) fn join(&self, ticket: Ticket, floor: u64) -> Result<Joined, Fault> {
        if self.is_passed(ticket) {
            return Ok(Joined::Passed(None));
        }
        let (passed, passes) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        // Under the lock: whoever succeeds or ends from here on finds the waiter.
        if self.is_passed(ticket) {
            return Ok(Joined::Passed(None));
        }
        if let Some((_, need)) = waiting.answered.filter(|(proof, _)| *proof > ticket.begun) {
            return Ok(Joined::Passed(Some(need)));
        }
        if self.is_over() {
            return Err(Fault::LeaderChanged);
        }
        if waiting.waiters.len() >= WAITERS_MAX {
            return Err(Fault::TooManyRequests);
        }
        waiting.waiters.push(Waiter { begun: ticket.begun, floor, passed });
        let starts = !std::mem::replace(&mut waiting.working, true);
        Ok(Joined::Waits { passes, starts })
    }

    /// What to ask for all that wait; `None` where nobody does, and whoever joins next starts another task.
    pub(crate) fn next_question(&self) -> Option<Question> {
        let waiting = &mut *self.waiting.lock();
        waiting.waiters.retain(|waiter| !waiter.passed.is_closed());
        if self.is_over() {
            waiting.waiters.clear();
        }
        if waiting.waiters.is_empty() {
            waiting.working = false;
            return None;
        }
        let floor = waiting.waiters.iter().map(|waiter| waiter.floor).max().unwrap_or(0);
        Some(Question { proof: self.begin(), floor, waiters: waiting.waiters.len() })
    }

    /// A proof has succeeded: whoever began to wait before it passes.
    pub(crate) fn prove(&self, proof: Proof) {
        let proven = Proof(self.proven.fetch_max(proof.0, Ordering::SeqCst).max(proof.0));
        let waiters = &mut self.waiting.lock().waiters;
        let passed: Vec<_> = waiters.extract_if(.., |waiter| waiter.begun < proven).collect();
        passed.into_iter().for_each(|waiter| waiter.release(None));
    }

    /// A question of this slave has been answered; gives those who waited for the answer.
    pub(crate) fn answered(&self, proof: Proof, need: Need) -> Vec<Waiter> {
        let waiting = &mut *self.waiting.lock();
        waiting.answered = Some((proof, need));
        waiting.waiters.extract_if(.., |waiter| waiter.begun < proof).collect()
    }

    /// Batch `number` of ours is durable; the commit that made it so was `proof`.
    pub(crate) fn settled(&self, number: BatchNumber, proof: Proof) {
        self.settled.store(number.0, Ordering::SeqCst);
        if self.asks() {
            self.prove(proof);
        }
    }

    /// The group has ended here: nothing is fresh any more.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.waiting.lock().waiters.clear();
    }

    #[cfg(any(test, feature = "faults"))]
    pub(crate) const fn planted_faults(&self) -> &Planted {
        &self.planted
    }

    /// Of the master in `epoch`. It is made before anything is read that is to be answered on its strength.
    pub(crate) fn claim(&self, epoch: u64) -> Claim {
        Claim { epoch, batch: self.settled_batch() }
    }

    /// Nobody else was master when this was called; whatever was read before may be answered.
    ///
    /// # Errors
    /// [`Fault::LeaderChanged`] if the group has ended here.
    pub(crate) fn is_sure(&self) -> Result<bool, Fault> {
        if self.is_over() { Err(Fault::LeaderChanged) } else { Ok(!self.asks() || self.is_leased()) }
    }

    fn is_passed(&self, ticket: Ticket) -> bool {
        self.proven.load(Ordering::SeqCst) > ticket.begun.0 || (!self.is_over() && self.is_leased())
    }

    /// Nobody else was master when this was called, so neither when anything was read before.
    fn is_leased(&self) -> bool {
        let Some(term) = self.term.get() else { return false };
        let now = Instant::now();
        #[cfg(any(test, feature = "faults"))]
        let now = now.checked_sub(self.planted.clock_stood_still).unwrap_or(now);
        term.is_held(now)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}
