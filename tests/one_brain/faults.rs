//! [`Trouble`]: what happens to a brain, to what it stands on, and to what is between; [`Arena`] is where it happens.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_brain::rows::Layout;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::sleep;

use crate::BINARY;
use crate::traffic::{KINDS, Stage};
use kit::cluster::{Advertised, Cluster, Ports};
use kit::in_time;
use kit::process::{Beginning, Place, Process};
use kit::relay::{Flow, Relay};

/// What stands behind a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    Pd,
    Store,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    KillBrain,
    /// And back after so long.
    Kill(Behind, Duration),
    Flow(Behind, Flow),
    Reset(Behind),
    Late(Behind, Duration),
    Busy(u32),
    NotLeader(u32),
    Split(Bytes),
    SlowCall(&'static str, Duration),
}

impl Trouble {
    /// What it is like for a server of these groups with this prefix.
    pub(crate) fn random(random: &mut SmallRng, prefix: &[u8], placement: &Placement) -> Self {
        let millis = |random: &mut SmallRng, range| Duration::from_millis(random.random_range(range));
        let behind = if random.random_ratio(1, 3) { Behind::Pd } else { Behind::Store };
        match random.random_range(0..16) {
            0..3 => Self::KillBrain,
            3..5 => Self::Kill(behind, millis(random, 0..2500)),
            5 => Self::Flow(behind, Flow::Cut),
            6 => Self::Flow(behind, Flow::Silent),
            7..9 => Self::Flow(behind, Flow::Mute),
            9 => Self::Reset(behind),
            10 => Self::Late(behind, millis(random, 5..200)),
            11 => Self::Busy(random.random_range(1..60)),
            12 => Self::NotLeader(random.random_range(1..60)),
            13..15 => Self::Split(split_key(random, prefix, placement)),
            _ => {
                let calls = ["KvPrewrite", "KvCommit", "KvGet", "KvBatchGet", "KvScan"];
                Self::SlowCall(calls[random.random_range(0..calls.len())], millis(random, 50..1500))
            }
        }
    }
}

/// In the middle of what is written: between keys of a kind, between versions of one, or in a group's log.
fn split_key(random: &mut SmallRng, prefix: &[u8], placement: &Placement) -> Bytes {
    let kind = KINDS[random.random_range(0..KINDS.len())];
    let key = Bytes::from(format!("{kind}n{}", random.random_range(0..8)));
    let layout = Layout::new(prefix, placement.owner(&key));
    match random.random_range(0..3) {
        0 => layout.data_span(&KeyRange::prefix(key)).start,
        1 => layout.data(&key, Revision::new(random.random_range(1..2000))),
        _ => layout.log(random.random_range(1..2000)),
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Split(key) => write!(f, "split at {}", key.escape_ascii()),
            other => write!(f, "{other:?}"),
        }
    }
}

/// A server on a cluster of its own, each behind a relay.
pub(crate) struct Arena {
    pub(crate) cluster: Cluster,
    pub(crate) pd: Relay,
    pub(crate) store: Relay,
    pub(crate) place: Place,
}

impl Arena {
    /// None without the kit.
    pub(crate) async fn new(seed: u64) -> Option<Self> {
        let ports = Ports::free();
        let (pd, store) = (Relay::plain(ports.pd, seed).await, Relay::plain(ports.store, !seed).await);
        let advertised =
            Advertised { pd: Some(pd.address().to_owned()), store: Some(store.address().to_owned()) };
        let cluster = Cluster::with(ports, advertised).await?;
        Some(Self { cluster, pd, store, place: BINARY.place() })
    }

    fn relay(&self, behind: Behind) -> &Relay {
        match behind {
            Behind::Pd => &self.pd,
            Behind::Store => &self.store,
        }
    }

    /// Everything between works again, and the store does what it is asked.
    pub(crate) async fn heal(&mut self) {
        self.pd.heal();
        self.store.heal();
        self.cluster.busy(0).await;
        self.cluster.not_leader(0).await;
        self.cluster.delay("", Duration::ZERO).await;
    }
}

/// A server, wherever it is in its life.
pub(crate) enum Server {
    Begins(Beginning),
    Serves(Process),
}

impl Server {
    /// kill -9, and started again at once.
    pub(crate) async fn kill(self, stage: &Stage) -> Self {
        let start = match self {
            Self::Begins(beginning) => beginning.kill().await,
            Self::Serves(mut process) => {
                process.kill().await;
                process.start()
            }
        };
        stage.life.fetch_add(1, Ordering::SeqCst);
        Self::Begins(start.begins())
    }

    /// Waits until it serves; it has no reason to end.
    pub(crate) async fn serving(self) -> Self {
        match self {
            Self::Begins(beginning) => match in_time("a server", beginning.serves()).await {
                Ok(process) => Self::Serves(process),
                Err(failure) => panic!("the server has ended, {:?}:\n{}", failure.code, failure.message),
            },
            Self::Serves(mut process) => {
                process.must_run();
                Self::Serves(process)
            }
        }
    }

    pub(crate) fn must_run(&mut self) {
        match self {
            Self::Begins(beginning) => beginning.must_run(),
            Self::Serves(process) => process.must_run(),
        }
    }
}

/// Makes trouble for so long as the trouble itself takes.
pub(crate) async fn make(trouble: &Trouble, arena: &mut Arena, server: Server, stage: &Arc<Stage>) -> Server {
    match trouble {
        Trouble::KillBrain => return server.kill(stage).await,
        // Whoever starts asks PD, and the store does so by its advertised address: it must be there.
        Trouble::Kill(Behind::Pd, back) => {
            arena.pd.heal();
            arena.cluster.kill_pd();
            sleep(*back).await;
            arena.cluster.start_pd().await;
        }
        Trouble::Kill(Behind::Store, back) => {
            arena.pd.heal();
            arena.cluster.kill_store();
            sleep(*back).await;
            arena.cluster.start_store().await;
        }
        Trouble::Flow(behind, flow) => arena.relay(*behind).set(*flow),
        Trouble::Reset(behind) => arena.relay(*behind).reset(),
        Trouble::Late(behind, by) => arena.relay(*behind).delay(*by),
        Trouble::Busy(count) => arena.cluster.busy(*count).await,
        Trouble::NotLeader(count) => arena.cluster.not_leader(*count).await,
        Trouble::Split(key) => {
            arena.pd.heal();
            arena.cluster.split(key).await;
        }
        Trouble::SlowCall(method, by) => arena.cluster.delay(method, *by).await,
    }
    server
}

/// The table of three groups that the project's own runs begin with.
pub(crate) fn three_groups() -> (String, Placement) {
    let text = "prefix: /registry\nhome: core\ndefault: core\ngroups: { core: {}, pods: {}, events: {} }\n\
                kinds:\n  - { kind: pods, group: pods }\n  - { kind: events, group: events }\n";
    (text.to_owned(), Placement::parse(text).expect("a placement"))
}

pub(crate) fn one_group() -> Placement {
    Placement::single(GroupName::parse("default").expect("a name"))
}
