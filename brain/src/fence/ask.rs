//! The one task that asks for all that wait, as a master or as a slave.

use std::sync::Arc;

use super::pace::Pace;
use super::{master, slave};
use crate::state::group::GroupState;

/// Asks for all that wait, until nobody does.
pub(super) async fn ask(state: Arc<GroupState>) {
    let mut pace = Pace::default();
    loop {
        // Whoever was let go by the last question may come back at once: it joins instead of waiting for one more.
        tokio::task::yield_now().await;
        let is_slave = state.is_slave();
        let Some(question) = state.fence.next_question() else { return };
        if is_slave {
            slave::ask_for(&state, question, &mut pace).await;
        } else {
            master::ask_for(&state, question, &mut pace).await;
        }
    }
}
