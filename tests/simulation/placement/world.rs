//! [`World`]: all groups, what is between them, and the chances of a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use kubebrain_brain::authority::here;
use kubebrain_brain::config;
use kubebrain_brain::engine::faulty::Mood;
use kubebrain_proto::peer::place_request::Step;
use kubebrain_proto::peer::{PlacePrepare, PlaceRequest, PlaceResponse};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, Placement};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

use super::site::Site;
use super::truth::{Truth, UNITS};
use crate::engine::{Clock, Disk};

/// Groups; the first is home.
pub(super) const GROUPS: [&str; 4] = ["a", "b", "c", "d"];
/// Whoever is asked has so long.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);

pub(super) fn name(of: &str) -> GroupName {
    GroupName::parse(of).expect("a legal name")
}

/// What is broken on purpose, beside what is in a brain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Broken {
    pub(super) brain: config::Planted,
    /// Home commits with one adoption missing.
    pub(super) one_missing: bool,
    /// Home asks nobody whom a change removes.
    pub(super) forgets_removed: bool,
    /// One group never hears of an abort.
    pub(super) deaf: bool,
    /// A group answers that it has adopted, and does so later.
    pub(super) adopts_late: bool,
    /// The home of the product decides, and not the small one.
    pub(super) by_authority: bool,
}

/// How a seed is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    /// Milliseconds between two acts that kill somebody; 0 for none.
    pub(super) die: u64,
    /// Chance of a message to be late, to be lost.
    pub(super) slow: f64,
    pub(super) lost: f64,
    /// Milliseconds that a message to a slave takes at most, and its chance to be the last one.
    pub(super) lag: u64,
    pub(super) cut: f64,
    /// Of all writes.
    pub(super) deletes: f64,
    /// Chance that a client uses what others use, which brings groups to one revision.
    pub(super) mixes: f64,
    pub(super) slaves: usize,
    pub(super) mood: Mood,
    /// A disk is lost.
    pub(super) loses_disk: bool,
}

/// One of the proxies.
#[derive(Default)]
pub(super) struct Proxy {
    pub(super) floor: i64,
    /// By which it routes.
    pub(super) document: Option<Document>,
}

/// What a placement says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) groups: BTreeSet<&'static str>,
    pub(super) rules: BTreeMap<&'static str, &'static str>,
}

impl Plan {
    /// Its file.
    pub(super) fn text(&self) -> String {
        let groups: Vec<_> = self.groups.iter().map(|group| format!("{group}: {{}}")).collect();
        let mut text = format!("home: a\ndefault: a\ngroups: {{ {} }}\n", groups.join(", "));
        if !self.rules.is_empty() {
            text.push_str("kinds:\n");
        }
        for (prefix, group) in &self.rules {
            let _ = writeln!(text, "  - {{ prefix: {prefix}, group: {group} }}");
        }
        text
    }
}

/// See the module.
pub(super) struct World {
    rng: Mutex<StdRng>,
    traits: Traits,
    broken: Broken,
    pub(super) truth: Arc<Truth>,
    pub(super) sites: BTreeMap<&'static str, Arc<Site>>,
    pub(super) proxies: Vec<Mutex<Proxy>>,
    /// The last plan that was proposed.
    pub(super) plan: Mutex<Plan>,
    /// The group whose disk was lost, where it had gone by a placement.
    pub(super) lost: Mutex<Option<GroupName>>,
    /// The group whose disk was lost.
    pub(super) wiped: Mutex<Option<GroupName>>,
    /// Numbers whose outcome was seen.
    pub(super) outcomes: Mutex<BTreeSet<u64>>,
    troubled: Mutex<bool>,
    serial: Mutex<u64>,
}

