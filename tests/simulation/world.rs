//! [`World`]: groups, proxies and everything between them, in one process on one paused clock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kubebrain_brain::config::{self, ValueCache};
use kubebrain_brain::engine::faulty::{Faulty, Mood};
use kubebrain_brain::service::{Audience, Endpoint, EndpointConfig, Members};
use kubebrain_brain::store::Store;
use kubebrain_net::dial::{Channel, Connector, DialConfig};
use kubebrain_net::serve::{ServeConfig, memory, serve_memory};
use kubebrain_proxy::Proxy;
use kubebrain_proxy::config::Seams;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, Placement};
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::sleep;

use crate::check::Run;
use crate::engine::{Clock, Committed, Disk};
use crate::gate::Gate;
use crate::record::Journal;

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Planted {
    pub seams: Seams,
    pub ignores_absent: bool,
}

/// How a run goes, drawn from its seed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub seed: u64,
    pub groups: usize,
    pub proxies: usize,
    hashed: bool,
    one_disk: bool,
    /// Whether anything fails at all.
    pub troubled: bool,
    mood: Mood,
    late: (f64, u64),
    window_bytes: usize,
    value_cache_bytes: u64,
    merge_bytes: usize,
    refresh: Duration,
    planted: Planted,
}

impl Plan {
    pub(crate) fn new(seed: u64, planted: Planted) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let troubled = rng.random_bool(0.75);
        let mut chance = |of: f64, value: f64| if troubled && rng.random_bool(of) { value } else { 0.0 };
        let mood = Mood {
            slow: chance(0.6, 0.4),
            stuck: chance(0.2, 0.01),
            unknown: chance(0.5, 0.15),
            refuses: chance(0.2, 0.05),
            blind: chance(0.2, 0.02),
            late_answer: chance(0.3, 0.2),
            lingers: chance(0.3, 0.3),
            hasty: chance(0.3, 0.3),
            slow_reads: chance(0.3, 0.1),
            cut: chance(0.2, 0.01),
            expires: 0.3,
        };
        let late = (chance(0.8, 0.4), 40);
        let pick = |rng: &mut StdRng, of: &[u64]| *of.choose(rng).expect("not empty");
        Self {
            seed,
            groups: rng.random_range(2..=3),
            proxies: rng.random_range(1..=3),
            hashed: rng.random_bool(0.2),
            one_disk: rng.random_bool(0.5),
            troubled,
            mood,
            late,
            window_bytes: pick(rng, &[1, 500, 64 << 20]) as usize,
            value_cache_bytes: pick(rng, &[1, 2000, 1 << 20]),
            merge_bytes: pick(rng, &[1, 400, 256 << 10]) as usize,
            refresh: Duration::from_millis(pick(rng, &[100, 1000, 5000])),
            planted,
        }
    }

    /// Three groups behind one proxy, and nothing fails.
    pub(crate) fn quiet() -> Self {
        let planned = Self::new(0, Planted::default());
        Self {
            groups: 3,
            proxies: 1,
            hashed: false,
            troubled: false,
            mood: Mood::default(),
            late: (0.0, 0),
            ..planned
        }
    }

    fn placement(&self) -> Placement {
        let mut text = String::from("home: core\n");
        text += if self.hashed { "default: hash\nhashGroups: [core, pods]\n" } else { "default: core\n" };
        text += "groups:\n  core: {}\n  pods: {}\n";
        text += if self.groups > 2 { "  events: {}\n" } else { "" };
        text += "kinds:\n  - { kind: pods, group: pods }\n";
        text += if self.groups > 2 { "  - { kind: events, group: events }\n" } else { "" };
        Placement::parse(&text).expect("a legal placement")
    }
}

/// One group's brain, whichever process it is.
struct Brain {
    gate: Gate,
    disk: Arc<Disk>,
    running: Option<Running>,
}

struct Running {
    store: Store,
    engine: Arc<Faulty>,
    streams: Stopper,
}

/// How a brain ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// At once, whatever was on its way.
    Killed,
    /// Its connections are gone, but what was on its way goes on beside its successor.
    Asleep,
    /// As asked.
    Closed,
}

struct Front {
    proxy: Arc<Proxy>,
    connector: Connector,
    generation: u64,
    accepting: Option<Stopper>,
}

