//! What must hold of single events, each made several times under load: a master that sleeps past its lease, one that is
//! killed, one that hands its group over. All of it is judged as rounds are.

use std::time::Duration;

use kubebrain_net::dial::{Channel, Connector, DialConfig};
use kubebrain_proto::etcdserverpb as pb;
use rand::Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::arena::{BRAINS, LEASE, Shape};
use crate::chapter::{Chapter, Work};
use crate::traffic::Client;
use kit::judge::check::Violation;
use kit::judge::record::{Answer, Ask, Op};
use kit::{full_tier, in_time, until};

/// Clients of a sleeper: through each of its listeners, at work when it falls asleep, and as many that ask it later.
const DIRECT: usize = 4;
/// A lease runs out, a candidate looks, the log is taken over, the proxy finds it: above what is aimed at, for slow
/// machines.
const FAILOVER_MAX: Duration = Duration::from_secs(10);

fn times() -> usize {
    if full_tier() { 20 } else { 2 }
}

/// Median and longest.
fn shown(name: &str, mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
    println!(
        "{name}, {} times: median {:.0} ms, longest {:.0} ms",
        took.len(),
        median.as_secs_f64() * 1e3,
        longest.as_secs_f64() * 1e3
    );
    longest
}

/// The chapter's master of its only group.
async fn master(chapter: &Chapter) -> usize {
    until("a master", async || chapter.arena.master(0)).await.0
}

/// Writes are served, by another master than in this epoch where one is named; gives a client that comes through any
/// brain but one.
async fn served(chapter: &mut Chapter, epoch: Option<u64>, but: usize) -> Client {
    until("a master", async || chapter.arena.master(0).filter(|(_, now)| Some(*now) > epoch)).await;
    let door = chapter.stage.door_of(&chapter.arena.brains[(but + 1) % BRAINS].node.name);
    let mut client = chapter.client(door);
    until("a write", async || client.probe("/registry/pods/served").await).await;
    client
}

/// Clients with open connections to a brain's listener for clients, and to that for peers.
fn direct(chapter: &mut Chapter, at: usize) -> Vec<Client> {
    let brain = &chapter.arena.brains[at];
    let door = chapter.stage.door_of(&brain.node.name);
    let channel = |address: &str| Channel::new(Connector::Tcp(address.to_owned()), DialConfig::default());
    let channels = [channel(&brain.address), channel(&brain.peer_address)];
    let mut clients = Vec::new();
    for channel in channels {
        for _ in 0..DIRECT {
            let (number, seed) = (chapter.number(), chapter.random.random());
            clients.push(Client::over(&chapter.stage, number, door, seed, channel.clone()));
        }
    }
    clients
}

/// One write and one read, whatever comes of them.
async fn pair(mut client: Client) -> Client {
    let key = format!("/registry/pods/direct-{}", client.number);
    client.probe(&key).await;
    let range = pb::RangeRequest {
        key: "/registry/pods/".into(),
        range_end: "/registry/pods0".into(),
        ..<_>::default()
    };
    client.ask(Ask::Range(range)).await;
    client
}

/// The master sleeps for three of its leases, while requests are on their way to it.
pub(crate) async fn master_sleeps(chapter: &mut Chapter) {
    let (at, epoch) = (master(chapter).await, chapter.arena.master(0).map_or(0, |(_, epoch)| epoch));
    sleeps(chapter, at, LEASE * 3, Some(epoch)).await;
}

/// One that is not master sleeps for longer than it may think that it is level with its master.
async fn slave_sleeps(chapter: &mut Chapter) {
    let at = (master(chapter).await + 1) % BRAINS;
    sleeps(chapter, at, LEASE + LEASE / 2, None).await;
}

