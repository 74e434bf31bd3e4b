//! A batch while it fills, and while it flies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_net::trace::{Span, Step};
use prost::Message;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::decide::held::Held;
use crate::engine::{Batch, Bounds, CommitError, Refusal};
use crate::rows::codec::{self, Record};
use crate::rows::log;
use crate::rows::number::BatchNumber;
use crate::state::changes::RevisionChanges;
use crate::state::ended::Ended;
use crate::state::fence::Proof;
use crate::state::group::GroupState;

const REVISIONS_MAX: usize = 1024;
/// What a change takes in a batch's record beside its key.
const CHANGE_BYTES: usize = 16;

/// What is done once a batch is durable and visible: somebody is answered.
type OnDurable = Box<dyn FnOnce() + Send>;

/// A batch on its way to the storage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    /// Under which number of the log it is sent.
    pub number: BatchNumber,
    /// When it was sent.
    pub at: Instant,
    /// Its commit is a proof that this is the master: the number of that proof.
    pub proof: Proof,
}

/// A batch that fills: what was given out to it and is not sent to the storage yet.
pub(super) struct Filling {
    batch: Batch,
    /// What the batch will take, its record included.
    bytes: usize,
    /// What its record in the log will take.
    record_bytes: usize,
    bounds: Bounds,
    /// What each revision changes, oldest first.
    pub revisions: Vec<RevisionChanges>,
    /// The committed revision once this is durable.
    pub closes: u64,
    /// The compacted revision once this is durable.
    pub compacted: Option<u64>,
    /// What the group goes by once this is durable: the last command in it.
    pub held: Option<Held>,
    /// How many of the commands in it etcd would call proposals.
    pub proposals: i64,
    /// How it was sent to the storage; `None` before it is.
    pub launch: Option<Launch>,
    /// Of those of the commands in it that are traced.
    pub spans: Vec<Span>,
    on_durable: Vec<OnDurable>,
}

impl Filling {
    pub(super) fn new(closes: u64, bounds: Bounds) -> Self {
        Self {
            batch: Batch::new(),
            bytes: 0,
            record_bytes: 0,
            bounds,
            revisions: Vec::new(),
            closes,
            compacted: None,
            held: None,
            proposals: 0,
            launch: None,
            spans: Vec::new(),
            on_durable: Vec::new(),
        }
    }

    /// A change of this key will stand in the record.
    pub(super) fn will_record(&mut self, key: &Bytes) {
        let bytes = recorded_bytes(key);
        self.record_bytes += bytes;
        self.bytes += bytes;
    }

    pub(super) fn put(&mut self, key: Bytes, value: Bytes) {
        self.bytes += key.len() + value.len();
        self.batch.put(key, value);
    }

    pub(super) fn delete(&mut self, key: Bytes) {
        self.bytes += key.len();
        self.batch.delete(key);
    }

    pub(super) fn absent(&mut self, key: Bytes) {
        self.bytes += key.len();
        self.batch.absent(key);
    }

    pub(super) fn equals(&mut self, key: Bytes, value: Bytes) {
        self.bytes += key.len() + value.len();
        self.batch.equals(key, value);
    }

    /// Does something, such as answering, once this batch and everything before it is durable.
    pub(super) fn then(&mut self, done: OnDurable) {
        self.on_durable.push(done);
    }

    pub(super) fn is_full(&self) -> bool {
        self.held.is_some()
            || self.bytes >= self.bounds.batch_bytes
            || self.record_bytes >= self.bounds.record_bytes_max()
            || self.revisions.len() >= REVISIONS_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.needs_no_engine() && self.on_durable.is_empty()
    }

    pub(super) fn needs_no_engine(&self) -> bool {
        self.batch.is_empty()
    }

    pub(super) fn finish(self) {
        for done in self.on_durable {
            done();
        }
    }
}

/// What the change of a key takes in a batch's record.
pub(super) fn recorded_bytes(key: &Bytes) -> usize {
    key.len() + CHANGE_BYTES
}

/// A batch whose commit is on its way.
pub(super) struct Flying {
    filling: Option<Filling>,
    launched: Instant,
    commit: JoinHandle<Result<Repeated, Ended>>,
}

impl Flying {
    /// Sends a batch under its number. The commit runs in a task of its own: dropping this does not leave it half way.
    pub(super) fn launch(
        state: Arc<GroupState>,
        number: BatchNumber,
        top: u64,
        after_repeats: Repeated,
        mut filling: Filling,
    ) -> Self {
        let writes = filling.revisions.iter().map(|revision| codec::Write {
            revision: revision.revision,
            changes: revision
                .changes
                .iter()
                .map(|change| codec::Change {
                    key: change.key.clone(),
                    deleted: change.version.is_tombstone(),
                })
                .collect(),
        });
        let record = Record {
            epoch: state.identity().epoch,
            nonce: rand::random(),
            top,
            takeover: String::new(),
            writes: writes.collect(),
            after_repeats,
        };
        // The record comes first: engines that have a primary key take the first one.
        let mut batch = Batch::new();
        let number_key = state.layout.log(number.0);
        batch.absent(number_key.clone()).put(number_key, record.encode_to_vec());
        let rest = std::mem::take(&mut filling.batch);
        batch.conditions.extend(rest.conditions);
        batch.writes.extend(rest.writes);
        let (system, writes) = (state.engine.name(), batch.writes.len());
        let spans = std::mem::take(&mut filling.spans).into_iter();
        filling.spans = spans.map(|span| span.then(Step::Commit { system, writes })).collect();
        let launched = Instant::now();
        filling.launch = Some(Launch { number, at: launched, proof: state.fence.begin() });
        let commit = tokio::spawn(settle(state, number, record.nonce, batch));
        Self { filling: Some(filling), launched, commit }
    }