/// See the module.
pub(crate) struct World {
    pub plan: Plan,
    pub journal: Journal,
    pub placement: Arc<Placement>,
    brains: BTreeMap<GroupName, tokio::sync::Mutex<Brain>>,
    fronts: Vec<Mutex<Front>>,
    /// Of processes that are gone: nobody asks them anything, but they do not know.
    gone: Mutex<Vec<Running>>,
    rng: Mutex<StdRng>,
    calm: AtomicBool,
}

impl World {
    pub(crate) async fn new(plan: Plan) -> Arc<Self> {
        let clock = Arc::new(Clock::default());
        let placement = Arc::new(plan.placement());
        let groups: Vec<GroupName> = placement.groups().map(|(group, _)| group.clone()).collect();
        let mut rng = StdRng::seed_from_u64(plan.seed ^ 0x5eed);
        let disk = || Disk::new(&groups, Arc::clone(&clock), plan.planted.ignores_absent);
        let shared = disk();
        let mut brains = BTreeMap::new();
        for group in &groups {
            let disk = if plan.one_disk { Arc::clone(&shared) } else { disk() };
            let gate = Gate::open(rng.random(), plan.late);
            brains.insert(group.clone(), tokio::sync::Mutex::new(Brain { gate, disk, running: None }));
        }
        let mut world = Self {
            journal: Journal::new(clock),
            placement,
            brains,
            fronts: Vec::new(),
            gone: Mutex::default(),
            rng: Mutex::new(rng),
            calm: false.into(),
            plan,
        };
        for group in &groups {
            world.start_brain(group).await;
        }
        for _ in 0..world.plan.proxies {
            let front = world.front(0).await;
            world.fronts.push(Mutex::new(front));
        }
        Arc::new(world)
    }

    pub(crate) fn groups(&self) -> Vec<GroupName> {
        self.brains.keys().cloned().collect()
    }

