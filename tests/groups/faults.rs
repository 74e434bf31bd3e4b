//! [`Trouble`]: what happens to processes, and to what is between them.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::{Instant, sleep, timeout};

use crate::arena::{Arena, BRAINS, LEASE};
use crate::node::Node;
use crate::stage::Stage;
use kit::client::ready;
use kit::relay::{Flow, Relay};

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// Of this group.
    Master(usize),
    /// Of this group one that is not master.
    Slave(usize, usize),
    Proxy(usize),
}

/// Which connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// From this one, or from everybody, to a brain's peers.
    Peers(Option<Whom>, Whom),
    /// From this one, or from everybody.
    Store(Option<Whom>),
    Pd(Option<Whom>),
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// kill -9, and back after so long.
    Kill(Whom, Duration),
    /// SIGSTOP, and SIGCONT after so long.
    Stop(Whom, Duration),
    /// SIGTERM, and back at once.
    Restart(Whom),
    /// SIGTERM and back, one brain of a group after the other.
    Rolling(usize),
    Flow(Line, Flow),
    Late(Line, Duration),
    Reset(Line),
    Busy(u32),
    NotLeader(u32),
    SlowCall(&'static str, Duration),
}

impl Trouble {
    /// What a round is about: over some rounds each of these comes.
    pub(crate) fn chief(round: usize, random: &mut SmallRng, groups: usize) -> Self {
        let group = random.random_range(0..groups);
        let master = Whom::Master(group);
        match round % 7 {
            0 => Self::Stop(master, LEASE * 3),
            1 => Self::Kill(master, millis(random, 0..2500)),
            2 => Self::Rolling(group),
            3 => Self::Flow(Line::Store(None), Flow::Mute),
            4 => Self::Flow(Line::Store(Some(master)), flow(random)),
            5 => Self::Flow(Line::Peers(None, master), flow(random)),
            _ => Self::Stop(slave(random, group), LEASE * 3),
        }
    }

    /// Anything.
    pub(crate) fn random(random: &mut SmallRng, groups: usize, proxies: usize) -> Self {
        let group = random.random_range(0..groups);
        let (master, slave) = (Whom::Master(group), slave(random, group));
        let proxy = Whom::Proxy(random.random_range(0..proxies));
        let brain = if random.random_bool(0.5) { master } else { slave };
        let line = match random.random_range(0..8) {
            0 => Line::Peers(None, master),
            1 => Line::Peers(Some(proxy), brain),
            2 => Line::Peers(Some(slave), master),
            3 => Line::Peers(None, slave),
            4 => Line::Store(Some(brain)),
            5 => Line::Store(None),
            6 => Line::Store(Some(master)),
            _ => Line::Pd(if random.random_bool(0.5) { Some(brain) } else { None }),
        };
        match random.random_range(0..20) {
            0..3 => Self::Kill(master, millis(random, 0..2500)),
            3 => Self::Kill(slave, millis(random, 0..2500)),
            4 => Self::Kill(proxy, millis(random, 0..1000)),
            5 => Self::Stop(master, millis(random, 300..3500)),
            6 => Self::Stop(slave, millis(random, 300..3500)),
            7 => Self::Stop(proxy, millis(random, 100..1000)),
            8 => Self::Restart(brain),
            9 => Self::Restart(proxy),
            10..14 => Self::Flow(line, flow(random)),
            14 => Self::Reset(line),
            15 | 16 => Self::Late(line, millis(random, 5..200)),
            17 => Self::Busy(random.random_range(1..60)),
            18 => Self::NotLeader(random.random_range(1..60)),
            _ => {
                let calls = ["KvPrewrite", "KvCommit", "KvGet", "KvBatchGet", "KvScan"];
                Self::SlowCall(calls[random.random_range(0..calls.len())], millis(random, 50..1200))
            }
        }
    }
}

fn millis(random: &mut SmallRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.random_range(range))
}

fn slave(random: &mut SmallRng, group: usize) -> Whom {
    Whom::Slave(group, random.random_range(0..BRAINS - 1))
}

fn flow(random: &mut SmallRng) -> Flow {
    [Flow::Cut, Flow::Silent, Flow::Mute][random.random_range(0..3)]
}

/// What is to be done again later.
enum Later {
    Start(String),
    Resume(String),
}

/// Makes trouble, and ends what ends by itself.
#[derive(Default)]
pub(crate) struct Mischief {
    later: Vec<(Instant, Later)>,
}

