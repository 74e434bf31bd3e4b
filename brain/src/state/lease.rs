//! [`Leases`]: granted leases, the keys attached to them, and when they run out.
//!
//! Grants, revocations and holders are rows, written with the group's batches. Deadlines are not, but now and then what
//! is left of a long lease goes into its row: a *checkpoint*. A new master gives every lease what its row says.
//! Attachments are rebuilt from the keys.
//!
//! A renewal that was answered must outlive a crash. Where a row says "all of its time", a renewal needs no write. Where
//! it has a checkpoint, or the row that takes one back is not durable yet, the renewal goes through the writer and is
//! answered when it is.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::decide::index::Index;
use crate::rows::codec::LeaseRow;

/// The longest time to live, in seconds; etcd's bound.
pub(crate) const TTL_MAX: i64 = 9_000_000_000;
/// As in etcd: leases shorter than this have none, so a restart gives a lease at most this much too much.
pub(crate) const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);

/// One granted lease.
#[derive(Clone, Debug)]
pub struct Lease {
    /// What is stored.
    pub row: LeaseRow,
    /// When it runs out.
    pub deadline: Instant,
    /// Keys that end with it.
    pub keys: BTreeSet<Bytes>,
    /// At least what their deletions take in a batch.
    pub ending_bytes: usize,
    /// Rows on their way that grant it or take a checkpoint back.
    clearing: u32,
    /// A checkpoint is due some time.
    scheduled: bool,
}

/// What became of a wish to renew.
#[derive(Debug)]
pub enum Renewal<'a> {
    /// Done.
    Done(&'a Lease),
    /// Its row must be written first.
    NeedsWrite,
}

/// All leases of a group.
#[derive(Debug)]
pub struct Leases {
    granted: HashMap<i64, Lease>,
    /// Deadlines, possibly of leases renewed or gone since: looked at again when they come up.
    due: BinaryHeap<Reverse<(Instant, i64)>>,
    /// When to write down what is left, one for each lease that is long enough.
    checkpoints: BinaryHeap<Reverse<(Instant, i64)>>,
    interval: Duration,
}

impl Default for Leases {
    fn default() -> Self {
        Self::new(CHECKPOINT_INTERVAL)
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0).min(TTL_MAX.unsigned_abs()))
}

/// A row, escaped, its tombstone, and a change in the record.
const fn ending_bytes(key: &Bytes) -> usize {
    3 * key.len() + 64
}

/// Never less than there is.
pub(crate) fn ceiling(remaining: Duration) -> i64 {
    let whole = remaining.as_secs() + u64::from(remaining.subsec_nanos() > 0);
    whole.min(TTL_MAX.unsigned_abs()).cast_signed()
}

impl Lease {
    /// What is left of it.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

impl LeaseRow {
    /// Seconds that a new master gives it.
    pub fn known(&self) -> i64 {
        if self.remaining > 0 { self.remaining.min(self.ttl) } else { self.ttl }
    }
}

impl Leases {
    /// None yet; `interval` lies between two checkpoints of a lease.
    pub fn new(interval: Duration) -> Self {
        Self {
            granted: HashMap::new(),
            due: BinaryHeap::new(),
            checkpoints: BinaryHeap::new(),
            interval: interval.max(Duration::from_secs(1)),
        }
    }

    /// True if it is granted and not revoked.
    pub fn exists(&self, id: i64) -> bool {
        self.granted.contains_key(&id)
    }

    /// True if keys may hang on it.
    pub fn takes_keys(&self, id: i64) -> bool {
        self.granted.get(&id).is_some_and(|lease| !lease.row.offered)
    }

    /// The lease.
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.granted.get(&id)
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.granted.len()
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

