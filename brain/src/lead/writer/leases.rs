//! Leases: grants and revocations are batches like any write; so is what an expired lease takes with it.

use std::time::Duration;

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use prost::Message;
use tokio::time::Instant;

use super::task::Writer;
use crate::decide::evaluate::Evaluator;
use crate::lead::command::{Adoption, Granted, Renewed};
use crate::request::{Delete, Op};
use crate::rows::codec::LeaseRow;
use crate::state::lease::{Lease, TTL_MAX, ceiling};

/// etcd's lower bound at default settings: one and a half election timeouts, rounded up.
const TTL_MIN: i64 = 2;
/// Leases that end in one go, as in etcd a second's worth.
const EXPIRED_MAX: usize = 1000;
/// A batch that takes longer stops the clock of leases: nobody can be told of a renewal, nor any lease be ended. etcd's
/// leader would have lost its election by then, and the next one gives every lease its time again.
const STALL: Duration = Duration::from_secs(1);
/// Checkpoints looked at in one go, and the time between two goes: together etcd's rate.
const CHECKPOINTS_MAX: usize = 500;
const CHECKPOINTS_PAUSE: Duration = Duration::from_millis(500);

impl Writer {
    pub(super) fn grant(&mut self, id: i64, ttl: i64, adoption: Option<Adoption>) -> Result<Granted, Fault> {
        if ttl > TTL_MAX {
            return Err(Fault::LeaseTtlTooLarge);
        }
        let mut leases = self.state.leases.lock();
        let id = match id {
            0 => std::iter::repeat_with(|| rand::random::<i64>() & i64::MAX)
                .find(|id| *id != 0 && !leases.exists(*id))
                .expect("there are more ids than leases"),
            id => id,
        };
        let mut row = LeaseRow { ttl: ttl.max(TTL_MIN), ..LeaseRow::default() };
        if let Some(Adoption { remaining, offered }) = adoption {
            let left = leases.get(id).map_or(remaining, |known| known.left().max(remaining));
            row.offered = offered;
            if leases.is_worth_a_row(row.ttl, left) {
                row.remaining = ceiling(left).max(1);
            }
        }
        let granted = Granted { id, ttl: row.ttl, revision: Revision::new(self.counter) };
        match (leases.get(id), adoption) {
            (Some(_), None) => return Err(Fault::LeaseExists),
            (Some(known), Some(Adoption { remaining, offered })) => {
                let held = known.row.offered && !offered;
                if !held && known.left() >= remaining {
                    return Ok(granted);
                }
                row.offered = known.row.offered && offered;
                leases.replace(id, row.clone(), remaining);
            }
            (None, Some(Adoption { remaining, .. })) => leases.insert(id, row.clone(), remaining),
            (None, None) => {
                self.state.metrics.all.leases_granted.inc();
                self.state.metrics.all.lease_ttl.observe(row.ttl as f64);
                leases.load(id, row.clone());
            }
        }
        // Until its row is durable, nobody is told that it lives.
        leases.unsettled(id);
        drop(leases);
        self.filling.put(self.state.layout.lease(id), Bytes::from(row.encode_to_vec()));
        let state = self.state.clone();
        self.filling.then(Box::new(move || state.leases.lock().cleared(id)));
        Ok(granted)
    }

    /// Ends a lease and deletes its keys, all at one revision, in key order.
    pub(super) fn revoke(&mut self, id: i64) {
        let lease = self.state.leases.lock().remove(id);
        if let Some(lease) = lease {
            self.end_lease(id, lease);
        }
    }

    fn end_lease(&mut self, id: i64, lease: Lease) {
        self.state.metrics.all.leases_revoked.inc();
        self.filling.delete(self.state.layout.lease(id));
        if lease.keys.is_empty() {
            return;
        }
        let changes = {
            let index = self.state.index.read();
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

    /// When something is to be done for leases; far away if nothing is.
    pub(super) fn leases_due(&self) -> Instant {
        let leases = self.state.leases.lock();
        let checkpoint = leases.next_checkpoint().map(|at| at.max(self.checkpoints_from));
        let due = [leases.next_due(), checkpoint].into_iter().flatten().min();
        drop(leases);
        let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        match self.leases_rest() {
            true => due.max(Instant::now() + Duration::from_secs(1)),
            false => due,
        }
    }

    /// What is not to be trusted is not changed, and while nothing can be committed no lease ends.
    fn leases_rest(&self) -> bool {
        self.state.alarms.is_corrupt() || self.flying.as_ref().is_some_and(|flying| flying.age() >= STALL)
    }

    /// The time in which nothing was committed does not count.
    pub(super) fn forgive(&self, taken: Duration) {
        if taken >= STALL {
            self.state.leases.lock().postpone(taken);
        }
    }

    pub(super) fn look_after_leases(&mut self) {
        if self.leases_rest() {
            return;
        }
        self.expire_leases();
        self.checkpoint_leases();
    }

    fn checkpoint_leases(&mut self) {
        if self.checkpoints_from > Instant::now() {
            return;
        }
        let mut leases = self.state.leases.lock();
        if leases.next_checkpoint().is_none_or(|at| at > Instant::now()) {
            return;
        }
        let rows = leases.take_checkpoints(CHECKPOINTS_MAX);
        drop(leases);
        self.checkpoints_from = Instant::now() + CHECKPOINTS_PAUSE;
        for (id, row) in rows {
            self.filling.put(self.state.layout.lease(id), Bytes::from(row.encode_to_vec()));
        }
    }

    /// Starts a lease's time again; where its row has a checkpoint, that is taken back in this batch.
    pub(super) fn renew(&mut self, id: i64) -> Option<Renewed> {
        let mut leases = self.state.leases.lock();
        let (lease, writes) = leases.renew_by_row(id)?;
        let row = lease.row.clone();
        drop(leases);
        if writes {
            self.filling.put(self.state.layout.lease(id), Bytes::from(row.encode_to_vec()));
            let state = self.state.clone();
            self.filling.then(Box::new(move || state.leases.lock().cleared(id)));
        }
        Some((row.ttl, row.holders))
    }

    fn expire_leases(&mut self) {
        for _ in 0..EXPIRED_MAX {
            // One by one: each may fill the batch.
            if self.filling.is_full() {
                return;
            }
            let mut leases = self.state.leases.lock();
            let Some(id) = leases.take_expired(1).pop() else { return };
            let lease = leases.remove_expired(id);
            drop(leases);
            if let Some(lease) = lease {
                self.state.metrics.all.leases_expired.inc();
                self.end_lease(id, lease);
            }
        }
    }

    pub(super) fn share(&mut self, id: i64, group: &GroupName) -> Result<(i64, Duration), Fault> {
        let mut leases = self.state.leases.lock();
        let lease = leases.get(id).ok_or(Fault::LeaseNotFound)?;
        let mut row = lease.row.clone();
        let granted = (row.ttl, lease.deadline.saturating_duration_since(Instant::now()));
        if !row.holders.iter().any(|holder| holder == group.as_str()) {
            row.holders.push(group.as_str().to_owned());
            leases.set_holders(id, row.holders.clone());
            drop(leases);
            self.filling.put(self.state.layout.lease(id), Bytes::from(row.encode_to_vec()));
        }
        Ok(granted)
    }
}
