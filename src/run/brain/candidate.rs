//! Standing for election, from flags.

use std::time::Duration;

use anyhow::{Result, bail};
use kubebrain_brain::election::{Ballot, Candidacy, Candidate, Driver, EngineBallot, Timing};
use kubebrain_brain::engine::{Engine, ReadError};
use kubebrain_brain::rows::Layout;
use kubebrain_shared::stop::Stopper;
use tokio::time::timeout;

use crate::flags::{self, Brain, Election, ReadFence};
use crate::run::storage::Storage;

use super::endpoints::Endpoints;

/// A storage that is silent may come back.
const LOOK_WITHIN: Duration = Duration::from_millis(500);

/// A candidacy and the task behind it.
pub(super) struct RunningElection {
    pub candidacy: Candidacy,
    stopper: Stopper,
}

/// Stands for election; `None` where this brain is the only one of its group.
pub(super) async fn stand(
    flags: &Brain,
    storage: &Storage,
    endpoints: &Endpoints,
) -> Result<Option<RunningElection>> {
    let shared = storage.engine.is_shared();
    let given = flags.election.election;
    let ballot = given.unwrap_or(if shared { flags::Ballot::Engine } else { flags::Ballot::None });
    if ballot != flags::Ballot::None && !shared {
        bail!(
            "--election={}: no other process can share this engine, so there is nobody to elect; use --engine=tikv, or \
             leave the flag out",
            if ballot == flags::Ballot::Engine { "engine" } else { "kubernetes" }
        );
    }
    if ballot != flags::Ballot::Kubernetes
        && let Some(flag) = flags.election.of_kubernetes()
    {
        bail!("{flag} goes with --election=kubernetes");
    }
    if flags.store.read_fence == ReadFence::Lease && ballot == flags::Ballot::None {
        bail!(
            "--read-fence=lease: there is no master lease without an election; use --election=engine or kubernetes"
        );
    }
    if ballot == flags::Ballot::None {
        return Ok(None);
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
    if endpoints.peer_urls.is_empty() {
        bail!(
            "--listen-peer-urls {}: that stands for every address of this machine, and the group's other brains and its \
             proxies need one that they can dial: name it by --initial-advertise-peer-urls",
            flags.peers.listen_peer_urls.join(",")
        );
    }
    let (name, client_urls) = (flags.clients.name.clone(), endpoints.client_urls.clone());
    let me = Candidate::of_process(name, endpoints.peer_urls.clone(), client_urls);
    let layout = Layout::new(flags.store.store_prefix.as_bytes(), &flags.group);
    Ok(Some(match ballot {
        #[cfg(feature = "kubernetes")]
        flags::Ballot::Kubernetes => {
            RunningElection::new(super::lease::ballot(flags, timing).await?, me, timing)
        }
        #[cfg(not(feature = "kubernetes"))]
        flags::Ballot::Kubernetes => bail!(
            "--election=kubernetes: this program was built without it; build it without --no-default-features"
        ),
        flags::Ballot::Engine | flags::Ballot::None => {
            RunningElection::new(EngineBallot::new(storage.engine.clone(), layout.election()), me, timing)
        }
    }))
}

/// What a slave finds of its storage that waiting does not mend: whoever only asks who is master would wait for ever.
pub(super) async fn beyond_help(engine: &dyn Engine) -> Option<anyhow::Error> {
    match timeout(LOOK_WITHIN, engine.snapshot()).await {
        Ok(Err(error @ ReadError::Failed(_))) => Some(error.into()),
        _ => None,
    }
}

impl Election {
    /// A flag that was given and goes with Kubernetes alone, if any was.
    fn of_kubernetes(&self) -> Option<&'static str> {
        let given = [
            (self.election_kubeconfig.is_some(), "--election-kubeconfig"),
            (self.election_namespace.is_some(), "--election-namespace"),
            (self.election_lease_name.is_some(), "--election-lease-name"),
        ];
        given.into_iter().find_map(|(given, flag)| given.then_some(flag))
    }
}

impl RunningElection {
    fn new(ballot: impl Ballot, me: Candidate, timing: Timing) -> Self {
        let (driver, candidacy) = Driver::new(ballot, me, timing);
        let stopper = Stopper::default();
        stopper.keep("the task that stands for election", |stop| driver.run(stop));
        Self { candidacy, stopper }
    }

    /// Returns when the task behind it has panicked, with what it was.
    pub(super) fn broken(&self) -> impl Future<Output = &'static str> + Send + use<> {
        self.stopper.broken()
    }

    /// Releases what is held, and ends.
    pub(super) async fn stop(self) {
        self.stopper.stop().await;
    }
}
