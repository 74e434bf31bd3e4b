//! Watch streams against what the groups' histories say they must show, in random weather.
//!
//! Two proxies over three groups; one client with watchers over one and over all groups; groups that lag, cut their
//! streams or are stuck for a while. Checked for each watcher: every event from its start on, once, in order, whole
//! revisions; for each progress: nothing at or below it afterwards, and never less than before.

use std::collections::BTreeMap;
use std::time::Duration;

use kubebrain_proto::etcdserverpb as pb;
use kubebrain_shared::placement::Document;
use rand::rngs::SmallRng;

use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use tokio::time::timeout;

use crate::config::{Config, Seams};
use crate::proxy::Proxy;
use crate::testing::{Cluster, LINEAGE, TABLE, WatchClient, document};

const GROUPS: [&str; 3] = ["pods", "events", "core"];
const PREFIXES: [&str; 5] =
    ["/registry/", "/registry/pods/", "/registry/events/", "/registry/nodes/", "/registry/jobs/"];

#[derive(Default)]
struct Seen {
    prefix: &'static str,
    start: i64,
    /// The start that was named; 0 for now.
    named: i64,
    events: Vec<(i64, String)>,
    progress: i64,
}

impl Seen {
    fn take(&mut self, response: &pb::WatchResponse) -> Result<(), String> {
        let last_before = self.events.last().map_or(0, |(revision, _)| *revision);
        for event in &response.events {
            let kv = event.kv.as_ref().ok_or("no kv")?;
            let last = self.events.last().map_or(0, |(revision, _)| *revision);
            if kv.mod_revision <= self.progress {
                return Err(format!("event r{} after progress r{}", kv.mod_revision, self.progress));
            }
            if kv.mod_revision < last || kv.mod_revision == last_before {
                return Err(format!("event r{} after r{last}", kv.mod_revision));
            }
            self.events.push((kv.mod_revision, String::from_utf8_lossy(&kv.key).into_owned()));
        }
        Ok(())
    }

    fn progress(&mut self, revision: i64) -> Result<(), String> {
        let last = self.events.last().map_or(0, |(revision, _)| *revision);
        if revision < self.progress || revision < last || revision < self.named || revision + 1 < self.start {
            return Err(format!(
                "progress r{revision} after r{} and event r{last}, start r{}",
                self.progress, self.start
            ));
        }
        self.progress = revision;
        Ok(())
    }
}

async fn create(
    watch: &mut WatchClient,
    seen: &mut BTreeMap<i64, Seen>,
    create: pb::WatchCreateRequest,
    prefix: &'static str,
) -> Result<(), String> {
    let asked = create.start_revision;
    watch.send_create(create).await;
    loop {
        let response = watch.next().await.ok_or("ended")?;
        if response.created && response.canceled && asked == 0 {
            return Ok(()); // a group was away for too long: refused, and nothing is promised
        }
        if response.created {
            let revision = response.header.ok_or("no header")?.revision;
            let start = if asked == 0 { revision + 1 } else { asked };
            seen.insert(response.watch_id, Seen { prefix, start, named: asked, ..Seen::default() });
            return Ok(());
        }
        take(seen, &response)?;
    }
}

fn take(seen: &mut BTreeMap<i64, Seen>, response: &pb::WatchResponse) -> Result<(), String> {
    if response.canceled {
        return Err(format!("canceled: {response:?}"));
    }
    let revision = response.header.as_ref().ok_or("no header")?.revision;
    if response.watch_id == -1 {
        return seen.values_mut().try_for_each(|seen| seen.progress(revision));
    }
    let one = seen.get_mut(&response.watch_id).ok_or("an unknown id")?;
    if response.events.is_empty() { one.progress(revision) } else { one.take(response) }
}

/// Jobs, which nobody has, go from group to group, brain by brain and proxy by proxy.
#[derive(Default)]
struct Change {
    next: Option<Document>,
    is_adopted: bool,
    /// Who has not taken the step yet.
    left: Vec<&'static str>,
    owner: usize,
}

impl Change {
    fn is_over(&self) -> bool {
        self.left.is_empty() && (self.is_adopted || self.next.is_none())
    }

    fn step(&mut self, cluster: &Cluster, second: &Proxy, random: &mut SmallRng) {
        let Some(who) = self.left.pop() else {
            self.left = GROUPS.to_vec();
            self.left.shuffle(random);
            if self.next.is_some() && !self.is_adopted {
                // all have adopted it: home commits it, and whoever hears of it first takes it first
                self.is_adopted = true;
                self.left.extend(["first", "second"]);
                self.left.shuffle(random);
            } else {
                self.owner = (self.owner + 1) % GROUPS.len();
                let rule = format!("  - {{ kind: jobs, group: {} }}\n", GROUPS[self.owner]);
                let number = self.next.as_ref().map_or(1, Document::number) + 1;
                self.next = Some(document(&format!("{TABLE}{rule}"), LINEAGE, number));
                self.is_adopted = false;
            }
            return;
        };
        let Some(next) = &self.next else { return };
        match (who, self.is_adopted) {
            ("first", _) => cluster.proxy.replace_placement(next.clone(), <_>::default()),
            ("second", _) => second.replace_placement(next.clone(), <_>::default()),
            (group, false) => cluster.brain(group).adopt(next),
            (group, true) => cluster.brain(group).commit(next.clone()),
        }
    }
}

