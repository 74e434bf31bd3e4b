//! [`Campaign`]: decides from what was read and when. No I/O, no clock of its own.

use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use super::record::{Candidate, MasterRecord};

/// The three times of an election, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a candidate waits after it last saw the record change. Falls: a dead master is replaced sooner, a slow
    /// storage costs mastership sooner. Default 2 s.
    pub lease: Duration,
    /// A master that could not renew for so long steps down. Default 1.5 s.
    pub renew_deadline: Duration,
    /// Between two tries to renew, or to acquire. Default 250 ms.
    pub retry: Duration,
}

/// Times that cannot work together.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TimingError {
    /// The master would act on a lease that others may have taken.
    #[error("the lease must be longer than the deadline of renewal: the master has to notice first")]
    Lease,
    /// One failed renewal would end mastership.
    #[error("the deadline of renewal must be longer than 1.2 times the retry period")]
    RenewDeadline,
    /// It would ask without pause.
    #[error("the retry period must not be zero")]
    Retry,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Read the record: see [`Campaign::saw`].
    Look,
    /// Put this in place of what was seen last: see [`Campaign::sending`].
    Replace(MasterRecord),
    /// Nothing before then.
    Wait(Instant),
}

/// Where the candidate stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Elected; without another renewal, until then.
    Master {
        /// From before the renewal was sent.
        until: Instant,
    },
    /// Not elected. Whose the record is, if anybody's.
    Slave(Option<MasterRecord>),
}

/// See the module.
#[derive(Debug)]
pub struct Campaign {
    me: Candidate,
    timing: Timing,
    seen: Option<Seen>,
    /// What was seen last may be there no more: it is looked at before anything is put in its place.
    doubt: bool,
    /// The last replacement that was sent, and when. Its outcome may still be open.
    sent: Option<(MasterRecord, Instant)>,
    /// When the renewal that holds was sent.
    held: Option<Instant>,
    /// Nothing is asked before then.
    pause: Option<Instant>,
    /// It wants to be master; otherwise it only looks who is.
    stands: bool,
}

/// What stands on the ballot, and since when it was seen to.
#[derive(Debug)]
struct Seen {
    record: Option<MasterRecord>,
    since: Instant,
    looked: Instant,
}

impl Timing {
    /// Refuses times that cannot work together, by Kubernetes' rules.
    ///
    /// # Errors
    /// See [`TimingError`].
    pub fn check(self) -> Result<Self, TimingError> {
        match self {
            Self { retry, .. } if retry.is_zero() => Err(TimingError::Retry),
            Self { renew_deadline, retry, .. } if renew_deadline <= retry.mul_f64(1.2) => {
                Err(TimingError::RenewDeadline)
            }
            Self { lease, renew_deadline, .. } if lease <= renew_deadline => Err(TimingError::Lease),
            timing => Ok(timing),
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(2),
            renew_deadline: Duration::from_millis(1500),
            retry: Duration::from_millis(250),
        }
    }
}

impl Campaign {
    /// Knows nothing yet.
    pub const fn new(me: Candidate, timing: Timing) -> Self {
        Self { me, timing, seen: None, doubt: false, sent: None, held: None, pause: None, stands: true }
    }

    /// What to do at `now`.
    pub fn step(&self, now: Instant) -> Step {
        if let Some(pause) = self.pause.filter(|pause| now < *pause) {
            return Step::Wait(pause);
        }
        let Some(seen) = self.seen.as_ref().filter(|_| !self.doubt) else { return Step::Look };
        if !self.stands {
            let next = seen.looked + self.timing.retry;
            return if now < next { Step::Wait(next) } else { Step::Look };
        }
        match &seen.record {
            Some(record) if record.holder == self.me.identity => match self.held {
                Some(sent) if now < sent + self.timing.retry => Step::Wait(sent + self.timing.retry),
                Some(sent) if now < sent + self.timing.renew_deadline => Step::Replace(self.renewed(record)),
                // Its own term is over; nobody else has begun one.
                _ => Step::Replace(self.claimed(Some(record))),
            },
            Some(record) if !record.is_released() => {
                let (next, over) = (seen.looked + self.timing.retry, seen.since + record.lease());
                match (now < next, now < over) {
                    (true, true) => Step::Wait(next.min(over)),
                    // What is taken over was looked at just now.
                    (true, false) => Step::Replace(self.claimed(Some(record))),
                    (false, _) => Step::Look,
                }
            }
            free => Step::Replace(self.claimed(free.as_ref())),
        }
    }

