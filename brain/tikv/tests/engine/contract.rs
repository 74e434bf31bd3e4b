//! What every engine must do, on TiKV: as it is, with each batch cut by a region's boundary, and always in two phases.

use kubebrain_brain::engine::contract;
use kubebrain_brain_tikv::Config;

use crate::support::{Cluster, shared};

/// Inside the keys that the checks use.
const CUTS: [&str; 4] = ["a\0", "b", "k05", "row/05000"];

mod in_one_region {
    use super::*;

    contract::suite!({
        let Some(cluster) = shared().await else { return };
        cluster.opener("one", |cluster: Cluster, name: String| async move { cluster.open(&name).await })
    });
}

mod over_regions {
    use super::*;

    contract::suite!({
        let Some(cluster) = shared().await else { return };
        if !cluster.can_split() {
            println!("skipped: this cluster splits its regions itself");
            return;
        }
        cluster.opener("cut", |cluster: Cluster, name: String| async move {
            cluster.split(&name, &CUTS).await;
            cluster.open(&name).await
        })
    });
}

mod in_two_phases {
    use super::*;

    contract::suite!({
        let Some(cluster) = shared().await else { return };
        cluster.opener("two", |cluster: Cluster, name: String| async move {
            cluster.open_with(&name, Config { one_phase: false, ..cluster.config() }).await
        })
    });
}
