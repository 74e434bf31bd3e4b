//! [`Roster`]: a group's nodes, what is known of them, and which of them a request goes to.
//!
//! Monitors report under a lock; picks read one atomic of each node, allocate nothing and lock nothing.
//!
//! ```text
//! reads     slaves that read, the cheaper of two by chance ─┐
//! watches   slaves that read, the one with fewest streams  ─┼→ the master → one that nothing is known of → whoever
//! the rest                                                 ─┘                                             there is
//! ```
//!
//! While one slave reads, the master is left to writes. Suspects are asked only where all are: then it is more likely
//! that what we hear with is broken. A group of one node has nowhere else to go, and is asked whatever is known of it;
//! only a brain that says that it is of another group is asked nothing, ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kubebrain_proto::peer::StandingResponse;
use kubebrain_shared::group::GroupName;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::node::Node;
use super::policy::RoutingPolicy;
use super::standing::{Health, Known, Place, Said, places};
use super::transitions::Transitions;
use super::tried::Tried;
use crate::topology::TopologyChanges;

pub(crate) struct Roster {
    nodes: Box<[Node]>,
    ledger: Mutex<Ledger>,
    /// The first to be tried of those that nothing is known of: named by one that is not master, or else the first that answers.
    current: AtomicUsize,
    chance: Chance,
    pub(crate) changes: Arc<TopologyChanges>,
    group: GroupName,
}

struct Ledger {
    /// The highest epoch that was heard of. It does not fall as long as one of the nodes is heard.
    epoch: u64,
    known: Vec<Known>,
    transitions: Transitions,
}

/// What a monitor has to say of its node.
#[derive(Debug)]
pub(crate) enum Report {
    Standing(Box<StandingResponse>),
    /// What a brain of another group says that it is.
    Foreign(Box<StandingResponse>),
    /// There is no such stream there.
    Unserved,
    Broken,
    Silent,
}

/// By how much one of two must be the cheaper: what is nearly equal is spread by chance, or the least difference would
/// send all that comes one after the other to one node.
const NOTICED: f64 = 1.5;

/// Good enough to spread load: the same at each start, without a lock.
#[derive(Debug, Default)]
struct Chance(AtomicU64);

impl Chance {
    /// splitmix64.
    fn next(&self) -> u64 {
        let mut word = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }
}

/// What decides whether a brain's word of its placement is worth a question.
fn placement(standing: &StandingResponse) -> (u64, u64, bool) {
    (standing.placement_lineage, standing.placement_number, standing.is_home)
}

impl Roster {
    pub(crate) fn new(group: GroupName, nodes: Vec<Node>, changes: Arc<TopologyChanges>) -> Self {
        let known = vec![Known::default(); nodes.len()];
        Self {
            nodes: nodes.into(),
            ledger: Mutex::new(Ledger { epoch: 0, known, transitions: Transitions::default() }),
            current: AtomicUsize::new(0),
            chance: Chance::default(),
            changes,
            group,
        }
    }

