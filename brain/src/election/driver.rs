//! [`Driver`]: carries out what a [`Campaign`] decides.

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use kubebrain_shared::stop::Stop;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::ballot::{Ballot, Found, Replaced};
use super::campaign::{Campaign, Mastership, Step, Timing};
use super::record::{Candidate, MasterRecord};
use crate::tenure::Tenure;

/// A release is a courtesy: the process does not wait longer for it.
const RELEASE_WITHIN: Duration = Duration::from_secs(1);
/// A replacement that is on its way when the record is to be released: most are there in a few milliseconds, and then the
/// release need not look first. After that it may land late, and costs one more try.
const SETTLE_WITHIN: Duration = Duration::from_millis(200);

/// Stands for election until it is told to stop; then releases what it holds.
pub struct Driver<B> {
    ballot: B,
    campaign: Campaign,
    timing: Timing,
    found: Option<Found>,
    mastership: watch::Sender<Mastership>,
    tenure: Tenure,
    wishes: watch::Receiver<Wishes>,
    /// The last look failed, and that was said.
    blind: bool,
    rng: SmallRng,
}

/// Whoever acts by what a [`Driver`] finds out.
#[derive(Debug)]
pub struct Candidacy {
    mastership: watch::Receiver<Mastership>,
    tenure: Tenure,
    wishes: watch::Sender<Wishes>,
}

/// What a [`Candidacy`] has asked for so far.
#[derive(Clone, Copy, Debug, Default)]
struct Wishes {
    resign: bool,
    hurries: u64,
}

/// What a driver hears.
enum Heard {
    End,
    Resign,
    Hurry,
}

impl<B: Ballot> Driver<B> {
    /// Nothing is asked before [`Self::run`].
    pub fn new(ballot: B, me: Candidate, timing: Timing) -> (Self, Candidacy) {
        // Shifts the tries of several candidates against each other.
        let seed = xxhash_rust::xxh3::xxh3_64(me.identity.as_bytes());
        let (mastership, stands) = watch::channel(Mastership::Slave(None));
        let (wish, wishes) = watch::channel(Wishes::default());
        let tenure = Tenure::default();
        let candidacy = Candidacy { mastership: stands, tenure: tenure.clone(), wishes: wish };
        let driver = Self {
            ballot,
            campaign: Campaign::new(me, timing),
            timing,
            found: None,
            mastership,
            tenure,
            wishes,
            blind: false,
            rng: SmallRng::seed_from_u64(seed),
        };
        (driver, candidacy)
    }

    /// Runs until `stop` is asked or the [`Candidacy`] is gone; then the record is released, where it is its own.
    ///
    /// # Cancel safety
    /// A dropped call leaves the record as it is: others wait for its lease.
    pub async fn run(mut self, stop: Stop) {
        let mut ear = Ear { stop, wishes: self.wishes.clone(), known: Wishes::default() };
        loop {
            self.tell();
            // Before a step is begun: whoever resigns does not renew first.
            let heard = match ear.next().now_or_never() {
                Some(heard) => Some(heard),
                None => self.advance(&mut ear).await,
            };
            match heard {
                Some(Heard::End) => break,
                Some(Heard::Resign) => self.campaign.resign(Instant::now()),
                Some(Heard::Hurry) => self.campaign.hurry(Instant::now()),
                None => {}
            }
        }
        self.release().await;
        self.tenure.lose();
        self.mastership.send_replace(Mastership::Slave(None));
    }

    /// Carries one step out, or as much of it as is bearable when something is heard.
    async fn advance(&mut self, ear: &mut Ear) -> Option<Heard> {
        let step = self.campaign.step(Instant::now());
        let sends = matches!(step, Step::Replace(_));
        let (mut hurry, mut cut) = (None, None);
        {
            let mut doing = pin!(self.carry_out(step));
            loop {
                tokio::select! { biased;
                    heard = ear.next() => match heard {
                        // Whoever renews, or takes over, is not to be hurried.
                        Heard::Hurry if sends => hurry = Some(Heard::Hurry),
                        Heard::Hurry => return Some(Heard::Hurry),
                        heard => {
                            let settles = sends && timeout(SETTLE_WITHIN, doing).await.is_err();
                            cut = Some((heard, settles));
                            break;
                        }
                    },
                    () = &mut doing => break,
                }
            }
        }
        let Some((heard, unsettled)) = cut else { return hurry };
        if unsettled {
            self.campaign.unsure(Instant::now());
        }
        Some(heard)
    }

    async fn release(&mut self) {
        let end = Instant::now() + RELEASE_WITHIN;
        self.campaign.resign(Instant::now());
        self.tell();
        while self.campaign.has_to_release() {
            let step = self.campaign.step(Instant::now());
            if timeout_at(end, self.carry_out(step)).await.is_err() {
                return tracing::warn!("the master lease may not be released: no answer");
            }
        }
    }

