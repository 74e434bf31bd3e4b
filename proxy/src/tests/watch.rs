use std::time::Duration;

use kubebrain_proto::etcdserverpb as pb;
use kubebrain_shared::fault::Fault;

use crate::config::{Config, Seams};
use crate::testing::{Cluster, TABLE, WatchClient, revision_of};

const QUIET: Duration = Duration::from_secs(3);

fn event(key: &str, revision: i64) -> (String, i64) {
    (key.to_owned(), revision)
}

/// The next response that is an answer to a manual question.
async fn progress(watch: &mut WatchClient) -> i64 {
    watch.ask_progress().await;
    loop {
        let response = watch.next().await.expect("goes on");
        if response.watch_id == -1 {
            assert!(response.events.is_empty() && !response.created && !response.canceled);
            return revision_of(response.header);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_of_one_group_sees_its_events_under_its_own_id() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    let created = watch.prefix("/registry/pods/", 0).await;
    assert_eq!((created.watch_id, revision_of(created.header)), (0, 1));
    assert_eq!(watch.prefix("/registry/events/", 0).await.watch_id, 1);
    cluster.client.put("/registry/pods/a", "1").await;
    cluster.client.put("/registry/events/b", "2").await;
    for (id, key, revision) in [(0, "/registry/pods/a", 2), (1, "/registry/events/b", 3)] {
        let response = watch.next().await.expect("an event");
        assert_eq!((response.watch_id, response.events.len()), (id, 1));
        let kv = response.events[0].kv.clone().expect("one");
        assert_eq!((&kv.key[..], kv.mod_revision), (key.as_bytes(), revision));
    }
    watch.cancel(0).await;
    let canceled = watch.next().await.expect("an answer");
    assert!(canceled.canceled && canceled.watch_id == 0 && canceled.compact_revision == 0);
    watch.cancel(99).await;
    cluster.client.put("/registry/pods/a", "1").await;
    assert!(watch.is_quiet(QUIET).await);
}

#[tokio::test(start_paused = true)]
async fn ids_are_given_as_etcd_gives_them() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    let create = |key: &'static str, end: &'static str, watch_id, start_revision| pb::WatchCreateRequest {
        key: key.into(),
        range_end: end.into(),
        watch_id,
        start_revision,
        ..Default::default()
    };
    assert_eq!(watch.create(create("/registry/pods/a", "", 1, 0)).await.watch_id, 1);
    assert_eq!(watch.create(create("/registry/pods/a", "", 0, 0)).await.watch_id, 0);
    assert_eq!(watch.create(create("/registry/pods/a", "", 0, 0)).await.watch_id, 2, "1 is taken");
    for (refused, reason) in [
        (create("a", "", 2, 0), "mvcc: duplicate watch ID provided on the WatchStream"),
        (create("b", "a", 0, 0), "mvcc: watcher range is empty"),
        (create("a", "", 0, -1), "etcdserver: mvcc: required revision has been compacted"),
    ] {
        let response = watch.create(refused).await;
        assert!(response.canceled && response.watch_id == -1);
        assert_eq!(response.cancel_reason, reason);
    }
    assert_eq!(
        watch.create(create("", "\0", 0, 0)).await.watch_id,
        3,
        "the stream goes on; everything can be watched"
    );
    cluster.client.put("anything", "1").await;
    assert_eq!(watch.events(1).await, [event("anything", 2)]);
}

#[tokio::test(start_paused = true)]
async fn history_is_replayed_from_the_start_revision() {
    let cluster = Cluster::new().await;
    for _ in 0..4 {
        cluster.client.put("/registry/pods/a", "1").await;
    }
    let mut watch = cluster.client.watch().await;
    watch.prefix("/registry/pods/", 3).await;
    assert_eq!(watch.events(3).await.iter().map(|(_, revision)| *revision).collect::<Vec<_>>(), [3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn watching_from_now_holds_in_a_group_that_is_behind() {
    let cluster = Cluster::new().await;
    for _ in 0..10 {
        cluster.client.put("/registry/events/x", "1").await;
    }
    let mut watch = cluster.client.watch().await;
    let created = watch.prefix("/registry/pods/", 0).await;
    assert_eq!(revision_of(created.header), 11);
    tokio::time::sleep(Duration::from_millis(100)).await;
    // another proxy, which knows nothing of our floor
    cluster.brain("pods").write("/registry/pods/a", "1");
    assert_eq!(watch.events(1).await, [event("/registry/pods/a", 12)]);
}

#[tokio::test(start_paused = true)]
async fn a_second_watcher_from_now_raises_the_group_too() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    watch.prefix("/registry/pods/", 0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..10 {
        cluster.client.put("/registry/events/x", "1").await;
    }
    assert_eq!(revision_of(watch.prefix("/registry/pods/", 0).await.header), 11);
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.brain("pods").write("/registry/pods/a", "1");
    assert_eq!(watch.events(2).await, [event("/registry/pods/a", 12), event("/registry/pods/a", 12)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_watch_has_shown_is_a_floor() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    watch.prefix("/registry/events/", 0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    for revision in 2..12 {
        cluster.brain("events").write("/registry/events/x", "1");
        assert_eq!(watch.events(1).await, [event("/registry/events/x", revision)]);
    }
    assert_eq!(cluster.client.put("/registry/pods/a", "1").await, 12);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_over_all_groups_is_in_the_order_of_revisions() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    watch.prefix("/registry/", 0).await;
    let mut expected = Vec::new();
    for round in 0..20 {
        let group = ["pods", "events", "nodes"][round * 7 % 3];
        let key = format!("/registry/{group}/{round}");
        let revision = cluster.client.put(&key, "1").await;
        expected.push((key, revision));
    }
    assert_eq!(watch.events(20).await, expected);
}

/// Writes of equal revisions in two groups; how many responses they came in.
async fn equal_revisions(seams: Seams) -> Vec<usize> {
    let cluster = Cluster::with(Config { seams, ..Config::default() }).await;
    let mut watch = cluster.client.watch().await;
    watch.prefix("/registry/", 0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.brain("events").state.lock().watch_delay = Some(Duration::from_millis(50));
    cluster.brain("pods").write("/registry/pods/a", "1");
    cluster.brain("events").write("/registry/events/a", "1");
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 2 {
        let response = watch.next().await.expect("an event");
        sizes.push(response.events.len());
    }
    sizes
}

#[tokio::test(start_paused = true)]
async fn equal_revisions_of_two_groups_arrive_together() {
    assert_eq!(equal_revisions(Seams::default()).await, [2]);
    let planted = Seams { merge_without_watermark: true, ..Seams::default() };
    assert_eq!(equal_revisions(planted).await, [1, 1], "the planted fault shows");
}

/// What is left of ten events over two cuts.
async fn cut_twice(seams: Seams, prefix: &str) -> Vec<i64> {
    let cluster = Cluster::with(Config { seams, ..Config::default() }).await;
    let mut watch = cluster.client.watch().await;
    watch.prefix(prefix, 0).await;
    let mut seen = Vec::new();
    for round in 0..3 {
        for _ in 0..5 {
            cluster.client.put("/registry/pods/a", "1").await;
        }
        seen.extend(watch.events(5).await.into_iter().map(|(_, revision)| revision));
        if round < 2 {
            cluster.brains.values().for_each(|brain| brain.cut_watches());
        }
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn a_lost_upstream_is_resumed_without_gap_or_repeat() {
    let whole: Vec<i64> = (2..17).collect();
    for prefix in ["/registry/pods/", "/registry/"] {
        assert_eq!(cut_twice(Seams::default(), prefix).await, whole, "{prefix}");
        let planted = Seams { resume_at_closed: true, ..Seams::default() };
        assert_ne!(cut_twice(planted, prefix).await, whole, "the planted fault shows");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stuck_group_holds_up_nobody_elses_watchers() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    watch.prefix("/registry/events/", 0).await;
    cluster.brain("events").stick(true);
    for id in 1..50 {
        assert_eq!(watch.prefix("/registry/events/", 0).await.watch_id, id);
    }
    assert_eq!(watch.prefix("/registry/pods/", 0).await.watch_id, 50);
    for revision in 2..30 {
        cluster.brain("pods").write("/registry/pods/a", "1");
        watch.ask_progress().await;
        assert_eq!(watch.events(1).await, [event("/registry/pods/a", revision)]);
    }
    cluster.brain("events").stick(false);
    assert!(progress(&mut watch).await >= 29);
}

#[tokio::test(start_paused = true)]
async fn manual_progress_reaches_what_was_written_anywhere() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    watch.ask_progress().await;
    assert!(watch.is_quiet(QUIET).await, "no watcher, no answer");
    watch.prefix("/registry/pods/", 0).await;
    assert_eq!(progress(&mut watch).await, 1, "from now on, and nothing was written");
    let mut above = cluster.client.watch().await;
    above.prefix("/registry/pods/", 2).await;
    above.ask_progress().await;
    assert!(above.is_quiet(QUIET).await, "as in etcd: it names a revision above all that was written");
    let revision = cluster.client.put("/registry/events/a", "1").await;
    assert_eq!(progress(&mut watch).await, revision, "an idle kind");
    watch.prefix("/registry/", revision).await;
    assert_eq!(watch.events(1).await, [event("/registry/events/a", revision)]);
    let revision = cluster.client.put("/registry/nodes/a", "1").await;
    assert_eq!(watch.events(1).await, [event("/registry/nodes/a", revision)]);
    assert_eq!(progress(&mut watch).await, revision, "with a watcher over all groups");
}

/// The next response that is periodic progress of this watcher; `None` while there is none.
async fn notice(cluster: &Cluster, watch: &mut WatchClient, id: i64) -> Option<i64> {
    cluster.brains.values().for_each(|brain| brain.notify());
    let response = tokio::time::timeout(QUIET, watch.next()).await.ok()?.expect("goes on");
    assert!(response.events.is_empty() && !response.created && !response.canceled, "{response:?}");
    assert_eq!(response.watch_id, id);
    Some(revision_of(response.header))
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watcher_from_now_hears_of_its_progress_unasked() {
    for prefix in ["/registry/pods/", "/registry/"] {
        let cluster = Cluster::new().await;
        for _ in 0..4 {
            cluster.client.put("/registry/events/x", "1").await;
        }
        let create = |start_revision| pb::WatchCreateRequest {
            key: prefix.into(),
            range_end: kubebrain_shared::range::prefix_end(prefix.as_bytes()).expect("bounded"),
            start_revision,
            progress_notify: true,
            ..Default::default()
        };
        let mut now = cluster.client.watch().await;
        assert_eq!(revision_of(now.create(create(0)).await.header), 5);
        let mut above = cluster.client.watch().await;
        above.create(create(6)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(notice(&cluster, &mut now, 0).await, Some(5), "{prefix}");
        assert_eq!(notice(&cluster, &mut above, 0).await, None, "{prefix}: it names a revision above");
        assert_eq!(notice(&cluster, &mut now, 0).await, Some(5), "{prefix}");
        cluster.client.put("/registry/nodes/x", "1").await;
        above.ask_progress().await;
        while above.next().await.expect("goes on").watch_id != -1 {}
        assert_eq!(notice(&cluster, &mut above, 0).await, Some(6), "{prefix}: it was reached");
    }
}

/// A slave serves watches with what it has.
#[tokio::test(start_paused = true)]
async fn progress_of_a_watcher_from_now_is_never_below_its_beginning() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    let created = watch
        .create(pb::WatchCreateRequest {
            key: "/registry/pods/a".into(),
            progress_notify: true,
            ..Default::default()
        })
        .await;
    assert_eq!(revision_of(created.header), 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.brain("pods").state.lock().revision = 0;
    assert_eq!(notice(&cluster, &mut watch, 0).await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn manual_progress_waits_for_the_slowest_group() {
    for (early, expected) in [(false, true), (true, false)] {
        let seams = Seams { progress_early: early, ..Seams::default() };
        let cluster = Cluster::with(Config { seams, ..Config::default() }).await;
        let mut watch = cluster.client.watch().await;
        watch.prefix("/registry/pods/", 0).await;
        watch.prefix("/registry/events/", 0).await;
        cluster.client.put("/registry/events/first", "1").await;
        watch.events(1).await;
        cluster.brain("pods").state.lock().watch_delay = Some(Duration::from_secs(2));
        let revision = cluster.client.put("/registry/pods/late", "1").await;
        watch.ask_progress().await;
        let response = watch.next().await.expect("goes on");
        let event_first = !response.events.is_empty();
        assert_eq!(event_first, expected, "progress overtakes only where that is planted");
        if event_first {
            assert!(progress(&mut watch).await >= revision);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn compaction_ends_a_watcher_as_in_etcd() {
    let cluster = Cluster::new().await;
    for _ in 0..9 {
        cluster.client.put("/registry/pods/a", "1").await;
    }
    let compact = pb::CompactionRequest { revision: 6, physical: false };
    let _: pb::CompactionResponse =
        cluster.client.call("/etcdserverpb.KV/Compact", &compact).await.expect("done");
    for prefix in ["/registry/pods/", "/registry/"] {
        let mut watch = cluster.client.watch().await;
        assert!(!watch.prefix(prefix, 5).await.canceled, "created first");
        let ended = watch.next().await.expect("an answer");
        assert_eq!((ended.canceled, ended.compact_revision, &ended.cancel_reason[..]), (true, 6, ""));
        assert_eq!(revision_of(ended.header), 0);
        watch.prefix(prefix, 6).await;
        assert_eq!(
            watch.events(1).await[0],
            event("/registry/pods/a", 6),
            "the compacted revision itself is fine"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn watching_from_now_leaves_nothing_out_in_silence() {
    let config = Config { refresh_every: Duration::from_secs(3600), ..Config::default() };
    let cluster = Cluster::with(config).await;
    for _ in 0..9 {
        cluster.brain("pods").write("/registry/pods/a", "1");
    }
    cluster.brain("pods").state.lock().compacted = 8;
    let mut watch = cluster.client.watch().await;
    let created = watch.prefix("/registry/pods/", 0).await;
    assert!(revision_of(created.header) < 8, "this proxy has not seen those writes");
    // whether they were before the watch or after, nobody can tell: the client hears that they are gone
    let ended = watch.next().await.expect("an answer");
    assert_eq!((ended.canceled, ended.compact_revision), (true, 8));
}

#[tokio::test(start_paused = true)]
async fn a_stopping_proxy_ends_its_streams_as_unavailable() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    watch.prefix("/registry/", 0).await;
    let ((), last) = tokio::join!(cluster.proxy.stop(), watch.next());
    assert!(last.is_none());
    assert_eq!(watch.end.as_ref().and_then(Fault::of), Some(Fault::Stopped));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_not_read_for() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    watch.prefix("/registry/pods/", 0).await;
    let mut other = cluster.client.watch().await;
    other.prefix("/registry/pods/", 0).await;
    let value = "x".repeat(100_000);
    for _ in 0..200 {
        cluster.brain("pods").write("/registry/pods/a", &value);
        other.events(1).await;
    }
    let taken = cluster.brain("pods").state.lock().sent.clone();
    // the client's own HTTP/2 window is 1 MiB; the rest is what this process holds for it
    let held = *taken.values().min().expect("two streams") * value.len();
    assert!(held < 2 * 1024 * 1024, "{held} of 20 MB were taken for a client that does not read");
    // a later reader still gets everything, once
    let revisions: Vec<_> = watch.events(200).await.into_iter().map(|(_, revision)| revision).collect();
    assert_eq!(revisions, (2..202).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_stuck_group_is_bounded() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    watch.prefix("/registry/", 0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.brain("events").stick(true);
    let value = "x".repeat(50_000);
    for _ in 0..100 {
        cluster.brain("pods").write("/registry/pods/a", &value);
        assert!(watch.is_quiet(Duration::from_millis(5)).await);
    }
    let held = cluster.brain("pods").state.lock().sent.values().sum::<usize>() * value.len();
    assert!(held < 1024 * 1024, "{held} of 5 MB were taken");
    cluster.brain("events").stick(false);
    let revisions: Vec<_> = watch.events(100).await.into_iter().map(|(_, revision)| revision).collect();
    assert_eq!(revisions, (2..102).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn progress_is_answered_beside_a_group_that_never_rests() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    watch.prefix("/registry/pods/", 0).await;
    watch.prefix("/registry/events/", 0).await;
    cluster.client.put("/registry/events/a", "1").await;
    watch.events(1).await;
    cluster.brain("events").state.lock().watch_delay = Some(Duration::from_millis(10));
    let pods = std::sync::Arc::clone(cluster.brain("pods"));
    let writer = tokio::spawn(async move {
        for _ in 0..3000 {
            pods.write("/registry/pods/a", "1");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(progress(&mut watch).await > 2);
    assert!(!writer.is_finished(), "answered while the writes went on");
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn watchers_follow_a_placement_that_changes() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    watch.prefix("/registry/", 0).await;
    watch.prefix("/registry/jobs/", 0).await;
    watch.prefix("/registry/pods/", 0).await;
    cluster.client.put("/registry/pods/a", "1").await;
    assert_eq!(watch.events(2).await, [event("/registry/pods/a", 2), event("/registry/pods/a", 2)]);
    // a kind without history moves from core to events
    cluster.replace_placement(&format!("{TABLE}  - {{ kind: jobs, group: events }}\n"));
    let revision = cluster.client.put("/registry/jobs/j", "1").await;
    assert_eq!(
        watch.events(2).await,
        [event("/registry/jobs/j", revision), event("/registry/jobs/j", revision)]
    );
    let revision = cluster.client.put("/registry/pods/b", "1").await;
    assert_eq!(
        watch.events(2).await,
        [event("/registry/pods/b", revision), event("/registry/pods/b", revision)]
    );
    assert!(watch.is_quiet(QUIET).await, "nothing twice");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_waits_for_brains_that_have_an_older_table() {
    let cluster = Cluster::new().await;
    let mut watch = cluster.client.watch().await;
    let table = cluster.next_document(&format!("{TABLE}  - {{ kind: jobs, group: events }}\n"));
    cluster.proxy.replace_placement(table.clone(), <_>::default());
    watch.prefix("/registry/", 0).await;
    watch.prefix("/registry/jobs/", 0).await;
    assert!(watch.is_quiet(QUIET).await);
    cluster.brains.values().for_each(|brain| brain.replace_placement(table.clone()));
    let revision = cluster.client.put("/registry/jobs/j", "1").await;
    assert_eq!(
        watch.events(2).await,
        [event("/registry/jobs/j", revision), event("/registry/jobs/j", revision)]
    );
}