impl World {
    pub(super) fn new(seed: u64, broken: Broken) -> Arc<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut traits = traits(&mut rng);
        if broken.by_authority {
            // It asks all before it changes anything: with the small home's network it would hardly come to an end.
            (traits.lost, traits.slow) = (traits.lost / 4.0, traits.slow / 4.0);
        }
        let truth = Arc::new(Truth::new());
        let clock = Arc::new(Clock::default());
        let disk = |groups: &[GroupName]| {
            let truth = Arc::clone(&truth);
            Disk::watched(groups, Arc::clone(&clock), Box::new(move |committed| truth.committed(committed)))
        };
        let all: Vec<_> = GROUPS.iter().map(|group| name(group)).collect();
        let shared = disk(&all);
        let mut sites = BTreeMap::new();
        for group in GROUPS {
            let alone = rng.random_bool(0.5);
            let own = if alone { disk(&[name(group)]) } else { Arc::clone(&shared) };
            sites.insert(group, Arc::new(Site::new(name(group), own, alone)));
        }
        let groups: BTreeSet<_> = GROUPS.into_iter().filter(|group| *group != "d").collect();
        let rules = [("/registry/u/", "a"), ("/registry/v/", "b"), ("/registry/w/", "c")].into();
        let plan = Plan { groups, rules };
        Arc::new(Self {
            rng: Mutex::new(rng),
            traits,
            broken,
            truth,
            sites,
            proxies: (0..UNITS.len()).map(|_| Mutex::default()).collect(),
            plan: Mutex::new(plan),
            lost: Mutex::default(),
            wiped: Mutex::default(),
            outcomes: Mutex::default(),
            troubled: Mutex::new(true),
            serial: Mutex::new(0),
        })
    }

    pub(super) fn traits(&self) -> &Traits {
        &self.traits
    }

    pub(super) fn broken(&self) -> Broken {
        self.broken
    }

    /// Whether things may fail now.
    pub(super) fn troubled(&self) -> bool {
        *self.troubled.lock()
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.rng.lock().random_range(0..bound)
    }

    pub(super) fn upto(&self, bound: u64) -> u64 {
        self.rng.lock().random_range(0..=bound)
    }

    pub(super) fn chance(&self, of: f64) -> bool {
        self.rng.lock().random_bool(of)
    }

    pub(super) fn draw(&self) -> u64 {
        self.rng.lock().random()
    }

    pub(super) fn pick<T: Clone>(&self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    /// A value that nobody has written.
    pub(super) fn value(&self) -> String {
        let mut serial = self.serial.lock();
        *serial += 1;
        format!("v{serial}")
    }

    /// What brains are opened with. They wait for a document.
    pub(super) fn table(&self) -> Arc<Placement> {
        Arc::new(Placement::single(name("a")))
    }

    pub(super) fn site(&self, group: &GroupName) -> Option<&Arc<Site>> {
        self.sites.get(group.as_str())
    }

    pub(super) fn home_name(&self) -> &GroupName {
        &self.home().group
    }

    pub(super) fn home(&self) -> &Arc<Site> {
        &self.sites["a"]
    }

    /// What home has decided to be current.
    pub(super) fn current(&self) -> Option<Document> {
        let home = self.home().master()?;
        let row = home.store.state().decided();
        row.current.as_ref().and_then(|wire| Document::from_wire(wire).ok())
    }

    /// An empty disk in the place of a group's own one.
    pub(super) fn empty_disk(&self, group: &GroupName) -> Arc<Disk> {
        let truth = Arc::clone(&self.truth);
        let told = Box::new(move |committed: &crate::record::Committed| truth.committed(committed));
        Disk::watched(std::slice::from_ref(group), Arc::new(Clock::default()), told)
    }

    /// Ends all trouble.
    pub(super) async fn calm(self: &Arc<Self>) {
        *self.troubled.lock() = false;
        self.truth.note("no more trouble");
        for site in self.sites.values() {
            site.calm(self).await;
        }
    }

    /// Whoever was deposed by what is late has a successor.
    pub(super) async fn revive(self: &Arc<Self>) {
        for site in self.sites.values().filter(|site| site.master().is_none()) {
            site.succeed(self).await;
        }
    }

    /// A change of a plan.
    pub(super) fn propose(&self, before: &Plan) -> Plan {
        let mut plan = before.clone();
        for _ in 0..1 + self.below(2) {
            let groups: Vec<_> = plan.groups.iter().copied().collect();
            let unit = self.pick(&UNITS);
            match self.below(10) {
                0 | 1 => drop(plan.rules.remove(unit)),
                2 => drop(plan.groups.insert(self.pick(&GROUPS))),
                3 => {
                    let removed = self.pick(&GROUPS[1..]);
                    plan.groups.remove(removed);
                    plan.rules.retain(|_, group| *group != removed);
                }
                _ => drop(plan.rules.insert(unit, self.pick(&groups))),
            }
        }
        plan
    }

    /// Carries a step to a group's master, if the network does; the answer may be lost when it is done.
    pub(super) async fn carry(
        self: &Arc<Self>,
        group: &GroupName,
        request: PlaceRequest,
    ) -> Option<PlaceResponse> {
        let site = Arc::clone(self.site(group)?);
        if self.troubled() {
            if self.chance(0.2) {
                let (world, site, again) = (Arc::clone(self), Arc::clone(&site), request.clone());
                tokio::spawn(async move {
                    sleep(world.delay(0.8)).await;
                    world.place(&site, again).await;
                });
            }
            let delay = self.delay(self.traits.slow);
            sleep(delay).await;
            if self.chance(self.traits.lost) {
                return None;
            }
        }
        let answer = self.place(&site, request).await;
        if self.troubled() {
            sleep(self.delay(self.traits.slow)).await;
            if self.chance(self.traits.lost) {
                return None;
            }
        }
        answer
    }

    fn delay(&self, slow: f64) -> Duration {
        let millis = if self.chance(slow) { 10f64.powf(self.upto(3000) as f64 / 1000.0) } else { 1.0 };
        Duration::from_millis(millis as u64)
    }

    async fn place(self: &Arc<Self>, site: &Arc<Site>, request: PlaceRequest) -> Option<PlaceResponse> {
        let brain = site.some_master(self)?;
        let kind = match request.step.as_ref()? {
            Step::Ask(_) => "asked",
            Step::Prepare(_) => "prepared",
            Step::Take(_) => "told",
        };
        let later = match &request.step {
            Some(Step::Prepare(PlacePrepare { base: Some(_), next: Some(next), .. }))
                if self.broken.adopts_late =>
            {
                Some((next.clone(), request.clone()))
            }
            _ => None,
        };
        let request = match &later {
            Some((next, _)) => PlaceRequest { step: Some(Step::Ask(next.clone())) },
            None => request,
        };
        let mut response = timeout(PATIENCE, here::place(&brain.store, request)).await.ok()?.ok()?;
        self.truth.note(&format!(
            "{} is {kind}: {} adopted {} r{} k{} {}",
            brain.name,
            response.number,
            response.adopted,
            response.revision,
            response.compacted,
            response.refusal
        ));
        if let (Some((next, request)), true) = (later, response.refusal.is_empty()) {
            response.adopted = next.number;
            let world = Arc::clone(self);
            tokio::spawn(async move {
                sleep(Duration::from_millis(50 + world.upto(400))).await;
                drop(timeout(PATIENCE, here::place(&brain.store, request)).await);
            });
        }
        Some(response)
    }
}

