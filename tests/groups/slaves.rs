//! Slaves: what they answer by themselves is fresh, what they cannot answer they say, and who watches them hears of no
//! change of masters.

use std::time::Duration;

use kubebrain_proto::etcdserverpb::kv_client::KvClient;
use kubebrain_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kubebrain_proto::etcdserverpb::{PutRequest, RangeRequest, StatusRequest};
use tokio::time::{Instant, sleep};

use crate::BINARY;
use crate::elections::Group;
use kit::client::Client;
use kit::cluster::Cluster;
use kit::http1::get;
use kit::process::Process;
use kit::watch::mod_revision;
use kit::{full_tier, in_time, until};

/// What a brain has counted under a name, added up over its labels.
async fn counted(brain: &Process, name: &str) -> u64 {
    let (status, page) = get(brain.address(), "/metrics").await;
    assert_eq!(status, 200);
    let named = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let numbers = page.lines().filter(named).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    let numbers: Vec<_> = numbers.collect();
    assert!(!numbers.is_empty(), "{name} is not counted");
    numbers.iter().sum::<f64>() as u64
}

fn read(key: &str, serializable: bool) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), serializable, ..RangeRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slaves_answer_reads_afresh_and_by_themselves() {
    let Some(cluster) = Cluster::any().await else { return };
    let group = Group::start(&cluster, "slaves").await;
    let (master, _) = group.master();
    let writer = Client::new(group.brains[master].address());
    let slaves: Vec<usize> = (0..group.brains.len()).filter(|number| *number != master).collect();
    for number in 0..300 {
        writer.put(&format!("/list/{number:03}"), vec![b'x'; 100]).await.expect("a write");
    }
    let ranges = counted(&group.brains[master], "etcd_mvcc_range_total").await;
    let rounds = if full_tier() { 500 } else { 50 };
    for number in 0..rounds {
        let wrote = writer.put("/fresh", number.to_string()).await.expect("a write");
        for slave in &slaves {
            let found = Client::new(group.brains[*slave].address()).get("/fresh").await.expect("a read");
            assert!(found.kvs[0].mod_revision >= wrote, "brain {slave} has answered from the past");
            assert!(found.header.expect("a header").revision >= wrote);
        }
    }
    // A write looks at what was there before it; nobody writes now.
    let values = counted(&group.brains[master], "kubebrain_mvcc_value_cache_hits_total").await;
    for slave in &slaves {
        let list = Client::new(group.brains[*slave].address()).list("/list/").await.expect("a list");
        assert_eq!((list.kvs.len(), list.count), (300, 300));
    }
    let after = counted(&group.brains[master], "etcd_mvcc_range_total").await;
    assert_eq!(after - ranges, 0, "the master has read nothing for its slaves");
    let after = counted(&group.brains[master], "kubebrain_mvcc_value_cache_hits_total").await;
    assert_eq!(after - values, 0);

    // Everybody knows who leads, and the members.
    let mut led = Vec::new();
    for (number, brain) in group.brains.iter().enumerate() {
        let channel = Client::new(brain.address()).channel();
        let status =
            MaintenanceClient::new(channel).status(StatusRequest {}).await.expect("a status").into_inner();
        let own = status.header.expect("a header").member_id;
        assert_eq!(status.leader == own, number == master, "brain {number}");
        led.push(status.leader);
    }
    led.dedup();
    assert_eq!(led.len(), 1, "one leader");
    let endpoints: Vec<_> = group.brains.iter().map(Process::address).collect();
    let table = BINARY.ctl(["groups", "--endpoints", &endpoints.join(",")]).expect("all of them are well");
    let rows = |role: &str| table.lines().filter(|line| line.contains(role)).count();
    assert_eq!((rows(" master "), rows(" slave ")), (1, 2), "{table}");
    let table = BINARY.ctl(["groups", "--endpoints", group.proxy.address()]).expect("so does the proxy");
    assert_eq!((table.matches(" master ").count(), table.matches(" slave ").count()), (1, 2), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_slaves_are_served_through_the_master() {
    let Some(cluster) = Cluster::any().await else { return };
    let group = Group::start(&cluster, "through").await;
    let (master, _) = group.master();
    let mut newest = 0;
    for (number, brain) in group.brains.iter().enumerate() {
        let client = Client::new(brain.address());
        let mut watch = client.watch("/through/", newest + 1).await;
        let wrote = client.put(&format!("/through/{number}"), "x").await.expect("a write");
        assert!(wrote > newest, "one clock whoever is asked");
        newest = wrote;
        assert_eq!(watch.events_to(wrote).await.last().map(mod_revision), Some(wrote));
        let list = client.list("/through/").await.expect("a list");
        assert_eq!(list.kvs.len(), number + 1);
        let (status, said) = get(brain.address(), "/readyz?verbose").await;
        assert_eq!(status, 200, "{said}");
        // Proxies write at the master, and read anywhere.
        let mut peer = KvClient::new(group.peer(number));
        let put = PutRequest { key: "/peer".into(), value: "x".into(), ..Default::default() };
        let answer = peer.put(put).await;
        assert_eq!(answer.is_ok(), number == master, "{answer:?}");
        assert!(peer.range(read("/peer", false)).await.is_ok(), "brain {number}");
    }
}

/// A watch on each brain. The master dies; the watches on the others stay open, whoever of them is the next one, and
/// what is written before and after comes once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_on_slaves_go_on_when_one_of_them_is_promoted() {
    let Some(cluster) = Cluster::any().await else { return };
    let mut group = Group::start(&cluster, "promoted").await;
    let (master, epoch) = group.master();
    let writer = Client::new(group.proxy.address());
    let first = writer.put("/watched/0", "x").await.expect("a write");
    let mut watches = Vec::new();
    for (number, brain) in group.brains.iter().enumerate() {
        watches.push((number, Client::new(brain.address()).watch("/watched/", first).await));
    }
    let mut wrote = vec![first];
    for number in 1..100 {
        wrote.push(writer.put(&format!("/watched/{number}"), "x").await.expect("a write"));
    }
    group.brains[master].kill().await;
    watches.retain(|(number, _)| *number != master);
    let begun = Instant::now();
    for number in 100..200 {
        let key = format!("/watched/{number}");
        wrote.push(until("a write", async || writer.put(&key, "x").await.ok()).await);
    }
    println!("{:?} from the kill to the hundredth write", begun.elapsed());
    assert!(group.master().1 > epoch);
    let last = wrote[wrote.len() - 1];
    for (number, mut watch) in watches {
        let seen: Vec<_> = watch.events_to(last).await.iter().map(mod_revision).collect();
        assert!(seen.is_sorted_by(|one, next| one < next), "brain {number}: twice, or out of order");
        assert!(wrote.iter().all(|revision| seen.binary_search(revision).is_ok()), "brain {number}: a gap");
    }
}

/// The master sleeps for longer than its lease, so nobody can tell its slaves what is new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slave_without_a_master_does_not_answer_old() {
    let Some(cluster) = Cluster::any().await else { return };
    let group = Group::start(&cluster, "asleep").await;
    let (master, epoch) = group.master();
    let writer = Client::new(group.brains[master].address());
    writer.put("/asleep", "before").await.expect("a write");
    let slave = (master + 1) % group.brains.len();
    let mut peer = KvClient::new(group.peer(slave));
    group.brains[master].signal("STOP");
    let asked = Instant::now();
    let answer = in_time("an answer", peer.range(read("/asleep", false))).await;
    println!("{:?} later: {:?}", asked.elapsed(), answer.as_ref().map(drop));
    match answer {
        Ok(_) => assert!(group.master().1 > epoch, "nobody could say that this is fresh"),
        Err(refused) => assert!(refused.message().contains("leader changed"), "{refused:?}"),
    }
    let client = Client::new(group.brains[slave].address());
    let old = client.range(read("/asleep", true)).await.expect("from what it has");
    assert_eq!(&old.kvs[0].value[..], b"before");
    until("another master", async || (group.master().1 > epoch).then_some(())).await;
    // What a slave passes on to a master that is asleep is unknown for long: it has to know of the other one.
    let knows = async || {
        let log = group.brains[slave].log();
        let found = log.matches("this one follows it").count() > 1 || log.contains("master at");
        found.then_some(())
    };
    until("this slave knows it", knows).await;
    client.put("/asleep", "after").await.expect("a write");
    // It wakes up and finds out before it answers anything.
    group.brains[master].signal("CONT");
    let mut old_master = KvClient::new(group.peer(master));
    for _ in 0..50 {
        if let Ok(found) = old_master.range(read("/asleep", false)).await {
            assert_eq!(&found.into_inner().kvs[0].value[..], b"after");
        }
        sleep(Duration::from_millis(20)).await;
    }
    let found = until("it follows", async || old_master.range(read("/asleep", false)).await.ok()).await;
    assert_eq!(&found.into_inner().kvs[0].value[..], b"after");
}
