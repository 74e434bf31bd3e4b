//! A cluster in one process: stores of groups, home's authority, and a network between them that does what a seed says.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kubebrain_proto::admin::placement_command::Verb;
use kubebrain_proto::admin::{
    PlacementAbort, PlacementApply, PlacementCommand, PlacementQuery, PlacementRecover, PlacementReport,
};
use kubebrain_proto::peer::place_request::Step;
use kubebrain_proto::peer::repair_request::Step as Repairing;
use kubebrain_proto::peer::{
    PlacePrepare, PlaceRequest, PlaceResponse, PlacementDocument, PlacementResponse, RepairRequest,
    RepairResponse,
};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Pair, Placement};
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::super::{Authority, Reach, Seed, Unreached, here};
use crate::config::Config;
use crate::decide::answer::Entry;
use crate::engine::memory::Memory;
use crate::engine::{Batch, Engine as _, Span};
use crate::request::{Given, Put};
use crate::rows::codec::DecidedRow;
use crate::rows::entry;
use crate::store::Store;

pub(super) const THREE: &str = "\
home: core
default: core
groups: { core: {}, pods: {}, events: {} }
kinds:
  - { kind: pods, group: pods }
  - { kind: events, group: events }
";

/// What is wrong with a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ill {
    /// Nobody answers.
    Down,
    /// It does not answer this step.
    Silent(&'static str),
    /// It does this step of a repair, and its answer is lost.
    Mute(&'static str),
    /// It knows no such call.
    Old,
}

struct Network {
    rng: Mutex<SmallRng>,
    is_calm: bool,
    stores: Mutex<BTreeMap<GroupName, Store>>,
    ill: Mutex<BTreeMap<GroupName, Ill>>,
}

/// See the module.
pub(super) struct World {
    network: Arc<Network>,
    engines: Mutex<BTreeMap<GroupName, Arc<Memory>>>,
    home: Mutex<Option<(Authority, Stopper)>>,
    lineages: AtomicU64,
}

pub(super) fn group(name: &str) -> GroupName {
    GroupName::parse(name).expect("a legal name")
}

pub(super) fn apply(text: &str) -> PlacementApply {
    PlacementApply { text: text.to_owned(), ..PlacementApply::default() }
}

pub(super) const fn command(apply: PlacementApply) -> PlacementCommand {
    PlacementCommand { verb: Some(Verb::Apply(apply)) }
}

pub(super) const fn abort() -> PlacementCommand {
    PlacementCommand { verb: Some(Verb::Abort(PlacementAbort {})) }
}

pub(super) const fn recover(recover: PlacementRecover) -> PlacementCommand {
    PlacementCommand { verb: Some(Verb::Recover(recover)) }
}

impl Network {
    fn chance(&self, range: Range<u64>) -> u64 {
        self.rng.lock().random_range(range)
    }

    fn often(&self, of_ten: u64) -> bool {
        !self.is_calm && self.chance(0..10) < of_ten
    }

    async fn delay(&self) {
        if !self.is_calm {
            let at_most = if self.often(1) { 2000 } else { 20 };
            sleep(Duration::from_millis(self.chance(0..at_most))).await;
        }
    }

    fn store(&self, group: &GroupName) -> Option<Store> {
        self.stores.lock().get(group).cloned()
    }

    fn gone(group: &GroupName) -> Unreached {
        Unreached::Gone(format!("nobody answers for group {group}"))
    }
}

fn name_of_step(request: &RepairRequest) -> &'static str {
    match request.step {
        Some(Repairing::Find(_)) => "find",
        Some(Repairing::Look(_)) => "look",
        Some(Repairing::Lease(_)) => "lease",
        Some(Repairing::Take(_)) => "take in",
        Some(Repairing::Drop(_)) => "drop",
        None => "nothing",
    }
}

fn name_of(request: &PlaceRequest) -> &'static str {
    match request.step {
        Some(Step::Ask(_)) => "ask",
        Some(Step::Prepare(_)) => "prepare",
        Some(Step::Take(_)) => "take",
        None => "nothing",
    }
}

/// The same network, as a task that outlives a call may have it.
struct Net(Arc<Network>);

