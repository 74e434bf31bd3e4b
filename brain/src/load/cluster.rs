//! The cluster's id in the store, made at the store's first start: from a token where one is given, so that stores which
//! are given the same one have the same id; else drawn.
//!
//! It is written with the format, in one batch: so whoever opens the store at the same time reads the one that stands, and
//! a store that has a format and no id is one of before there were any, and keeps the id that all of those have.

use std::sync::Arc;

use super::error::OpenError;
use crate::decide::identity::unnamed;
use crate::engine::{Batch, CommitError, Engine};
use crate::rows::codec::{self, FORMAT, Layout, small_value};
use crate::rows::retry::Tries;

/// The cluster's id, as the store has it. A store that is empty gets its format, and `new` as its id.
///
/// # Errors
/// See [`OpenError`].
///
/// # Cancel safety
/// A dropped call may have written format and id.
pub async fn learn(engine: &Arc<dyn Engine>, layout: &Layout, new: u64) -> Result<u64, OpenError> {
    let (format, key) = (layout.format(), layout.cluster());
    let mut tries = Tries::default();
    loop {
        let Some(snapshot) = tries.of(engine.snapshot().await).await? else { continue };
        let keys = vec![format.clone(), key.clone()];
        let Some(found) = tries.of(snapshot.get_many(keys).await).await? else { continue };
        match &found[..] {
            [_, Some(id)] => return Ok(codec::read_small(&key, id)?),
            [Some(_), None] => return Ok(unnamed()),
            _ => {}
        }
        let mut batch = Batch::new();
        batch.absent(format.clone()).put(format.clone(), small_value(FORMAT));
        batch.absent(key.clone()).put(key.clone(), small_value(new));
        match engine.commit(batch).await {
            Ok(()) | Err(CommitError::Conflict { .. }) => {}
            Err(CommitError::Unknown(_)) => tries.pause().await,
            Err(refused) => return Err(refused.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use kubebrain_shared::group::GroupName;

    use super::*;
    use crate::engine::memory::Memory;

    #[tokio::test]
    async fn a_store_has_one_id_for_life_and_an_old_one_keeps_what_it_had() {
        let layout = Layout::new(b"", &GroupName::parse("a").expect("a name"));
        let other = Layout::new(b"", &GroupName::parse("b").expect("a name"));
        let engine: Arc<dyn Engine> = Arc::new(Memory::new());
        assert_eq!(learn(&engine, &layout, 7).await.ok(), Some(7));
        assert_eq!(learn(&engine, &layout, 8).await.ok(), Some(7), "it stands");
        assert_eq!(learn(&engine, &other, 9).await.ok(), Some(7), "for all groups of the store");
        let elsewhere = Layout::new(b"another/", &GroupName::parse("a").expect("a name"));
        assert_eq!(learn(&engine, &elsewhere, 9).await.ok(), Some(9), "another store in the same engine");

        let old: Arc<dyn Engine> = Arc::new(Memory::new());
        let mut batch = Batch::new();
        batch.put(layout.format(), small_value(FORMAT));
        old.commit(batch).await.expect("written by a program that knew no ids");
        assert_eq!(learn(&old, &layout, 7).await.ok(), Some(unnamed()));
    }
}