    pub(crate) fn group(&self) -> &GroupName {
        &self.group
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// True if there is nowhere else to go.
    pub(crate) fn is_single(&self) -> bool {
        self.nodes.len() == 1
    }

    /// The highest epoch that was heard of.
    pub(crate) fn epoch(&self) -> u64 {
        self.ledger.lock().epoch
    }

    /// The only node is in this process, and is master as long as it is there.
    pub(super) fn trust(&self) {
        for node in &self.nodes {
            node.put(Place::Master);
        }
    }

    /// Takes what a monitor has to say, and tells whoever waits if that changes where requests go.
    pub(crate) fn hear(&self, index: usize, report: Report) {
        let mut ledger = self.ledger.lock();
        let Ledger { epoch, known, transitions } = &mut *ledger;
        let (Some(node), Some(entry)) = (self.nodes.get(index), known.get_mut(index)) else { return };
        let mut is_news = false;
        let standing = match report {
            Report::Standing(standing) => {
                entry.health = Health::Fine;
                entry.said = Some(Said::of(&standing));
                *epoch = (*epoch).max(standing.epoch);
                let before = node.standing.swap(Some(Arc::new(*standing)));
                let now = node.standing.load_full();
                is_news = before.as_deref().map(placement) != now.as_deref().map(placement);
                now
            }
            Report::Foreign(standing) => {
                *entry = Known { health: Health::Foreign, said: None };
                node.standing.store(Some(Arc::new(*standing)));
                None
            }
            Report::Unserved => {
                *entry = Known { health: Health::Fine, said: None };
                node.standing.store(None);
                None
            }
            Report::Broken => {
                entry.health = Health::Broken;
                None
            }
            Report::Silent => {
                entry.health = Health::Silent;
                None
            }
        };
        let health = entry.health;
        if known.iter().all(|known| known.health.is_suspect()) {
            // Perhaps all were stopped, and the store was restored: terms may begin anew.
            *epoch = 0;
        }
        let places = places(*epoch, known);
        // `|` and not `||`: all of them
        let changed =
            self.nodes.iter().zip(&places).fold(false, |changed, (node, place)| changed | node.put(*place));
        if let Some(standing) = standing
            && standing.epoch == *epoch
            && !places.contains(&Place::Master)
        {
            self.hint(&standing);
        }
        node.health.send_if_modified(|before| std::mem::replace(before, health) != health);
        let entries = transitions.note(*epoch, &places);
        drop(ledger);
        entries.iter().for_each(|entry| entry.log(&self.group, &self.nodes));
        if is_news || changed {
            self.changes.placement_told();
        }
        if changed {
            tracing::debug!(group = %self.group, ?places, "who does what in a group has changed");
            self.changes.announce();
        }
    }

    /// Where one that cannot say so itself is named as master, it is tried first.
    fn hint(&self, standing: &StandingResponse) {
        let urls = || standing.master_peer_urls.iter().map(String::as_str);
        if let Some(named) = self.nodes.iter().position(|node| node.is_at(urls())) {
            self.current.store(named, Ordering::Relaxed);
        }
    }

    /// What a node of which nothing is known has taught by not taking a request: the next goes to the one that it has
    /// named, or to the next. Unless somebody has seen to that already.
    pub(crate) fn leave(&self, at: usize, to: Option<usize>) {
        let to = to.filter(|to| *to != at).unwrap_or((at + 1) % self.nodes.len().max(1));
        let _raced = self.current.compare_exchange(at, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The node at one of these URLs, which have commas between them.
    pub(crate) fn find(&self, urls: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.is_at(urls.split(',')))
    }

    /// The node for a request that was sent to the tried ones already, and adds it to them. `None` where nobody else is worth a
    /// try now.
    pub(crate) fn pick(&self, policy: RoutingPolicy, tried: &mut Tried, now: Instant) -> Option<&Node> {
        let picked = match policy {
            _ if self.is_single() => self.first(tried, |place| place != Place::Foreign),
            RoutingPolicy::Read => {
                self.preferred(tried, now).or_else(|| self.lightest(tried, now)).or_else(|| self.named(tried))
            }
            RoutingPolicy::Watch => self.emptiest(tried, now).or_else(|| self.named(tried)),
            RoutingPolicy::Master => self.named(tried),
        };
        let picked = picked
            .or_else(|| self.first(tried, |place| place == Place::Master))
            .or_else(|| self.first(tried, |place| place == Place::Untold))
            .or_else(|| self.suspect(policy, tried))?;
        tried.add(picked.index);
        Some(picked)
    }

    /// True if a watch stream would find one that is well besides those that it has tried.
    pub(crate) fn has_place_for_watch(&self, tried: &Tried, now: Instant) -> bool {
        let named = self.named(tried).is_some();
        named
            || self
                .nodes
                .iter()
                .any(|node| !tried.has(node.index) && node.place().serves() && node.breaker.allows(now))
    }

    /// True if two nodes serve reads, or one beside the master.
    pub(crate) fn is_shared(&self) -> bool {
        let serves = |node: &&Node| matches!(node.place(), Place::Reader | Place::Master);
        self.nodes.iter().filter(serves).count() >= 2
    }

    /// The nodes that may share a range: whoever serves reads, and the master unless it has more in flight than any of those.
    /// None where they are fewer than two.
    pub(crate) fn sharers(&self, now: Instant) -> Vec<usize> {
        if self.is_single() {
            return Vec::new();
        }
        let readers = || self.readers(Tried::default(), now);
        let busiest = readers().map(|node| node.load.in_flight()).max();
        let joins = |node: &Node| {
            node.place() == Place::Master
                && node.breaker.allows(now)
                && busiest.is_some_and(|busiest| node.load.in_flight() <= busiest)
        };
        let master = self.nodes.iter().find(|node| joins(node));
        let mut sharers: Vec<_> = readers().chain(master).map(|node| node.index).collect();
        sharers.sort_unstable();
        if sharers.len() < 2 { Vec::new() } else { sharers }
    }

    fn preferred(&self, tried: &Tried, now: Instant) -> Option<&Node> {
        let node = self.nodes.get(tried.preferred?)?;
        let serves = matches!(node.place(), Place::Reader | Place::Master);
        (serves && !tried.has(node.index) && node.breaker.admit(now)).then_some(node)
    }

    /// Two by chance, of those the one that would be sooner done.
    fn lightest(&self, tried: &Tried, now: Instant) -> Option<&Node> {
        let mut tried = *tried;
        loop {
            let readers = || self.readers(tried, now);
            let count = readers().count() as u64;
            let (first, second) = match count {
                0 => return None,
                1 => (0, 0),
                _ => {
                    let word = self.chance.next();
                    let first = (word >> 32) % count;
                    (first, (first + 1 + (word & 0xFFFF_FFFF) % (count - 1)) % count)
                }
            };
            // Between the two looks one may have left.
            let one = readers().nth(first as usize)?;
            let other = readers().nth(second as usize).unwrap_or(one);
            let node = if other.load.cost(now) * NOTICED < one.load.cost(now) { other } else { one };
            if node.breaker.admit(now) {
                return Some(node);
            }
            tried.add(node.index);
        }
    }

    /// The one with fewest watch streams, by chance among equals.
    fn emptiest(&self, tried: &Tried, now: Instant) -> Option<&Node> {
        let mut tried = *tried;
        loop {
            let first = self.chance.next() as usize % self.nodes.len().max(1);
            let key =
                |node: &Node| (node.streams.load(Ordering::Relaxed), (node.index + first) % self.nodes.len());
            let node = self.readers(tried, now).min_by_key(|node| key(node))?;
            if node.breaker.admit(now) {
                return Some(node);
            }
            tried.add(node.index);
        }
    }

    fn readers(&self, tried: Tried, now: Instant) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| {
            node.place() == Place::Reader && !tried.has(node.index) && node.breaker.allows(now)
        })
    }