impl Mischief {
    /// Makes it, and takes as long as it takes.
    pub(crate) async fn make(&mut self, trouble: &Trouble, arena: &mut Arena, stage: &Stage) {
        match trouble {
            Trouble::Kill(whom, back) => {
                let node = arena.node(*whom);
                node.kill().await;
                stage.doors[stage.door_of(&node.name)].renew();
                self.later.push((Instant::now() + *back, Later::Start(node.name.clone())));
            }
            Trouble::Stop(whom, time) => {
                let node = arena.node(*whom);
                node.stop();
                self.later.push((Instant::now() + *time, Later::Resume(node.name.clone())));
            }
            Trouble::Restart(whom) => restart(arena.node(*whom), stage).await,
            Trouble::Rolling(group) => {
                for at in group * BRAINS..(group + 1) * BRAINS {
                    restart(&mut arena.brains[at].node, stage).await;
                    // Who cannot start now, since something else fails, will later.
                    let serves = ready(&arena.brains[at].address);
                    let _late = timeout(Duration::from_secs(2), serves).await;
                }
            }
            Trouble::Flow(line, flow) => arena.with(*line, |relay, only| relay.set_for(only, *flow)),
            Trouble::Late(line, by) => arena.with(*line, |relay, only| relay.delay_for(only, *by)),
            Trouble::Reset(line) => arena.with(*line, |relay, _| relay.reset()),
            Trouble::Busy(count) => arena.cluster.busy(*count).await,
            Trouble::NotLeader(count) => arena.cluster.not_leader(*count).await,
            Trouble::SlowCall(method, by) => arena.cluster.delay(method, *by).await,
        }
    }

    /// Lets time go by, and does what is due.
    pub(crate) async fn rest(&mut self, arena: &mut Arena, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.due(arena);
            sleep(Duration::from_millis(20)).await;
        }
        arena.must_run();
    }

    /// Waits until nothing is to be done any more.
    pub(crate) async fn settle(&mut self, arena: &mut Arena) {
        while !self.later.is_empty() {
            self.due(arena);
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn due(&mut self, arena: &mut Arena) {
        let now = Instant::now();
        for (_, later) in self.later.extract_if(.., |(at, _)| *at <= now) {
            match later {
                Later::Start(name) => arena.named(&name).start(),
                Later::Resume(name) => arena.named(&name).resume(),
            }
        }
    }
}

async fn restart(node: &mut Node, stage: &Stage) {
    node.end().await;
    stage.doors[stage.door_of(&node.name)].renew();
    node.start();
}

impl Arena {
    fn named(&mut self, name: &str) -> &mut Node {
        let nodes = self.brains.iter_mut().map(|brain| &mut brain.node).chain(&mut self.proxies);
        nodes.into_iter().find(|node| node.name == name).expect("it was named by itself")
    }

    /// Which brain that is now.
    fn brain(&self, whom: Whom) -> Option<usize> {
        let (group, slave) = match whom {
            Whom::Master(group) => (group, None),
            Whom::Slave(group, slave) => (group, Some(slave)),
            Whom::Proxy(_) => return None,
        };
        let master = self.master(group).map_or(group * BRAINS, |(at, _)| at);
        match slave {
            None => Some(master),
            Some(slave) => (group * BRAINS..(group + 1) * BRAINS).filter(|at| *at != master).nth(slave),
        }
    }

    fn node(&mut self, whom: Whom) -> &mut Node {
        match (self.brain(whom), whom) {
            (Some(at), _) => &mut self.brains[at].node,
            (None, Whom::Proxy(at)) => &mut self.proxies[at],
            (None, _) => unreachable!("every group has brains"),
        }
    }

    /// The relay of a line, and whom it is about.
    fn with(&mut self, line: Line, change: impl FnOnce(&Relay, Option<u32>)) {
        let from = match line {
            Line::Peers(from, _) | Line::Store(from) | Line::Pd(from) => from,
        };
        let only = match from {
            None => None,
            Some(whom) => match self.node(whom).pid() {
                Some(pid) => Some(pid),
                None => return, // who is not there has no connections
            },
        };
        match line {
            Line::Peers(_, to) => {
                let at = self.brain(to).expect("peers are brains");
                change(&self.brains[at].peers, only);
            }
            Line::Store(_) => change(&self.store, only),
            Line::Pd(_) => change(&self.pd, only),
        }
    }
}
