//! [`Claim`]: "I am the master, and this is the last of my batches that I know to be settled", and how the log proves it.
//!
//! Whoever takes a group over writes the next number of its log, and a master sends one batch at a time. So the two
//! records after the claimed batch decide, in a snapshot that was taken after the claim was made:
//!
//! | next record | the one after | so nobody else was the master |
//! |---|---|---|
//! | absent | | when the snapshot was taken |
//! | mine | absent | when the snapshot was taken |
//! | mine | mine | when the second was committed; it was sent after the first was settled, so after the claim |
//! | another's | | not known: the claim is refuted |
//! | mine | another's | not known: the first may have been on its way when the claim was made |
//!
//! Where it is proven there is a moment after the claim at which what the master showed was all that anybody could have been
//! answered: a batch that is there and that it did not show was not settled, so nobody had heard of it.
//!
//! Numbers that were trimmed meanwhile are absent too. Then they were the master's own: a takeover, and the record before it,
//! are never trimmed (see `sweep`).

use crate::rows::codec::{self, Record};
use crate::rows::log::LogError;
use crate::state::claim::Claim;
use crate::state::group::GroupState;

/// The record by which another one is the master, and its number.
pub(crate) type Refutation = (u64, Record);

/// Looks at the log; `None` proves the claim.
///
/// # Errors
/// See [`LogError`]: nothing is known.
///
/// # Cancel safety
/// Safe: a read.
pub(super) async fn refute(state: &GroupState, claim: Claim) -> Result<Option<Refutation>, LogError> {
    let numbers = [claim.batch + 1, claim.batch + 2];
    let keys = numbers.map(|number| state.layout.log(number));
    let snapshot = state.engine.snapshot().await?;
    let values = snapshot.get_many(keys.to_vec()).await?;
    for ((number, key), value) in numbers.into_iter().zip(&keys).zip(values) {
        let Some(value) = value else { continue };
        let record: Record = codec::read_message(key, value)?;
        let is_mine = record.is_batch_of(claim.epoch);
        #[cfg(any(test, feature = "faults"))]
        if is_mine && state.fence.planted_faults().mine_is_fresh {
            return Ok(None);
        }
        if !is_mine {
            return Ok(Some((number, record)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
