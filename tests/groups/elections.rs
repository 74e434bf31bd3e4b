//! A group of several brains: one is elected, the others follow it, and what happens to the master costs seconds, not
//! writes and not watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kubebrain_net::dial::{Channel, Connector, DialConfig};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::BINARY;
use kit::client::Client;
use kit::cluster::{Cluster, prefix};
use kit::process::{Place, Process, Start};
use kit::watch::mod_revision;
use kit::{full_tier, in_time, until};

const BRAINS: usize = 3;
const WRITERS: usize = 4;
/// A lease runs out, a candidate looks, the log is taken over, the proxy finds it: above what is aimed at, for slow machines.
const FAILOVER_MAX: Duration = Duration::from_secs(10);

/// A group and a proxy of it.
pub(crate) struct Group {
    places: Vec<Place>,
    pub(crate) brains: Vec<Process>,
    pub(crate) proxy: Process,
}

impl Group {
    pub(crate) async fn start(cluster: &Cluster, test: &str) -> Self {
        let prefix = prefix(test);
        let places: Vec<_> = (0..=BRAINS).map(|_| BINARY.place()).collect();
        let mut brains = Vec::new();
        for (number, place) in places.iter().take(BRAINS).enumerate() {
            // Sockets that stay where they are when a brain starts again: the placement names them.
            let peers = place.join("peers.sock");
            let peers = peers.to_str().expect("UTF-8");
            let start = Start::brain(place, "default").peers("unix", peers).flag("election", "engine");
            let start = start.flag("name", &format!("brain-{number}")).on_tikv(cluster.pd(), &prefix);
            brains.push(start.run().await);
        }
        let url = |place: &Place| format!("\"unix://{}\"", place.join("peers.sock").display());
        let urls: Vec<_> = places.iter().take(BRAINS).map(url).collect();
        let table = format!(
            "home: default\ndefault: default\ngroups:\n  default: {{ brains: [{}] }}\n",
            urls.join(", ")
        );
        let place = places.last().expect("the proxy's");
        let placement = place.file("placement.yaml", &table);
        let proxy = Start::proxy(place, "proxy", &placement).run().await;
        Self { places, brains, proxy }
    }

    /// The way to a brain as proxies take it.
    pub(crate) fn peer(&self, number: usize) -> Channel {
        let socket = Connector::Unix(self.places[number].join("peers.sock"));
        Channel::new(socket, DialConfig::default())
    }

    /// Which brain has become master last, and in which epoch.
    pub(crate) fn master(&self) -> (usize, u64) {
        let epoch = |brain: &Process| {
            let log = brain.log();
            let last = log.lines().rev().find(|line| line.contains("master at"))?;
            let epoch = last.split("epoch=").nth(1)?;
            epoch.split_whitespace().next()?.parse::<u64>().ok()
        };
        let epochs = self.brains.iter().enumerate().filter_map(|(at, brain)| Some((epoch(brain)?, at)));
        let (epoch, at) = epochs.max().expect("there is a master");
        (at, epoch)
    }
}

/// What was acknowledged: key, number, revision.
type Written = Vec<(String, u64, i64)>;

/// Each counts up in a key of its own; an error that may hide a write is followed by the next number.
fn write(address: &str, stop: &Arc<AtomicBool>) -> (Arc<Mutex<Written>>, JoinSet<u64>) {
    let (written, mut tasks) = (Arc::<Mutex<Written>>::default(), JoinSet::new());
    for writer in 0..WRITERS {
        let (client, written, stop) = (Client::new(address), written.clone(), stop.clone());
        tasks.spawn(async move {
            let (mut number, mut failed) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let key = format!("/counted/{writer}");
                match in_time("an answer", client.put(&key, number.to_string())).await {
                    Ok(revision) => written.lock().push((key, number, revision)),
                    Err(status) => {
                        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                        failed += 1;
                    }
                }
                sleep(Duration::from_millis(2)).await;
            }
            failed
        });
    }
    (written, tasks)
}

/// Times out of service, as a writer sees them.
async fn next_write(written: &Mutex<Written>, began: Instant) -> Duration {
    let before = written.lock().len();
    until("a write", async || (written.lock().len() > before).then_some(())).await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_loses_masters_but_neither_writes_nor_watches() {
    let Some(cluster) = Cluster::any().await else { return };
    let mut group = Group::start(&cluster, "elections").await;
    let client = Client::new(group.proxy.address());
    let first = client.put("/counted/0", "0").await.expect("a master is elected");
    let mut watch = client.watch("/counted/", first).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (written, writers) = write(group.proxy.address(), &stop);
    let began = Instant::now();
    next_write(&written, began).await;

    let mut last_epoch = group.master().1;
    let rounds = if full_tier() { 20 } else { 3 };
    for (graceful, name) in [(false, "kill -9"), (true, "SIGTERM")] {
        let mut took = Vec::new();
        for _ in 0..rounds {
            let (at, _) = group.master();
            let began = Instant::now();
            let mut brain = group.brains.remove(at);
            if graceful {
                brain.signal("TERM");
            } else {
                brain.kill().await;
            }
            let time = next_write(&written, began).await;
            // A write that was on its way may be counted: the next master has to be there.
            until("another master", async || (group.master().1 > last_epoch).then_some(())).await;
            took.push(time.max(next_write(&written, began).await));
            last_epoch = group.master().1;
            let start = brain.start();
            if graceful {
                assert!(brain.ended().await.success(), "{}", brain.log());
            }
            drop(brain);
            group.brains.insert(at, start.run().await);
        }
        took.sort_unstable();
        let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
        println!("{name} of the master, {rounds} times: median {median:?}, longest {longest:?} to a write");
        assert!(longest < FAILOVER_MAX, "{name}: {took:?}");
    }

    stop.store(true, Ordering::Relaxed);
    let failed: u64 = in_time("the writers' ends", writers.join_all()).await.into_iter().sum();
    let written = std::mem::take(&mut *written.lock());
    let end = client.put("/counted/end", "x").await.expect("a write");
    println!("{} writes acknowledged, {failed} not", written.len());

    // Each acknowledged write is an event at its revision; no revision comes twice or goes back.
    let events = watch.events_to(end).await;
    let revisions: Vec<i64> = events.iter().map(mod_revision).collect();
    assert!(revisions.is_sorted_by(|one, next| one < next), "a revision twice, or out of order");
    for (key, number, revision) in &written {
        let at = revisions.binary_search(revision);
        let at =
            at.unwrap_or_else(|_| panic!("{key}={number} at {revision} was acknowledged and is no event"));
        let kv = events[at].kv.as_ref().expect("a put");
        assert_eq!((&kv.key[..], &kv.value[..]), (key.as_bytes(), number.to_string().as_bytes()));
    }
    let extra = revisions.len() - written.len();
    assert!(extra as u64 <= failed + 2, "{extra} events that nobody has written");
    // What is stored is what the last events say.
    for kv in client.list("/counted/").await.expect("a list").kvs {
        let last = events.iter().rev().find_map(|event| event.kv.as_ref().filter(|seen| seen.key == kv.key));
        assert_eq!(last.map(|last| (last.mod_revision, &last.value)), Some((kv.mod_revision, &kv.value)));
    }
    drop(group.places);
}
