//! Waiting until an answer is known to be fresh: tickets are taken when a request arrives, and pass before it is answered.

use std::sync::Arc;
use std::time::Duration;

use kubebrain_net::trace::{self, Step};
use kubebrain_shared::fault::Fault;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Code;

use super::ask::ask;
use super::slave::{SLAVE_TIMEOUT, reach, until};
#[cfg(any(test, feature = "faults"))]
use crate::state::fence::Proof;
use crate::state::fence::{Joined, Ticket};
use crate::state::follow::Need;
use crate::state::group::GroupState;
use crate::state::tasks::keep;
use crate::state::timeout::ANSWER_TIMEOUT;

/// For a request that arrives now.
pub(crate) fn ticket(state: &GroupState) -> Ticket {
    let fence = &state.fence;
    let slave = state.is_slave();
    let wait: Duration = if slave { SLAVE_TIMEOUT } else { ANSWER_TIMEOUT };
    let until = (slave || fence.asks()).then(|| Instant::now() + wait);
    let begun = fence.begun();
    #[cfg(any(test, feature = "faults"))]
    let begun = if fence.planted_faults().early_fence { Proof(begun.0.saturating_sub(1)) } else { begun };
    Ticket { begun, until, to_slave: slave }
}

/// Returns when what was read in memory since `ticket` may be answered; on a slave, what is read from then on.
///
/// # Errors
/// [`Fault::LeaderChanged`] if the group has ended here, or a slave is not as far as it must be in time;
/// [`Fault::Timeout`] if the engine does not answer in time.
///
/// # Cancel safety
/// Safe: a read.
pub(crate) async fn fence(state: &Arc<GroupState>, ticket: Ticket) -> Result<(), Fault> {
    if ticket.is_slaves() {
        return fence_slave(state, ticket, 0).await;
    }
    shown(ticket, pass(state, ticket, 0)).await.map(drop)
}

/// As [`fence`], of one that was a slave when the request arrived: it is at or above `floor` then.
///
/// # Errors
/// [`Fault::LeaderChanged`].
pub(crate) async fn fence_slave(state: &Arc<GroupState>, ticket: Ticket, floor: u64) -> Result<(), Fault> {
    shown(ticket, follow(state, ticket, floor)).await
}

/// In the trace of the request that waits, where there is one.
async fn shown<T>(ticket: Ticket, waits: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let span = ticket.until.and_then(|_| trace::step(Step::Fence));
    let outcome = waits.await;
    if let Some(span) = span {
        span.end(outcome.as_ref().map_or_else(|fault| fault.wire().0, |_| Code::Ok));
    }
    outcome
}

async fn follow(state: &Arc<GroupState>, mut ticket: Ticket, floor: u64) -> Result<(), Fault> {
    let Some(until) = ticket.until else { return Err(Fault::LeaderChanged) };
    loop {
        if state.is_slave() {
            state.follow.may_ask()?;
        }
        let need = match pass(state, ticket, floor).await {
            Ok(need) => need,
            Err(Fault::Timeout) => return Err(Fault::LeaderChanged),
            Err(fault) => return Err(fault),
        };
        if let Some(need) = &need
            && timeout_at(until, reach(state, need)).await.is_err()
        {
            state.follow.tell_late();
            return Err(Fault::LeaderChanged);
        }
        if state.committed().get() >= floor {
            return Ok(());
        }
        // The question had begun, for a lower floor, when this one joined those who wait for it; or it was asked of
        // the engine, as a master, who lifts nothing.
        if need.is_none() {
            return Err(Fault::LeaderChanged);
        }
        ticket.begun = state.fence.begun();
    }
}

/// Returns when `revision` is visible here, or after `within`. It asks nobody: the group has committed it, as somebody knows.
///
/// # Cancel safety
/// Safe.
pub(crate) async fn until_visible(state: &GroupState, revision: u64, within: Duration) {
    let visible = until(state, || state.committed().get() >= revision);
    let _too_late = timeout(within, visible).await;
}

/// As [`fence`], for an answer of the writer: where its batch was committed, that stands whatever came after.
///
/// # Errors
/// As [`fence`].
pub(crate) async fn fence_answer(state: &Arc<GroupState>, ticket: Ticket) -> Result<(), Fault> {
    if ticket.until.is_some() { fence(state, ticket).await } else { Ok(()) }
}

/// Returns when a proof, or a slave's question, that began after the ticket was taken has been answered well.
async fn pass(state: &Arc<GroupState>, ticket: Ticket, floor: u64) -> Result<Option<Need>, Fault> {
    let fence = &state.fence;
    let Some(until) = ticket.until else {
        return if fence.is_over() { Err(Fault::LeaderChanged) } else { Ok(None) };
    };
    let passes = match fence.join(ticket, floor)? {
        Joined::Passed(need) => return Ok(need),
        Joined::Waits { passes, starts } => {
            if starts {
                drop(keep(state, "the task that keeps reads fresh", ask(Arc::clone(state))));
            }
            passes
        }
    };
    match timeout_at(until, passes).await {
        Ok(Ok(need)) => Ok(need),
        Ok(Err(_)) => Err(Fault::LeaderChanged),
        Err(_) => Err(Fault::Timeout),
    }
}
