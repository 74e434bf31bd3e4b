use std::time::Duration;

use kubebrain_net::dial::Connector;
use kubebrain_net::serve::memory;
use kubebrain_proto::peer::standing_response::Role;

use super::super::stream_slot::StreamSlot;
use super::*;
use crate::config::Config;
use crate::testing::name;

fn roster(count: usize) -> Roster {
    let config = Config::default();
    let node = |index| Node::new(&name("pods"), index, Connector::Memory(memory().0), &config);
    Roster::new(name("pods"), (0..count).map(node).collect(), Arc::default())
}

fn standing(role: Role, reads: bool, epoch: u64) -> Report {
    let mut standing = StandingResponse { reads, epoch, ..Default::default() };
    standing.set_role(role);
    Report::Standing(Box::new(standing))
}

/// The first is master in term 1, the others read.
fn usual(count: usize) -> Roster {
    let roster = roster(count);
    roster.hear(0, standing(Role::Master, true, 1));
    (1..count).for_each(|index| roster.hear(index, standing(Role::Slave, true, 1)));
    roster
}

fn pick(roster: &Roster, policy: RoutingPolicy) -> Option<usize> {
    roster.pick(policy, &mut Tried::default(), Instant::now()).map(|node| node.index)
}

/// Every node that a request would be sent to, one after the other.
fn round(roster: &Roster, policy: RoutingPolicy) -> Vec<usize> {
    let mut tried = Tried::default();
    std::iter::from_fn(|| roster.pick(policy, &mut tried, Instant::now()).map(|node| node.index)).collect()
}

#[tokio::test(start_paused = true)]
async fn reads_go_to_slaves_first_and_at_last_to_the_master_and_all_else_to_the_master_only() {
    let roster = usual(4);
    for policy in [RoutingPolicy::Read, RoutingPolicy::Watch] {
        let mut order = round(&roster, policy);
        assert_eq!(order.pop(), Some(0), "the master at last");
        order.sort_unstable();
        assert_eq!(order, [1, 2, 3], "{policy:?}");
    }
    assert_eq!(round(&roster, RoutingPolicy::Master), [0]);
    roster.hear(0, standing(Role::Slave, false, 1));
    assert_eq!(round(&roster, RoutingPolicy::Master), [0; 0], "nobody is worth a try");
    let mut tried = Tried { named: Some(2), ..Tried::default() };
    assert_eq!(
        roster.pick(RoutingPolicy::Master, &mut tried, Instant::now()).map(|node| node.index),
        Some(2),
        "but who was named"
    );
    assert!(roster.pick(RoutingPolicy::Master, &mut tried, Instant::now()).is_none(), "once");
}

#[tokio::test(start_paused = true)]
async fn an_earlier_term_says_nothing_of_who_is_master() {
    let roster = usual(3);
    let seen = roster.changes.count();
    roster.hear(2, standing(Role::Master, true, 2));
    assert!(roster.changes.count() > seen, "whoever waits hears of it");
    assert_eq!(pick(&roster, RoutingPolicy::Master), Some(2));
    roster.hear(0, standing(Role::Master, true, 1));
    assert_eq!(pick(&roster, RoutingPolicy::Master), Some(2));
    roster.hear(2, Report::Silent);
    assert_eq!(pick(&roster, RoutingPolicy::Master), None, "also if the later one is not heard");
    roster.hear(1, standing(Role::Slave, true, 3));
    roster.hear(2, standing(Role::Master, true, 2));
    assert_eq!(pick(&roster, RoutingPolicy::Master), None, "a slave knows of a later one");
    roster.hear(0, standing(Role::Master, true, 3));
    assert_eq!(pick(&roster, RoutingPolicy::Master), Some(0));
}

#[tokio::test(start_paused = true)]
async fn terms_may_begin_anew_after_none_was_heard() {
    let roster = usual(2);
    roster.hear(0, standing(Role::Master, true, 50));
    roster.hear(0, Report::Broken);
    roster.hear(0, standing(Role::Master, true, 1));
    assert_eq!((pick(&roster, RoutingPolicy::Master), roster.epoch()), (None, 50), "the other one was there");
    roster.hear(0, Report::Broken);
    roster.hear(1, Report::Broken);
    roster.hear(0, standing(Role::Master, true, 1));
    assert_eq!((pick(&roster, RoutingPolicy::Master), roster.epoch()), (Some(0), 1));
}

