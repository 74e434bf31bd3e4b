//! A batch as a transaction, and what became of it.
//!
//! ```text
//! begin ──▶ read conditions at its timestamp ──▶ one phase if small and in one region, else two ──▶ outcome
//!   ▲              │ one is broken: Conflict                                                          │
//!   │              ▼                                                                     surely nothing happened
//!   └── all hold again ◀── which condition is broken now? ◀───────────────────────────────────────────┘
//!                          one is: Conflict
//! ```
//!
//! It is begun again only when it surely did nothing; an unknown outcome goes to the caller at once, who repeats the
//! batch under its conditions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_brain::engine::error::Cause;
use kubebrain_brain::engine::{Bounds, CommitError, ReadError, Refusal};
use tikv_client::{TimestampExt as _, Transaction, TransactionClient};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::Config;
use crate::link::{Peer, Unlinked, options};
use crate::orphan::Keys;
use crate::outcome::{self, Judgement};
use crate::plan::{Mutation, Plan};
use crate::view::{Failure, Reader, jitter};

/// Where regions end is worth no more of a commit's time.
const LEARN_TIMEOUT: Duration = Duration::from_millis(200);
/// Taking locks away that nobody waits for.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What one transaction came to, if not to an end.
enum Again {
    /// Another one was first, though no condition may be broken.
    Conflict,
    /// In two phases, that is.
    InTwoPhases,
    /// TiKV or PD did not do it.
    Failed(Cause),
}

impl Again {
    const fn reason(&self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::InTwoPhases => "one_phase",
            Self::Failed(_) => "failed",
        }
    }
}

