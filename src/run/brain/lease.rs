//! The ballot in a Lease of a Kubernetes cluster, from flags.

use anyhow::{Context as _, Result, bail};
use kubebrain_brain::election::Timing;
use kubebrain_brain_kubernetes::{LeaseBallot, lease};

use crate::flags::{Brain, Election};

/// # Errors
/// Names that no lease has; an API server that the flags do not lead to.
pub(super) async fn ballot(flags: &Brain, timing: Timing) -> Result<LeaseBallot> {
    let Election { election_kubeconfig, election_namespace, election_lease_name, .. } = &flags.election;
    let namespace = election_namespace.as_deref().unwrap_or("default");
    if !lease::is_namespace(namespace) {
        bail!("--election-namespace {namespace:?}: a namespace has 1 to 63 of a-z, 0-9 and -");
    }
    let name = match election_lease_name {
        Some(name) if lease::is_name(name) => name.clone(),
        Some(name) => {
            bail!("--election-lease-name {name:?}: a lease's name has 1 to 253 of a-z, 0-9, - and .")
        }
        None => lease::name(flags.group.as_str(), &flags.store.store_prefix),
    };
    // One that hangs leaves time for another one.
    let patience = timing.renew_deadline / 2;
    let config = kubebrain_brain_kubernetes::Config { kubeconfig: election_kubeconfig.clone(), patience };
    let client = kubebrain_brain_kubernetes::connect(&config).await;
    let client = client.context("--election=kubernetes, --election-kubeconfig")?;
    tracing::info!("standing for election on lease {namespace}/{name}");
    Ok(LeaseBallot::new(client, namespace, name, patience))
}
