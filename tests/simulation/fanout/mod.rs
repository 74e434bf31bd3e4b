//! Large ranges that a proxy puts together from parts of several brains: of one group whose slaves lag, die, answer late and
//! are cut off, whose master changes, and whose history is compacted meanwhile.
//!
//! ```text
//! cargo test --test simulation fanout
//! KUBEBRAIN_SEED=7 cargo test --test simulation fanout::a_range
//! ```
//!
//! Checked: what is answered is what the engine has committed at that revision, whole; what is asked as fresh is not older than
//! any write that was answered before; and who is refused hears why in words that clients know.

mod site;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kubebrain_net::dial::{Channel, Connector, DialConfig};
use kubebrain_net::metrics::Metrics as Registry;
use kubebrain_net::serve::{ServeConfig, memory, serve_memory};
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::kv_client::KvClient;
use kubebrain_proxy::Proxy;
use kubebrain_proxy::config::Seams;
use kubebrain_proxy::metrics::Metrics;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, Placement};
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use self::site::{Site, Traits};
use crate::engine::{Clock, Disk};
use crate::model::{self, History};
use crate::number;

/// On the paused clock.
const TIME: Duration = Duration::from_secs(6);
const ANSWER_MAX: Duration = Duration::from_secs(40);
const PREFIX: &str = "/registry/pods/";

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Broken {
    #[default]
    Nothing,
    /// A part is read at another revision.
    AnotherRevision,
    /// The first key of a part is missing.
    SkipsCutKey,
    /// A part is told twice where two brains were asked for it.
    TwiceTold,
    /// A brain answers a part although it has not come to its revision.
    NotReached,
    /// A brain shows what was never committed.
    Unsettled,
    /// How a range is cut is said without a fence.
    UnfencedCut,
}

/// What a seed gave.
#[derive(Debug, Default)]
struct Run {
    wrong: Vec<String>,
    answers: usize,
    parts: u64,
    second_tries: u64,
}

struct World {
    site: Arc<Site>,
    channel: Channel,
    history: Arc<Mutex<History>>,
    /// What was answered to a write.
    answered: AtomicI64,
    compacted: AtomicI64,
    run: Mutex<Run>,
    until: Instant,
}

