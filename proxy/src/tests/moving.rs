//! Watches while keys go from group to group, and watches from now.

use std::time::Duration;

use kubebrain_proto::etcdserverpb as pb;
use kubebrain_shared::fault::Fault;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{Config, Seams};
use crate::testing::land::{JOBS, Land, numbered, numbered_at};
use crate::testing::{Client, Cluster, WatchClient, revision_of};

const QUIET: Duration = Duration::from_secs(2);
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Pods at revision 30, everything compacted there; jobs, which nobody has, go from core to events.
struct Change {
    land: Land,
    client: Client,
    _proxy: crate::proxy::Proxy,
}

impl Change {
    async fn new(seams: Seams) -> Self {
        let land = Land::new();
        let (proxy, client) = land.proxy(Config { seams, ..Config::default() }).await;
        Self { land, client, _proxy: proxy }
    }

    /// All groups are at 30 and compacted at 25: a watcher that stands at less has nowhere to go on at the gainer.
    fn compact(&self) {
        for brain in self.land.brains.values() {
            let mut state = brain.state.lock();
            state.advance(30);
            state.compacted = 25;
        }
    }

    fn adopt(&self) {
        let next = numbered(JOBS, 2);
        self.land.brains.values().for_each(|brain| brain.adopt(&next));
    }

    fn commit(&self) {
        self.land.commit(&numbered(JOBS, 2));
    }

    /// As home does it after [`Change::compact`].
    fn commit_compacted(&self) {
        self.land.commit(&numbered_at(JOBS, 2, 30, 25));
    }
}

async fn next_event(watch: &mut WatchClient) -> Result<(String, i64), pb::WatchResponse> {
    loop {
        let mut response = watch.next().await.expect("goes on");
        if response.canceled {
            return Err(response);
        }
        if let Some(event) = response.events.pop() {
            let kv = event.kv.expect("has one");
            return Ok((String::from_utf8_lossy(&kv.key).into_owned(), kv.mod_revision));
        }
    }
}

/// What a watcher sees whose kind goes to another group, which has forgotten what is below 25.
async fn across(seams: Seams, prefix: &str) -> Result<(String, i64), pb::WatchResponse> {
    let change = Change::new(seams).await;
    let mut watch = change.client.watch().await;
    watch.prefix(prefix, 2).await;
    sleep(Duration::from_millis(100)).await;
    change.compact();
    change.adopt();
    sleep(Duration::from_millis(100)).await;
    change.commit_compacted();
    sleep(Duration::from_millis(300)).await;
    change.client.put("/registry/jobs/a", "1").await;
    next_event(&mut watch).await
}

#[tokio::test(start_paused = true)]
async fn a_watcher_goes_on_at_the_gainer_from_where_the_loser_has_ended_it() {
    let (key, revision) = across(Seams::default(), "/registry/jobs/").await.expect("without a gap");
    assert!(key == "/registry/jobs/a" && revision > 30, "{key} at {revision}");
    let seams = Seams { resume_moved_at_own_closed: true, ..Seams::default() };
    let lost = across(seams, "/registry/jobs/").await.expect_err("the planted fault shows");
    assert_eq!(lost.compact_revision, 25);
}

#[tokio::test(start_paused = true)]
async fn every_event_is_seen_once_over_a_change_by_one_and_by_all_groups() {
    let change = Change::new(Seams::default()).await;
    let mut watch = change.client.watch().await;
    for prefix in ["/registry/", "/registry/jobs/", "/registry/pods/", "/registry/events/"] {
        watch.prefix(prefix, 0).await;
    }
    let mut written = Vec::new();
    for (round, step) in [None, Some(true), Some(false)].into_iter().enumerate() {
        match step {
            None => {}
            Some(true) => change.adopt(),
            Some(false) => change.commit(),
        }
        sleep(Duration::from_millis(100)).await;
        for kind in ["pods", "events", "nodes", "jobs"] {
            // jobs have no keys before they move, or no group would give them away
            if kind != "jobs" || step == Some(false) {
                let key = format!("/registry/{kind}/{round}");
                let revision = change.client.put(&key, "1").await;
                written.push((key, revision));
            }
        }
    }
    let own = |key: &str| if key.contains("/nodes/") { 1 } else { 2 };
    let expected: usize = written.iter().map(|(key, _)| own(key)).sum();
    let mut seen = watch.events(expected).await;
    seen.sort();
    let mut wanted: Vec<_> =
        written.iter().flat_map(|event| std::iter::repeat_n(event.clone(), own(&event.0))).collect();
    wanted.sort();
    assert_eq!(seen, wanted);
    assert!(watch.is_quiet(QUIET).await, "nothing twice");
}

