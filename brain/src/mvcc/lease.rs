//! [`Leases`]: granted leases, the keys attached to them, and when they run out.
//!
//! Grants, revocations and holders are rows, written with the group's batches. Deadlines are not: a new master gives
//! every lease its whole time again. Attachments are rebuilt from the keys.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::codec::LeaseRow;

/// The longest time to live, in seconds; etcd's bound.
pub const TTL_MAX: i64 = 9_000_000_000;

/// One granted lease.
#[derive(Clone, Debug)]
pub struct Lease {
    /// What is stored.
    pub row: LeaseRow,
    /// When it runs out.
    pub deadline: Instant,
    /// Keys that end with it.
    pub keys: BTreeSet<Bytes>,
}

/// All leases of a group.
#[derive(Debug, Default)]
pub struct Leases {
    granted: HashMap<i64, Lease>,
    /// Deadlines, possibly of leases renewed or gone since: looked at again when they come up.
    due: BinaryHeap<Reverse<(Instant, i64)>>,
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0).min(TTL_MAX.unsigned_abs()))
}

impl Leases {
    /// True if it is granted and not revoked.
    pub fn exists(&self, id: i64) -> bool {
        self.granted.contains_key(&id)
    }

    /// The lease.
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.granted.get(&id)
    }

    /// All of them, with what is left to each.
    pub fn all(&self) -> Vec<(i64, LeaseRow, Duration)> {
        let now = Instant::now();
        let left = |lease: &Lease| lease.deadline.saturating_duration_since(now);
        self.granted.iter().map(|(id, lease)| (*id, lease.row.clone(), left(lease))).collect()
    }

    /// All ids.
    pub fn ids(&self) -> Vec<i64> {
        self.granted.keys().copied().collect()
    }

    /// Adds one, with `remaining` to live.
    pub fn insert(&mut self, id: i64, row: LeaseRow, remaining: Duration) {
        let deadline = Instant::now() + remaining;
        self.due.push(Reverse((deadline, id)));
        self.granted.insert(id, Lease { row, deadline, keys: BTreeSet::new() });
    }

    /// Adds one with the time to live that its row says.
    pub fn load(&mut self, id: i64, row: LeaseRow) {
        let remaining = seconds(if row.remaining > 0 { row.remaining.min(row.ttl) } else { row.ttl });
        self.insert(id, row, remaining);
    }

    /// Changes who else holds it.
    pub fn set_holders(&mut self, id: i64, holders: Vec<String>) {
        if let Some(lease) = self.granted.get_mut(&id) {
            lease.row.holders = holders;
        }
    }

    /// Removes one; its keys are the caller's to delete.
    pub fn remove(&mut self, id: i64) -> Option<Lease> {
        self.granted.remove(&id)
    }

    /// Starts its time again.
    pub fn renew(&mut self, id: i64) -> Option<&Lease> {
        let lease = self.granted.get_mut(&id)?;
        lease.deadline = Instant::now() + seconds(lease.row.ttl);
        self.due.push(Reverse((lease.deadline, id)));
        Some(lease)
    }

    /// A key moves from one lease to another; 0 is none.
    pub fn move_key(&mut self, key: &Bytes, from: i64, to: i64) {
        if from == to {
            return;
        }
        if let Some(lease) = self.granted.get_mut(&from) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.granted.get_mut(&to) {
            lease.keys.insert(key.clone());
        }
    }

    /// When the next lease may run out.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Up to `count` leases that have run out. They stay until removed, and are not given again: the caller ends them.
    pub fn take_expired(&mut self, count: usize) -> Vec<i64> {
        let now = Instant::now();
        let mut expired = Vec::new();
        while let Some(Reverse((due, id))) = self.due.peek().copied().filter(|Reverse((due, _))| *due <= now)
        {
            if expired.len() == count {
                break;
            }
            self.due.pop();
            // Renewed since: a later entry stands for it.
            if self.granted.get(&id).is_some_and(|lease| lease.deadline == due) {
                expired.push(id);
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ttl: i64) -> LeaseRow {
        LeaseRow { ttl, ..LeaseRow::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_lease_runs_out_later() {
        let mut leases = Leases::default();
        leases.load(1, row(10));
        leases.load(2, row(10));
        tokio::time::advance(Duration::from_secs(6)).await;
        leases.renew(1);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(leases.take_expired(10), [2]);
        assert_eq!(leases.take_expired(10), [0; 0]);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(leases.take_expired(10), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_belongs_to_the_lease_it_was_put_with_last() {
        let mut leases = Leases::default();
        leases.load(1, row(10));
        leases.load(2, row(10));
        let key = Bytes::from_static(b"k");
        leases.move_key(&key, 0, 1);
        leases.move_key(&key, 1, 2);
        assert!(leases.get(1).is_some_and(|lease| lease.keys.is_empty()));
        assert!(leases.remove(2).is_some_and(|lease| lease.keys.contains(&key)));
    }
}
