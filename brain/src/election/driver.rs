//! [`Driver`]: carries out what a [`Campaign`] decides.

use std::time::Duration;

use kubebrain_shared::stop::Stop;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::ballot::{Ballot, Found, Replaced};
use super::campaign::{Campaign, Standing, Step, Timing};
use super::record::{Candidate, MasterRecord};

/// A release is a courtesy: the process does not wait longer for it.
const RELEASE_WITHIN: Duration = Duration::from_secs(1);

/// Stands for election until it is told to stop; then releases what it holds.
pub struct Driver<B> {
    ballot: B,
    campaign: Campaign,
    timing: Timing,
    found: Option<Found>,
    standing: watch::Sender<Standing>,
    resigned: watch::Receiver<bool>,
    rng: SmallRng,
}

/// Whoever acts by what a [`Driver`] finds out.
#[derive(Debug)]
pub struct Candidacy {
    standing: watch::Receiver<Standing>,
    resign: watch::Sender<bool>,
}

impl<B: Ballot> Driver<B> {
    /// Nothing is asked before [`Self::run`].
    pub fn new(ballot: B, me: Candidate, timing: Timing) -> (Self, Candidacy) {
        // Shifts the tries of several candidates against each other.
        let seed = xxhash_rust::xxh3::xxh3_64(me.identity.as_bytes());
        let (standing, stands) = watch::channel(Standing::Slave(None));
        let (resign, resigned) = watch::channel(false);
        let driver = Self {
            ballot,
            campaign: Campaign::new(me, timing),
            timing,
            found: None,
            standing,
            resigned,
            rng: SmallRng::seed_from_u64(seed),
        };
        (driver, Candidacy { standing: stands, resign })
    }

    /// Runs until `stop` is asked or the [`Candidacy`] is gone; then the record is released, where it is its own.
    ///
    /// # Cancel safety
    /// A dropped call leaves the record as it is: others wait for its lease.
    pub async fn run(mut self, stop: Stop) {
        let mut resigned = self.resigned.clone();
        loop {
            self.tell();
            let step = self.campaign.step(Instant::now());
            tokio::select! { biased;
                () = stop.asked() => break,
                changed = resigned.changed() => match changed {
                    Ok(()) => self.release().await,
                    Err(_gone) => break,
                },
                () = self.carry_out(step) => {}
            }
        }
        self.release().await;
        self.standing.send_replace(Standing::Slave(None));
    }

    async fn release(&mut self) {
        if let Some(record) = self.campaign.resign() {
            let released = self.ballot.replace(self.found.as_ref(), &record);
            match timeout(RELEASE_WITHIN, released).await {
                Ok(Replaced::Yes(_) | Replaced::No) => tracing::debug!("the master lease is released"),
                Ok(Replaced::Unknown(cause)) => {
                    tracing::warn!("the master lease may not be released: {cause}")
                }
                Err(_late) => tracing::warn!("the master lease may not be released: no answer"),
            }
        }
    }

    fn tell(&self) {
        let standing = self.campaign.standing(Instant::now());
        self.standing.send_if_modified(|told| {
            let changed = *told != standing;
            *told = standing;
            changed
        });
    }

    async fn carry_out(&mut self, step: Step) {
        match step {
            Step::Wait(until) => {
                // Kubernetes' jitter: candidates do not ask in step. A master's own time is kept exactly.
                let late = match self.campaign.standing(Instant::now()) {
                    Standing::Master { .. } => Duration::ZERO,
                    Standing::Slave(_) => self.timing.retry.mul_f64(0.2 * self.rng.random::<f64>()),
                };
                sleep_until(until + late).await;
            }
            Step::Look => match timeout(self.timing.renew_deadline, self.ballot.look()).await {
                Ok(Ok(found)) => {
                    self.campaign.saw(found.as_ref().map(|found| found.record.clone()), Instant::now());
                    self.found = found;
                }
                Ok(Err(cause)) => {
                    tracing::warn!("who is master cannot be read: {cause}");
                    self.campaign.blind(Instant::now());
                }
                Err(_late) => self.campaign.blind(Instant::now()),
            },
            Step::Replace(record) => self.replace(record).await,
        }
    }

    async fn replace(&mut self, record: MasterRecord) {
        self.campaign.sending(record.clone(), Instant::now());
        let replaced = self.ballot.replace(self.found.as_ref(), &record);
        match timeout(self.timing.renew_deadline, replaced).await {
            Ok(Replaced::Yes(version)) => {
                self.campaign.replaced(Instant::now());
                self.found = Some(Found { record, version });
            }
            Ok(Replaced::No) => self.campaign.beaten(),
            Ok(Replaced::Unknown(cause)) => {
                tracing::warn!("whether the master lease was renewed is not known: {cause}");
                self.campaign.unsure(Instant::now());
            }
            Err(_late) => self.campaign.unsure(Instant::now()),
        }
    }
}

impl Candidacy {
    /// Where it stands. A master's time runs out also where nothing more is heard: whoever acts looks at `until`.
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Returns with the next standing that is not yet seen; a renewal is one.
    ///
    /// # Cancel safety
    /// Safe: a standing that is not given is given next.
    pub async fn changed(&mut self) -> Standing {
        if self.standing.changed().await.is_err() {
            return std::future::pending().await;
        }
        self.standing.borrow_and_update().clone()
    }

    /// Returns when this process is not, or not any more, elected.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn lost(&self) {
        let mut standing = self.standing.clone();
        loop {
            let until = match &*standing.borrow_and_update() {
                Standing::Master { until, .. } => *until,
                Standing::Slave(_) => return,
            };
            tokio::select! { biased;
                changed = standing.changed() => if changed.is_err() {
                    return sleep_until(until).await;
                },
                () = sleep_until(until) => return,
            }
        }
    }

    /// Gives up mastership, if it is there, and does not stand again; who is master is still looked at.
    pub fn resign(&self) {
        self.resign.send_replace(true);
    }
}
