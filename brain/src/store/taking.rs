//! Whether a request is taken on: by the limits of its kinds, and by what waits for the writer already.

use std::sync::Arc;

use bytes::Bytes;
use kubebrain_net::kinds::{Entered, Kind, Kinds, Queued};
use kubebrain_net::trace;
use kubebrain_shared::compaction::API_SERVERS_KEY;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::placement::OTHER;
use kubebrain_shared::range::KeyRange;

use super::Store;
use crate::lead::command::COMMANDS_MAX;
use crate::request::{Given, Op};

/// A write that was taken on.
pub(super) struct Taken {
    /// Until it is answered.
    pub(super) _entered: Option<Entered>,
    /// Until the writer takes it.
    pub(super) queued: Queued,
}

impl Store {
    /// Takes a write on, or a transaction that only reads.
    ///
    /// # Errors
    /// [`Fault::TooManyRequests`].
    pub(super) fn take_on(&self, op: &Op) -> Result<Taken, Fault> {
        let kinds = &self.state.kinds;
        let mut written = Vec::with_capacity(1);
        writes(kinds, op, &mut written);
        let first = written.first().map_or_else(|| read(kinds, op), |(kind, _)| kind.clone());
        trace::about(first.name());
        let entered = match first.name() == OTHER && op.ranges().iter().all(is_compaction) {
            true => None,
            false => {
                let entered = first.enter()?;
                Kind::write(&written)?;
                Some(entered)
            }
        };
        Ok(Taken { _entered: entered, queued: first.queue(COMMANDS_MAX as u64)? })
    }
}

/// API servers agree there on a compaction, which nothing limits.
fn is_compaction(keys: &KeyRange) -> bool {
    keys.as_one().is_some_and(|key| key == API_SERVERS_KEY)
}

/// Each kind that it may write, and how much it may put of it.
fn writes(kinds: &Kinds, op: &Op, found: &mut Vec<(Arc<Kind>, u64)>) {
    match op {
        Op::Range(_) => {}
        Op::Put(put) => {
            let value = match &put.value {
                Given::New(value) => value.len(),
                Given::Kept => 0,
            };
            Kind::add_to(found, kinds.of_key(&put.key), (put.key.len() + value) as u64);
        }
        Op::Delete(delete) => Kind::add_to(found, kinds.of_range(&delete.keys), 0),
        Op::Txn(txn) => txn.success.iter().chain(&txn.failure).for_each(|op| writes(kinds, op, found)),
    }
}

/// The kind of the first range of what only reads.
fn read(kinds: &Kinds, op: &Op) -> Arc<Kind> {
    let nothing = || KeyRange::one(Bytes::new());
    kinds.of_range(&op.ranges().into_iter().next().unwrap_or_else(nothing))
}
