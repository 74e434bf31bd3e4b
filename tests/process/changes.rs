//! The placement changed by chance, in use: see `kit::changes`. With `KUBEBRAIN_FULL=1` two hundred times.

use kit::{changes, full_tier, seed};

use crate::BINARY;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_placement_changes_in_use_and_nothing_is_lost() {
    let place = BINARY.place();
    changes::run(&place, seed(16), if full_tier() { 200 } else { 14 }, &|start| start).await;
}
