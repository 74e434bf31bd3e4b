//! From slave to master: the takeover record, then what the log has after what was applied, then what only masters know.
//!
//! The tail is what is left of the old master's batches once the takeover shuts it out: also one that was committed and
//! never answered. Its revisions are applied as if they had come on the stream, so watchers go on without a gap, and hear
//! nothing twice.

use std::sync::Arc;

use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;
use tokio::sync::watch;

use super::apply::{Arrival, Arrived};
use crate::engine::Snapshot;
use crate::mvcc::Config;
use crate::mvcc::codec::{self, Layout, Record, Write};
use crate::mvcc::log::{self, LogError};
use crate::mvcc::open::{self, Office, OpenError, Patient};
use crate::mvcc::shared::{Contents, Shared};
use crate::mvcc::writer::Start;

/// Makes a slave's store a master's, but for its writer.
///
/// # Errors
/// See [`OpenError`].
///
/// # Cancel safety
/// Safe: until it is done nothing has changed here.
pub(super) async fn take_over(
    shared: &Arc<Shared>,
    config: &Config,
    offered: &watch::Sender<Arc<Placement>>,
) -> Result<Start, OpenError> {
    let (engine, layout) = (&shared.engine, &shared.layout);
    let placement = offered.borrow().clone();
    let known = shared.course.batch();
    let same = placement.version() == shared.placement.load().version();
    let warm = shared.course.is_loaded() && same;
    open::check_format(engine, layout).await?;
    let near = Some(known).filter(|known| *known > 0);
    let term = config.term(); // of before the takeover
    let (epoch, number) = open::take_over(config, engine, layout, near).await?;
    let tail = if warm { tail(shared, config, near, number).await? } else { None };
    let office = match tail {
        Some((mut office, arrived)) => {
            office.start.counter = office.start.counter.max(shared.committed().get());
            #[cfg(any(test, feature = "faults"))]
            let arrived = if config.planted.skips_tail { Vec::new() } else { arrived };
            shared.apply(arrived, office.start.counter, office.start.compacted);
            shared.course.attach_leased(&mut office.leases);
            office
        }
        None => {
            let snapshot = Patient::new(engine).await?;
            let (keys, mut office) =
                open::load(config, &snapshot, layout, &placement, &shared.values, number).await?;
            office.start.counter = office.start.counter.max(shared.committed().get());
            shared.placement.store(placement);
            shared.replace(Contents {
                index: keys.index,
                bytes: keys.bytes,
                committed: office.start.counter,
                compacted: office.start.compacted,
            });
            office
        }
    };
    let Office { leases, alarms, start } = office;
    *shared.leases.lock() = leases;
    shared.set_alarms(&alarms);
    shared.set_term(epoch);
    shared.fence.lead(config.asks(&**engine), number, term);
    Ok(start)
}

/// What the log has after what is applied, up to the takeover `number`; `None` where not all of it is there any more.
async fn tail(
    shared: &Shared,
    config: &Config,
    near: Option<u64>,
    number: u64,
) -> Result<Option<(Office, Vec<Arrived>)>, OpenError> {
    let layout = &shared.layout;
    let snapshot = Patient::new(&shared.engine).await?;
    let next = shared.committed().get() + 1;
    let first = match near {
        Some(near) => near + 1,
        None => log::batch_of(&snapshot, layout, next).await?,
    };
    let (office, records) =
        futures_util::try_join!(open::load_office(config, &snapshot, layout, number), async {
            Ok(records(&snapshot, layout, first, number).await?)
        },)?;
    let Some(records) = records.filter(|_| office.start.compacted < next.cast_signed()) else {
        return Ok(None);
    };
    let writes = records.into_iter().flat_map(|record| record.writes);
    let writes: Vec<_> = writes.filter(|write| write.revision >= next).collect();
    let Some(arrived) = values(&snapshot, layout, &writes).await? else { return Ok(None) };
    open::check_still_master(config, &shared.engine, layout, number).await?;
    Ok(Some((office, arrived)))
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
