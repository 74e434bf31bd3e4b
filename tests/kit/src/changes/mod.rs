//! The placement changed in use, in processes of their own: kinds move between groups while they are empty, rules are nested
//! and taken away again, a group comes and goes, the default changes, and any process is killed or stopped meanwhile. Clients
//! of two proxies write by compare-and-swap, read, and watch; what they were told is held against what the watches saw.
//!
//! A seed fixes changes and faults, not the traffic to the letter.

mod history;
mod table;
mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use crate::groups::{Groups, apply, goes_by};
use crate::http1::get;
use crate::process::{Place, Process, Start};
use crate::until;
use history::History;
use table::Table;
use traffic::{Kind, Traffic};

const GROUPS: [&str; 4] = ["core", "a", "b", "d"];
/// A change that finds a process away waits for it; nothing here is away for so long.
const CHANGED_WITHIN: Duration = Duration::from_secs(50);

/// Brains, proxies, and those who use them.
struct Arena {
    groups: Groups,
    proxies: Vec<Process>,
    random: SmallRng,
    table: Table,
}

/// What happens to a process while the placement changes.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Kill,
    Stop(Duration),
}

impl Arena {
    async fn start(place: &Place, random: SmallRng, adjust: &dyn Fn(Start) -> Start) -> Self {
        let table = Table::first();
        let groups = Groups::start(place, &GROUPS, &|at| table.text(at), |start| {
            adjust(start.flag("watch-progress-notify-interval", "200ms"))
        })
        .await;
        let mut proxies = Vec::new();
        for name in ["first", "second"] {
            let start = Start::proxy(place, name, &groups.file).tied();
            let data = place.join(&format!("{name}-proxy"));
            proxies.push(start.data_dir(&data).flag("watch-progress-notify-interval", "200ms").run().await);
        }
        Self { groups, proxies, random, table }
    }

    /// Carries out a change, whatever happens meanwhile; why it was refused, if it was.
    async fn change(&mut self, next: Table, trouble: Option<(usize, Trouble)>) -> Result<u64, String> {
        let text = next.text(&|name| self.groups.at(name));
        let home = self.groups.channel("core");
        let changing = tokio::spawn(async move {
            let began = Instant::now();
            loop {
                match apply(&home, &text).await {
                    Err(why) if is_passing(&why) && began.elapsed() < CHANGED_WITHIN => {
                        sleep(Duration::from_millis(100)).await;
                    }
                    done => return done,
                }
            }
        });
        if let Some((victim, trouble)) = trouble {
            sleep(Duration::from_millis(self.random.random_range(0..60))).await;
            self.trouble(victim, trouble).await;
        }
        let changed = changing.await.expect("no panic");
        if changed.is_ok() {
            self.table = next;
        }
        changed
    }

    async fn trouble(&mut self, victim: usize, trouble: Trouble) {
        let name = GROUPS.get(victim).map(|name| (*name).to_owned());
        let pause = Duration::from_millis(self.random.random_range(50..900));
        let process = match &name {
            Some(name) => self.groups.brains.get_mut(name).expect("a brain"),
            None => &mut self.proxies[victim - GROUPS.len()],
        };
        match trouble {
            Trouble::Stop(time) => {
                process.signal("STOP");
                sleep(time).await;
                process.signal("CONT");
            }
            Trouble::Kill => {
                process.kill().await;
                sleep(pause).await;
                let again = process.start().begins();
                // One that no placement names at the moment serves nothing.
                let again = match name.as_deref() {
                    Some("d") => again.listens().await,
                    _ => again.serves().await,
                };
                *process =
                    again.unwrap_or_else(|failure| panic!("does not start again: {}", failure.message));
            }
        }
    }

    /// All brains and proxies go by one document, and it is `number`.
    async fn agreed(&self, number: u64) {
        for name in GROUPS {
            until(&format!("group {name} goes by number {number}"), async || {
                let held = goes_by(self.groups.channel(name)).await.ok()?;
                let current = held.current.as_ref().map_or(0, |document| document.number);
                let names = self.table.names(name);
                ((current == number || !names) && held.adopted.is_none()).then_some(())
            })
            .await;
        }
        for proxy in &self.proxies {
            until(&format!("a proxy goes by number {number}"), async || {
                let (_, page) = get(proxy.address(), "/metrics").await;
                page.contains(&format!("\nkubebrain_proxy_placement_number {number}\n")).then_some(())
            })
            .await;
        }
    }