    /// How long it has been on its way.
    pub(super) fn age(&self) -> Duration {
        self.launched.elapsed()
    }

    pub(super) fn closes(&self) -> u64 {
        self.filling.as_ref().map_or(0, |filling| filling.closes)
    }

    pub(super) fn then(&mut self, done: OnDurable) {
        if let Some(filling) = &mut self.filling {
            filling.then(done);
        }
    }

    /// Waits for the batch in flight and takes it; for ever if there is none.
    ///
    /// # Cancel safety
    /// Safe: it stays in flight.
    pub(super) async fn landed(flying: &mut Option<Self>) -> Result<(Filling, Repeated), Ended> {
        let Some(batch) = flying else { return std::future::pending().await };
        let outcome = (&mut batch.commit).await.expect("a commit neither panics nor is aborted");
        let filling = flying.take().and_then(|flying| flying.filling);
        outcome.map(|repeated| (filling.expect("a batch lands once"), repeated))
    }
}

/// True if a try of a batch may still be on its way after another one has settled it.
pub(super) type Repeated = bool;

/// Commits until the outcome is known: the record with our nonce is there, or somebody else's is.
///
/// A try whose outcome is not known may land at any time. While the record of this number stands, it comes to nothing:
/// its condition does not hold. If the record were trimmed one day, it would write its rows again: keys that were
/// deleted and swept since, an older ceiling. So whether there was such a try is told in the next record, and the trim
/// leaves the one before that. (If there is no next one of ours, there is a takeover, with the same effect.)
async fn settle(
    state: Arc<GroupState>,
    number: BatchNumber,
    nonce: u64,
    batch: Batch,
) -> Result<Repeated, Ended> {
    let mut delay = Duration::from_millis(10);
    let mut repeated = false;
    loop {
        let began = Instant::now();
        let outcome = state.engine.commit(batch.clone()).await;
        state.metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
        state.metrics.commit(&outcome);
        match outcome {
            Ok(()) => {
                state.share.set_full(false);
                return Ok(repeated);
            }
            Err(CommitError::Conflict { .. }) => match whose(&state, number, &batch).await {
                Ok(Whose::Theirs(found)) if found.nonce == nonce => return Ok(repeated),
                Ok(Whose::Theirs(found)) => return Err(Ended::deposed(&state.group, number.0, &found)),
                Ok(Whose::Forbidden(key)) => {
                    let reason = format!(
                        "keys of this group were recorded for another group meanwhile ({}): the placements differ",
                        key.escape_ascii()
                    );
                    return Err(Ended::Storage { group: state.group.clone(), reason });
                }
                Ok(Whose::Nobodys) => {
                    tracing::warn!(group = %state.group, "batch {number}: a conflict with nothing, trying on");
                }
                Err(error) => {
                    tracing::warn!(group = %state.group, "batch {number}: outcome not readable yet: {error}")
                }
            },
            Err(CommitError::Refused(Refusal::Unavailable(cause))) => {
                tracing::warn!(group = %state.group, "batch {number}: the storage takes no writes, trying on: {cause}");
            }
            Err(CommitError::Refused(Refusal::NoSpace)) => {
                // What is on its way stays so; what would be added behind it is refused until this has found room.
                state.share.set_full(true);
                tracing::error!(group = %state.group, "batch {number}: no space left, trying on: free some");
            }
            Err(CommitError::Refused(refusal)) => {
                return Err(Ended::Storage { group: state.group.clone(), reason: refusal.to_string() });
            }
            Err(CommitError::Unknown(cause)) => {
                repeated = true;
                #[cfg(any(test, feature = "faults"))]
                {
                    repeated &= !state.planted.forgets_repeats;
                    let there = async || whose(&state, number, &batch).await;
                    if state.planted.unknown_is_failed && matches!(there().await, Ok(Whose::Nobodys)) {
                        return Err(Ended::Failed);
                    }
                }
                tracing::warn!(group = %state.group, "batch {number}: outcome unknown, repeating it: {cause}");
            }
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(1));
    }
}

/// Who has the number of a batch.
enum Whose {
    Nobodys,
    Theirs(Record),
    /// Nobody, but another condition of the batch does not hold, and this batch will never be committed.
    Forbidden(Bytes),
}

async fn whose(state: &GroupState, number: BatchNumber, batch: &Batch) -> Result<Whose, log::LogError> {
    let snapshot = state.engine.snapshot().await?;
    if let Some(found) = log::record(&*snapshot, &state.layout, number.0).await? {
        return Ok(Whose::Theirs(found));
    }
    for condition in &batch.conditions {
        if !condition.holds(snapshot.get(condition.key()).await?.as_deref()) {
            return Ok(Whose::Forbidden(condition.key().clone()));
        }
    }
    Ok(Whose::Nobodys)
}
