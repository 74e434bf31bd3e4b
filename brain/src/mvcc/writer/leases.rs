//! Leases: grants and revocations are batches like any write; so is what an expired lease takes with it.

use std::time::Duration;

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use prost::Message;
use tokio::time::Instant;

use super::{Granted, Writer};
use crate::mvcc::codec::LeaseRow;
use crate::mvcc::evaluate::Evaluator;
use crate::mvcc::lease::TTL_MAX;
use crate::request::{Delete, Op};

/// etcd's lower bound at default settings: one and a half election timeouts, rounded up.
const TTL_MIN: i64 = 2;
/// Leases that end in one go, as in etcd a second's worth.
const EXPIRED_MAX: usize = 1000;

impl Writer {
    pub(super) fn grant(&mut self, id: i64, ttl: i64, remaining: Option<Duration>) -> Result<Granted, Fault> {
        if ttl > TTL_MAX {
            return Err(Fault::LeaseTtlTooLarge);
        }
        let adopted = remaining.is_some();
        let mut leases = self.shared.leases.lock();
        let id = match id {
            0 => std::iter::repeat_with(|| rand::random::<i64>() & i64::MAX)
                .find(|id| *id != 0 && !leases.exists(*id))
                .expect("there are more ids than leases"),
            id => id,
        };
        if leases.exists(id) && !adopted {
            return Err(Fault::LeaseExists);
        }
        let row = LeaseRow { ttl: ttl.max(TTL_MIN), ..LeaseRow::default() };
        let granted = Granted { id, ttl: row.ttl, revision: Revision::new(self.counter) };
        if leases.exists(id) {
            return Ok(granted);
        }
        let stored = Bytes::from(row.encode_to_vec());
        match remaining {
            Some(remaining) => leases.insert(id, row, remaining),
            None => leases.load(id, row),
        }
        drop(leases);
        self.filling.put(self.shared.layout.lease(id), stored);
        Ok(granted)
    }

    /// Ends a lease and deletes its keys, all at one revision, in key order.
    pub(super) fn revoke(&mut self, id: i64) {
        let Some(lease) = self.shared.leases.lock().remove(id) else { return };
        self.filling.delete(self.shared.layout.lease(id));
        if lease.keys.is_empty() {
            return;
        }
        let changes = {
            let index = self.shared.index.read();
            let mut evaluator = Evaluator {
                index: &index,
                pending: &mut self.pending,
                now: self.counter,
                compacted: 0,
                lease_exists: &|_| true,
                value_of: &|_| Bytes::new(),
                changes: Vec::new(),
            };
            for key in lease.keys {
                let done = evaluator.run(&Op::Delete(Delete { keys: KeyRange::one(key), prev_kv: false }));
                debug_assert!(done.is_ok(), "a deletion cannot fail");
            }
            evaluator.changes
        };
        if !changes.is_empty() {
            self.add(self.counter + 1, changes);
        }
    }

    pub(super) fn expire_leases(&mut self) {
        let expired = self.shared.leases.lock().take_expired(EXPIRED_MAX);
        expired.into_iter().for_each(|id| self.revoke(id));
    }

    pub(super) fn share(&mut self, id: i64, group: &GroupName) -> Result<(i64, Duration), Fault> {
        let mut leases = self.shared.leases.lock();
        let lease = leases.get(id).ok_or(Fault::LeaseNotFound)?;
        let mut row = lease.row.clone();
        let shared = (row.ttl, lease.deadline.saturating_duration_since(Instant::now()));
        if !row.holders.iter().any(|holder| holder == group.as_str()) {
            row.holders.push(group.as_str().to_owned());
            leases.set_holders(id, row.holders.clone());
            drop(leases);
            self.filling.put(self.shared.layout.lease(id), Bytes::from(row.encode_to_vec()));
        }
        Ok(shared)
    }
}
