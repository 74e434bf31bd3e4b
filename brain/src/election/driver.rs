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
    rng: SmallRng,
}

impl<B: Ballot> Driver<B> {
    /// Nothing is asked before [`Self::run`]. `seed` shifts the tries of several candidates against each other.
    pub fn new(ballot: B, me: Candidate, timing: Timing, seed: u64) -> Self {
        Self {
            ballot,
            campaign: Campaign::new(me, timing),
            timing,
            found: None,
            standing: watch::Sender::new(Standing::Slave(None)),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// Where it stands. A master's time runs out also where nothing more is heard here: whoever acts looks at `until`.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Runs until `stop` is asked; then the record is released, where it is its own.
    ///
    /// # Cancel safety
    /// A dropped call leaves the record as it is: others wait for its lease.
    pub async fn run(mut self, stop: Stop) {
        loop {
            self.tell();
            let step = self.campaign.step(Instant::now());
            tokio::select! { biased;
                () = stop.asked() => break,
                () = self.carry_out(step) => {}
            }
        }
        if let Some(record) = self.campaign.release() {
            let released = self.ballot.replace(self.found.as_ref(), &record);
            match timeout(RELEASE_WITHIN, released).await {
                Ok(Replaced::Yes(_) | Replaced::No) => {}
                Ok(Replaced::Unknown(cause)) => {
                    tracing::warn!("the master lease may not be released: {cause}")
                }
                Err(_late) => tracing::warn!("the master lease may not be released: no answer"),
            }
        }
        self.standing.send_replace(Standing::Slave(None));
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