fn traits(rng: &mut StdRng) -> Traits {
    let mut chance = |of: f64, value: f64| if rng.random_bool(of) { value } else { 0.0 };
    let mood = Mood {
        slow: chance(0.5, 0.2),
        stuck: 0.0,
        unknown: chance(0.4, 0.05),
        lingers: chance(0.4, 0.3),
        refuses: chance(0.2, 0.03),
        late_answer: chance(0.5, 0.2),
        hasty: 0.0,
        slow_reads: chance(0.4, 0.2),
        blind: 0.0,
        cut: 0.0,
        expires: 0.0,
    };
    let mut pick = |of: [f64; 3]| of[rng.random_range(0..3)];
    let (slow, lost, deletes) = (pick([0.1, 0.4, 0.8]), pick([0.05, 0.2, 0.4]), pick([0.5, 0.7, 0.9]));
    let mixes = pick([0.1, 0.4, 0.9]);
    let (cut, die, lag) = (pick([0.0, 0.005, 0.02]), pick([0.0, 900.0, 300.0]), pick([5.0, 60.0, 400.0]));
    Traits {
        die: die as u64,
        slow,
        lost,
        lag: lag as u64,
        cut,
        deletes,
        mixes,
        slaves: rng.random_range(1..=2),
        mood,
        loses_disk: rng.random_bool(0.15),
    }
}
