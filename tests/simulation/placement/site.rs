//! [`Site`]: one group, with a master and its slaves, which die, fall asleep, lag and take over.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kubebrain_brain::authority::Authority;
use kubebrain_brain::config::{self, ValueCache};
use kubebrain_brain::engine::faulty::{Faulty, Mood};
use kubebrain_brain::store::{Fenced, Slave, Store, Upstream, UpstreamError};
use kubebrain_proto::peer::FollowResponse;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::revision::Revision;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::authority;
use super::world::World;
use crate::engine::Disk;

/// A brain that does not get up by then is given up.
const OPENING_MAX: Duration = Duration::from_secs(20);

/// A process of a group.
pub(super) struct Brain {
    pub(super) name: String,
    pub(super) store: Store,
    /// Where it decides the placement.
    pub(super) authority: OnceLock<Authority>,
    slave: tokio::sync::Mutex<Option<Slave>>,
    engine: Arc<Faulty>,
    /// Nothing comes from it any more.
    gone: watch::Sender<bool>,
}

impl Brain {
    pub(super) fn kill(&self) {
        self.engine.kill();
        self.gone.send_replace(true);
    }

    /// Returns when nothing comes from it any more.
    pub(super) async fn ends(&self) {
        drop(self.gone.subscribe().wait_for(|gone| *gone).await.map(|_| ()));
    }

    pub(super) fn is_gone(&self) -> bool {
        *self.gone.borrow() || self.store.state().has_ended()
    }
}

/// See the module.
pub(super) struct Site {
    pub(super) group: GroupName,
    disk: Mutex<Arc<Disk>>,
    /// No other group's keys are on its disk.
    pub(super) alone: bool,
    master: Mutex<Option<Arc<Brain>>>,
    slaves: Mutex<Vec<Arc<Brain>>>,
    /// Who does not know that it is the master no more.
    old: Mutex<Vec<Arc<Brain>>>,
    serial: Mutex<u64>,
}

/// A slave's way to its master.
struct Link {
    world: Arc<World>,
    master: Arc<Brain>,
}

