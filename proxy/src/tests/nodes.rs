//! Groups of several brains: who is asked, and how those are left that do not answer.

use std::time::Duration;

use futures_util::future::join_all;
use kubebrain_net::metrics::Metrics as Registry;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::peer::standing_response::Role;
use kubebrain_shared::fault::Fault;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::Role as Taken;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::testing::{Client, How, Nodes, Planned, put, range};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const ADVANCE: &str = "/kubebrain.peer.v1.Peer/Advance";

/// Two heartbeats and a half.
const SILENCE: Duration = Duration::from_millis(2500);
const MILLI: Duration = Duration::from_millis(1);

async fn read(client: &Client) -> Result<usize, Status> {
    client.range(range("/registry/pods/a")).await.map(|read| read.kvs.len())
}

async fn reads(client: &Client, count: usize) {
    for number in 0..count {
        read(client).await.unwrap_or_else(|status| panic!("read {number}: {status}"));
    }
}

async fn write(client: &Client, value: &str) -> Result<pb::PutResponse, Status> {
    client.call(PUT, &put("/registry/pods/a", value)).await
}

#[tokio::test(start_paused = true)]
async fn reads_are_spread_over_slaves_and_the_rest_is_the_masters() {
    let nodes = Nodes::new(4).await;
    nodes.client.put("/registry/pods/a", "v").await;
    reads(&nodes.client, 600).await;
    let counts = nodes.counts(RANGE);
    assert_eq!(counts[0], 0, "the master is left to writes: {counts:?}");
    assert!(counts[1..].iter().all(|count| (150..250).contains(count)), "{counts:?}");
    let stream = pb::RangeRequest { revision: 2, serializable: true, ..range("/registry/") };
    let found: pb::RangeStreamResponse =
        nodes.client.call("/etcdserverpb.KV/RangeStream", &stream).await.expect("read");
    assert_eq!(found.range_response.expect("one").kvs.len(), 1);
    assert_eq!(nodes.counts("/etcdserverpb.KV/RangeStream")[0], 0);
    for path in [PUT, ADVANCE, "/etcdserverpb.Maintenance/Status"] {
        let counts = nodes.counts(path);
        assert!(counts[0] > 0 && counts[1..] == [0, 0, 0], "{path}: {counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_brain_is_left_and_tried_again_now_and_then() {
    let nodes = Nodes::new(3).await;
    for node in &nodes.all {
        node.behave(|how| how.delay = MILLI);
    }
    nodes.all[1].behave(|how| how.delay = MILLI * 100);
    reads(&nodes.client, 1000).await;
    let counts = nodes.counts(RANGE);
    assert!((1..30).contains(&counts[1]), "{counts:?}");
    nodes.all[1].behave(|how| how.delay = MILLI);
    sleep(Duration::from_secs(20)).await;
    reads(&nodes.client, 1000).await;
    let counts = nodes.counts(RANGE);
    assert!(counts[1] > 300, "it is as good as the other again: {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hung_brain_is_left_and_its_reads_are_answered_by_others() {
    let nodes = Nodes::new(3).await;
    nodes.client.put("/registry/pods/a", "v").await;
    nodes.all[1].behave(|how| how.hangs = true);
    let began = Instant::now();
    let answers = join_all((0..40).map(|_| read(&nodes.client))).await;
    assert!(answers.iter().all(|answer| *answer.as_ref().expect("answered elsewhere") == 1));
    let took = began.elapsed();
    assert!(nodes.counts(RANGE)[1] > 3, "some were there: {:?}", nodes.counts(RANGE));
    assert!(took <= SILENCE + MILLI * 20, "{took:?}");
    let before = nodes.counts(RANGE)[1];
    reads(&nodes.client, 100).await;
    assert_eq!(nodes.counts(RANGE)[1], before, "nothing new goes there");
    assert!(nodes.proxy.groups()[0].nodes[1].suspect);
    nodes.all[1].behave(|how| how.hangs = false);
    sleep(MILLI * 10).await;
    assert!(!nodes.proxy.groups()[0].nodes[1].suspect, "it is heard again");
    sleep(Duration::from_secs(60)).await;
    reads(&nodes.client, 100).await;
    assert!(nodes.counts(RANGE)[1] > before + 20, "and asked");
}

#[tokio::test(start_paused = true)]
async fn a_dead_brain_is_left_at_once() {
    let nodes = Nodes::new(3).await;
    nodes.client.put("/registry/pods/a", "v").await;
    for node in &nodes.all {
        node.behave(|how| how.delay = MILLI * 20);
    }
    let began = Instant::now();
    let asked = join_all((0..20).map(|_| read(&nodes.client)));
    let killed = async {
        sleep(MILLI * 10).await;
        assert!(nodes.counts(RANGE)[1] > 3, "{:?}", nodes.counts(RANGE));
        nodes.all[1].kill();
    };
    let (answers, ()) = tokio::join!(asked, killed);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(began.elapsed() < MILLI * 40, "{:?}", began.elapsed());
    let began = Instant::now();
    reads(&nodes.client, 10).await;
    assert!(began.elapsed() < MILLI * 220, "each at the first: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn without_slaves_the_master_reads() {
    let nodes = Nodes::new(3).await;
    for node in &nodes.all[1..] {
        node.say(|standing| standing.reads = false);
    }
    sleep(MILLI * 5).await;
    reads(&nodes.client, 20).await;
    assert_eq!(nodes.counts(RANGE), [20, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn what_a_slave_cannot_answer_another_may() {
    let nodes = Nodes::new(3).await;
    for fault in [Fault::Timeout, Fault::Stopped, Fault::FutureRevision] {
        let before = nodes.counts(RANGE).iter().sum::<usize>();
        nodes.brain.plan(RANGE, Planned::Fail(fault));
        read(&nodes.client).await.unwrap_or_else(|status| panic!("{fault:?}: {status}"));
        assert_eq!(nodes.counts(RANGE).iter().sum::<usize>(), before + 2, "{fault:?}");
    }
    // but where all say so, that is the answer
    (0..3).for_each(|_| nodes.brain.plan(RANGE, Planned::Fail(Fault::FutureRevision)));
    let refused = read(&nodes.client).await.expect_err("all refuse");
    assert_eq!(Fault::of(&refused), Some(Fault::FutureRevision));
    nodes.brain.plan(RANGE, Planned::Fail(Fault::Compacted));
    let refused = read(&nodes.client).await.expect_err("no matter who says so");
    assert_eq!(Fault::of(&refused), Some(Fault::Compacted));
    nodes.brain.plan(RANGE, Planned::NotOwner);
    let began = Instant::now();
    read(&nodes.client).await.expect("a slave has an older table");
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_write_into_silence_is_answered_as_unknown_and_never_sent_again() {
    let nodes = Nodes::new(3).await;
    let hang = async {
        nodes.all[0].behave(|how| how.delay = MILLI * 100);
        sleep(MILLI * 50).await;
        // it is carried out, and nobody hears of it
        nodes.all[0].behave(|how| {
            how.hangs = true;
            how.delay = Duration::ZERO;
        });
        sleep(Duration::from_secs(1)).await;
        nodes.elect(1, 2);
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(write(&nodes.client, "v"), hang);
    assert_eq!(Fault::of(&answer.expect_err("unknown")), Some(Fault::Timeout));
    assert!(began.elapsed() <= SILENCE + MILLI * 20, "{:?}", began.elapsed());
    sleep(Duration::from_secs(10)).await;
    assert_eq!((nodes.counts(PUT), nodes.brain.revision()), (vec![1, 0, 0], 2), "carried out once");
}

#[tokio::test(start_paused = true)]
async fn a_write_on_a_connection_that_breaks_is_never_sent_again() {
    let nodes = Nodes::new(3).await;
    nodes.all[0].behave(|how| how.delay = MILLI * 100);
    let kill = async {
        sleep(MILLI * 50).await;
        nodes.elect(1, 2);
        sleep(MILLI * 5).await;
        nodes.all[0].kill();
    };
    let (answer, ()) = tokio::join!(write(&nodes.client, "v"), kill);
    assert_eq!(Fault::of(&answer.expect_err("unknown")), Some(Fault::Timeout));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(nodes.counts(PUT), [1, 0, 0]);
    write(&nodes.client, "w").await.expect("by the next master");
    assert_eq!(nodes.counts(PUT), [1, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn writes_wait_for_the_next_master_and_go_as_soon_as_it_says_so() {
    let nodes = Nodes::new(3).await;
    for resigned in [true, false] {
        let (old, new, epoch) = if resigned { (0, 1, 2) } else { (1, 2, 3) };
        if resigned {
            nodes.all[old].say(|standing| {
                standing.set_role(Role::Slave);
                standing.master_peer_urls.clear();
            });
        } else {
            nodes.all[old].kill();
        }
        let writes = join_all((0..50).map(|_| async {
            write(&nodes.client, "v").await.expect("by the next master");
            Instant::now()
        }));
        let elected = async {
            sleep(MILLI * 1703).await;
            nodes.elect(new, epoch);
            Instant::now()
        };
        let (written, elected) = tokio::join!(writes, elected);
        let last = written.into_iter().max().expect("some");
        assert!(last >= elected && last - elected <= MILLI * 5, "{resigned}: {:?}", last - elected);
        assert_eq!(nodes.all[new].count(PUT), 50, "each once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_masters_writes_go_to_the_next_before_it_wakes() {
    let nodes = Nodes::new(3).await;
    nodes.all[0].behave(|how| how.hangs = true);
    sleep(Duration::from_secs(2)).await;
    nodes.elect(2, 2);
    sleep(MILLI).await;
    let began = Instant::now();
    write(&nodes.client, "v").await.expect("by the next master");
    assert!(began.elapsed() < MILLI * 5, "{:?}", began.elapsed());
    // it wakes, and believes what it did
    nodes.all[0].say(|standing| {
        standing.set_role(Role::Master);
        standing.epoch = 1;
    });
    nodes.all[0].behave(|how| how.hangs = false);
    sleep(Duration::from_secs(3)).await;
    let before = nodes.counts(PUT);
    for _ in 0..20 {
        write(&nodes.client, "v").await.expect("by the next master");
    }
    assert_eq!(nodes.counts(PUT), [before[0], 0, before[2] + 20]);
    let view = &nodes.proxy.groups()[0];
    let roles: Vec<_> = view.nodes.iter().map(|node| node.role).collect();
    assert_eq!((view.epoch, roles), (2, vec![Taken::Slave, Taken::Slave, Taken::Master]));
    let troubles: Vec<_> = view.nodes.iter().map(|node| node.trouble()).collect();
    assert_eq!(troubles, ["it takes itself for master by an earlier term", "", ""]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_names_the_master_is_followed_at_once() {
    let nodes = Nodes::new(3).await;
    // nobody has said so yet
    for node in &nodes.all {
        node.behave(|how| how.is_mute = true);
    }
    nodes.elect(1, 2);
    let began = Instant::now();
    write(&nodes.client, "v").await.expect("by the next master");
    assert_eq!((nodes.counts(PUT), began.elapsed()), (vec![1, 1, 0], Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn brains_that_do_not_say_what_they_are_are_tried_as_before() {
    let nodes = Nodes::with(3, Config::default(), How { is_old: true, ..How::default() }).await;
    assert!(nodes.proxy.groups()[0].nodes.iter().all(|node| node.role == Taken::Unknown && !node.suspect));
    nodes.elect(1, 2);
    let began = Instant::now();
    write(&nodes.client, "v").await.expect("written");
    assert_eq!((nodes.counts(PUT), began.elapsed()), (vec![1, 1, 0], Duration::ZERO), "by the one named");
    reads(&nodes.client, 10).await;
    write(&nodes.client, "v").await.expect("written");
    assert_eq!((nodes.counts(PUT), nodes.counts(RANGE)), (vec![1, 2, 0], vec![0, 10, 0]));
    let mut watch = nodes.client.watch().await;
    watch.prefix("/registry/", 2).await;
    assert_eq!(watch.events(2).await.len(), 2);
    // one after the other is replaced by a newer version
    for (index, node) in nodes.all.iter().enumerate() {
        node.behave(|how| how.is_old = false);
        sleep(Duration::from_secs(6)).await;
        write(&nodes.client, "v").await.expect("written");
        reads(&nodes.client, 10).await;
        assert_eq!(nodes.counts(PUT), [1, 3 + index, 0]);
    }
    assert_eq!(nodes.counts(RANGE)[1], 10, "no more than before: {:?}", nodes.counts(RANGE));
}

#[tokio::test(start_paused = true)]
async fn a_brain_of_another_group_is_left_alone() {
    let nodes = Nodes::new(3).await;
    nodes.all[2].say(|standing| {
        standing.group = "elsewhere".into();
        standing.set_role(Role::Master);
        standing.epoch = 9;
    });
    sleep(MILLI * 5).await;
    reads(&nodes.client, 20).await;
    write(&nodes.client, "v").await.expect("written");
    assert_eq!((nodes.counts(RANGE), nodes.counts(PUT)), (vec![0, 20, 0], vec![1, 0, 0]));
}

#[tokio::test(start_paused = true)]
async fn a_group_whose_urls_lead_to_another_group_is_never_asked_and_the_proxy_is_not_ready() {
    let nodes = Nodes::not_started(2, Config::default(), How::default());
    nodes.all.iter().for_each(|node| node.say(|standing| standing.group = "elsewhere".into()));
    assert!(timeout(MILLI * 20_000, nodes.proxy.start()).await.is_err(), "it is ready");
    assert_eq!(nodes.counts(ADVANCE), [0, 0], "they were asked something");
    let (status, page) = nodes.get("/readyz?verbose").await;
    assert_eq!(status, 503);
    for check in ["linearizable_read", "group-core"] {
        let line = page.lines().find(|line| line.starts_with(&format!("[-]{check} failed: ")));
        assert!(line.is_some_and(|line| line.contains("is n0 of group elsewhere")), "{page}");
    }
    assert!(page.contains("[+]data_corruption ok"), "{page}");
    let brain = &nodes.groups().await.groups[0].brains[0];
    assert!(brain.trouble.contains("of group elsewhere") && !brain.gone, "{brain:?}");
    // whoever is at that URL is put right, and nothing has to be started again
    nodes.all.iter().for_each(|node| node.say(|standing| standing.group = "core".into()));
    nodes.proxy.start().await;
    assert_eq!(nodes.get("/readyz").await, (200, "ok\n".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_master_that_is_gone_is_master_no_more_also_if_nobody_took_its_place() {
    let registry = Registry::new();
    let config = Config { metrics: Metrics::new(&registry), ..Config::default() };
    let nodes = Nodes::with(2, config, How::default()).await;
    let brain = nodes.groups().await.groups.remove(0).brains.remove(0);
    assert!(!brain.gone && brain.standing.is_some_and(|standing| standing.role() == Role::Master));
    nodes.all.iter().for_each(|node| node.kill());
    sleep(MILLI * 10).await;
    let brain = nodes.groups().await.groups.remove(0).brains.remove(0);
    let standing = brain.standing.expect("it was heard before");
    assert!(brain.gone && !brain.trouble.is_empty(), "{}", brain.trouble);
    assert_eq!((standing.role(), standing.reads, &standing.name[..]), (Role::Unknown, false, "n0"));
    let role = r##"kubebrain_proxy_node_role{group="core",node="#0",role="master"} 0"##;
    assert!(registry.page().lines().any(|line| line == role), "{}", registry.page());
}

#[tokio::test(start_paused = true)]
async fn watches_are_spread_and_stay_where_they_are() {
    let nodes = Nodes::new(4).await;
    let mut clients = Vec::new();
    for _ in 0..9 {
        let mut watch = nodes.client.watch().await;
        watch.prefix("/registry/", 0).await;
        clients.push(watch);
    }
    assert_eq!(nodes.streams(), [0, 3, 3, 3]);
    nodes.elect(1, 2);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(nodes.streams(), [0, 3, 3, 3], "a promoted slave keeps them");
    drop(clients);
    sleep(MILLI * 50).await;
    assert_eq!(nodes.streams(), [0; 4]);
}

/// Ways in which a node stops to serve a watch.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Hangs,
    Dies,
    StopsReading,
    IsCutOff,
}

#[tokio::test(start_paused = true)]
async fn a_watch_moves_without_gap_or_repeat_under_writes_that_go_on() {
    for trouble in [Trouble::Hangs, Trouble::Dies, Trouble::StopsReading, Trouble::IsCutOff] {
        let nodes = Nodes::new(4).await;
        let mut watch = nodes.client.watch().await;
        watch.prefix("/registry/", 0).await;
        watch.prefix("/registry/pods/", 0).await;
        sleep(MILLI * 5).await;
        let brain = std::sync::Arc::clone(&nodes.brain);
        let writer = tokio::spawn(async move {
            for number in 0..1000 {
                brain.write("/registry/pods/a", &number.to_string());
                sleep(MILLI * 5).await;
            }
        });
        let mut seen = [Vec::new(), Vec::new()];
        let (mut longest, mut last) = (Duration::ZERO, Instant::now());
        let mut moves = 0;
        while seen.iter().any(|seen| seen.len() < 1000) {
            let response = watch.next().await.expect("goes on");
            assert!(!response.created && !response.canceled, "{trouble:?}: {response:?}");
            longest = longest.max(last.elapsed());
            last = Instant::now();
            let watcher = usize::try_from(response.watch_id).expect("an id");
            seen[watcher]
                .extend(response.events.iter().map(|event| event.kv.clone().expect("one").mod_revision));
            if moves < 2 && seen[0].len() > 200 * (moves + 1) {
                moves += 1;
                let at = nodes.streams().iter().position(|count| *count == 1).expect("one stream");
                match trouble {
                    Trouble::Hangs => nodes.all[at].behave(|how| how.hangs = true),
                    Trouble::Dies => nodes.all[at].kill(),
                    Trouble::StopsReading => nodes.all[at].say(|standing| standing.reads = false),
                    Trouble::IsCutOff => nodes.brain.cut_watches(),
                }
            }
        }
        writer.await.expect("done");
        let whole: Vec<i64> = (2..1002).collect();
        assert!(seen.iter().all(|seen| *seen == whole), "{trouble:?}");
        let bound = if matches!(trouble, Trouble::Hangs) { SILENCE } else { MILLI * 5 };
        assert!(longest <= bound + MILLI * 10, "{trouble:?}: {longest:?}");
        assert_eq!(nodes.counts(WATCH).iter().sum::<usize>(), 3, "{trouble:?}: {:?}", nodes.counts(WATCH));
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_every_node_ends_at_once_rests_between_rounds() {
    let nodes = Nodes::new(3).await;
    let mut watch = nodes.client.watch().await;
    watch.prefix("/registry/pods/", 0).await;
    nodes.brain.state.lock().refuses_watches = true;
    nodes.brain.cut_watches();
    assert!(watch.is_quiet(Duration::from_secs(10)).await);
    let opened: usize = nodes.counts(WATCH).iter().sum();
    assert!((10..900).contains(&opened), "{opened}");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_brains_is_on_the_page_and_in_the_list() {
    let registry = Registry::new();
    let config = Config { metrics: Metrics::new(&registry), ..Config::default() };
    let nodes = Nodes::with(3, config, How::default()).await;
    nodes.all[2].kill();
    reads(&nodes.client, 10).await;
    sleep(MILLI * 10).await;
    let page = registry.page();
    for row in [
        r##"kubebrain_proxy_node_role{group="core",node="#0",role="master"} 1"##,
        r##"kubebrain_proxy_node_role{group="core",node="#1",role="slave"} 1"##,
        r##"kubebrain_proxy_node_role{group="core",node="#1",role="master"} 0"##,
        r##"kubebrain_proxy_node_suspect{group="core",node="#1"} 0"##,
        r##"kubebrain_proxy_node_suspect{group="core",node="#2"} 1"##,
        r##"kubebrain_proxy_node_reads{group="core",node="#1"} 1"##,
        r##"kubebrain_proxy_node_reads{group="core",node="#2"} 0"##,
        r##"kubebrain_proxy_reads_total{group="core",role="slave"} 10"##,
        r##"kubebrain_proxy_reads_total{group="core",role="master"} 0"##,
        r##"kubebrain_proxy_breaker_opens_total{group="core",node="#2"} 0"##,
    ] {
        assert!(page.lines().any(|line| line == row), "{row}\n{page}");
    }
    let groups = nodes.proxy.groups();
    let group = &groups[0];
    assert_eq!((groups.len(), group.name.as_str(), group.is_home, group.epoch), (1, "core", true, 1));
    let seen: Vec<_> =
        group.nodes.iter().map(|node| (&node.address[..], node.role, node.reads, node.suspect)).collect();
    let expected = [
        ("#0", Taken::Master, true, false),
        ("#1", Taken::Slave, true, false),
        ("#2", Taken::Unknown, false, true),
    ];
    assert_eq!(seen, expected);
    assert!(!group.nodes[2].trouble().is_empty() && group.nodes[1].trouble().is_empty());
    assert_eq!(group.nodes[1].standing.as_ref().map(|standing| &standing.name[..]), Some("n1"));
    assert!(group.nodes.iter().all(|node| node.in_flight == 0), "{group:?}");
    assert!(group.nodes[1].latency.is_some() && group.nodes[0].latency.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_write_is_waited_for_where_only_the_stream_has_ended() {
    let nodes = Nodes::new(3).await;
    nodes.all[0].behave(|how| how.delay = MILLI * 400);
    let cut = async {
        sleep(MILLI * 50).await;
        // a brain that drains, which ends its streams first
        nodes.all[0].behave(|how| {
            how.cut = 1;
            how.is_old = true;
        });
        nodes.all[0].say(|standing| standing.reads = false);
    };
    let (answer, ()) = tokio::join!(write(&nodes.client, "v"), cut);
    answer.expect("it had begun");
}
