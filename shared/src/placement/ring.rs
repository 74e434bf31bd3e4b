//! [`Ring`]: consistent hashing of kinds over groups, the same on every machine and in every release.
//!
//! The standard library promises neither how `str` or `usize` feed a hasher nor what its hashers answer, so nothing
//! but one `u64` of our own making ever goes through `Hash` here.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use consistent_hash::{Node, RingHash, StaticHashRing};

use crate::group::GroupName;

/// Points on the ring for each group. More make shares more even (160: within about 10 %) and the table larger.
const POINTS_PER_GROUP: usize = 160;

/// At least one group.
#[derive(Clone)]
pub(super) struct Ring {
    ring: Arc<StaticHashRing<'static, Member, (), Fixed>>,
    /// Ascending.
    groups: Arc<[GroupName]>,
}

/// A 64-bit hash of bytes: FNV-1a, its bits spread by the finalizer of MurmurHash3.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    spread(fnv1a(bytes))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

const fn spread(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Member(GroupName);

/// A hash that is already made.
struct Made(u64);

/// Remembers the one `u64` that is written.
#[derive(Default)]
struct Kept(u64);

#[derive(Debug)]
struct Fixed;

impl Hash for Member {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(hash(self.0.as_str().as_bytes()));
    }
}

impl Hash for Made {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

impl Hasher for Kept {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("members and kinds write one u64");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

impl RingHash for Fixed {
    fn hash_item<T: Hash>(&self, item: &T) -> u64 {
        let mut kept = Kept::default();
        item.hash(&mut kept);
        kept.finish()
    }

    fn hash_vnode<K: Hash>(&self, member: &K, point: usize) -> u64 {
        spread(self.hash_item(member) ^ spread(point as u64 + 1))
    }
}

impl Ring {
    /// Over at least one group; their order does not matter.
    pub(super) fn new(mut groups: Vec<GroupName>) -> Self {
        assert!(!groups.is_empty(), "a ring has a group");
        groups.sort_unstable();
        groups.dedup();
        let nodes = groups.iter().map(|group| Node::new(Member(group.clone())).quantity(POINTS_PER_GROUP));
        Self { ring: Arc::new(StaticHashRing::new(Fixed, nodes)), groups: groups.into() }
    }

    /// The group of a kind.
    pub(super) fn group(&self, kind: &[u8]) -> &GroupName {
        let made = Made(hash(kind));
        let node = self.ring.calc_candidates(&made).next().expect("a ring has a group");
        &node.key.0
    }

    /// Every group, in order of names.
    pub(super) fn groups(&self) -> impl Iterator<Item = &GroupName> {
        self.groups.iter()
    }
}

impl PartialEq for Ring {
    fn eq(&self, other: &Self) -> bool {
        self.groups == other.groups
    }
}

impl Eq for Ring {}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ring").field(&self.groups).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(groups: &[&str]) -> Ring {
        Ring::new(groups.iter().map(|name| GroupName::parse(name).expect("a legal name")).collect())
    }

    #[test]
    fn the_hash_is_the_published_one() {
        let vectors = [
            ("", 0xcbf2_9ce4_8422_2325),
            ("a", 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0x8594_4171_f739_67e8_u64),
        ];
        for (text, expected) in vectors {
            assert_eq!(fnv1a(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(spread(1), 0xb456_bcfc_34c2_cb2c, "the finalizer of MurmurHash3");
    }

    #[test]
    fn kinds_stay_where_they_have_always_been() {
        let ring = ring(&["crd-0", "crd-1", "crd-2"]);
        let kinds =
            ["pods", "leases", "configmaps", "secrets", "example.com/widgets", "cert-manager.io/orders", ""];
        let groups = kinds.map(|kind| ring.group(kind.as_bytes()).as_str());
        assert_eq!(groups, ["crd-1", "crd-0", "crd-1", "crd-2", "crd-0", "crd-1", "crd-0"]);
    }

    #[test]
    fn a_further_group_takes_kinds_and_moves_none_between_the_others() {
        let (before, after) = (ring(&["a", "b", "c"]), ring(&["c", "d", "b", "a"]));
        let kinds: Vec<String> =
            (0..4000).map(|index| format!("group{index}.example.com/kind{index}")).collect();
        let mut shares = std::collections::BTreeMap::new();
        for kind in &kinds {
            let (old, new) = (before.group(kind.as_bytes()), after.group(kind.as_bytes()));
            assert!(old == new || new.as_str() == "d", "{kind} moved from {old} to {new}");
            *shares.entry(new.clone()).or_insert(0) += 1;
        }
        assert_eq!(shares.len(), 4);
        assert!(shares.values().all(|share| (700..1300).contains(share)), "{shares:?}");
    }
}
