//! From slave to master: the takeover record, then what the log has after what was applied, then what only masters know.
//!
//! The tail is what is left of the old master's batches once the takeover shuts it out: also one that was committed and
//! never answered. Its revisions are applied as if they had come on the stream, so watchers go on without a gap, and hear
//! nothing twice.

use std::sync::Arc;

use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;

use super::apply::{Arrival, Arrived, Told, apply};
use crate::config::Config;
use crate::decide::held::Held;
use crate::engine::Snapshot;
use crate::lead::takeover::{self, Loaded, Takeover};
use crate::load::error::OpenError;
use crate::load::format::check_format;
use crate::load::held::held;
use crate::load::master::{MasterState, Start, load_master};
use crate::rows::codec::{self, Layout, Record, Write};
use crate::rows::log::{self, LogError};
use crate::rows::number::BatchNumber;
use crate::rows::retry::RetryingSnapshot;
use crate::state::group::{Contents, GroupState};

/// Makes a slave's store a master's, but for its writer.
///
/// # Errors
/// See [`OpenError`].
///
/// # Cancel safety
/// Safe: until it is done nothing has changed here.
pub(super) async fn take_over(
    state: &Arc<GroupState>,
    config: &Config,
    table: &Placement,
) -> Result<Start, OpenError> {
    let (engine, layout) = (&state.engine, &state.layout);
    let known = state.follow.batch();
    // Without a number nothing tells which keys were loaded.
    let placed = !config.awaits_placement || state.held.load().pair().number > 0;
    let warm = state.follow.is_loaded() && state.follow.is_placed() && placed;
    check_format(engine, layout).await?;
    let near = Some(known).filter(|known| *known > 0);
    let term = config.term(); // of before the takeover
    let Takeover { epoch, number } = takeover::take_over(config, engine, layout, near).await?;
    let tail = if warm { tail(state, config, near, number).await? } else { None };
    let master = match tail {
        Some((mut master, arrived)) => {
            master.start.counter = master.start.counter.max(state.committed().get());
            #[cfg(any(test, feature = "faults"))]
            let arrived = if config.planted.skips_tail { Vec::new() } else { arrived };
            // First what is given away, last what is gained: what is read meanwhile is of before.
            let next = held(config, master.placement.as_ref(), table, &master.start.owners)?;
            let before = Held::clone(&state.held.load());
            state.hold(before.until(&next));
            apply(state, arrived, Told { closed: master.start.counter, compacted: master.start.compacted });
            state.hold(next);
            state.follow.attach_leased(&mut master.leases);
            master
        }
        None => {
            let snapshot = RetryingSnapshot::new(engine).await?;
            let Loaded { held, keys, mut master } =
                takeover::load(config, &snapshot, layout, table, &state.values, number).await?;
            master.start.counter = master.start.counter.max(state.committed().get());
            state.hold(state.held.load().until(&held));
            state.replace(Contents {
                index: keys.index,
                bytes: keys.bytes,
                committed: master.start.counter,
                compacted: master.start.compacted,
            });
            state.hold(held);
            master
        }
    };
    let MasterState { leases, alarms, start, decided, .. } = master;
    *state.leases.lock() = leases;
    state.set_alarms(&alarms);
    state.decide(decided);
    state.set_epoch(epoch);
    state.fence.lead(config.asks(&**engine), number, term);
    Ok(start)
}

/// What the log has after what is applied, up to the takeover `number`; `None` where not all of it is there any more.
async fn tail(
    state: &GroupState,
    config: &Config,
    near: Option<u64>,
    number: BatchNumber,
) -> Result<Option<(MasterState, Vec<Arrived>)>, OpenError> {
    let layout = &state.layout;
    let snapshot = RetryingSnapshot::new(&state.engine).await?;
    let next = state.committed().get() + 1;
    let first = match near {
        Some(near) => near + 1,
        None => log::batch_of(&snapshot, layout, next).await?,
    };
    let (master, records) = futures_util::try_join!(load_master(config, &snapshot, layout, number), async {
        Ok(records(&snapshot, layout, first, number.0).await?)
    },)?;
    let Some(records) = records.filter(|_| master.start.compacted < next.cast_signed()) else {
        return Ok(None);
    };
    let writes = records.into_iter().flat_map(|record| record.writes);
    let writes: Vec<_> = writes.filter(|write| write.revision >= next).collect();
    let Some(arrived) = values(&snapshot, layout, &writes).await? else { return Ok(None) };
    takeover::check_still_master(config, &state.engine, layout, number).await?;
    Ok(Some((master, arrived)))
}

/// The records from `first` up to `last`; `None` if one is missing.
async fn records(
    snapshot: &dyn Snapshot,
    layout: &Layout,
    first: u64,
    last: u64,
) -> Result<Option<Vec<Record>>, LogError> {
    let mut span = layout.log_span(first);
    span.end = Some(layout.log(last + 1));
    let (mut records, mut expected) = (Vec::new(), first);
    loop {
        let page = snapshot.scan(span.clone(), 1024).await?;
        for (row, value) in page.rows {
            if layout.read_log_number(&row)? != expected {
                return Ok(None);
            }
            records.push(codec::read_message(&row, value)?);
            expected += 1;
        }
        match page.next {
            Some(next) => span.start = next,
            None => return Ok(Some(records).filter(|_| expected > last)),
        }
    }
}

/// What was written, with its rows' values; `None` if one is gone.
async fn values(
    snapshot: &dyn Snapshot,
    layout: &Layout,
    writes: &[Write],
) -> Result<Option<Vec<Arrived>>, OpenError> {
    let puts = writes.iter().flat_map(|write| {
        let puts = write.changes.iter().filter(|change| !change.deleted);
        puts.map(|change| layout.data(&change.key, Revision::new(write.revision)))
    });
    let rows: Vec<_> = puts.collect();
    let stored = if rows.is_empty() { Vec::new() } else { snapshot.get_many(rows.clone()).await? };
    let mut stored = rows.iter().zip(stored);
    let mut arrived = Vec::with_capacity(writes.len());
    for write in writes {
        let mut events = Vec::with_capacity(write.changes.len());
        for change in &write.changes {
            if change.deleted {
                events.push(Arrival::deletion(layout, &change.key, write.revision));
                continue;
            }
            let Some((row, Some(value))) = stored.next() else { return Ok(None) };
            let kv = layout.read_data(row, &value)?.kv;
            let put = kv.and_then(|kv| Arrival::put(layout, &kv));
            events.push(put.ok_or_else(|| codec::damaged(row, "a put"))?);
        }
        arrived.push(Arrived { revision: write.revision, events });
    }
    Ok(Some(arrived))
}
