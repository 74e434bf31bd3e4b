//! [`Campaign`]: decides from what was read and when. No I/O, no clock of its own.

use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use super::record::{Candidate, MasterRecord};

/// In a hurry the record is looked at so often: what a hand-over costs at most beside the storage's own time.
const HURRIED: Duration = Duration::from_millis(20);
/// Then nobody is coming; as long as the default lease, after which a record can be taken anyway.
const HURRY_MAX: Duration = Duration::from_secs(2);

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
pub enum Mastership {
    /// Elected; without another renewal, until then.
    Master {
        /// From before the renewal was sent.
        until: Instant,
    },
    /// Not elected. Whose the record is, if anybody's.
    Slave(Option<MasterRecord>),
}

/// What one candidate knows of an election, and what it does next.
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
    /// Another holder is expected soon, or is to be this one.
    hurry: Option<Hurry>,
    /// It wants to be master; otherwise it only looks who is.
    stands: bool,
    /// It has resigned while a replacement was on its way: that may be there.
    open: bool,
}

/// How long there is a hurry.
#[derive(Debug)]
struct Hurry {
    until: Instant,
    /// Who is expected to go; empty where nobody is known.
    holder: String,
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
        Self {
            me,
            timing,
            seen: None,
            doubt: false,
            sent: None,
            held: None,
            pause: None,
            hurry: None,
            stands: true,
            open: false,
        }
    }

    /// What to do at `now`.
    pub fn step(&self, now: Instant) -> Step {
        if let Some(pause) = self.pause.filter(|pause| now < *pause) {
            return Step::Wait(pause);
        }
        let Some(seen) = self.seen.as_ref().filter(|_| !self.doubt) else { return Step::Look };
        let next = seen.looked + self.pace(now);
        match &seen.record {
            Some(record) if !self.stands && record.holder == self.me.identity => {
                Step::Replace(Self::released(record))
            }
            _ if !self.stands => {
                if now < next {
                    Step::Wait(next)
                } else {
                    Step::Look
                }
            }
            Some(record) if record.holder == self.me.identity => match self.held {
                Some(sent) if now < sent + self.timing.retry => Step::Wait(sent + self.timing.retry),
                Some(sent) if now < sent + self.timing.renew_deadline => Step::Replace(self.renewed(record)),
                // Its own term is over; nobody else has begun one.
                _ => Step::Replace(self.claimed(Some(record))),
            },
            Some(record) if !record.is_released() => {
                let over = seen.since + record.lease();
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
    pub fn mastership(&self, now: Instant) -> Mastership {
        let record = self.seen.as_ref().and_then(|seen| seen.record.as_ref());
        let until = self.held.map(|sent| sent + self.timing.renew_deadline).filter(|until| now < *until);
        match until {
            Some(until) => Mastership::Master { until },
            None => Mastership::Slave(record.filter(|record| record.holder != self.me.identity).cloned()),
        }
    }

    /// Between two looks, at `now`.
    pub fn pace(&self, now: Instant) -> Duration {
        let hurries = self.hurry.as_ref().is_some_and(|hurry| now < hurry.until);
        if hurries { self.timing.retry.min(HURRIED) } else { self.timing.retry }
    }

    /// What was on the ballot, by an answer that came at `now`.
    pub fn saw(&mut self, record: Option<MasterRecord>, now: Instant) {
        (self.doubt, self.open) = (false, false);
        let holder = record.as_ref().map_or("", |record| record.holder.as_str());
        self.hurry.take_if(|hurry| !holder.is_empty() && hurry.holder != holder);
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
        self.pause = Some(now + self.pace(now));
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

    /// The master is leaving, or not heard of: the record is looked at at once, and often, until there is another holder
    /// or a while has passed. It is taken no sooner than ever: when it is released, or its lease has run out. Nothing to
    /// whoever is master.
    pub fn hurry(&mut self, now: Instant) {
        if matches!(self.mastership(now), Mastership::Master { .. }) {
            return;
        }
        let holder = self.holder().to_owned();
        self.hurry = Some(Hurry { until: now + HURRY_MAX, holder });
        (self.doubt, self.pause) = (true, None);
    }

    /// It does not want to be master any more: from here on it releases what is its own, and looks who is. In a hurry:
    /// there is an heir to be shown to clients.
    pub fn resign(&mut self, now: Instant) {
        self.stands = false;
        self.held = None;
        // What was sent may land yet, and makes nobody master.
        let sent = self.sent.take().is_some();
        self.open = self.open || (sent && self.doubt);
        self.pause = None;
        self.hurry = Some(Hurry { until: now + HURRY_MAX, holder: self.me.identity.clone() });
    }

    /// It has resigned, and its own record is there, or may be.
    pub fn has_to_release(&self) -> bool {
        !self.stands && (self.open || self.holder() == self.me.identity)
    }

    /// Grows from one holder to the next, and is the same as long as nobody else was elected between.
    pub fn term(&self) -> u64 {
        self.seen.as_ref().and_then(|seen| seen.record.as_ref()).map_or(0, |record| record.transitions)
    }

    /// Of the record that was seen last; empty for nobody.
    fn holder(&self) -> &str {
        let record = self.seen.as_ref().and_then(|seen| seen.record.as_ref());
        record.map_or("", |record| record.holder.as_str())
    }

    fn released(record: &MasterRecord) -> MasterRecord {
        MasterRecord { holder: String::new(), lease_ms: 0, renewals: record.renewals + 1, ..record.clone() }
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