#[async_trait]
impl Reach for Net {
    async fn place(
        &self,
        group: &GroupName,
        _brains: &[String],
        request: PlaceRequest,
    ) -> Result<PlaceResponse, Unreached> {
        let net = &self.0;
        net.delay().await;
        match net.ill.lock().get(group) {
            Some(Ill::Down) => return Err(Network::gone(group)),
            Some(Ill::Silent(step)) if *step == name_of(&request) => return Err(Network::gone(group)),
            Some(Ill::Old) => return Err(Unreached::Old(format!("http://{group}"))),
            _ => {}
        }
        let store = net.store(group).ok_or_else(|| Network::gone(group))?;
        if net.often(1) {
            return Err(Unreached::Gone(format!("the question to {group} is lost")));
        }
        if net.often(1) {
            // It comes once more, much later.
            let (later, again, pause) = (store.clone(), request.clone(), net.chance(0..30_000));
            tokio::spawn(async move {
                sleep(Duration::from_millis(pause)).await;
                let _answer = here::place(&later, again).await;
            });
        }
        let answer = here::place(&store, request).await;
        net.delay().await;
        if net.often(1) {
            return Err(Unreached::Gone(format!("the answer of {group} is lost")));
        }
        answer.map_err(|status| Unreached::Gone(status.message().to_owned()))
    }

    async fn repair(
        &self,
        group: &GroupName,
        _brains: &[String],
        request: RepairRequest,
    ) -> Result<RepairResponse, Unreached> {
        let net = &self.0;
        net.delay().await;
        let ill = net.ill.lock().get(group).copied();
        let name = name_of_step(&request);
        let is_down =
            matches!(ill, Some(Ill::Down)) || matches!(ill, Some(Ill::Silent(step)) if step == name);
        let store = net.store(group).filter(|_| !is_down).ok_or_else(|| Network::gone(group))?;
        if net.often(1) {
            return Err(Unreached::Gone(format!("the question to {group} is lost")));
        }
        let answer = here::repair(&store, request).await;
        net.delay().await;
        if net.often(1) || matches!(ill, Some(Ill::Mute(step)) if step == name) {
            return Err(Unreached::Gone(format!("the answer of {group} is lost")));
        }
        answer.map_err(|status| Unreached::Gone(status.message().to_owned()))
    }

    async fn held(&self, group: &GroupName, _brains: &[String]) -> Result<PlacementResponse, Unreached> {
        let is_down = self.0.ill.lock().get(group) == Some(&Ill::Down);
        let store = self.0.store(group).filter(|_| !is_down).ok_or_else(|| Network::gone(group))?;
        Ok(here::held(&store))
    }
}

impl World {
    pub(super) async fn new(seed: u64) -> Self {
        Self::with(seed, false).await
    }

    /// Nothing is lost, late or repeated.
    pub(super) async fn calm() -> Self {
        Self::with(0, true).await
    }

    async fn with(seed: u64, is_calm: bool) -> Self {
        let rng = Mutex::new(SmallRng::seed_from_u64(seed));
        let network = Network { rng, is_calm, stores: Mutex::default(), ill: Mutex::default() };
        let world = Self {
            network: Arc::new(network),
            engines: Mutex::default(),
            home: Mutex::default(),
            lineages: AtomicU64::new(7),
        };
        for name in ["core", "pods", "events", "widgets"] {
            world.empty(name).await;
        }
        world
    }

    pub(super) fn chance(&self, range: Range<u64>) -> u64 {
        self.network.chance(range)
    }

    async fn open(&self, name: &str, table: &Placement, awaits_placement: bool) {
        let engine = self.engines.lock()[&group(name)].clone();
        let config = Config { awaits_placement, ..Config::new(group(name), "test") };
        let store = Store::open(config, engine, Arc::new(table.clone())).await.expect("it opens");
        self.network.stores.lock().insert(group(name), store);
    }

    /// The group begins with an empty store.
    pub(super) async fn empty(&self, name: &str) {
        self.becomes(name, Arc::new(Memory::new())).await;
    }

    /// The group's store is another one now.
    pub(super) async fn becomes(&self, name: &str, engine: Arc<Memory>) {
        self.engines.lock().insert(group(name), engine);
        self.open(name, &Placement::single(group("core")), true).await;
    }

