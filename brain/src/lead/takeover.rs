//! Taking a group over and loading it: takeover record first, then everything is read, then it serves.
//!
//! **Why nothing of the old master can come after the takeover.** Its batch n and the takeover n are commits under the
//! same condition, that record n is absent, and a condition is judged against the state that its batch's writes are
//! applied to. Whichever is applied first makes the other one false for good, however long that one has been on its way.
//! A database with locks does it like this: the record is the first key of each batch, so it is the one whose commit
//! decides for all of them. A batch that has locked its keys when the takeover comes holds that key too; the takeover
//! waits, or takes the lock away, after which that batch cannot be committed any more. Once the takeover is committed,
//! no batch n can lock it. The old master does not send n + 1 before it knows that its n was committed.
//!
//! So the snapshot that is loaded, asked for after the takeover was answered, shows all that the old master has ever
//! written, whole batches only, and nothing is added to it but by us. Loading may take as long as it likes and many
//! snapshots: where one expires the next page is read from a new one. What a deposed master's sweep still deletes
//! meanwhile is superfluous to everybody (see `sweep`). Only another takeover ends that: then later snapshots show what
//! its master writes beside what was read before. So the record after ours is looked for when everything is loaded; if
//! it is not there, there was nobody.
//!
//! **A takeover that comes late.** Between reading where the log ends and its commit the old master may write on and trim
//! the log: then the number that was the next one is absent *again*, and a takeover there would shut out nobody and be a
//! second master beside the first. So the takeover also demands that the trimmed mark is where it was: records go only
//! after it has moved past them.
//!
//! **Its outcome unknown.** The record is looked for; where it is not there the tail is read again and another takeover,
//! with a nonce of its own, is tried. If the first one lands after all, it is either the one that shuts us out as any
//! other master's would, and we take over behind it, or it comes to nothing.
//!
//! **Owners of other groups' keys** may be added while we load. They are looked at again where it matters: the first
//! write of a kind is a condition on its owner's row. If another group was faster, which takes two different placements
//! in use, the batch is refused and this group ends with a sentence about it.

use std::sync::Arc;

use kubebrain_shared::placement::Placement;
use prost::Message;

use crate::config::Config;
use crate::decide::held::Held;
use crate::engine::{Batch, CommitError, Engine, Snapshot as _};
use crate::load::error::OpenError;
use crate::load::format::check_format;
use crate::load::held::held;
use crate::load::keys::{Keys, load_keys};
use crate::load::master::{MasterState, load_master};
use crate::load::placement::check_placement;
use crate::rows::codec::{Layout, Record, Small};
use crate::rows::log;
use crate::rows::number::BatchNumber;
use crate::rows::retry::{RetryingSnapshot, Tries};
use crate::state::values::Values;

/// What was loaded.
pub(crate) struct Loaded {
    pub(crate) held: Held,
    pub(crate) keys: Keys,
    pub(crate) master: MasterState,
}

/// Takes the group over; gives the own epoch, and what was loaded.
pub(crate) async fn open(
    config: &Config,
    engine: &Arc<dyn Engine>,
    layout: &Layout,
    placement: &Placement,
    values: &Values,
) -> Result<(u64, Loaded), OpenError> {
    check_format(engine, layout).await?;
    #[cfg(any(test, feature = "faults"))]
    let before = RetryingSnapshot::new(engine).await?;
    let Takeover { epoch, number } = take_over(config, engine, layout, None).await?;
    let snapshot = RetryingSnapshot::new(engine).await?;
    #[cfg(any(test, feature = "faults"))]
    let snapshot = if config.planted.loads_before_takeover { before } else { snapshot };
    let loaded = load(config, &snapshot, layout, placement, values, number).await?;
    Ok((epoch, loaded))
}

