//! [`Stage`]: what all clients of a chapter share: through which doors they come, and what they write down.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use kubebrain_net::dial::{Channel, Connector, DialConfig};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};

use kit::judge::record::Journal;

/// Kinds that are written; of two groups the second one has the pods.
pub(crate) const KINDS: [&str; 3] = ["/registry/pods/", "/registry/events/", "/registry/configmaps/"];
/// Revisions that are remembered to be read again.
const RECENT: usize = 300;

/// Where clients come in.
pub(crate) struct Door {
    pub(crate) name: String,
    pub(crate) address: String,
    /// What is there to be asked for.
    pub(crate) kinds: Vec<&'static str>,
    pub(crate) is_proxy: bool,
    /// Doors of one scope show one clock.
    scope: usize,
    /// Raised when the process behind it is another one.
    life: AtomicUsize,
}

impl Door {
    /// A proxy: everything, on a clock of its own.
    pub(crate) fn proxy(name: &str, address: &str) -> Self {
        Self::new(name, address, KINDS.to_vec(), true, 0)
    }

    /// A brain of one group.
    pub(crate) fn brain(name: &str, address: &str, kinds: Vec<&'static str>, scope: usize) -> Self {
        Self::new(name, address, kinds, false, scope)
    }

    fn new(name: &str, address: &str, kinds: Vec<&'static str>, is_proxy: bool, scope: usize) -> Self {
        let (name, address) = (name.to_owned(), address.to_owned());
        Self { name, address, kinds, is_proxy, scope, life: AtomicUsize::new(0) }
    }

    pub(crate) fn life(&self) -> usize {
        self.life.load(Ordering::SeqCst)
    }

    /// The process behind it is another one from here on.
    pub(crate) fn renew(&self) {
        self.life.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn channel(&self) -> Channel {
        Channel::new(Connector::Tcp(self.address.clone()), DialConfig::default())
    }
}

/// See the module.
pub(crate) struct Stage {
    pub(crate) journal: Journal,
    pub(crate) doors: Vec<Door>,
    pub(crate) stop: AtomicBool,
    /// Everything up to here was read by the scribe: it may be compacted.
    pub(crate) read: AtomicI64,
    numbers: AtomicU64,
    /// What was shown, of each scope.
    recent: Vec<Mutex<VecDeque<i64>>>,
}

impl Stage {
    pub(crate) fn new(doors: Vec<Door>) -> Arc<Self> {
        let scopes = doors.iter().map(|door| door.scope + 1).max().unwrap_or(0);
        Arc::new(Self {
            journal: Journal::new(Arc::default()),
            doors,
            stop: AtomicBool::new(false),
            read: AtomicI64::new(1),
            numbers: AtomicU64::new(0),
            recent: (0..scopes).map(|_| Mutex::default()).collect(),
        })
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// A number that nobody else gets.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// What an operation is to be attributed to that came through a door in this life of it: clients of one proxy see
    /// one clock. Where that changed meanwhile, or the door is a brain's, it is nobody's: what holds then is what
    /// holds of the whole group.
    pub(crate) fn clock(&self, door: usize, life: usize) -> usize {
        let of = &self.doors[door];
        match of.is_proxy && of.life() == life {
            true => door * 1000 + life,
            false => 1_000_000 + usize::try_from(self.number()).expect("few"),
        }
    }

    /// A client was shown this.
    pub(crate) fn shown(&self, door: usize, revision: i64) {
        let mut recent = self.recent[self.doors[door].scope].lock();
        if revision > 0 {
            recent.push_back(revision);
        }
        if recent.len() > RECENT {
            recent.pop_front();
        }
    }

    /// Some revision that was shown lately to clients of this clock.
    pub(crate) fn past(&self, door: usize, random: &mut SmallRng) -> Option<i64> {
        self.recent[self.doors[door].scope].lock().iter().copied().choose(random)
    }

    /// Most clients come through proxies.
    pub(crate) fn door(&self, random: &mut SmallRng, brains_too: bool) -> usize {
        use rand::Rng as _;
        let proxies = !brains_too || random.random_ratio(2, 3);
        let doors: Vec<usize> =
            (0..self.doors.len()).filter(|door| self.doors[*door].is_proxy == proxies).collect();
        *doors.choose(random).expect("there are doors of both kinds")
    }

    /// Of this name.
    pub(crate) fn door_of(&self, name: &str) -> usize {
        self.doors.iter().position(|door| door.name == name).expect("every node has a door")
    }
}
