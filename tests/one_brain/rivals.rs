//! Two brains of one group by mistake, with no election between them: the one that took over later goes on, the other
//! one stops and says why, and nothing that either has acknowledged is lost.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use crate::BINARY;
use kit::client::Client;
use kit::cluster::{Cluster, prefix};
use kit::process::{Place, Process, Start};
use kit::{in_time, until};

const WRITERS: usize = 8;
/// Of a writer, between two writes: so short that batches follow each other without a pause.
const PAUSE: Duration = Duration::from_millis(1);
/// So many that who searches for the log's end is late when he has found it.
const WRITTEN: usize = 1000;

/// A write that was acknowledged: key, value, revision.
type Written = (String, String, i64);

/// Writers that go on until they get no answer; the first error of each.
struct Writers {
    written: Arc<Mutex<Vec<Written>>>,
    tasks: JoinSet<Status>,
}

impl Writers {
    fn start(address: &str, name: &'static str) -> Self {
        let (written, mut tasks) = (Arc::<Mutex<Vec<Written>>>::default(), JoinSet::new());
        for writer in 0..WRITERS {
            let (client, written) = (Client::new(address), written.clone());
            tasks.spawn(async move {
                for number in 0.. {
                    let (key, value) = (format!("/shared/{writer}"), format!("{name} {number}"));
                    match in_time("an answer", client.put(&key, value.clone())).await {
                        Ok(revision) => written.lock().push((key, value, revision)),
                        Err(error) => return error,
                    }
                    sleep(PAUSE).await;
                }
                unreachable!("numbers do not end")
            });
        }
        Self { written, tasks }
    }

    async fn ended(self) -> (Vec<Written>, Vec<Status>) {
        let errors = in_time("the writers' ends", self.tasks.join_all()).await;
        (std::mem::take(&mut *self.written.lock()), errors)
    }
}

/// The epoch that a brain's answers show.
async fn epoch(server: &Process) -> u64 {
    let answer = Client::new(server.address()).get("/").await.expect("an answer");
    answer.header.expect("every answer has a header").raft_term
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_brains_of_one_group_the_older_one_stops() {
    let Some(cluster) = Cluster::any().await else { return };
    let prefix = prefix("rivals");
    let (one, two) = (BINARY.place(), BINARY.place());
    let start = |place: &Place, name: &str| {
        let start = Start::brain(place, "default").flag("name", name).flag("election", "none");
        start.on_tikv(cluster.pd(), &prefix)
    };
    let mut older = start(&one, "one").run().await;
    let older_epoch = epoch(&older).await;
    let writers = Writers::start(older.address(), "one");
    until("some writes", async || (writers.written.lock().len() > WRITTEN).then_some(())).await;

    let newer = start(&two, "two").run().await;
    let status = older.ended().await;
    let (written, errors) = writers.ended().await;
    assert!(!status.success() && status.code().is_some(), "{status}");
    let log = older.log();
    let last: Vec<_> = log.lines().rev().take(3).collect();
    for word in ["default", "two", "took over", "only one brain of a group may run"] {
        assert!(last.iter().any(|line| line.contains(word)), "{word:?} is not in {last:#?}");
    }
    for error in errors {
        assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    }

    assert!(epoch(&newer).await > older_epoch, "the takeover that came later has the newer epoch");
    let client = Client::new(newer.address());
    let all = client.list("/shared/").await.expect("the newer one serves");
    for (key, value, revision) in &written {
        let newest = written.iter().filter(|other| other.0 == *key).map(|other| other.2).max();
        let kv = all.kvs.iter().find(|kv| kv.key == key.as_bytes());
        let kv = kv.unwrap_or_else(|| panic!("{key} was acknowledged at {revision} and is lost"));
        assert!(kv.mod_revision >= *revision, "{key} at {revision} is lost: {kv:?}");
        if newest == Some(kv.mod_revision) && newest == Some(*revision) {
            assert_eq!(kv.value, value.as_bytes());
        }
    }
    let highest = written.iter().map(|written| written.2).max().expect("some were acknowledged");
    assert!(client.put("/shared/more", "x").await.expect("the newer one writes") > highest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brains_that_take_over_at_once_leave_exactly_one() {
    let Some(cluster) = Cluster::any().await else { return };
    let prefix = prefix("many");
    let places: Vec<_> = (0..4).map(|_| BINARY.place()).collect();
    let begun: Vec<_> = places
        .iter()
        .enumerate()
        .map(|(number, place)| {
            let start = Start::brain(place, "default").flag("name", &format!("brain-{number}"));
            start.flag("election", "none").on_tikv(cluster.pd(), &prefix).begins()
        })
        .collect();
    let mut brains = Vec::new();
    for brain in begun {
        // One that is overtaken while it loads may end before it serves.
        if let Ok(process) = in_time("a brain", brain.serves()).await {
            brains.push(process);
        }
    }
    let mut written: Vec<(String, i64)> = Vec::new();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        for (number, brain) in brains.iter().enumerate() {
            let key = format!("/at-once/{number}-{}", written.len());
            match in_time("an answer", Client::new(brain.address()).put(&key, "x")).await {
                Ok(revision) => written.push((key, revision)),
                Err(error) => assert_eq!(error.code(), Code::Unavailable, "{error:?}"),
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    let mut alive = Vec::new();
    for mut brain in brains {
        if !brain.has_ended() {
            alive.push(brain);
        }
    }
    let [survivor] = &alive[..] else { panic!("{} brains are left", alive.len()) };
    let all = Client::new(survivor.address()).list("/at-once/").await.expect("it serves");
    let mut revisions: Vec<_> = written.iter().map(|(_, revision)| *revision).collect();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), written.len(), "no revision was given out twice");
    for (key, revision) in &written {
        let there = all.kvs.iter().any(|kv| kv.key == key.as_bytes() && kv.mod_revision == *revision);
        assert!(there, "{key} was acknowledged at {revision} and is lost");
    }
}