    /// A generator for one actor.
    pub(crate) fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(self.rng.lock().random())
    }

    async fn start_brain(&self, group: &GroupName) {
        let brain = &mut *self.brains[group].lock().await;
        loop {
            let seed = self.rng.lock().random();
            let engine = Arc::new(Faulty::new(Arc::clone(&brain.disk) as _, self.plan.mood, seed));
            if self.calm.load(Ordering::Relaxed) {
                engine.calm();
            }
            let config = config::Config {
                window_bytes: self.plan.window_bytes,
                value_cache: ValueCache::new(self.plan.value_cache_bytes),
                ..config::Config::new(group.clone(), "simulated")
            };
            match Store::open(config, engine.clone(), Arc::clone(&self.placement)).await {
                Ok(store) => {
                    let streams = Stopper::default();
                    brain.gate.lead_to(Some(endpoint(&store, &streams)));
                    brain.running = Some(Running { store, engine, streams });
                    return;
                }
                Err(error) if self.plan.troubled => {
                    self.journal.note(format!("group {group} did not open: {error}"));
                    engine.kill();
                    sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("group {group} does not open: {error}"),
            }
        }
    }

    /// Ends a brain and starts the next one after a while.
    pub(crate) async fn restart_brain(&self, group: &GroupName, end: End, pause: Duration) {
        self.journal.note(format!("group {group}: {end:?}, down for {pause:?}"));
        {
            let brain = &mut *self.brains[group].lock().await;
            brain.gate.lead_to(None);
            if let Some(running) = brain.running.take() {
                match end {
                    End::Killed => running.engine.kill(),
                    End::Asleep => {}
                    End::Closed => {
                        running.streams.ask();
                        running.store.close().await;
                    }
                }
                self.gone.lock().push(running);
            }
        }
        sleep(pause).await;
        self.start_brain(group).await;
        self.journal.note(format!("group {group} is back"));
    }

    /// A group's brain is reached at another address, and at the old one no more.
    pub(crate) async fn move_brain(&self, group: &GroupName) {
        let brain = &mut *self.brains[group].lock().await;
        let gate = Gate::open(self.rng.lock().random(), (0.0, 0));
        let running = brain.running.as_ref().expect("running");
        gate.lead_to(Some(endpoint(&running.store, &running.streams)));
        std::mem::replace(&mut brain.gate, gate).lead_to(None);
        for front in &self.fronts {
            let connector = Connector::Memory(brain.gate.connector());
            let connectors = HashMap::from([(group.clone(), vec![connector])]);
            let proxy = Arc::clone(&front.lock().proxy);
            proxy.replace_placement(Document::unnumbered((*self.placement).clone()), connectors);
        }
    }

    /// Cuts the connections to a group.
    pub(crate) async fn cut(&self, group: &GroupName) {
        self.journal.note(format!("group {group}: connections cut"));
        self.brains[group].lock().await.gate.cut();
    }

    /// Lets nothing pass to and from a group for a while.
    pub(crate) async fn stall(&self, group: &GroupName, time: Duration) {
        self.journal.note(format!("group {group}: stalled for {time:?}"));
        self.brains[group].lock().await.gate.stall(time);
    }

    async fn front(&self, generation: u64) -> Front {
        let mut connectors = HashMap::new();
        for (group, brain) in &self.brains {
            let connector = Connector::Memory(brain.lock().await.gate.connector());
            connectors.insert(group.clone(), vec![connector]);
        }
        let config = kubebrain_proxy::Config {
            merge_buffer_bytes_max: self.plan.merge_bytes,
            refresh_every: self.plan.refresh,
            seams: self.plan.planted.seams,
            ..kubebrain_proxy::Config::default()
        };
        let proxy = Arc::new(Proxy::new(config, Document::unnumbered((*self.placement).clone()), connectors));
        proxy.start().await;
        let (connector, listener) = memory();
        let accepting = Stopper::default();
        tokio::spawn(serve_memory(listener, proxy.service(), ServeConfig::default(), accepting.handle()));
        Front { proxy, connector: Connector::Memory(connector), generation, accepting: Some(accepting) }
    }

    /// Replaces a proxy by a new one.
    pub(crate) async fn restart_proxy(&self, index: usize) {
        self.journal.note(format!("proxy {index} restarts"));
        let (old, generation, accepting) = {
            let mut front = self.fronts[index].lock();
            (Arc::clone(&front.proxy), front.generation, front.accepting.take())
        };
        // as a process ends: what it has taken on is answered before its successor begins
        if let Some(accepting) = accepting {
            accepting.ask();
            old.stop().await;
            accepting.stop().await;
        }
        let front = self.front(generation + 1).await;
        *self.fronts[index].lock() = front;
        self.journal.note(format!("proxy {index} is back"));
    }

    /// Which of its incarnations a proxy is.
    pub(crate) fn generation(&self, index: usize) -> u64 {
        self.fronts[index].lock().generation
    }

    /// Whether things may fail now.
    pub(crate) fn is_troubled(&self) -> bool {
        self.plan.troubled && !self.calm.load(Ordering::Relaxed)
    }

    /// A client's connection to a proxy.
    pub(crate) fn channel(&self, index: usize) -> Channel {
        Channel::new(self.fronts[index].lock().connector.clone(), DialConfig::default())
    }

    /// Ends all trouble.
    pub(crate) async fn settle(&self) {
        self.calm.store(true, Ordering::Relaxed);
        for brain in self.brains.values() {
            let brain = brain.lock().await;
            brain.gate.calm();
            if let Some(running) = &brain.running {
                running.engine.calm();
            }
        }
        // the longest stuck commit, and every retry's end
        sleep(Duration::from_secs(20)).await;
        self.journal.note("no more trouble".into());
    }

    /// What is to be checked.
    pub(crate) async fn finish(&self) -> Run {
        let mut committed: Vec<Committed> = Vec::new();
        let mut wrong = Vec::new();
        let mut disks: Vec<Arc<Disk>> = Vec::new();
        for (group, brain) in &self.brains {
            let brain = brain.lock().await;
            match &brain.running {
                Some(running) if running.store.state().has_ended() => {
                    wrong.push(format!("group {group}: {}", running.store.ended().await));
                }
                Some(_) => {}
                None => wrong.push(format!("group {group} is not running")),
            }
            if !disks.iter().any(|disk| Arc::ptr_eq(disk, &brain.disk)) {
                disks.push(Arc::clone(&brain.disk));
            }
        }
        for disk in disks {
            let (log, errors) = disk.log();
            committed.extend(log);
            wrong.extend(errors);
        }
        Run {
            committed,
            wrong,
            records: self.journal.take(),
            placement: Arc::clone(&self.placement),
            troubled: self.plan.troubled,
            leaseless: Vec::new(),
        }
    }
}

fn endpoint(store: &Store, streams: &Stopper) -> Endpoint {
    let config = EndpointConfig {
        audience: Audience::Peers,
        progress_interval: Duration::from_millis(700),
        name: "simulated".into(),
        client_urls: Vec::new(),
        peer_urls: Vec::new(),
        members: Members::led_by(store.state().identity().member),
    };
    Endpoint::new(store.clone(), config, streams.handle())
}