    /// The group's store has these keys and no placement, as one that was restored.
    pub(super) async fn restored(&self, name: &str, keys: &[&'static str]) {
        self.engines.lock().insert(group(name), Arc::new(Memory::new()));
        self.open(name, &Placement::single(group(name)), false).await;
        for key in keys {
            self.put(name, key).await;
        }
        self.reopens(name).await;
    }

    /// A new master of the group, over the same store.
    pub(super) async fn reopens(&self, name: &str) {
        self.open(name, &Placement::single(group("core")), true).await;
    }

    /// The group is part of no cluster yet, and has a table of its own.
    pub(super) fn goes_by(&self, name: &str, table: &str) {
        let table = Placement::parse(table).expect("a placement");
        let engine = Arc::new(Memory::new());
        self.engines.lock().insert(group(name), engine.clone());
        let config = Config::new(group(name), "test");
        let opened = futures_util::FutureExt::now_or_never(Store::open(config, engine, Arc::new(table)));
        let store = opened.expect("memory does not wait").expect("it opens");
        self.network.stores.lock().insert(group(name), store);
    }

    pub(super) async fn awaits(&self, name: &str) {
        self.reopens(name).await;
    }

    /// A copy of a store, as a backup is one.
    pub(super) fn copy(&self, name: &str) -> Arc<Memory> {
        let engine = self.engines.lock()[&group(name)].clone();
        let copied = async {
            let snapshot = engine.snapshot().await.expect("memory");
            let (copy, mut batch) = (Memory::new(), Batch::new());
            let mut span = Span { start: Bytes::new(), end: None };
            loop {
                let page = snapshot.scan(span.clone(), 1024).await.expect("memory");
                for (key, value) in page.rows {
                    batch.put(key, value);
                }
                match page.next {
                    Some(next) => span.start = next,
                    None => break,
                }
            }
            copy.commit(batch).await.expect("memory");
            copy
        };
        Arc::new(futures_util::FutureExt::now_or_never(copied).expect("memory does not wait"))
    }

    fn store(&self, name: &str) -> Store {
        self.network.store(&group(name)).expect("it is open")
    }

    pub(super) fn seed(&self, text: &str, lineage: u64) -> Seed {
        Seed { text: text.to_owned(), file: "placement.yaml".to_owned(), lineage, is_watched: false }
    }

    /// Home's master begins to decide.
    pub(super) async fn authority(&self, seed: Option<&str>) {
        // Each process draws one of its own.
        let lineage = self.lineages.fetch_add(1, Ordering::Relaxed);
        self.begins(seed.map(|text| self.seed(text, lineage))).await;
    }

    async fn begins(&self, seed: Option<Seed>) {
        let authority = Authority::new(self.store("core"), Arc::new(Net(self.network.clone())), seed);
        let (stopper, run) = (Stopper::default(), authority.clone());
        stopper.keep("the authority", |stop| async move { run.run(stop).await });
        *self.home.lock() = Some((authority, stopper));
        tokio::task::yield_now().await;
    }

    /// Home's master is gone at once.
    pub(super) async fn dies(&self) {
        let home = self.home.lock().take();
        if let Some((authority, stopper)) = home {
            drop(authority);
            stopper.stop().await;
        }
    }

    pub(super) async fn seeded(&self) {
        self.authority(Some(THREE)).await;
        self.holds(1).await;
    }

    pub(super) async fn seeded_by_file(&self) {
        self.begins(Some(Seed { is_watched: true, ..self.seed(THREE, 7) })).await;
        self.holds(1).await;
    }

    pub(super) fn now(&self) -> Authority {
        self.home.lock().as_ref().expect("home has a master").0.clone()
    }

    pub(super) async fn apply(&self, text: &str) -> Result<PlacementReport, Status> {
        self.now().change(command(apply(text))).await
    }

    pub(super) async fn report(&self) -> PlacementReport {
        self.now().report(PlacementQuery::default()).await.expect("a report")
    }

    pub(super) async fn history(&self) -> Vec<(u64, String)> {
        let report = self
            .now()
            .report(PlacementQuery { history: true, ..PlacementQuery::default() })
            .await
            .expect("a report");
        let told = |entry: kubebrain_proto::admin::PlacementEntry| {
            (entry.document.map_or(0, |document| document.number), entry.reason)
        };
        report.history.into_iter().map(told).collect()
    }

    pub(super) fn row(&self) -> Arc<DecidedRow> {
        self.store("core").state().decided()
    }

    pub(super) fn cluster(&self) -> u64 {
        self.store("core").state().identity().cluster
    }

    pub(super) fn pair(&self, name: &str) -> Pair {
        self.store(name).state().held.load().pair()
    }

    pub(super) fn revision(&self, name: &str) -> i64 {
        self.store(name).state().committed().to_wire()
    }

    pub(super) fn serves(&self, name: &str, key: &'static str) -> Result<(), String> {
        let range = KeyRange::one(Bytes::from_static(key.as_bytes()));
        self.store(name).owns(&[range], None).map_err(|unserved| unserved.to_string())
    }

    pub(super) async fn put(&self, name: &str, key: &'static str) {
        self.write(name, key, "v").await;
    }

    pub(super) async fn write(&self, name: &str, key: &str, value: &str) {
        self.write_leased(name, key, value, 0).await;
    }

    pub(super) async fn write_leased(&self, name: &str, key: &str, value: &str, lease: i64) {
        let put = Put {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Given::New(Bytes::copy_from_slice(value.as_bytes())),
            lease: Given::New(lease),
            prev_kv: false,
        };
        self.store(name)
            .put(put, Revision::ZERO)
            .await
            .unwrap_or_else(|why| panic!("{name}: {key}: {why:?}"));
    }

    pub(super) async fn grant(&self, name: &str, lease: i64) {
        self.store(name).grant(lease, 600, Revision::ZERO).await.expect("a lease");
    }

    pub(super) fn lease_keys(&self, name: &str, lease: i64) -> Vec<Bytes> {
        self.store(name).lease_keys(lease)
    }

    pub(super) fn holders(&self, lease: i64) -> Vec<String> {
        self.store("core").holders(lease).expect("it lives")
    }

    /// What a group's store has, whether the group serves it or not.
    pub(super) async fn value(&self, name: &str, key: &str) -> Option<String> {
        let store = self.store(name);
        let key = Bytes::copy_from_slice(key.as_bytes());
        let version = store.state().index.read().get(&key, u64::MAX)?;
        let mut found = [Entry { key, version, kv: None }];
        store.state().values.fill(&mut found).await.expect("memory");
        let value = entry::value_of(found[0].kv.as_ref().expect("it is filled in"));
        Some(String::from_utf8(value.to_vec()).expect("UTF-8"))
    }

    /// Everything up to now is compacted, and taken out.
    pub(super) async fn compact(&self, name: &str) {
        let now = self.revision(name);
        self.store(name).compact(now, true, Revision::ZERO).await.expect("it is compacted");
    }

    pub(super) fn down(&self, name: &str) {
        self.network.ill.lock().insert(group(name), Ill::Down);
    }

    pub(super) fn silent(&self, name: &str, step: &'static str) {
        self.network.ill.lock().insert(group(name), Ill::Silent(step));
    }

    pub(super) fn mute(&self, name: &str, step: &'static str) {
        self.network.ill.lock().insert(group(name), Ill::Mute(step));
    }

    pub(super) fn old(&self, name: &str) {
        self.network.ill.lock().insert(group(name), Ill::Old);
    }

    pub(super) fn up(&self, name: &str) {
        self.network.ill.lock().remove(&group(name));
    }

    /// Waits for something that comes within two minutes.
    pub(super) async fn until<T>(&self, found: impl AsyncFn(&Self) -> Option<T>) -> T {
        let look = async {
            loop {
                if let Some(found) = found(self).await {
                    return found;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_secs(120), look).await.unwrap_or_else(|_| panic!("in vain: {:?}", self.row()))
    }

    /// Waits until this number is current and every group of it goes by it.
    pub(super) async fn holds(&self, number: u64) {
        let look = async {
            loop {
                if let Some(document) =
                    self.report().await.document.filter(|document| document.number == number)
                {
                    let table = Placement::parse(&document.text).expect("a placement");
                    let by = Pair { number, adopted: 0 };
                    if table.groups().all(|(group, _)| self.pair(group.as_str()) == by) {
                        return;
                    }
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_secs(120), look)
            .await
            .unwrap_or_else(|_| panic!("{number} does not come: {:?}", self.row()));
    }

    /// The first one, whatever number it has got by then.
    pub(super) async fn holds_a_first_one(&self) {
        let first = async |world: &Self| world.report().await.document.map(|document| document.number);
        let number = self.until(first).await;
        self.holds(number).await;
    }

    /// The group agrees to a document that home has decided after number 1, and that nobody else hears of.
    pub(super) async fn agrees(&self, name: &str, number: u64, text: &str) {
        let known = self.report().await.document.expect("number 1");
        let next = PlacementDocument { number, after: known.number, text: text.to_owned(), ..known };
        let prepare = PlacePrepare { base: None, next: Some(next), known: true };
        let request = PlaceRequest { step: Some(Step::Prepare(prepare)) };
        let answer = here::place(&self.store(name), request).await.expect("an answer");
        assert_eq!((answer.refusal.as_str(), answer.adopted), ("", number));
    }

    /// No key is served by two groups, whatever each of them goes by.
    pub(super) async fn agree(&self, seed: u64) {
        for _ in 0..20 {
            for key in ["/registry/pods/a", "/registry/example.com/widgets/a", "/registry/nodes/a"] {
                let names = ["core", "pods", "events", "widgets"];
                let serve: Vec<_> = names.into_iter().filter(|name| self.serves(name, key).is_ok()).collect();
                assert!(serve.len() <= 1, "seed {seed}: {key} is served by {serve:?}");
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}