impl Link {
    fn lives(&self) -> Result<(), UpstreamError> {
        if self.master.is_gone() { Err(UpstreamError::Lost("it is gone".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl Upstream for Link {
    async fn follow(
        &self,
        from: u64,
    ) -> Result<BoxStream<'static, Result<FollowResponse, UpstreamError>>, UpstreamError> {
        self.lives()?;
        let world = Arc::clone(&self.world);
        let responses = self.master.store.feed(from).then(move |response| {
            let world = Arc::clone(&world);
            async move {
                // As on a wire: encoded, on its way, decoded.
                let response = response.map(|response| response.encode_to_vec());
                sleep(Duration::from_millis(world.upto(world.traits().lag))).await;
                if world.troubled() && world.chance(world.traits().cut) {
                    return Err(UpstreamError::Lost("cut".into()));
                }
                match response {
                    Ok(bytes) => Ok(FollowResponse::decode(&bytes[..]).expect("a message")),
                    Err(Fault::Compacted) => Err(UpstreamError::Compacted),
                    Err(fault) => Err(UpstreamError::Lost(fault.wire().1.to_owned())),
                }
            }
        });
        let mut gone = self.master.gone.subscribe();
        let gone = async move { drop(gone.wait_for(|gone| *gone).await.map(|_| ())) };
        Ok(responses.take_until(Box::pin(gone)).boxed())
    }

    async fn ask(&self, floor: Revision) -> Result<Fenced, UpstreamError> {
        self.lives()?;
        let fenced = self.master.store.claim(floor).await;
        let fenced = fenced.map_err(|fault| UpstreamError::Lost(fault.wire().1.to_owned()))?;
        sleep(Duration::from_millis(self.world.upto(self.world.traits().lag / 4))).await;
        self.lives()?;
        Ok(fenced)
    }
}

impl Site {
    pub(super) fn new(group: GroupName, disk: Arc<Disk>, alone: bool) -> Self {
        Self {
            group,
            disk: Mutex::new(disk),
            alone,
            master: Mutex::default(),
            slaves: Mutex::default(),
            old: Mutex::default(),
            serial: Mutex::default(),
        }
    }

    /// Who is elected, as far as is known.
    pub(super) fn master(&self) -> Option<Arc<Brain>> {
        self.master.lock().clone().filter(|brain| !brain.is_gone())
    }

    /// Whoever calls itself the master: mostly the one that is.
    pub(super) fn some_master(&self, world: &World) -> Option<Arc<Brain>> {
        if world.chance(0.05)
            && let Some(old) = self.old.lock().last().filter(|old| !old.is_gone())
        {
            return Some(Arc::clone(old));
        }
        self.master()
    }

    /// Any of its brains that might answer.
    pub(super) fn brain(&self, world: &World) -> Option<Arc<Brain>> {
        let slaves = self.slaves.lock();
        if !slaves.is_empty() && world.chance(0.45) {
            return slaves.get(world.below(slaves.len() as u64) as usize).cloned();
        }
        drop(slaves);
        self.some_master(world)
    }

    fn next(&self, world: &World) -> (config::Config, Arc<Faulty>) {
        let serial = {
            let mut serial = self.serial.lock();
            *serial += 1;
            *serial
        };
        let mood = if world.troubled() { world.traits().mood } else { Mood::default() };
        let engine = Faulty::new(Arc::clone(&*self.disk.lock()) as _, mood, world.draw()).shared();
        let small = world.chance(0.3);
        let config = config::Config {
            window_bytes: if small { 1 } else { 1 << 20 },
            value_cache: ValueCache::new(if small { 1 } else { 1 << 20 }),
            planted: world.broken().brain,
            awaits_placement: true,
            ..config::Config::new(self.group.clone(), format!("{}{serial}", self.group))
        };
        (config, Arc::new(engine))
    }

    fn brain_of(name: String, store: Store, slave: Option<Slave>, engine: Arc<Faulty>) -> Arc<Brain> {
        let (slave, gone) = (tokio::sync::Mutex::new(slave), watch::Sender::new(false));
        Arc::new(Brain { name, store, authority: OnceLock::new(), slave, engine, gone })
    }

    /// One more brain takes the group over.
    async fn open(&self, world: &Arc<World>) -> Option<Arc<Brain>> {
        let (config, engine) = self.next(world);
        let name = config.name.clone();
        let opening = Store::open(config, engine.clone(), world.table());
        match timeout(OPENING_MAX, opening).await {
            Ok(Ok(store)) => {
                let (state, held) = (store.state(), store.state().held.load_full());
                let (epoch, at) = (state.identity().epoch, state.committed());
                world.truth.note(&format!("{name} opens, epoch {epoch} at {at}, goes by {:?}", held.pair()));
                Some(Self::brain_of(name, store, None, engine))
            }
            Ok(Err(error)) => {
                world.truth.note(&format!("{name} does not open: {error}"));
                engine.kill();
                None
            }
            Err(_) => {
                engine.kill();
                None
            }
        }
    }

    fn enthrone(&self, world: &Arc<World>, brain: &Arc<Brain>) {
        if world.broken().by_authority && self.group == *world.home_name() {
            authority::begin(world, brain);
        }
        *self.master.lock() = Some(Arc::clone(brain));
        let (brain, slaves) = (Arc::clone(brain), self.slaves.lock().clone());
        let world = Arc::clone(world);
        tokio::spawn(async move {
            for slave in slaves {
                sleep(Duration::from_millis(world.upto(60))).await;
                if let Some(slave) = &mut *slave.slave.lock().await {
                    slave.attach(Arc::new(Link { world: Arc::clone(&world), master: Arc::clone(&brain) }));
                }
            }
        });
    }

    /// Adds a slave.
    pub(super) async fn follow(&self, world: &Arc<World>) {
        let Some(master) = self.master() else { return };
        let (config, engine) = self.next(world);
        let name = config.name.clone();
        let (store, mut slave) = Store::follow(config, engine.clone(), world.table());
        slave.attach(Arc::new(Link { world: Arc::clone(world), master }));
        world.truth.note(&format!("{name} follows"));
        self.slaves.lock().push(Self::brain_of(name, store, Some(slave), engine));
    }

    /// A slave dies; another one may come.
    pub(super) async fn restart_slave(&self, world: &Arc<World>) {
        let dying = {
            let mut slaves = self.slaves.lock();
            if slaves.is_empty() { None } else { Some(slaves.remove(0)) }
        };
        if let Some(dying) = dying {
            world.truth.note(&format!("{} dies, a slave", dying.name));
            dying.kill();
        }
        sleep(Duration::from_millis(world.upto(200))).await;
        self.follow(world).await;
    }

    /// A slave takes the group over, warm.
    async fn promote(&self, world: &Arc<World>) -> Option<Arc<Brain>> {
        let chosen = {
            let mut slaves = self.slaves.lock();
            if slaves.is_empty() { None } else { Some(slaves.remove(0)) }
        }?;
        let promoted = match &mut *chosen.slave.lock().await {
            Some(slave) => timeout(OPENING_MAX, slave.promote()).await,
            None => return None,
        };
        if matches!(promoted, Ok(Ok(()))) {
            let pair = chosen.store.state().held.load().pair();
            let at = chosen.store.state().committed();
            world.truth.note(&format!("{} is promoted at {at}, goes by {pair:?}", chosen.name));
            return Some(chosen);
        }
        world.truth.note(&format!("{} is not promoted: {promoted:?}", chosen.name));
        chosen.kill();
        None
    }

    /// Somebody becomes the master.
    pub(super) async fn succeed(&self, world: &Arc<World>) {
        for tries in 0..40 {
            let warm = tries < 3 && world.chance(0.6);
            let successor = match warm {
                true => self.promote(world).await,
                false => self.open(world).await,
            };
            if let Some(successor) = successor {
                self.enthrone(world, &successor);
                break;
            }
            sleep(Duration::from_millis(50 + world.upto(100))).await;
        }
        let lack = world.traits().slaves.saturating_sub(self.slaves.lock().len());
        for _ in 0..lack {
            self.follow(world).await;
        }
    }

    /// The master dies.
    pub(super) async fn crash(&self, world: &Arc<World>) {
        if let Some(master) = self.master.lock().take() {
            world.truth.note(&format!("{} dies, the master", master.name));
            master.kill();
        }
        sleep(Duration::from_millis(world.upto(200))).await;
        self.succeed(world).await;
    }

    /// Another one takes over while the master sleeps, or is awake.
    pub(super) async fn usurp(&self, world: &Arc<World>) {
        let Some(master) = self.master() else { return };
        let sleeps = world.chance(0.7);
        if sleeps {
            master.engine.hold();
        }
        world.truth.note(&format!("{} is to be deposed, asleep: {sleeps}", master.name));
        self.old.lock().push(Arc::clone(&master));
        self.succeed(world).await;
        let world = Arc::clone(world);
        tokio::spawn(async move {
            sleep(Duration::from_millis(world.upto(1500))).await;
            master.engine.release();
            sleep(Duration::from_millis(world.upto(3000))).await;
            master.kill();
        });
    }

    /// The disk is gone with all that was on it.
    pub(super) async fn lose_disk(&self, world: &Arc<World>, empty: Arc<Disk>) {
        world.truth.note(&format!("group {} loses its disk", self.group));
        self.stop();
        *self.disk.lock() = empty;
        self.succeed(world).await;
    }

    /// All of it ends.
    pub(super) fn stop(&self) {
        let mut all: Vec<_> = self.master.lock().take().into_iter().collect();
        all.append(&mut self.slaves.lock());
        all.append(&mut self.old.lock());
        all.iter().for_each(|brain| brain.kill());
    }

    /// No more trouble: whoever is not the master goes, and everybody works.
    pub(super) async fn calm(&self, world: &Arc<World>) {
        for old in self.old.lock().drain(..) {
            old.kill();
        }
        if self.master().is_none() {
            self.succeed(world).await;
        }
        let (master, slaves) = (self.master(), self.slaves.lock().clone());
        master.iter().chain(&slaves).for_each(|brain| brain.engine.calm());
    }

    /// All brains that are left, the master first.
    pub(super) fn brains(&self) -> Vec<Arc<Brain>> {
        let mut brains: Vec<_> = self.master().into_iter().collect();
        brains.extend(self.slaves.lock().iter().cloned());
        brains
    }
}
