//! The ids that every answer's header has: of the cluster and of the member, as etcd has them.
//!
//! * A store has one cluster id for as long as it lives, made at its first start: from a token where one is given, so that
//!   stores which are given the same one have the same id; else drawn. It is written with the format, in one batch: so
//!   whoever opens the store at the same time reads the one that stands, and a store that has a format and no id is one
//!   of before there were any, and keeps the id that all of those have.
//! * A member's id is made from that and its name. In a store of before there were any it is that of the name alone.

use std::sync::Arc;

use super::codec::{self, FORMAT, Layout, small_value};
use super::open::{OpenError, Tries};
use crate::engine::{Batch, CommitError, Engine};

/// Of all stores that have no id of their own.
pub fn unnamed() -> u64 {
    id_of("kubebrain")
}

/// Of all stores that are given this token.
pub fn of_token(token: &str) -> u64 {
    id_of(&format!("cluster {token}"))
}

/// From a number that was drawn.
pub const fn drawn(number: u64) -> u64 {
    // Clients print it as a signed number here and there; and 0 is none.
    (number >> 1) | 1
}

/// Of a member of this name.
pub fn member(cluster: u64, name: &str) -> u64 {
    if cluster == unnamed() { id_of(name) } else { id_of(&format!("{cluster:016x} {name}")) }
}

fn id_of(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash >> 1
}

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
        assert_eq!(member(unnamed(), "default"), id_of("default"), "as it was");
    }

    #[test]
    fn ids_differ_where_anything_does() {
        let ids = [unnamed(), of_token("a"), of_token("b"), of_token("kubebrain"), drawn(0), drawn(u64::MAX)];
        let named = |id| [id, member(id, "x"), member(id, "y")];
        let all: std::collections::BTreeSet<u64> = ids.into_iter().flat_map(named).collect();
        assert_eq!(all.len(), 18);
        assert!(!all.contains(&0));
    }
}