    /// All ids, of the lease that runs out soonest first.
    pub fn soonest_first(&self) -> Vec<i64> {
        let mut all: Vec<_> = self.granted.iter().map(|(id, lease)| (lease.deadline, *id)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// Adds one, with `remaining` to live.
    pub fn insert(&mut self, id: i64, row: LeaseRow, remaining: Duration) {
        let deadline = Instant::now() + remaining;
        self.due.push(Reverse((deadline, id)));
        let lease =
            Lease { row, deadline, keys: BTreeSet::new(), ending_bytes: 0, clearing: 0, scheduled: false };
        self.granted.insert(id, lease);
        self.schedule(id);
    }

    /// Adds one with what its row leaves it.
    pub fn load(&mut self, id: i64, row: LeaseRow) {
        let remaining = seconds(row.known());
        self.insert(id, row, remaining);
    }

    /// Looks at a lease again an interval from now, if it lives that long.
    fn schedule(&mut self, id: i64) {
        let Some(lease) = self.granted.get_mut(&id) else { return };
        let at = Instant::now() + self.interval;
        if !lease.scheduled && lease.deadline > at {
            lease.scheduled = true;
            self.checkpoints.push(Reverse((at, id)));
        }
    }

    /// True if a row that says `known` seconds is worth writing again where only `remaining` are left.
    pub fn is_worth_a_row(&self, known: i64, remaining: Duration) -> bool {
        seconds(known).saturating_sub(remaining) >= self.interval / 2
    }

    /// When the next checkpoint may be worth writing.
    pub fn next_checkpoint(&self) -> Option<Instant> {
        self.checkpoints.peek().map(|Reverse((at, _))| *at)
    }

    /// Rows to write: of up to `count` leases that are due, those whose time has shrunk enough.
    pub fn take_checkpoints(&mut self, count: usize) -> Vec<(i64, LeaseRow)> {
        let now = Instant::now();
        let mut rows = Vec::new();
        for _ in 0..count {
            let Some(Reverse((_, id))) =
                self.checkpoints.peek().copied().filter(|Reverse((at, _))| *at <= now)
            else {
                break;
            };
            self.checkpoints.pop();
            let (interval, Some(lease)) = (self.interval, self.granted.get_mut(&id)) else { continue };
            lease.scheduled = false;
            let remaining = lease.deadline.saturating_duration_since(now);
            let shrunk = seconds(lease.row.known()).saturating_sub(remaining);
            if !remaining.is_zero() && shrunk >= interval / 2 {
                lease.row.remaining = ceiling(remaining);
                rows.push((id, lease.row.clone()));
            }
            self.schedule(id);
        }
        rows
    }

    /// Replaces its row, and gives it at least `remaining` to live.
    pub fn replace(&mut self, id: i64, row: LeaseRow, remaining: Duration) {
        let Some(lease) = self.granted.get_mut(&id) else { return };
        lease.row = row;
        lease.deadline = lease.deadline.max(Instant::now() + remaining);
        self.due.push(Reverse((lease.deadline, id)));
        self.schedule(id);
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

    /// Removes one that has run out; one that was renewed at the last moment stays.
    pub fn remove_expired(&mut self, id: i64) -> Option<Lease> {
        let lease = self.granted.get(&id)?;
        if lease.deadline > Instant::now() { None } else { self.granted.remove(&id) }
    }

    /// Starts its time again, where no row has to be written for it. `None` if it is not granted.
    pub fn renew(&mut self, id: i64) -> Option<Renewal<'_>> {
        let lease = self.granted.get(&id)?;
        if lease.row.remaining != 0 || lease.clearing > 0 {
            return Some(Renewal::NeedsWrite);
        }
        self.restart(id).map(Renewal::Done)
    }

    /// Starts its time again; gives its row if that must be written. Until [`Self::cleared`], every renewal waits.
    pub fn renew_by_row(&mut self, id: i64) -> Option<(&Lease, bool)> {
        let lease = self.granted.get_mut(&id)?;
        let writes = lease.row.remaining != 0;
        if writes {
            lease.row.remaining = 0;
            lease.clearing += 1;
        }
        self.restart(id).map(|lease| (lease, writes))
    }

    /// Its row is on its way. Until [`Self::cleared`], every renewal waits.
    pub fn unsettled(&mut self, id: i64) {
        if let Some(lease) = self.granted.get_mut(&id) {
            lease.clearing += 1;
        }
    }

    /// A row that [`Self::unsettled`] or [`Self::renew_by_row`] told of is durable.
    pub fn cleared(&mut self, id: i64) {
        if let Some(lease) = self.granted.get_mut(&id) {
            lease.clearing = lease.clearing.saturating_sub(1);
        }
    }

    /// Gives every lease time back, up to its whole time.
    pub fn postpone(&mut self, by: Duration) {
        let now = Instant::now();
        for (id, lease) in &mut self.granted {
            let later = (lease.deadline + by).min(now + seconds(lease.row.ttl));
            if later > lease.deadline {
                lease.deadline = later;
                self.due.push(Reverse((later, *id)));
            }
        }
    }

    fn restart(&mut self, id: i64) -> Option<&Lease> {
        let lease = self.granted.get_mut(&id)?;
        lease.deadline = Instant::now() + seconds(lease.row.ttl);
        self.due.push(Reverse((lease.deadline, id)));
        self.schedule(id);
        self.granted.get(&id)
    }

    /// A key moves from one lease to another; 0 is none.
    pub fn move_key(&mut self, key: &Bytes, from: i64, to: i64) {
        if from == to {
            return;
        }
        if let Some(lease) = self.granted.get_mut(&from)
            && lease.keys.remove(key)
        {
            lease.ending_bytes -= ending_bytes(key);
        }
        if let Some(lease) = self.granted.get_mut(&to)
            && lease.keys.insert(key.clone())
        {
            lease.ending_bytes += ending_bytes(key);
        }
    }

    /// Attaches the keys of an index, whose newest versions name their leases.
    pub(crate) fn attach(&mut self, index: &Index) {
        for (key, newest) in index.newest().filter(|(_, newest)| newest.lease != 0) {
            self.move_key(key, 0, newest.lease);
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
    async fn what_is_left_of_a_long_lease_is_written_now_and_then() {
        let mut leases = Leases::new(Duration::from_secs(10));
        leases.load(1, row(100));
        leases.load(2, row(10));
        leases.load(3, row(100));
        tokio::time::advance(Duration::from_secs(8)).await;
        leases.renew(3);
        tokio::time::advance(Duration::from_secs(2)).await;
        let written = leases.take_checkpoints(10);
        assert_eq!(written.iter().map(|(id, row)| (*id, row.remaining)).collect::<Vec<_>>(), [(1, 90)]);
        assert!(leases.take_checkpoints(10).is_empty(), "each interval once");
        tokio::time::advance(Duration::from_secs(10)).await;
        let mut written: Vec<_> =
            leases.take_checkpoints(10).iter().map(|(id, row)| (*id, row.remaining)).collect();
        written.sort_unstable();
        assert_eq!(written, [(1, 80), (3, 88)]);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(leases.take_checkpoints(1).len(), 1, "no more at once than asked for");
        let mut restarted = Leases::default();
        restarted.load(1, LeaseRow { remaining: 80, ..row(100) });
        let left = restarted.get(1).map(|lease| lease.deadline.saturating_duration_since(Instant::now()));
        assert_eq!(left, Some(Duration::from_secs(80)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_with_a_checkpoint_is_renewed_by_a_row_until_that_is_durable() {
        let mut leases = Leases::new(Duration::from_secs(10));
        leases.load(1, row(100));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(leases.take_checkpoints(10).len(), 1);
        assert!(matches!(leases.renew(1), Some(Renewal::NeedsWrite)));
        let first = leases.renew_by_row(1).map(|(lease, writes)| (lease.row.remaining, writes));
        assert_eq!(first, Some((0, true)));
        assert!(matches!(leases.renew(1), Some(Renewal::NeedsWrite)), "the row is on its way");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(leases.take_checkpoints(10).len(), 1);
        assert!(leases.renew_by_row(1).is_some_and(|(_, writes)| writes));
        leases.cleared(1);
        assert!(matches!(leases.renew(1), Some(Renewal::NeedsWrite)), "the second one still is");
        leases.cleared(1);
        assert!(matches!(leases.renew(1), Some(Renewal::Done(_))));
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
        leases.renew(2);
        assert!(leases.remove_expired(2).is_none(), "renewed before it was removed");
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(leases.take_expired(10), [1]);
        assert!(leases.remove_expired(1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn leases_are_listed_as_they_run_out() {
        let mut leases = Leases::default();
        for (id, ttl) in [(1, 30), (2, 10), (3, 20), (-4, 10)] {
            leases.load(id, row(ttl));
        }
        assert_eq!(leases.soonest_first(), [-4, 2, 3, 1]);
        tokio::time::advance(Duration::from_secs(5)).await;
        leases.renew(2);
        assert_eq!(leases.soonest_first(), [-4, 2, 3, 1]);
        tokio::time::advance(Duration::from_secs(2)).await;
        leases.renew(-4);
        assert_eq!(leases.soonest_first(), [2, -4, 3, 1], "8, 10, 13 and 23 seconds are left");
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
