//! A look into the log, by a master or by a slave of it: is it the master still?

use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, timeout};

use super::claim::{Refutation, refute};
use crate::rows::log::LogError;
use crate::state::claim::Claim;
use crate::state::group::GroupState;

/// A look that is not answered for so long is given up.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Why a look told nothing.
#[derive(Debug, Error)]
pub(super) enum LookError {
    #[error("the log was not read: {0}")]
    Log(#[from] LogError),
    #[error("the log was not read in time")]
    Late,
}

/// Looks into the log for what refutes a claim. Counted.
///
/// # Errors
/// See [`LookError`].
pub(super) async fn look(state: &GroupState, claim: Claim) -> Result<Option<Refutation>, LookError> {
    let began = Instant::now();
    let looked = timeout(LOOK_MAX, refute(state, claim)).await;
    state.metrics.fence_seconds.observe(began.elapsed().as_secs_f64());
    state.metrics.fence(match &looked {
        Ok(Ok(None)) => 0,
        Ok(Ok(Some(_))) => 1,
        Ok(Err(_)) | Err(_) => 2,
    });
    Ok(looked.map_err(|_| LookError::Late)??)
}
