//! Opening groups over a storage that may not be there yet: it is waited for, and whoever asks is told.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kubebrain_brain::config;
use kubebrain_brain::engine::Engine;
use kubebrain_brain::engine::error::chain;
use kubebrain_brain::rows::Layout;
use kubebrain_brain::store::{OpenError, Slave, Store, cluster};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::process::Process;

/// Between two tries. An engine has tried for longer than this inside each.
const PAUSE: Duration = Duration::from_millis(500);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(500);
/// Between two lines in the log.
const REPEAT: Duration = Duration::from_secs(5);
/// An opening that takes no longer says nothing of how far it is.
const QUICK: Duration = Duration::from_secs(2);

/// A line in the log, now and then, of what is waited for.
pub(crate) fn waits(group: &GroupName, what: &str, said: &mut Option<Instant>) {
    if said.is_none_or(|said| said.elapsed() >= REPEAT) {
        tracing::warn!(group = %group, "waiting for the storage: {what}");
        *said = Some(Instant::now());
    }
}

/// Says now and then how far an opening is that takes long and goes on; for ever.
pub(crate) async fn progress(
    process: &Process,
    what: &str,
    unit: &str,
    done: &AtomicU64,
    say: &(dyn Fn(String) + Sync),
) -> Infallible {
    let (began, from) = (Instant::now(), done.load(Ordering::Relaxed));
    let mut before = from;
    sleep(QUICK).await;
    loop {
        let now = done.load(Ordering::Relaxed);
        if now != before {
            before = now;
            let line = format!("{what}: {} {unit} read so far", now - from);
            tracing::info!(since = ?began.elapsed(), "still opening {line}");
            process.systemd.status(&format!("opening {line}"));
            say(format!("opening {line}"));
        }
        sleep(REPEAT).await;
    }
}

/// Opens a group, and tries on while the storage does not answer. `say` hears what is waited for.
///
/// # Errors
/// What waiting does not mend.
///
/// # Cancel safety
/// A dropped call may have taken the group over.
pub(crate) async fn store(
    config: config::Config,
    engine: &Arc<dyn Engine>,
    placement: &Arc<Placement>,
    process: &Process,
    say: &(dyn Fn(String) + Sync),
) -> Result<Store, OpenError> {
    let group = config.group.clone();
    let (what, loaded) = (format!("group {group}"), config.loaded.clone());
    process.systemd.status(&format!("opening {what}"));
    let tries = async {
        loop {
            match Store::open(config.clone(), engine.clone(), placement.clone()).await {
                Err(error) if error.may_pass() => pause(&group, &error, say).await,
                outcome => return outcome,
            }
        }
    };
    tokio::select! { biased;
        opened = waiting(&group, engine, say, tries) => opened,
        never = progress(process, &what, "rows", &loaded, say) => match never {},
    }
}

/// The cluster's id, as [`store`] opens a group: see [`cluster::learn`].
///
/// # Errors
/// As there.
///
/// # Cancel safety
/// As there.
pub(crate) async fn cluster(
    group: &GroupName,
    engine: &Arc<dyn Engine>,
    layout: &Layout,
    new: u64,
    say: &(dyn Fn(String) + Sync),
) -> Result<u64, OpenError> {
    let tries = async {
        loop {
            match cluster::learn(engine, layout, new).await {
                Err(error) if error.may_pass() => pause(group, &error, say).await,
                outcome => return outcome,
            }
        }
    };
    waiting(group, engine, say, tries).await
}

/// Makes a slave its group's master, as [`store`] opens one.
///
/// # Errors
/// As there.
///
/// # Cancel safety
/// As there.
pub(crate) async fn promote(
    slave: &mut Slave,
    group: &GroupName,
    engine: &Arc<dyn Engine>,
    say: &(dyn Fn(String) + Sync),
) -> Result<(), OpenError> {
    let tries = async {
        loop {
            match slave.promote().await {
                Err(error) if error.may_pass() => pause(group, &error, say).await,
                outcome => return outcome,
            }
        }
    };
    waiting(group, engine, say, tries).await
}

async fn pause(group: &GroupName, error: &OpenError, say: &(dyn Fn(String) + Sync)) {
    say(format!("group {group}: {}", chain(error)));
    sleep(PAUSE).await;
}

/// Says what the engine waits for, for as long as `work` goes on.
async fn waiting<T>(
    group: &GroupName,
    engine: &Arc<dyn Engine>,
    say: &(dyn Fn(String) + Sync),
    work: impl Future<Output = T>,
) -> T {
    let waits = async {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said: Option<Instant> = None;
        loop {
            looks.tick().await;
            let Some(what) = engine.waits_for() else { continue };
            waits(group, &what, &mut said);
            say(what);
        }
    };
    tokio::select! { biased;
        outcome = work => outcome,
        never = waits => never,
    }
}