impl World {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until || !self.run.lock().wrong.is_empty()
    }

    fn wrong(&self, what: String) {
        self.run.lock().wrong.push(what);
    }

    async fn write(&self, rng: &mut StdRng) {
        let mut kv = KvClient::new(self.channel.clone());
        let key = format!("{PREFIX}{:02}", rng.random_range(0..40));
        let written = if rng.random_bool(0.85) {
            let value = vec![b'v'; rng.random_range(0..80)];
            let put = pb::PutRequest { key: key.into(), value: value.into(), ..<_>::default() };
            timeout(ANSWER_MAX, kv.put(put)).await.map(|put| put.map(|put| put.into_inner().header))
        } else {
            let delete = pb::DeleteRangeRequest { key: key.into(), ..<_>::default() };
            timeout(ANSWER_MAX, kv.delete_range(delete))
                .await
                .map(|done| done.map(|done| done.into_inner().header))
        };
        if let Ok(Ok(header)) = written {
            self.answered.fetch_max(header.map_or(0, |header| header.revision), Ordering::SeqCst);
        }
    }

    async fn compact(&self, rng: &mut StdRng) {
        let revision = self.answered.load(Ordering::SeqCst) - rng.random_range(0..6);
        let before = self.compacted.fetch_max(revision, Ordering::SeqCst);
        if revision > before.max(1) {
            let mut kv = KvClient::new(self.channel.clone());
            let _perhaps =
                timeout(ANSWER_MAX, kv.compact(pb::CompactionRequest { revision, physical: false })).await;
        }
    }

    fn request(&self, rng: &mut StdRng) -> pb::RangeRequest {
        let newest = self.answered.load(Ordering::SeqCst).max(1);
        let from = if rng.random_bool(0.7) {
            PREFIX.to_owned()
        } else {
            format!("{PREFIX}{:02}", rng.random_range(0..40))
        };
        pb::RangeRequest {
            key: from.into(),
            range_end: "/registry/pods0".into(),
            limit: if rng.random_bool(0.3) { rng.random_range(1..40) } else { 0 },
            revision: if rng.random_bool(0.25) { (newest - rng.random_range(0..8)).max(1) } else { 0 },
            serializable: rng.random_bool(0.2),
            keys_only: rng.random_bool(0.1),
            count_only: rng.random_bool(0.05),
            ..<_>::default()
        }
    }

    async fn read(&self, rng: &mut StdRng) {
        let request = self.request(rng);
        let fresh_from = self.answered.load(Ordering::SeqCst);
        let asked = async {
            let mut kv = KvClient::new(self.channel.clone());
            match rng.random_bool(0.4) {
                true => streamed(kv.range_stream(request.clone()).await?.into_inner()).await,
                false => Ok(kv.range(request.clone()).await?.into_inner()),
            }
        };
        match timeout(ANSWER_MAX, asked).await {
            Ok(Ok(answer)) => self.judge(&request, &answer, fresh_from),
            Ok(Err(status)) if self.may_be_refused(&request, &status) => {}
            Ok(Err(status)) => self.wrong(format!("{request:?} is refused: {status}")),
            Err(_) => self.wrong(format!("{request:?} is not answered")),
        }
    }

    fn judge(&self, request: &pb::RangeRequest, answer: &pb::RangeResponse, fresh_from: i64) {
        let header = answer.header.as_ref().map_or(0, |header| header.revision);
        let at = if request.revision > 0 { request.revision } else { header };
        let state = self.history.lock().at(at);
        if !model::range_agrees(&state, request, answer) {
            let expected = model::range(&state, request);
            self.wrong(format!(
                "{request:?} at {at}: wrong content\ngiven    {answer:?}\nexpected {expected:?}"
            ));
        }
        if !request.serializable && header < fresh_from {
            self.wrong(format!("{request:?} is answered at {header}, and {fresh_from} was answered before"));
        }
        self.run.lock().answers += 1;
    }

    /// True of what a client hears for a reason that it can know.
    fn may_be_refused(&self, request: &pb::RangeRequest, status: &Status) -> bool {
        let text = status.message();
        match status.code() {
            Code::Unavailable => true,
            Code::OutOfRange if text.contains("compacted") => {
                request.revision > 0 || self.compacted.load(Ordering::SeqCst) > 1
            }
            Code::OutOfRange => request.revision > 0 && text.contains("future"),
            _ => false,
        }
    }

    async fn trouble(self: &Arc<Self>, rng: &mut StdRng) {
        let Some((master, epoch)) = self.site.master() else { return };
        match rng.random_range(0..5) {
            0 => {
                let next = rng.random_range(0..3);
                self.site.kill(master);
                sleep(Duration::from_millis(rng.random_range(0..300))).await;
                self.site.lead(next).await;
            }
            _ => {
                let slave = (master + rng.random_range(1..3)) % 3;
                self.site.kill(slave);
                sleep(Duration::from_millis(rng.random_range(0..500))).await;
                self.site.follow(slave, master, epoch);
            }
        }
    }
}

async fn streamed(
    mut chunks: tonic::Streaming<pb::RangeStreamResponse>,
) -> Result<pb::RangeResponse, Status> {
    let mut whole = pb::RangeResponse::default();
    while let Some(chunk) = chunks.message().await? {
        let chunk = chunk.range_response.unwrap_or_default();
        whole.kvs.extend(chunk.kvs);
        (whole.header, whole.more, whole.count) = (chunk.header, chunk.more, chunk.count);
    }
    Ok(whole)
}

