//! [`Identity`]: who answers. Every answer's header has the ids of the cluster and of the member, as etcd has them.
//!
//! * A store has one cluster id for as long as it lives (see `load::cluster`); a store of before there were any keeps the
//!   one that all of those have.
//! * A member's id is made from that and its name. In a store of before there were any it is that of the name alone.

use bytes::BytesMut;
use kubebrain_shared::wire::{put_bytes_field, put_varint_field};

/// Who answers: the constant part of each header.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The same for all members of a cluster.
    pub cluster: u64,
    /// This process.
    pub member: u64,
    /// The master's epoch.
    pub epoch: u64,
}

/// Appends a `ResponseHeader` as field 1.
pub(crate) fn put_header(buffer: &mut BytesMut, identity: Option<&Identity>, revision: u64) {
    let mut header = BytesMut::with_capacity(40);
    if let Some(identity) = identity {
        put_varint_field(&mut header, 1, identity.cluster);
        put_varint_field(&mut header, 2, identity.member);
    }
    if revision > 0 {
        put_varint_field(&mut header, 3, revision);
    }
    if let Some(identity) = identity {
        put_varint_field(&mut header, 4, identity.epoch);
    }
    put_bytes_field(buffer, 1, &header);
}

/// The id of all stores that have none of their own.
pub fn unnamed() -> u64 {
    id_of("kubebrain")
}

/// The id of all stores that are given this token.
pub fn of_token(token: &str) -> u64 {
    id_of(&format!("cluster {token}"))
}

/// An id from a number that was drawn by chance.
pub const fn drawn(number: u64) -> u64 {
    // Clients print it as a signed number here and there; and 0 is none.
    (number >> 1) | 1
}

/// The id of a member of this name.
pub fn member(cluster: u64, name: &str) -> u64 {
    if cluster == unnamed() { id_of(name) } else { id_of(&format!("{cluster:016x} {name}")) }
}

fn id_of(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash >> 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_of_an_old_store_keeps_the_id_of_its_name() {
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