    /// One change, with what happens meanwhile.
    async fn change_by_chance(
        &mut self,
        kinds: &[Arc<Kind>],
        addresses: &[String],
        histories: &BTreeMap<(usize, usize), History>,
        tally: &mut Tally,
    ) {
        let next = self.table.change(&mut self.random);
        let moved: Vec<Arc<Kind>> =
            kinds.iter().filter(|kind| self.table.moves(&next, &kind.name)).cloned().collect();
        for kind in &moved {
            traffic::empty(kind, addresses, histories).await;
        }
        let trouble = self.random.random_bool(0.5).then(|| {
            let victim = self.random.random_range(0..GROUPS.len() + 2);
            let stop = Duration::from_millis(self.random.random_range(100..2500));
            (victim, if self.random.random_bool(0.5) { Trouble::Kill } else { Trouble::Stop(stop) })
        });
        // Some are written to at once, and may not move then.
        moved.iter().filter(|_| self.random.random_bool(0.2)).for_each(|kind| kind.resume());
        let began = Instant::now();
        let changed = self.change(next, trouble).await;
        sleep(Duration::from_millis(50)).await; // what was under way ends
        let longest: Vec<Duration> = moved.iter().filter_map(|kind| kind.longest_since(began)).collect();
        moved.iter().for_each(|kind| kind.resume());
        match changed {
            Ok(number) => {
                assert!(number >= tally.last, "number {number} after {}", tally.last);
                tally.last = number;
                tally.done += 1;
                if trouble.is_none() {
                    tally.unserved.extend(longest);
                }
            }
            // A write whose outcome was not known has come after all.
            Err(why) => {
                tally.refused += 1;
                assert!(
                    why.contains("keys under") || why.contains("taken back") || is_passing(&why),
                    "{why}"
                );
            }
        }
        self.groups.brains.values_mut().chain(&mut self.proxies).for_each(Process::must_run);
    }
}

/// A group or the home group is away, or another change is under way: it is asked again.
fn is_passing(why: &str) -> bool {
    [
        "not answer",
        "no master of",
        "reach",
        "connect",
        "prepared",
        "leader changed",
        "timed out",
        "under way",
        "unavailable",
        "ended",
        "closed",
        "broken",
    ]
    .iter()
    .any(|word| why.to_lowercase().contains(word))
}

/// What came of it.
struct Tally {
    done: usize,
    refused: usize,
    /// Of each kind that has moved while nobody failed.
    unserved: Vec<Duration>,
    last: u64,
}

/// Makes so many changes, and judges what everybody was told. `adjust` says on what brains keep their state.
///
/// # Panics
/// Where something that was promised does not hold.
pub async fn run(place: &Place, seed: u64, changes: usize, adjust: &dyn Fn(Start) -> Start) {
    eprintln!("KUBEBRAIN_SEED={seed}");
    let mut arena = Arena::start(place, SmallRng::seed_from_u64(seed), adjust).await;
    let addresses: Arc<[String]> = arena.proxies.iter().map(|proxy| proxy.address().to_owned()).collect();
    let kinds: Vec<Arc<Kind>> = table::KINDS.iter().map(|name| Kind::new(name)).collect();
    let traffic = Traffic::begin(&kinds, &addresses, seed);
    let histories: BTreeMap<(usize, usize), History> = (0..kinds.len())
        .flat_map(|kind| (0..addresses.len()).map(move |proxy| (kind, proxy)))
        .map(|(kind, proxy)| ((kind, proxy), History::follow(&kinds[kind], &addresses[proxy])))
        .collect();
    let mut tally = Tally { done: 0, refused: 0, unserved: Vec::new(), last: 1 };
    let mut tried = 0;
    while tally.done < changes {
        tried += 1;
        assert!(tried < changes * 6, "{} of {tried} changes were refused", tally.refused);
        arena.change_by_chance(&kinds, &addresses, &histories, &mut tally).await;
    }
    arena.agreed(tally.last).await;
    kinds.iter().for_each(|kind| kind.resume());
    traffic.end().await;
    let count = history::judge(&kinds, histories, &addresses).await;
    let Tally { done, refused, mut unserved, .. } = tally;
    unserved.sort();
    let at = |share: f64| {
        unserved.get(((unserved.len() as f64 - 1.0) * share) as usize).copied().unwrap_or_default()
    };
    eprintln!(
        "{done} changes, {refused} refused; {count} events of each watch; a kind that moves was unserved for {:?} (median), {:?} (p99) of {} moves without a fault",
        at(0.5),
        at(0.99),
        unserved.len()
    );
}
