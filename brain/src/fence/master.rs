//! A master asks the engine: a look into the log whether somebody else has taken over.

use std::time::Duration;

use tokio::time::sleep;

use super::look::{LookError, look};
use super::pace::Pace;
use crate::state::ended::Ended;
use crate::state::fence::Question;
use crate::state::group::GroupState;

const RETRY_MAX: Duration = Duration::from_secs(1);

/// Asks once for all that wait.
pub(super) async fn ask_for(state: &GroupState, question: Question, pace: &mut Pace) {
    let fence = &state.fence;
    state.metrics.fence_waiters.observe(question.waiters as f64);
    if !fence.asks() {
        // They have waited since this was a slave; it is the only one to write the engine.
        fence.prove(question.proof);
        return;
    }
    match look(state, fence.claim(state.identity().epoch)).await {
        Ok(None) => {
            fence.prove(question.proof);
            pace.answered();
        }
        Ok(Some((number, record))) => state.end(Ended::deposed(&state.group, number, &record)),
        Err(LookError::Log(error)) => {
            tracing::warn!(group = %state.group, "reads wait, the log was not read: {error}");
            sleep(pace.failed(RETRY_MAX)).await;
        }
        Err(LookError::Late) => {}
    }
}