/// A brain sleeps while requests are on their way to it, and more come to it through connections that are open, after
/// others were served without it. Where it is the master of an epoch, that is its successor's doing.
async fn sleeps(chapter: &mut Chapter, at: usize, time: Duration, epoch: Option<u64>) {
    let mut before = JoinSet::new();
    for client in direct(chapter, at) {
        let stage = chapter.stage.clone();
        before.spawn(async move {
            let (mut client, end) = (client, Instant::now() + time);
            while !stage.stopped() && Instant::now() < end {
                client = pair(client).await;
            }
        });
    }
    let mut open = Vec::new();
    for client in direct(chapter, at) {
        open.push(pair(client).await);
    }
    sleep(Duration::from_millis(chapter.random.random_range(50..400))).await;
    let asleep = Instant::now();
    chapter.arena.brains[at].node.stop();
    let name = chapter.arena.brains[at].node.name.clone();
    chapter.says(&format!("{name} sleeps, {}", if epoch.is_some() { "a master" } else { "a slave" }));
    let mut client = served(chapter, epoch, at).await;
    chapter.says("others serve");
    // Writes that it never heard of, and that it must not answer without.
    for _ in 0..5 {
        until("a write", async || client.probe("/registry/pods/unheard").await).await;
    }
    let mut after = JoinSet::new();
    for client in open {
        after.spawn(pair(client));
    }
    sleep(time.saturating_sub(asleep.elapsed())).await;
    chapter.arena.brains[at].node.resume();
    chapter.says(&format!("{name} is awake again"));
    in_time("those who asked it", async { while before.join_next().await.is_some() {} }).await;
    in_time("those who asked it later", async { while after.join_next().await.is_some() {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brain_that_sleeps_answers_nothing_from_its_past() {
    let seed = crate::seed();
    println!("KUBEBRAIN_SEED={seed}");
    let Some(mut chapter) = Chapter::begin("asleep", Shape::OneGroup, seed).await else { return };
    let work = chapter.work();
    for _ in 0..times() {
        master_sleeps(&mut chapter).await;
        slave_sleeps(&mut chapter).await;
    }
    let wrong = chapter.quiet(work).await;
    chapter.must_be_right(seed, &wrong);
}

/// When writes were acknowledged to clients of proxies.
fn acknowledged(ops: &[Op]) -> Vec<(Instant, Instant)> {
    let writes = ops.iter().filter(|op| {
        let changed = matches!(op.outcome, Some(Ok(Answer::Put(_) | Answer::Txn(_) | Answer::Delete(_))));
        changed && op.proxy < 1_000_000
    });
    let mut times: Vec<_> = writes.map(|op| (op.begin.at, op.end.at)).collect();
    times.sort_unstable_by_key(|(_, end)| *end);
    times
}

/// What clients of proxies were not served with.
fn failed(ops: &[Op]) -> Vec<&Op> {
    let asked = ops.iter().filter(|op| op.proxy < 1_000_000);
    let failed = asked.filter(|op| match &op.outcome {
        None => true,
        Some(Err(status)) => status.code() == Code::Unavailable,
        Some(Ok(_)) => false,
    });
    failed.collect()
}

/// How a master goes.
#[derive(Clone, Copy)]
enum Way {
    Killed,
    HandsOver,
}

/// One master after the other goes, each when the one before it is back and another one serves. When that was begun.
async fn masters_go(chapter: &mut Chapter, way: Way) -> Vec<Instant> {
    let mut begun = Vec::new();
    for _ in 0..times() {
        sleep(Duration::from_millis(chapter.random.random_range(500..1500))).await;
        let (at, epoch) = (master(chapter).await, chapter.arena.master(0).map_or(0, |(_, epoch)| epoch));
        let node = &mut chapter.arena.brains[at].node;
        let name = node.name.clone();
        begun.push(Instant::now());
        let what = match way {
            Way::Killed => {
                node.kill().await;
                "is killed"
            }
            Way::HandsOver => {
                node.end().await;
                "has handed over"
            }
        };
        chapter.stage.doors[chapter.stage.door_of(&name)].renew();
        chapter.says(&format!("{name} {what}"));
        served(chapter, Some(epoch), at).await;
        chapter.arena.brains[at].node.ready().await;
    }
    begun
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_to_a_write_after_a_master_was_killed() {
    let seed = crate::seed();
    let Some(mut chapter) = Chapter::begin("killed", Shape::Direct, seed).await else { return };
    let work = chapter.work_at_proxies();
    let kills = masters_go(&mut chapter, Way::Killed).await;
    let wrong = chapter.quiet(work).await;
    chapter.must_be_right(seed, &wrong);
    let run = chapter.run();
    let writes = acknowledged(&run.records.ops);
    let took = kills.iter().map(|kill| {
        // Who began before may have been served by the one that died.
        let next = writes.iter().find(|(begin, _)| begin > kill).map(|(_, end)| *end - *kill);
        next.expect("writes were served again")
    });
    let longest = shown("kill -9 of the master to the first acknowledged write", took.collect());
    println!("{} requests failed meanwhile", failed(&run.records.ops).len());
    assert!(longest < FAILOVER_MAX, "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_fails_no_request() {
    let seed = crate::seed();
    let Some(mut chapter) = Chapter::begin("handover", Shape::Direct, seed).await else { return };
    let work: Work = chapter.work_at_proxies();
    let leaves = masters_go(&mut chapter, Way::HandsOver).await;
    let wrong = chapter.quiet(work).await;
    chapter.must_be_right(seed, &wrong);
    let run = chapter.run();
    let writes = acknowledged(&run.records.ops);
    let pause = |from: &Instant| {
        let until = *from + Duration::from_secs(5);
        let around: Vec<_> =
            writes.iter().map(|(_, end)| *end).filter(|end| end > from && *end < until).collect();
        let first = around.first().map_or(Duration::MAX, |first| *first - *from);
        around.windows(2).map(|pair| pair[1] - pair[0]).chain([first]).max().unwrap_or(Duration::MAX)
    };
    shown("longest pause of writes at a hand-over", leaves.iter().map(pause).collect());
    let failed = failed(&run.records.ops);
    println!("{} requests failed", failed.len());
    let failed =
        failed.iter().map(|op| Violation { tick: op.end.tick, what: format!("failed by a hand-over: {op}") });
    chapter.must_be_right(seed, &failed.collect::<Vec<_>>());
}