async fn simulate(seed: u64, broken: Broken) -> Run {
    let mut rng = StdRng::seed_from_u64(seed);
    let group = GroupName::parse("core").expect("a name");
    let history = Arc::<Mutex<History>>::default();
    let hears = Arc::clone(&history);
    let disk = Disk::watched(
        std::slice::from_ref(&group),
        Arc::new(Clock::default()),
        Box::new(move |committed| hears.lock().push(committed.revision, committed.changes.clone())),
    );
    let text = "{ prefix: /registry, home: core, default: core, groups: { core: {} } }";
    let table = Arc::new(Placement::parse(text).expect("a placement"));
    let traits = Traits::new(&mut rng);
    let site = Site::new(disk, Arc::clone(&table), traits, broken, seed);
    site.lead(0).await;
    let connectors = site.connectors().into_iter().map(Connector::Memory).collect();
    let registry = Registry::new();
    let config = kubebrain_proxy::Config {
        fanout_bytes_min: Some(rng.random_range(50..1000)),
        metrics: Metrics::new(&registry),
        seams: Seams { tells_parts_twice: broken == Broken::TwiceTold, ..Seams::default() },
        ..kubebrain_proxy::Config::default()
    };
    let document = Document::unnumbered((*table).clone());
    let proxy = Proxy::new(config, document, HashMap::from([(group, connectors)]));
    proxy.start().await;
    let (connector, listener) = memory();
    let accepting = Stopper::default();
    tokio::spawn(serve_memory(listener, proxy.service(), ServeConfig::default(), accepting.handle()));
    let world = Arc::new(World {
        site,
        channel: Channel::new(Connector::Memory(connector), DialConfig::default()),
        history,
        answered: AtomicI64::new(0),
        compacted: AtomicI64::new(0),
        run: Mutex::default(),
        until: Instant::now() + TIME,
    });
    let mut acting = Vec::new();
    for actor in 0..6_u64 {
        let (world, mut rng) = (Arc::clone(&world), StdRng::seed_from_u64(rng.random()));
        let act = async move {
            while !world.is_over() {
                let pause = [15, 15, 20, 20, 400, 1200][actor as usize];
                sleep(Duration::from_millis(rng.random_range(0..=pause))).await;
                match actor {
                    0 | 1 => world.write(&mut rng).await,
                    2 | 3 => world.read(&mut rng).await,
                    4 => world.compact(&mut rng).await,
                    _ if traits.troubled => world.trouble(&mut rng).await,
                    _ => {}
                }
            }
        };
        acting.push(tokio::spawn(act));
    }
    for actor in acting {
        actor.await.expect("no panic");
    }
    let figure = |name: &str| {
        let page = registry.page();
        let line = page.lines().find(|line| line.starts_with(name) && line.contains("core"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default() as u64
    };
    let mut run = std::mem::take(&mut *world.run.lock());
    run.parts = figure("kubebrain_proxy_fanout_parts_total");
    run.second_tries = figure("kubebrain_proxy_fanout_second_tries_total");
    run
}

fn run(seed: u64, broken: Broken) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(simulate(seed, broken))
}

#[test]
fn a_range_put_together_is_one_that_was_there() {
    let (first, count) = match (number("KUBEBRAIN_SEED"), number("KUBEBRAIN_SEEDS")) {
        (Some(seed), None) => (seed, 1),
        (seed, count) => (seed.unwrap_or(1), count.unwrap_or(8)),
    };
    let mut all = Run::default();
    for seed in first..first + count {
        let run = run(seed, Broken::Nothing);
        assert!(run.wrong.is_empty(), "KUBEBRAIN_SEED={seed}: {}", run.wrong.join("\n"));
        all.answers += run.answers;
        all.parts += run.parts;
        all.second_tries += run.second_tries;
    }
    println!(
        "{count} seeds from {first}: {} answers, {} parts, {} second tries",
        all.answers, all.parts, all.second_tries
    );
    assert!(all.answers > 0 && all.parts > all.answers as u64 / 4, "ranges were cut: {all:?}");
}

fn finds(broken: Broken, judgement: &str) {
    let first = number("KUBEBRAIN_SEED").unwrap_or(1);
    for seed in first..first + 200 {
        let run = run(seed, broken);
        if let Some(wrong) = run.wrong.iter().find(|wrong| wrong.contains(judgement)) {
            println!("{broken:?}: found with seed {seed}: {}", wrong.chars().take(200).collect::<String>());
            return;
        }
    }
    panic!("{broken:?}: not found with 200 seeds from {first}");
}

#[test]
fn a_part_at_another_revision_is_found() {
    finds(Broken::AnotherRevision, "");
}

#[test]
fn a_part_without_its_first_key_is_found() {
    finds(Broken::SkipsCutKey, "were announced");
}

#[test]
fn a_part_that_is_told_twice_is_found() {
    finds(Broken::TwiceTold, "");
}

#[test]
fn a_brain_that_has_not_come_so_far_is_found() {
    finds(Broken::NotReached, "");
}

#[test]
fn what_was_never_committed_is_found() {
    finds(Broken::Unsettled, "wrong content");
}

#[test]
fn a_cut_without_a_fence_is_found() {
    finds(Broken::UnfencedCut, "was answered before");
}