    /// Where it stands at `now`.
    pub fn standing(&self, now: Instant) -> Standing {
        let record = self.seen.as_ref().and_then(|seen| seen.record.as_ref());
        let until = self.held.map(|sent| sent + self.timing.renew_deadline).filter(|until| now < *until);
        match until {
            Some(until) => Standing::Master { until },
            None => Standing::Slave(record.filter(|record| record.holder != self.me.identity).cloned()),
        }
    }

    /// What was on the ballot, by an answer that came at `now`.
    pub fn saw(&mut self, record: Option<MasterRecord>, now: Instant) {
        self.doubt = false;
        // A replacement whose outcome was open is there.
        let landed = self.sent.as_ref().filter(|(sent, _)| Some(sent) == record.as_ref());
        if let Some((sent, at)) = landed {
            self.held = (sent.holder == self.me.identity).then_some(*at);
        } else if record.as_ref().is_none_or(|record| record.holder != self.me.identity) {
            self.held = None;
        }
        match &mut self.seen {
            Some(seen) if seen.record == record => seen.looked = now,
            _ => self.seen = Some(Seen { record, since: now, looked: now }),
        }
    }

    /// The ballot could not be read.
    pub fn blind(&mut self, now: Instant) {
        self.pause = Some(now + self.timing.retry);
    }

    /// `record` is about to be sent in place of what was seen last.
    pub fn sending(&mut self, record: MasterRecord, now: Instant) {
        self.sent = Some((record, now));
    }

    /// What was sent last is on the ballot.
    pub fn replaced(&mut self, now: Instant) {
        if let Some((record, _)) = self.sent.clone() {
            self.saw(Some(record), now);
        }
    }

    /// Something else was on the ballot; what was sent last never will be.
    pub fn beaten(&mut self) {
        (self.sent, self.doubt) = (None, true);
    }

    /// Whether what was sent last is on the ballot is not known.
    pub fn unsure(&mut self, now: Instant) {
        self.doubt = true;
        self.pause = Some(now + self.timing.retry / 4);
    }

    /// It does not want to be master any more: from here on it only looks. Gives what to put on the ballot so that
    /// another candidate need not wait; `None` where there is nothing to release.
    pub fn resign(&mut self) -> Option<MasterRecord> {
        self.stands = false;
        self.held = None;
        let record = self.seen.as_ref()?.record.as_ref()?;
        (record.holder == self.me.identity).then(|| MasterRecord {
            holder: String::new(),
            lease_ms: 0,
            renewals: record.renewals + 1,
            ..record.clone()
        })
    }

    fn renewed(&self, record: &MasterRecord) -> MasterRecord {
        MasterRecord { transitions: record.transitions, ..self.claimed(Some(record)) }
    }

    fn claimed(&self, before: Option<&MasterRecord>) -> MasterRecord {
        let (transitions, renewals) =
            before.map_or((0, 0), |before| (before.transitions + 1, before.renewals + 1));
        MasterRecord {
            holder: self.me.identity.clone(),
            lease_ms: u64::try_from(self.timing.lease.as_millis()).unwrap_or(u64::MAX),
            transitions,
            renewals,
            name: self.me.name.clone(),
            peer_urls: self.me.peer_urls.clone(),
            client_urls: self.me.client_urls.clone(),
        }
    }
}