async fn run(seed: u64, seams: Seams) -> Result<u64, String> {
    let mut random = SmallRng::seed_from_u64(seed);
    let cluster = Cluster::with(Config { seams, merge_buffer_bytes_max: 300, ..Config::default() }).await;
    let (other, second) = cluster.another().await;
    let mut change = Change::default();
    let mut watch = cluster.client.watch().await;
    let mut seen = BTreeMap::new();
    let mut progress = 0;
    for step in 0..120 {
        match random.random_range(0..23) {
            0..=8 => {
                let group = ["pods", "events", "nodes"].choose(&mut random).expect("some");
                let client = if random.random_bool(0.5) { &cluster.client } else { &other };
                client.put(&format!("/registry/{group}/{}", random.random_range(0..5)), "v").await;
            }
            9 | 10 if seen.len() < 8 => {
                let prefix = PREFIXES.choose(&mut random).expect("some");
                let floor = cluster.proxy.floor().get() as i64;
                let start_revision =
                    if random.random_bool(0.5) { 0 } else { random.random_range(1..=floor + 1) };
                let range_end = kubebrain_shared::range::prefix_end(prefix.as_bytes()).expect("bounded");
                let wish = pb::WatchCreateRequest {
                    key: (*prefix).into(),
                    range_end,
                    start_revision,
                    progress_notify: random.random_bool(0.5),
                    ..Default::default()
                };
                create(&mut watch, &mut seen, wish, prefix).await?;
            }
            11 if random.random_bool(0.3) => cluster.brains.values().for_each(|brain| brain.notify()),
            11 => cluster.brain(GROUPS.choose(&mut random).expect("some")).cut_watches(),
            12 => {
                let delay =
                    random.random_bool(0.6).then(|| Duration::from_millis(random.random_range(1..30)));
                cluster.brain(GROUPS.choose(&mut random).expect("some")).state.lock().watch_delay = delay;
            }
            13 if random.random_bool(0.3) => {
                let brain = cluster.brain("events");
                brain.stick(!brain.is_stuck());
            }
            13..=15 => watch.ask_progress().await,
            20..=22 => change.step(&cluster, &second.0, &mut random),
            _ => {
                let wait = Duration::from_millis(random.random_range(0..40));
                while let Ok(response) = timeout(wait, watch.next()).await {
                    let response =
                        response.ok_or_else(|| format!("ended at step {step}: {:?}", watch.end))?;
                    progress += u64::from(response.watch_id == -1);
                    take(&mut seen, &response)?;
                }
            }
        }
    }
    cluster.brain("events").stick(false);
    while !change.is_over() {
        change.step(&cluster, &second.0, &mut random);
    }
    while let Ok(response) = timeout(Duration::from_secs(8), watch.next()).await {
        take(&mut seen, &response.ok_or("ended")?)?;
    }
    for (id, seen) in &seen {
        let mut expected = Vec::new();
        for brain in cluster.brains.values() {
            let state = brain.state.lock();
            let kvs = state.history.iter().filter_map(|event| event.kv.as_ref());
            let wanted =
                kvs.filter(|kv| kv.mod_revision >= seen.start && kv.key.starts_with(seen.prefix.as_bytes()));
            expected
                .extend(wanted.map(|kv| (kv.mod_revision, String::from_utf8_lossy(&kv.key).into_owned())));
        }
        expected.sort();
        let mut events = seen.events.clone();
        events.sort();
        if events != expected {
            return Err(format!(
                "watcher {id} of {} from r{}: saw {events:?}, history is {expected:?}",
                seen.prefix, seen.start
            ));
        }
    }
    Ok(progress)
}

/// Seeds that find something.
async fn failing(seeds: std::ops::Range<u64>, seams: Seams) -> Vec<(u64, String)> {
    let mut failing = Vec::new();
    for seed in seeds {
        if let Err(error) = run(seed, seams).await {
            failing.push((seed, error));
        }
    }
    failing
}

#[tokio::test(start_paused = true)]
async fn watches_are_exact_in_any_weather() {
    let seeds = std::env::var("MODEL_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(40);
    let mut progress: u64 = 0;
    let from = std::env::var("MODEL_FROM").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for seed in from..from + seeds {
        progress += run(seed, Seams::default()).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    assert!(progress > seeds, "progress was answered {progress} times");
}

#[tokio::test(start_paused = true)]
async fn the_model_notices_each_planted_fault() {
    for (name, seams) in [
        ("progress_early", Seams { progress_early: true, ..Seams::default() }),
        ("merge_without_watermark", Seams { merge_without_watermark: true, ..Seams::default() }),
        ("resume_at_closed", Seams { resume_at_closed: true, ..Seams::default() }),
    ] {
        let found = failing(0..12, seams).await;
        assert!(!found.is_empty(), "{name} was not noticed");
    }
}
