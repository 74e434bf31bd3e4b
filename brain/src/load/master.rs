//! [`MasterState`]: what a master has beside the keys, read from the engine.

use std::collections::HashMap;

use bytes::Bytes;
use kubebrain_shared::group::GroupName;

use super::error::OpenError;
use crate::config::Config;
use crate::engine::Snapshot;
use crate::rows::codec::{self, AlarmsRow, DecidedRow, Layout, LeaseRow, PlacementRow, Record, Small};
use crate::rows::number::BatchNumber;
use crate::rows::ownership;
use crate::state::lease::Leases;

/// What a master has beside the keys.
pub(crate) struct MasterState {
    pub leases: Leases,
    pub alarms: AlarmsRow,
    pub start: Start,
    /// What the group goes by; `None` where it has heard of no placement yet.
    pub placement: Option<PlacementRow>,
    /// At the home group: the placement of the cluster.
    pub decided: DecidedRow,
}

/// Where the writer goes on from.
pub(crate) struct Start {
    pub counter: u64,
    /// Of the next batch.
    pub number: BatchNumber,
    pub ceiling: u64,
    pub compacted: i64,
    pub owners: HashMap<Bytes, GroupName>,
}

/// Loads leases, without their keys; owners, alarms and numbers. `takeover` is the record of the master itself.
pub(crate) async fn load_master(
    config: &Config,
    snapshot: &dyn Snapshot,
    layout: &Layout,
    takeover: BatchNumber,
) -> Result<MasterState, OpenError> {
    let mut leases = Leases::new(config.lease_checkpoint_interval);
    let keys = [
        layout.log(takeover.0),
        layout.small(Small::Ceiling),
        layout.small(Small::Compacted),
        layout.alarms(),
        layout.placement(),
        layout.decided(),
    ];
    let (small, owners, _) = futures_util::try_join!(
        async { Ok(snapshot.get_many(keys.to_vec()).await?) },
        async { Ok::<_, OpenError>(ownership::load(snapshot, layout).await?) },
        load_leases(snapshot, layout, &mut leases),
    )?;
    let mut rows = keys.iter().zip(small);
    let mut next = || rows.next().and_then(|(key, value)| Some((key, value?)));
    let last: Record =
        next().map(|(key, value)| codec::read_message(key, value)).transpose()?.unwrap_or_default();
    let ceiling = next().map(|(key, value)| codec::read_small(key, &value)).transpose()?.unwrap_or(0);
    let compacted = next().map(|(key, value)| codec::read_small(key, &value)).transpose()?;
    let alarms = next().map(|(key, value)| codec::read_message(key, value)).transpose()?.unwrap_or_default();
    let placement = next().map(|(key, value)| codec::read_message(key, value)).transpose()?;
    let decided = next().map(|(key, value)| codec::read_message(key, value)).transpose()?.unwrap_or_default();
    let start = Start {
        counter: last.top.max(ceiling).max(1),
        number: takeover.next(),
        ceiling,
        compacted: compacted.map_or(-1, u64::cast_signed),
        owners,
    };
    Ok(MasterState { leases, alarms, start, placement, decided })
}

async fn load_leases(snapshot: &dyn Snapshot, layout: &Layout, leases: &mut Leases) -> Result<(), OpenError> {
    let mut span = layout.lease_span();
    loop {
        let page = snapshot.scan(span.clone(), 1024).await?;
        for (row, value) in page.rows {
            let lease: LeaseRow = codec::read_message(&row, value)?;
            leases.load(layout.read_lease_id(&row)?, lease);
        }
        match page.next {
            Some(next) => span.start = next,
            None => return Ok(()),
        }
    }
}