/// Commits a batch. To be run in a task of its own: dropped half way, its outcome is not known.
pub(crate) async fn commit(reader: Reader, plan: Arc<Plan>) -> Result<(), CommitError> {
    let deadline = Instant::now() + reader.link.config.commit_deadline;
    let keys: Vec<&Bytes> = plan.mutations.iter().map(Mutation::key).collect();
    if let Some(first) = keys.first() {
        reader.link.touch(first);
    }
    let mut regions = reader.regions.count(&keys);
    if regions.is_none() {
        // Once a minute. Without an answer it is two phases, which need no such knowledge.
        let _learnt = timeout(LEARN_TIMEOUT, reader.learn(&keys)).await;
        regions = reader.regions.count(&keys);
    }
    let mut one_phase = reader.link.config.one_phase && plan.is_one_message() && regions == Some(1);
    if let Some(regions) = regions.filter(|count| *count > 0) {
        reader.link.config.metrics.commit_regions.observe(regions as f64);
    }
    let mut pause = PAUSE_MIN;
    loop {
        let again = match once(&reader, &plan, one_phase, deadline).await {
            Ok(outcome) => return outcome,
            Err(again) => again,
        };
        reader.link.config.metrics.commit_retries.with_label_values(&[again.reason()]).inc();
        let next = Instant::now() + jitter(pause);
        if next >= deadline {
            let cause = match again {
                Again::Failed(cause) => cause,
                Again::Conflict | Again::InTwoPhases => "others were first, again and again".into(),
            };
            return Err(CommitError::Refused(Refusal::Unavailable(cause)));
        }
        if matches!(again, Again::InTwoPhases) {
            one_phase = false;
        } else {
            tokio::time::sleep_until(next).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// One transaction. `Err`: it surely did nothing, and another one may do better.
// Long: its steps share the transaction, and what each failure means depends on how far it has come.
async fn once(
    reader: &Reader,
    plan: &Plan,
    one_phase: bool,
    deadline: Instant,
) -> Result<Result<(), CommitError>, Again> {
    let link = &reader.link;
    let client = match link.client(deadline).await {
        Ok(client) => client,
        Err(Unlinked::Stopped(poison)) => return Ok(Err(CommitError::Refused(Refusal::Stopped(poison)))),
        Err(waiting) => return Err(Again::Failed(waiting.into_cause())),
    };
    let began = Instant::now();
    let mut transaction = begin(reader, &client, one_phase).await?;
    let start = transaction.start_timestamp();
    if !plan.reads.is_empty() {
        // An insert that is not read may be broken too, and come first; it is read when it matters.
        let stored = read(reader, &start, plan.reads.clone(), deadline).await?;
        if plan.broken(&stored).is_some() {
            let stored = read(reader, &start, plan.condition_keys(), deadline).await?;
            if let Some(key) = plan.broken(&stored) {
                return Ok(Err(CommitError::Conflict { key }));
            }
        }
    }
    if plan.mutations.is_empty() {
        return Ok(Ok(())); // all conditions held at one moment after the call
    }
    if let Err(error) = buffer(&mut transaction, plan).await {
        return Ok(Err(CommitError::Refused(Refusal::Unavailable(error.into()))));
    }
    let phases = if one_phase { "1" } else { "2" };
    let committed = timeout_at(deadline, transaction.commit()).await;
    link.config.metrics.commit_seconds.with_label_values(&[phases]).observe(began.elapsed().as_secs_f64());
    let error = match committed {
        Ok(Ok(_)) => {
            link.answered(Peer::Store);
            return Ok(Ok(()));
        }
        Ok(Err(error)) => error,
        Err(_) => {
            let cause = format!("no answer to a commit within {:?}", link.config.commit_deadline);
            link.silent(Peer::Store, &cause);
            return Ok(Err(CommitError::Unknown(cause.into())));
        }
    };
    match outcome::judge(&error, start.version(), one_phase) {
        Judgement::Lost => {
            link.answered(Peer::Store);
            // One message leaves no locks when it fails.
            if !one_phase {
                clear(transaction);
            }
            which_is_broken(reader, plan, deadline).await
        }
        Judgement::NotInOnePhase => {
            // It is one message to one region: its locks go together, and nothing can have been committed.
            let _best_effort = timeout(ROLLBACK_TIMEOUT, transaction.rollback()).await;
            Err(Again::InTwoPhases)
        }
        Judgement::Locked => {
            clear(transaction);
            if let Some(keys) = Keys::spanning(plan.mutations.iter().map(Mutation::key)) {
                reader.remove_orphans(&client, &error, &keys, deadline).await;
            }
            Err(Again::Failed(link.failed(Peer::Store, &error).into()))
        }
        Judgement::TooLarge => {
            clear(transaction);
            let Bounds { value_bytes_max: max, .. } = Config::bounds();
            Ok(Err(CommitError::Refused(Refusal::TooLarge { bytes: plan.bytes, max })))
        }
        Judgement::Unknown => {
            // Nobody else may ever come by; the caller's next try finds the way free.
            if let Some(keys) = Keys::spanning(plan.mutations.iter().map(Mutation::key)) {
                reader.remove_orphans(&client, &error, &keys, deadline).await;
            }
            Ok(Err(CommitError::Unknown(link.failed(Peer::Store, &error).into())))
        }
    }
}

async fn begin(reader: &Reader, client: &TransactionClient, one_phase: bool) -> Result<Transaction, Again> {
    let options = if one_phase { options().try_one_pc() } else { options() };
    let link = &reader.link;
    match timeout(link.config.timestamp_timeout, client.begin_with_options(options)).await {
        Ok(Ok(transaction)) => {
            link.answered(Peer::Pd);
            Ok(transaction)
        }
        Ok(Err(error)) => Err(Again::Failed(link.failed(Peer::Pd, &error).into())),
        Err(_) => {
            let cause = format!("no timestamp within {:?}", link.config.timestamp_timeout);
            link.silent(Peer::Pd, &cause);
            Err(Again::Failed(cause.into()))
        }
    }
}

/// Nothing is sent yet.
async fn buffer(transaction: &mut Transaction, plan: &Plan) -> Result<(), tikv_client::Error> {
    for mutation in &plan.mutations {
        match mutation {
            Mutation::Put(key, value) => transaction.put(key.to_vec(), value.to_vec()).await?,
            Mutation::Insert(key, value) => transaction.insert(key.to_vec(), value.to_vec()).await?,
            Mutation::Delete(key) => transaction.delete(key.to_vec()).await?,
            Mutation::Lock(key) => transaction.lock_keys([key.to_vec()]).await?,
        }
    }
    Ok(())
}

/// What is stored at a timestamp.
async fn read(
    reader: &Reader,
    at: &tikv_client::Timestamp,
    keys: Vec<Bytes>,
    deadline: Instant,
) -> Result<HashMap<Bytes, Option<Bytes>>, Again> {
    match reader.get_many(at, keys.clone(), deadline).await {
        Ok(values) => Ok(keys.into_iter().zip(values).collect()),
        Err(ReadError::Unavailable(cause) | ReadError::Failed(cause)) => Err(Again::Failed(cause)),
        Err(ReadError::Expired) => Err(Again::Failed(ReadError::Expired.into())),
    }
}

/// After a conflict: the first condition that is broken at a later moment. If none is, the conflict was about a key
/// without a condition, or is over.
async fn which_is_broken(
    reader: &Reader,
    plan: &Plan,
    deadline: Instant,
) -> Result<Result<(), CommitError>, Again> {
    if plan.conditions.is_empty() {
        return Err(Again::Conflict);
    }
    let now = reader.retry("timestamp", None, deadline, |client| {
        let link = &reader.link;
        async move { link.timestamp(&client).await.map_err(Failure::Noted) }
    });
    let now = now.await.map_err(|error| Again::Failed(error.into()))?;
    let stored = read(reader, &now, plan.condition_keys(), deadline).await?;
    match plan.broken(&stored) {
        Some(key) => Ok(Err(CommitError::Conflict { key })),
        None => Err(Again::Conflict),
    }
}

/// Takes the locks of a transaction away that will not be committed, so that nobody waits until they are old.
fn clear(mut transaction: Transaction) {
    tokio::spawn(async move { timeout(ROLLBACK_TIMEOUT, transaction.rollback()).await });
}
