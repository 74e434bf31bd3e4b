//! A slave asks its master how far it must be, and looks into the log whether that is the master.

use std::sync::Arc;
use std::time::Duration;

use kubebrain_shared::revision::Revision;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::look::look;
use super::pace::Pace;
use crate::state::fence::{Question, Waiter};
use crate::state::follow::{FollowState, Need};
use crate::state::group::GroupState;
use crate::state::upstream::Fenced;

/// A question that is not answered for so long is given up.
const QUESTION_MAX: Duration = Duration::from_secs(2);
/// A slave that is not as far as it must be by then sends its readers elsewhere.
pub(super) const SLAVE_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_millis(200);
/// A slave's question that so many requests have shared shows that it is busy: the next one is not asked before
/// [`PACE`] times as long has passed as that one took, and more requests share it. A question costs the master as much as
/// two reads, and the look into the log costs the slave as much as ten (`bench/reads`).
const BUSY: usize = 16;
const PACE: u32 = 6;
const PACE_MAX: Duration = Duration::from_millis(10);

/// Asks once for all that wait.
pub(super) async fn ask_for(state: &Arc<GroupState>, question: Question, pace: &mut Pace) {
    let began = Instant::now();
    let answer = ask_master(state, question.floor).await;
    state.metrics.follow.question(began.elapsed(), answer.is_ok());
    match answer {
        Ok(need) => {
            let waiters = state.fence.answered(question.proof, need);
            state.metrics.follow.questioners.inc_by(waiters.len() as u64);
            pace.shared_by = waiters.len().max(pace.shared_by * 3 / 4);
            if has(state, &need) {
                release(waiters, need);
            } else {
                tokio::spawn(wait_for_all(state.clone(), waiters, need));
            }
            if pace.shared_by >= BUSY {
                sleep_until(began + (began.elapsed() * PACE).min(PACE_MAX)).await;
            }
            pace.answered();
        }
        Err(why) => {
            tracing::debug!(group = %state.group, "reads wait, the master was not asked: {why}");
            sleep(pace.failed(RETRY_MAX)).await;
        }
    }
}

/// Lets those go that a question was asked for. They are told at once, and not each woken whenever something is applied.
fn release(waiters: Vec<Waiter>, need: Need) {
    waiters.into_iter().for_each(|waiter| waiter.release(Some(need)));
}

async fn wait_for_all(state: Arc<GroupState>, waiters: Vec<Waiter>, need: Need) {
    match timeout(SLAVE_TIMEOUT, reach(&state, &need)).await {
        Ok(()) => release(waiters, need),
        Err(_) => state.follow.tell_late(),
    }
}

/// Asks the master how far one must be, and looks into the log whether it is the master.
///
/// # Errors
/// A sentence about why that is not known.
///
/// # Cancel safety
/// Safe.
pub(crate) async fn ask_master(state: &GroupState, floor: u64) -> Result<Need, String> {
    let Fenced { revision, compacted, placement, claim, .. } = ask(&state.follow, floor).await?;
    #[cfg(any(test, feature = "faults"))]
    let claim = claim.filter(|_| !state.fence.planted_faults().believes_claims);
    if let Some(claim) = claim {
        match look(state, claim).await {
            Ok(None) => {}
            Ok(Some((number, record))) => {
                return Err(format!(
                    "the brain that is followed, in term {}, is not the master any more: record {number} of the log is of term {}",
                    claim.epoch, record.epoch
                ));
            }
            Err(error) => {
                // Whoever asks next is sent elsewhere at once, until a question is answered again.
                state.follow.tell_late();
                return Err(error.to_string());
            }
        }
    }
    Ok(Need { revision: revision.get(), compacted, placement })
}

/// What the master says. A question that its master's end leaves open is given up with it.
async fn ask(follow: &FollowState, floor: u64) -> Result<Fenced, String> {
    let mut upstream = follow.upstream();
    let Some(master) = upstream.borrow_and_update().clone() else {
        return Err("no master is known".to_owned());
    };
    tokio::select! {
        biased;
        _another = upstream.changed() => Err("another master is followed".to_owned()),
        fenced = timeout(QUESTION_MAX, master.ask(Revision::new(floor))) => match fenced {
            Ok(Ok(fenced)) => Ok(fenced),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the master does not answer".to_owned()),
        },
    }
}

/// True if a slave is so far.
fn has(state: &GroupState, need: &Need) -> bool {
    !state.is_slave()
        || (state.follow.is_loaded()
            && state.committed().get() >= need.revision
            && state.compacted() >= need.compacted
            && has_heard(state, need))
}

/// True if a slave goes by what its master went by, or by what came after.
fn has_heard(state: &GroupState, need: &Need) -> bool {
    #[cfg(any(test, feature = "faults"))]
    if state.planted.waits_by_revision {
        return true;
    }
    state.held.load().pair() >= need.placement
}

/// Returns when a slave is so far.
///
/// # Cancel safety
/// Safe.
pub(super) async fn reach(state: &GroupState, need: &Need) {
    until(state, || has(state, need)).await;
}

/// Returns when this holds, which is looked at again whenever something has become visible.
///
/// # Cancel safety
/// Safe.
pub(super) async fn until(state: &GroupState, holds: impl Fn() -> bool) {
    loop {
        let mut moved = std::pin::pin!(state.hub.moved());
        moved.as_mut().enable();
        if holds() {
            return;
        }
        moved.await;
    }
}