#[tokio::test(start_paused = true)]
async fn only_what_is_given_away_is_created_anew() {
    let change = Change::new(Seams::default()).await;
    let core = change.land.brain("core");
    let mut watch = change.client.watch().await;
    for prefix in ["/registry/nodes/", "/registry/secrets/", "/registry/jobs/"] {
        watch.prefix(prefix, 2).await;
    }
    sleep(Duration::from_millis(100)).await;
    let (streams, creates) = (core.count(WATCH), core.state.lock().creates);
    assert_eq!((streams, creates), (1, 3));
    change.adopt();
    sleep(Duration::from_secs(3)).await;
    let again = core.state.lock().creates - creates;
    assert_eq!(core.count(WATCH), streams, "the others' stream goes on");
    assert!((1..40).contains(&again), "one is asked for again now and then: {again}");
    core.write("/registry/nodes/a", "1");
    assert_eq!(watch.events(1).await[0].0, "/registry/nodes/a");
    change.commit();
    sleep(Duration::from_millis(300)).await;
    let creates = core.state.lock().creates;
    change.client.put("/registry/jobs/a", "1").await;
    assert_eq!(watch.events(1).await[0].0, "/registry/jobs/a");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(core.state.lock().creates, creates, "it has left");
}

/// The table may be known before what the loser has said is read.
#[tokio::test(start_paused = true)]
async fn a_loser_is_heard_out_before_the_gainer_is_asked() {
    let change = Change::new(Seams::default()).await;
    let mut watch = change.client.watch().await;
    watch.prefix("/registry/jobs/", 2).await;
    sleep(Duration::from_millis(100)).await;
    change.compact();
    change.land.brain("core").state.lock().watch_delay = Some(Duration::from_millis(400));
    change.adopt();
    change.commit_compacted();
    // the stand-in says up to where only while it changes
    change.land.brain("core").adopt(&numbered_at(JOBS, 2, 30, 25));
    sleep(Duration::from_millis(200)).await;
    assert_eq!(change.land.brain("events").count(WATCH), 0, "it waits");
    let began = Instant::now();
    change.client.put("/registry/jobs/a", "1").await;
    let (key, _) = next_event(&mut watch).await.expect("without a gap");
    assert!(key == "/registry/jobs/a" && began.elapsed() < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_loser_that_is_away_is_not_waited_for_for_ever() {
    let change = Change::new(Seams::default()).await;
    let mut watch = change.client.watch().await;
    watch.prefix("/registry/jobs/", 2).await;
    sleep(Duration::from_millis(100)).await;
    change.land.brain("core").stick(true);
    let next = numbered(JOBS, 2);
    ["events", "pods"].into_iter().for_each(|group| change.land.brain(group).commit(next.clone()));
    sleep(Duration::from_secs(2)).await;
    change.land.brain("events").write("/registry/jobs/a", "1");
    assert_eq!(watch.events(1).await[0].0, "/registry/jobs/a");
}

/// Whether a write that another proxy makes right after "created" is seen.
async fn sees_what_comes_after_created(seams: Seams) -> bool {
    let cluster = Cluster::with(Config { seams, ..Config::default() }).await;
    let mut watch = cluster.client.watch().await;
    watch.prefix("/registry/pods/other/", 2).await; // a new stream would raise it too
    sleep(Duration::from_millis(100)).await;
    for _ in 0..10 {
        cluster.client.put("/registry/events/x", "1").await;
    }
    let pods = std::sync::Arc::clone(cluster.brain("pods"));
    pods.stick(true); // it takes a while to raise it
    tokio::spawn(async move {
        sleep(Duration::from_millis(300)).await;
        pods.stick(false);
    });
    let created = watch.prefix("/registry/pods/", 0).await;
    assert_eq!(revision_of(created.header), 11);
    // another proxy, which knows nothing of our floor
    cluster.brain("pods").write("/registry/pods/a", "1");
    timeout(QUIET, watch.events(1)).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_watcher_from_now_sees_whatever_is_written_after_its_answer() {
    assert!(sees_what_comes_after_created(Seams::default()).await);
    let seams = Seams { create_unraised: true, ..Seams::default() };
    assert!(!sees_what_comes_after_created(seams).await, "the planted fault shows");
}

#[tokio::test(start_paused = true)]
async fn a_create_of_a_group_that_is_away_holds_up_nothing_but_the_creates_behind_it() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    watch.prefix("/registry/pods/", 0).await;
    cluster.client.put("/registry/pods/a", "1").await;
    watch.events(1).await;
    cluster.brain("events").stick(true);
    let began = Instant::now();
    let create = |prefix: &str, watch_id| pb::WatchCreateRequest {
        key: prefix.to_owned().into(),
        range_end: kubebrain_shared::range::prefix_end(prefix.as_bytes()).expect("bounded"),
        watch_id,
        ..Default::default()
    };
    watch.send_create(create("/registry/events/", 7)).await;
    watch.send_create(create("/registry/nodes/", 8)).await;
    watch.send_create(create("/registry/pods/", 9)).await;
    watch.cancel(9).await;
    cluster.client.put("/registry/pods/b", "1").await;
    assert_eq!(watch.events(1).await[0].0, "/registry/pods/b", "the others go on");
    let refused = watch.next().await.expect("an answer");
    assert!(refused.created && refused.canceled && refused.watch_id == -1, "{refused:?}");
    assert_eq!(refused.cancel_reason, Fault::NoLeader.wire().1);
    assert!(began.elapsed() <= Duration::from_secs(6), "{:?}", began.elapsed());
    for (id, canceled) in [(8, false), (9, false), (9, true)] {
        let next = watch.next().await.expect("in their order");
        assert_eq!((next.watch_id, next.created, next.canceled), (id, !canceled, canceled));
    }
    cluster.client.put("/registry/nodes/a", "1").await;
    assert_eq!(watch.events(1).await[0].0, "/registry/nodes/a");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_over_groups_is_one_of_one_group_for_a_while_and_misses_nothing() {
    let change = Change::new(Seams::default()).await;
    let mut watch = change.client.watch().await;
    watch.prefix("/registry/", 0).await;
    let mut written = vec![change.client.put("/registry/nodes/a", "1").await];
    let all_in_core = crate::testing::land::text("")
        .replace("group: pods", "group: core")
        .replace("group: events", "group: core");
    let all_in_core = crate::testing::document(&all_in_core, crate::testing::LINEAGE, 2);
    for (next, keys) in [
        (all_in_core, ["/registry/pods/a", "/registry/nodes/b"]),
        (numbered(JOBS, 3), ["/registry/jobs/a", "/registry/nodes/c"]),
    ] {
        // what core has of pods is forgotten here: only that watchers go on is looked at
        change.land.brains.values().for_each(|brain| brain.adopt(&next));
        sleep(Duration::from_millis(50)).await;
        change.land.commit(&next);
        sleep(Duration::from_millis(300)).await;
        for key in keys {
            written.push(change.client.put(key, "1").await);
        }
    }
    let seen: Vec<_> = watch.events(5).await.into_iter().map(|(_, revision)| revision).collect();
    assert_eq!(seen, written);
    assert!(watch.is_quiet(QUIET).await, "nothing twice");
}