/// Snapshots that came after another takeover may show what its master has written, in part.
pub(crate) async fn check_still_master(
    config: &Config,
    engine: &Arc<dyn Engine>,
    layout: &Layout,
    number: BatchNumber,
) -> Result<(), OpenError> {
    match log::record(&RetryingSnapshot::new(engine).await?, layout, number.next().0).await? {
        None => Ok(()),
        Some(record) => {
            Err(OpenError::Deposed { group: config.group.clone(), by: record.takeover, epoch: record.epoch })
        }
    }
}

/// A takeover that was committed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Takeover {
    /// The new master's.
    pub(crate) epoch: u64,
    /// Under which number of the log its record stands.
    pub(crate) number: BatchNumber,
}

/// Inserts the takeover record after the last batch. From here on, an older master is refused. The log's end is looked
/// for from batch `near` on, where one is known.
pub(crate) async fn take_over(
    config: &Config,
    engine: &Arc<dyn Engine>,
    layout: &Layout,
    near: Option<u64>,
) -> Result<Takeover, OpenError> {
    let mut tries = Tries::default();
    // The last try: its number, and what was to stand there.
    let mut tried: Option<(u64, Record)> = None;
    loop {
        let snapshot = RetryingSnapshot::new(engine).await?;
        // Before anything else of the log: what is trimmed from here on shows.
        let mark = layout.small(Small::Trimmed);
        let trimmed = snapshot.get(&mark).await?;
        // A master that writes without pause is always ahead of one who searches its log from the beginning. So the
        // next try begins where the last one was too late.
        let ends = match tried.as_ref().map(|(number, _)| *number).or(near) {
            Some(number) => log::ends_from(&snapshot, layout, number).await?,
            None => None,
        };
        let (tail, last) = match (ends, tried.take()) {
            (Some((found, ..)), Some((number, ours))) if found.nonce == ours.nonce => {
                return Ok(Takeover { epoch: ours.epoch, number: BatchNumber(number) });
            }
            (Some((_, tail, last)), _) => (tail, last),
            (None, tried) => {
                if tried.is_some() {
                    tries.pause().await;
                }
                let tail = log::tail(&snapshot, layout).await?;
                (tail, log::record(&snapshot, layout, tail).await?.unwrap_or_default())
            }
        };
        let record = Record {
            epoch: last.epoch + 1,
            nonce: rand::random(),
            top: last.top,
            takeover: config.name.clone(),
            ..Record::default()
        };
        let key = layout.log(tail + 1);
        let mut batch = Batch::new();
        batch.absent(key.clone()).put(key, record.encode_to_vec());
        #[cfg(any(test, feature = "faults"))]
        let mark = if config.planted.takeover_ignores_trims { layout.log(u64::MAX) } else { mark };
        #[cfg(any(test, feature = "faults"))]
        let trimmed = trimmed.filter(|_| !config.planted.takeover_ignores_trims);
        match trimmed {
            None => batch.absent(mark),
            Some(trimmed) => batch.equals(mark, trimmed),
        };
        match engine.commit(batch).await {
            Ok(()) => return Ok(Takeover { epoch: record.epoch, number: BatchNumber(tail + 1) }),
            Err(CommitError::Conflict { .. }) => tried = Some((tail + 1, record)),
            Err(CommitError::Unknown(_)) => {
                tried = Some((tail + 1, record));
                tries.pause().await;
            }
            Err(refused) => return Err(refused.into()),
        }
    }
}

/// Loads everything, after the takeover record `number`.
pub(crate) async fn load(
    config: &Config,
    snapshot: &RetryingSnapshot<'_>,
    layout: &Layout,
    placement: &Placement,
    values: &Values,
    number: BatchNumber,
) -> Result<Loaded, OpenError> {
    let mut master = load_master(config, snapshot, layout, number).await?;
    let held = held(config, master.placement.as_ref(), placement, &master.start.owners)?;
    check_placement(snapshot, layout, held.table(), &master.start.owners).await?;
    let keys = load_keys(config, snapshot, layout, &held, values).await?;
    master.start.counter = master.start.counter.max(keys.top);
    master.leases.attach(&keys.index);
    check_still_master(config, snapshot.engine(), layout, number).await?;
    Ok(Loaded { held, keys, master })
}
