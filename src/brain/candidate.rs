//! Standing for election, from flags.

use anyhow::{Result, bail};
use kubebrain_brain::election::{Candidacy, Candidate, Driver, EngineBallot, Timing};
use kubebrain_brain::mvcc::codec::Layout;
use kubebrain_shared::stop::Stopper;

use crate::cli::{Ballot, Brain};
use crate::storage::Storage;

use super::doors::Doors;

/// A candidacy and the task behind it.
pub(super) struct Standing {
    pub candidacy: Candidacy,
    stopper: Stopper,
}

/// Stands for election; `None` where this brain is the only one of its group.
pub(super) fn stand(flags: &Brain, storage: &Storage, doors: &Doors) -> Result<Option<Standing>> {
    let shared = storage.engine.is_shared();
    match flags.election.election {
        Ballot::None => return Ok(None),
        Ballot::Engine if !shared => bail!(
            "--election=engine: no other process can share this engine, so there is nobody to elect; use --engine=tikv, \
             or leave the flag out"
        ),
        Ballot::Engine => {}
    }
    let timing = Timing {
        lease: flags.election.election_lease_duration,
        renew_deadline: flags.election.election_renew_deadline,
        retry: flags.election.election_retry_period,
    };
    let timing = match timing.check() {
        Ok(timing) => timing,
        Err(error) => bail!("--election-lease-duration, -renew-deadline, -retry-period: {error}"),
    };
    let (name, client_urls) = (flags.clients.name.clone(), doors.client_urls.clone());
    let me = Candidate::of_process(name, doors.peer_urls.clone(), client_urls);
    let layout = Layout::new(flags.store.store_prefix.as_bytes(), &flags.group);
    let ballot = EngineBallot::new(storage.engine.clone(), layout.election());
    let (driver, candidacy) = Driver::new(ballot, me, timing);
    let stopper = Stopper::default();
    tokio::spawn(driver.run(stopper.handle()));
    Ok(Some(Standing { candidacy, stopper }))
}

impl Standing {
    /// Releases what is held, and ends.
    pub(super) async fn stop(self) {
        self.stopper.stop().await;
    }
}
