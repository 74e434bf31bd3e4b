//! What a proxy does before it serves: it waits for a placement, and reaches the groups.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kubebrain_shared::revision::Revision;
use tokio::time::timeout;
use tonic::Status;

use crate::core::Core;
use crate::group::Group;

/// How long groups are waited for by a proxy that may serve without them.
const AWAY_AFTER: Duration = Duration::from_secs(2);

/// Until every group of the newest table has answered, and home has said who it is; or until one has, of a proxy that knows
/// how far it was and who the cluster is.
pub(crate) async fn reach_groups(core: &Core) {
    let mut tables = core.tables();
    let mut said = String::new();
    loop {
        if !core.table().is_known() {
            let _told = tables.changed().await;
            continue;
        }
        match reach(core).await {
            Ok(()) => return,
            // Each reason once.
            Err(status) if said == status.message() => {}
            Err(status) => {
                tracing::warn!(
                    reason = status.message(),
                    "not ready: not every group answers. Clients wait, and are refused as Unavailable after some seconds"
                );
                status.message().clone_into(&mut said);
            }
        }
        let _never_over = core.retry().pause().await;
    }
}

async fn reach(core: &Core) -> Result<(), Status> {
    let table = core.table();
    let groups: Vec<&Arc<Group>> = table.groups().collect();
    let fence = async |group: &&Arc<Group>| {
        // First who they are: a brain of another group would answer as well.
        group.heard().await;
        core.advance(group, Revision::ZERO).await
    };
    let Some(ceiling) = core.ceiling() else {
        let fenced = join_all(groups.iter().map(fence)).await;
        fenced.into_iter().collect::<Result<Vec<_>, _>>()?;
        return core.learn_identity().await;
    };
    let late = || Status::unavailable("it does not answer");
    let fenced = groups.iter().map(|group| timeout(AWAY_AFTER, fence(group)));
    let fenced = join_all(fenced).await.into_iter().map(|fenced| fenced.unwrap_or_else(|_late| Err(late())));
    let fenced: Vec<_> = fenced.collect();
    let learned = timeout(AWAY_AFTER, core.learn_identity()).await.unwrap_or_else(|_late| Err(late()));
    let away = groups.iter().zip(&fenced).filter(|(_, fenced)| fenced.is_err());
    let mut away: Vec<_> = away.map(|(group, _)| group.name().as_str()).collect();
    if away.is_empty() && learned.is_ok() {
        return Ok(());
    }
    if away.len() == groups.len() {
        return Err(Status::unavailable("no group answers"));
    }
    // Who is away may have shown more than the others have: nothing goes back.
    core.floor.raise(ceiling);
    away.sort_unstable();
    tracing::warn!(
        away = away.join(","),
        %ceiling,
        "serves without these groups, by what it has kept: what belongs to them is refused as Unavailable until they answer"
    );
    Ok(())
}