    fn named(&self, tried: &Tried) -> Option<&Node> {
        let named = self.nodes.get(tried.named?)?;
        (!tried.has(named.index) && !named.place().is_suspect()).then_some(named)
    }

    /// Round from the current one.
    fn first(&self, tried: &Tried, fits: impl Fn(Place) -> bool) -> Option<&Node> {
        let current = self.current.load(Ordering::Relaxed);
        let (before, after) = self.nodes.split_at(current.min(self.nodes.len()));
        after.iter().chain(before).find(|node| !tried.has(node.index) && fits(node.place()))
    }

    /// One of which nothing good is heard, if that goes for all. No write goes to one that is silent: nobody would know
    /// what came of it.
    fn suspect(&self, policy: RoutingPolicy, tried: &Tried) -> Option<&Node> {
        if !self.nodes.iter().all(|node| node.place().is_suspect()) {
            return None;
        }
        let broken = self.first(tried, |place| place == Place::Broken);
        broken.or_else(|| self.first(tried, |place| place != Place::Foreign && policy.is_harmless()))
    }

    /// True if a watch stream should leave: its node is suspect or serves no watches, and another one does.
    pub(crate) fn should_leave(&self, index: usize) -> bool {
        let stays = |place: Place| place.serves() || place == Place::Untold;
        let mut tried = Tried::default();
        tried.add(index);
        self.nodes.get(index).is_some_and(|node| !stays(node.place()))
            && self.has_place_for_watch(&tried, Instant::now())
    }
}

#[cfg(test)]
mod tests;