#[tokio::test(start_paused = true)]
async fn a_round_ends_in_a_large_group_too() {
    let roster = roster(70);
    let round = round(&roster, RoutingPolicy::Read);
    assert_eq!(round, (0..64).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_is_no_change() {
    let roster = usual(3);
    let seen = roster.changes.count();
    roster.hear(0, standing(Role::Master, true, 1));
    roster.hear(1, standing(Role::Slave, true, 1));
    assert_eq!(roster.changes.count(), seen);
    roster.hear(1, Report::Broken);
    roster.hear(1, standing(Role::Slave, true, 1));
    assert_eq!(roster.changes.count(), seen + 2);
}

#[tokio::test(start_paused = true)]
async fn suspects_are_asked_where_all_are_and_silent_ones_for_nothing_but_reads() {
    let roster = usual(3);
    roster.hear(1, Report::Broken);
    roster.hear(2, Report::Silent);
    assert_eq!(round(&roster, RoutingPolicy::Read), [0], "the master is well");
    roster.hear(0, Report::Silent);
    assert_eq!(round(&roster, RoutingPolicy::Read), [1, 0, 2], "better one whose stream has ended");
    assert_eq!(round(&roster, RoutingPolicy::Master), [1], "a write into silence is worse than none");
}

#[tokio::test(start_paused = true)]
async fn a_group_of_one_is_asked_whatever_is_known() {
    let roster = roster(1);
    for report in [
        standing(Role::Slave, false, 1),
        Report::Broken,
        Report::Silent,
        Report::Unserved,
        standing(Role::Master, true, 1),
    ] {
        roster.hear(0, report);
        for policy in [RoutingPolicy::Read, RoutingPolicy::Watch, RoutingPolicy::Master] {
            assert_eq!(round(&roster, policy), [0], "once");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn brains_that_say_nothing_are_tried_in_turn_and_their_refusals_taken() {
    let roster = roster(3);
    for policy in [RoutingPolicy::Read, RoutingPolicy::Watch, RoutingPolicy::Master] {
        assert_eq!(round(&roster, policy), [0, 1, 2]);
    }
    roster.leave(0, Some(2));
    assert_eq!(round(&roster, RoutingPolicy::Master), [2, 0, 1], "whom the first has named");
    roster.leave(0, Some(1));
    assert_eq!(pick(&roster, RoutingPolicy::Master), Some(2), "somebody else has seen to that");
    roster.leave(2, None);
    assert_eq!(pick(&roster, RoutingPolicy::Read), Some(0));
    // one of a newer version names one that says nothing
    let mut slave = StandingResponse { epoch: 4, ..Default::default() };
    slave.set_role(Role::Slave);
    slave.master_peer_urls = vec!["memory://#1".into()];
    roster.hear(2, Report::Standing(Box::new(slave)));
    assert_eq!(round(&roster, RoutingPolicy::Master), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn reads_are_spread_evenly_among_equals_and_by_cost_otherwise() {
    let roster = usual(5);
    let share = |roster: &Roster| {
        let mut counts = [0_u32; 5];
        for _ in 0..4000 {
            counts[pick(roster, RoutingPolicy::Read).expect("one")] += 1;
        }
        counts
    };
    let even = share(&roster);
    assert!(even[0] == 0 && even[1..].iter().all(|count| (900..1100).contains(count)), "{even:?}");
    let now = Instant::now() + Duration::from_millis(1);
    (1..5).for_each(|index| roster.nodes[index].load.took(now, Duration::from_millis(1)));
    (0..9).for_each(|_| roster.nodes[1].load.enter());
    let busy = share(&roster);
    assert_eq!(busy[1], 0, "never the dearer of two: {busy:?}");
    (0..9).for_each(|_| roster.nodes[1].load.leave());
    roster.nodes[2].load.took(now, Duration::from_millis(50));
    tokio::time::advance(Duration::from_millis(1)).await;
    roster.nodes[2].load.took(Instant::now() + Duration::from_secs(1), Duration::from_millis(50));
    assert_eq!(share(&roster)[2], 0, "nor the slower");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_fails_in_a_row_rests_and_its_proof_is_one_read() {
    let roster = usual(3);
    (0..3).for_each(|_| roster.nodes[1].has_failed());
    for _ in 0..100 {
        assert_eq!(pick(&roster, RoutingPolicy::Read), Some(2));
        assert_eq!(pick(&roster, RoutingPolicy::Watch), Some(2));
    }
    tokio::time::advance(Duration::from_millis(100)).await;
    let picks = |_| pick(&roster, RoutingPolicy::Read).expect("one");
    assert_eq!((0..100).map(picks).filter(|index| *index == 1).count(), 1, "one try");
    roster.nodes[1].breaker.answered();
    assert!((0..100).map(picks).filter(|index| *index == 1).count() > 20, "it is back");
    (0..3).for_each(|_| roster.nodes[0].has_failed());
    assert_eq!(pick(&roster, RoutingPolicy::Master), Some(0), "nobody else can do what a master does");
}

#[tokio::test(start_paused = true)]
async fn watches_are_spread_by_streams() {
    let roster = Arc::new(usual(4));
    let slots: Vec<_> = (0..12)
        .map(|_| {
            let node = roster.pick(RoutingPolicy::Watch, &mut Tried::default(), Instant::now()).expect("one");
            StreamSlot::new(&roster, node)
        })
        .collect();
    let streams = || roster.nodes.iter().map(|node| node.streams.load(Ordering::Relaxed)).collect::<Vec<_>>();
    assert_eq!(streams(), [0, 4, 4, 4]);
    drop(slots);
    assert_eq!(streams(), [0; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_leaves_only_for_one_that_serves() {
    let roster = usual(3);
    assert!(!roster.should_leave(0) && !roster.should_leave(1));
    roster.hear(1, Report::Broken);
    assert!(roster.should_leave(1) && !roster.should_leave(0), "slaves that are ready are no reason");
    roster.hear(2, Report::Silent);
    roster.hear(0, standing(Role::Slave, false, 1));
    assert!(!roster.should_leave(1), "there is nowhere to go");
    roster.hear(0, standing(Role::Slave, true, 1));
    assert!(roster.should_leave(1) && roster.should_leave(2));
}
