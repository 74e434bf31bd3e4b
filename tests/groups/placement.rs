//! The placement of groups that share PD and a store: what is shown of the embedded engine in `tests/process` holds here too.

use kit::cluster::{Cluster, prefix};
use kit::{changes, full_tier, newcomer};

use crate::BINARY;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_are_there_stay_where_they_are_whatever_a_file_says() {
    let Some(cluster) = Cluster::any().await else { return };
    let prefix = prefix("newcomer");
    newcomer::run(&BINARY.place(), BINARY, &|start| start.on_tikv(cluster.pd(), &prefix)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_placement_changes_in_use_and_nothing_is_lost() {
    let Some(cluster) = Cluster::any().await else { return };
    let prefix = prefix("changes");
    let changes = if full_tier() { 60 } else { 8 };
    changes::run(&BINARY.place(), crate::seed(), changes, &|start| start.on_tikv(cluster.pd(), &prefix))
        .await;
}
