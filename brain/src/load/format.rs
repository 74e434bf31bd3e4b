//! The stored format: written once into an empty store, and any other one refused.
//!
//! It is written under `absent` and never deleted; of two programs that find an empty store one writes and both read what
//! is there then. A store of the format before is taken over: a program that knows nothing of placements in the store would
//! serve what they have given away.

use std::sync::Arc;

use super::error::OpenError;
use crate::engine::{Batch, CommitError, Engine};
use crate::rows::codec::{self, FORMAT, FORMAT_WITHOUT_PLACEMENTS, Layout, small_value};
use crate::rows::retry::Tries;

/// Writes the format into a fresh store, refuses another one.
pub(crate) async fn check_format(engine: &Arc<dyn Engine>, layout: &Layout) -> Result<(), OpenError> {
    let key = layout.format();
    let mut tries = Tries::default();
    loop {
        let Some(snapshot) = tries.of(engine.snapshot().await).await? else { continue };
        let Some(value) = tries.of(snapshot.get(&key).await).await? else { continue };
        if let Some(value) = &value {
            match codec::read_small(&key, value)? {
                FORMAT => return Ok(()),
                FORMAT_WITHOUT_PLACEMENTS => {}
                found => return Err(OpenError::Format { found }),
            }
        }
        let mut batch = Batch::new();
        match value {
            None => batch.absent(key.clone()),
            Some(before) => batch.equals(key.clone(), before),
        };
        batch.put(key.clone(), small_value(FORMAT));
        match engine.commit(batch).await {
            Ok(()) | Err(CommitError::Conflict { .. }) => {}
            Err(CommitError::Unknown(_)) => tries.pause().await,
            Err(refused) => return Err(refused.into()),
        }
    }
}
