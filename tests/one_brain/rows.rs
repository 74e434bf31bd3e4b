//! The store's rows, written past any brain.

use kubebrain_brain::engine::{Batch, Engine as _};
use kubebrain_brain::rows::{Layout, small_value};
use kubebrain_brain_tikv::{Config, Tikv};
use kubebrain_shared::group::GroupName;

use kit::in_time;

/// Makes a store of this format.
pub(crate) async fn put_format(pd: &str, prefix: &str, format: u64) {
    let engine = Tikv::open(Config::new(pd.split(','))).expect("it can be opened");
    in_time("PD", engine.ready(prefix.as_bytes())).await.expect("PD is there");
    let group = GroupName::parse("default").expect("a name");
    let mut batch = Batch::new();
    batch.put(Layout::new(prefix.as_bytes(), &group).format(), small_value(format));
    in_time("a commit", engine.commit(batch)).await.expect("a commit");
}