    fn tell(&self) {
        let mastership = self.campaign.mastership(Instant::now());
        match mastership {
            Mastership::Master { until } => self.tenure.hold(self.campaign.term(), until),
            Mastership::Slave(_) => self.tenure.lose(),
        }
        self.mastership.send_if_modified(|told| {
            let changed = *told != mastership;
            *told = mastership;
            changed
        });
    }

    async fn carry_out(&mut self, step: Step) {
        match step {
            Step::Wait(until) => {
                // Kubernetes' jitter: candidates do not ask in step. A master's own time is kept exactly.
                let now = Instant::now();
                let late = match self.campaign.mastership(now) {
                    Mastership::Master { .. } => Duration::ZERO,
                    Mastership::Slave(_) => self.campaign.pace(now).mul_f64(0.2 * self.rng.random::<f64>()),
                };
                sleep_until(until + late).await;
            }
            Step::Look => match timeout(self.timing.renew_deadline, self.ballot.look()).await {
                Ok(Ok(found)) => {
                    self.campaign.saw(found.as_ref().map(|found| found.record.clone()), Instant::now());
                    (self.found, self.blind) = (found, false);
                }
                Ok(Err(cause)) => self.blind(&cause.to_string()),
                Err(_late) => self.blind("no answer"),
            },
            Step::Replace(record) => self.replace(record).await,
        }
    }

    fn blind(&mut self, why: &str) {
        if !std::mem::replace(&mut self.blind, true) {
            tracing::warn!("who is master cannot be read: {why}");
        }
        self.campaign.blind(Instant::now());
    }

    async fn replace(&mut self, record: MasterRecord) {
        self.campaign.sending(record.clone(), Instant::now());
        let replaced = self.ballot.replace(self.found.as_ref(), &record);
        match timeout(self.timing.renew_deadline, replaced).await {
            Ok(Replaced::Yes(version)) => {
                if record.is_released() {
                    tracing::debug!("the master lease is released");
                }
                self.campaign.replaced(Instant::now());
                self.found = Some(Found { record, version });
            }
            Ok(Replaced::No) => self.campaign.beaten(),
            Ok(Replaced::Unknown(cause)) => {
                tracing::warn!("whether the master lease has changed is not known: {cause}");
                self.campaign.unsure(Instant::now());
            }
            Err(_late) => self.campaign.unsure(Instant::now()),
        }
    }
}

impl Candidacy {
    /// Where it stands. A master's time runs out also where nothing more is heard, as while a renewal is waited for:
    /// then it is nobody's slave.
    pub fn mastership(&self) -> Mastership {
        match self.mastership.borrow().clone() {
            Mastership::Master { until } if Instant::now() >= until => Mastership::Slave(None),
            mastership => mastership,
        }
    }

    /// Returns with the next mastership that is not yet seen; a renewal is one.
    ///
    /// # Cancel safety
    /// Safe: a mastership that is not given is given next.
    pub async fn changed(&mut self) -> Mastership {
        if self.mastership.changed().await.is_err() {
            return std::future::pending().await;
        }
        self.mastership.borrow_and_update().clone()
    }

    /// Returns when this process is not, or not any more, elected.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn lost(&self) {
        let mut mastership = self.mastership.clone();
        loop {
            let until = match &*mastership.borrow_and_update() {
                Mastership::Master { until, .. } => *until,
                Mastership::Slave(_) => return,
            };
            tokio::select! { biased;
                changed = mastership.changed() => if changed.is_err() {
                    return sleep_until(until).await;
                },
                () = sleep_until(until) => return,
            }
        }
    }

    /// Gives up mastership, if it is there, and does not stand again; who is master is still looked at. The record is
    /// released at once, or as soon as it is known what became of a renewal.
    pub fn resign(&self) {
        self.wishes.send_modify(|wishes| wishes.resign = true);
    }

    /// The master says that it leaves, or is not heard any more: the record is looked at at once and then every 20 ms,
    /// for 2 s at most, until there is another holder. It is taken no sooner than ever: when it is released, or when
    /// its lease has run out. No effect on whoever is master.
    pub fn hurry(&self) {
        self.wishes.send_modify(|wishes| wishes.hurries += 1);
    }

    /// Until when the master lease is held, for reads that are answered by it.
    pub const fn tenure(&self) -> &Tenure {
        &self.tenure
    }
}

/// Hears each wish once.
struct Ear {
    stop: Stop,
    wishes: watch::Receiver<Wishes>,
    known: Wishes,
}

impl Ear {
    /// The next one; it is forgotten when it is given, not before.
    async fn next(&mut self) -> Heard {
        loop {
            if self.stop.is_asked() {
                return Heard::End;
            }
            let wishes = *self.wishes.borrow_and_update();
            if wishes.resign && !self.known.resign {
                self.known.resign = true;
                return Heard::Resign;
            }
            if wishes.hurries != self.known.hurries {
                self.known.hurries = wishes.hurries;
                return Heard::Hurry;
            }
            tokio::select! { biased;
                () = self.stop.asked() => {}
                changed = self.wishes.changed() => if changed.is_err() {
                    return Heard::End;
                },
            }
        }
    }
}
