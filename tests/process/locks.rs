//! `v3lockpb.Lock` and `v3electionpb.Election` of each program.

use std::time::Duration;

use bytes::Bytes;
use kubebrain_proto::etcdserverpb::lease_client::LeaseClient;
use kubebrain_proto::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest};
use kubebrain_proto::v3electionpb as election;
use kubebrain_proto::v3electionpb::election_client::ElectionClient;
use kubebrain_proto::v3lockpb::lock_client::LockClient;
use kubebrain_proto::v3lockpb::{LockRequest, UnlockRequest};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::BINARY;
use crate::proxies::cluster;
use kit::client::{Client, keys};
use kit::process::{Process, Start};
use kit::{in_time, until};

/// Nothing has happened for so long.
const QUIET: Duration = Duration::from_millis(100);

async fn lease(client: &Client, id: i64) -> i64 {
    let request = LeaseGrantRequest { id, ttl: 300 };
    LeaseClient::new(client.channel()).lease_grant(request).await.expect("a lease").into_inner().id
}

async fn revoke(client: &Client, id: i64) {
    let revoked = LeaseClient::new(client.channel()).lease_revoke(LeaseRevokeRequest { id }).await;
    revoked.expect("revoked");
}

/// Asks for a lock, and gives its key.
fn lock(client: &Client, name: &'static str, lease: i64) -> JoinHandle<Result<Bytes, Status>> {
    let mut locks = LockClient::new(client.channel());
    tokio::spawn(async move {
        let answer = locks.lock(LockRequest { name: name.into(), lease }).await?.into_inner();
        assert!(answer.header.is_some_and(|header| header.revision > 0));
        Ok(answer.key)
    })
}

async fn held(waiting: JoinHandle<Result<Bytes, Status>>) -> Bytes {
    in_time("a lock", waiting).await.expect("no panic").expect("it is held")
}

/// Returns when so many keys stand in the queue.
async fn queue(client: &Client, name: &str, length: usize) {
    let prefix = format!("{name}/");
    until("a queue", async || {
        let found = keys(&client.list(&prefix).await.expect("a list"));
        (found.len() == length).then_some(())
    })
    .await;
}

/// A lock goes on in the order of asking: when it is given back, when its lease ends, and past those who have gone.
async fn goes_from_hand_to_hand(server: &Process) {
    let client = Client::new(server.address());
    let name = "jobs";
    let leases = [lease(&client, 0x10).await, lease(&client, 0x11).await, lease(&client, 0x12).await];
    let first = held(lock(&client, name, leases[0])).await;
    assert_eq!(first, "jobs/10");
    assert_eq!(held(lock(&client, name, leases[0])).await, first, "it has it already");
    let gone = lock(&client, name, 0); // with a lease that the server makes
    queue(&client, name, 2).await;
    let second = lock(&client, name, leases[1]);
    queue(&client, name, 3).await;
    let third = lock(&client, name, leases[2]);
    queue(&client, name, 4).await;
    gone.abort();
    queue(&client, name, 3).await;
    tokio::time::sleep(QUIET).await;
    assert!(!second.is_finished() && !third.is_finished());
    let mut locks = LockClient::new(client.channel());
    locks.unlock(UnlockRequest { key: first }).await.expect("given back");
    assert_eq!(held(second).await, "jobs/11");
    tokio::time::sleep(QUIET).await;
    assert!(!third.is_finished());
    revoke(&client, leases[1]).await;
    assert_eq!(held(third).await, "jobs/12");
    // Its lease ends while it waits.
    let lost = lease(&client, 0x13).await;
    let waits = lock(&client, name, lost);
    queue(&client, name, 2).await;
    revoke(&client, lost).await;
    revoke(&client, leases[2]).await;
    let expired = in_time("an end", waits).await.expect("no panic").expect_err("it has no key any more");
    assert_eq!((expired.code(), expired.message()), (Code::Unknown, "mutex: session is expired"));
    let unknown = locks.lock(LockRequest { name: name.into(), lease: 99 }).await.expect_err("no such lease");
    assert_eq!((unknown.code(), unknown.message()), (Code::Unknown, "etcdserver: requested lease not found"));
}

/// Who leads is who came first; all see it, and what it says.
async fn elects(server: &Process) {
    let client = Client::new(server.address());
    let elections = || ElectionClient::new(client.channel());
    let name = Bytes::from_static(b"chair");
    let of = || election::LeaderRequest { name: name.clone() };
    let nobody = elections().leader(of()).await.expect_err("nobody leads");
    assert_eq!((nobody.code(), nobody.message()), (Code::Unknown, "election: no leader"));
    let mut seen = elections().observe(of()).await.expect("a stream").into_inner();
    let mut told = async || {
        let answer = in_time("a leader", seen.message()).await.expect("no error").expect("no end");
        String::from_utf8(answer.kv.expect("a value").value.to_vec()).expect("text")
    };
    let campaign = |lease, value: &'static str| {
        let (mut elections, name) = (elections(), name.clone());
        tokio::spawn(async move {
            let request = election::CampaignRequest { name, lease, value: value.into() };
            elections.campaign(request).await.map(|answer| answer.into_inner().leader.expect("a leader"))
        })
    };
    let leases = [lease(&client, 0x20).await, lease(&client, 0x21).await];
    let won = async |campaign: JoinHandle<_>| {
        let leader: Result<election::LeaderKey, Status> = in_time("a win", campaign).await.expect("no panic");
        leader.expect("it leads")
    };
    let ann = won(campaign(leases[0], "ann")).await;
    assert_eq!((&ann.key[..], ann.lease), (&b"chair/20"[..], leases[0]));
    assert_eq!(told().await, "ann");
    let bob = campaign(leases[1], "bob");
    queue(&client, "chair", 2).await;
    tokio::time::sleep(QUIET).await;
    assert!(!bob.is_finished());
    assert_eq!(elections().leader(of()).await.expect("one leads").into_inner().kv.expect("it").value, "ann");
    // The same one again has another value, and no other place.
    let again = won(campaign(leases[0], "anna")).await;
    assert_eq!((again.key, again.rev), (ann.key.clone(), ann.rev));
    assert_eq!(told().await, "anna");
    let proclaim = |leader: &election::LeaderKey, value: &'static str| {
        let request = election::ProclaimRequest { leader: Some(leader.clone()), value: value.into() };
        let mut elections = elections();
        async move { elections.proclaim(request).await }
    };
    proclaim(&ann, "anne").await.expect("it leads");
    assert_eq!(told().await, "anne");
    let resign = election::ResignRequest { leader: Some(ann.clone()) };
    elections().resign(resign.clone()).await.expect("it leads no more");
    let bob = won(bob).await;
    assert_eq!(told().await, "bob");
    let over = proclaim(&ann, "anne").await.expect_err("it leads no more");
    assert_eq!((over.code(), over.message()), (Code::Unknown, "election: not leader"));
    elections().resign(resign).await.expect("nothing to do");
    assert_eq!(elections().leader(of()).await.expect("one leads").into_inner().kv.expect("it").key, bob.key);
    let nobody = election::ResignRequest { leader: None };
    let nobody = elections().resign(nobody).await.expect_err("whose?");
    assert_eq!((nobody.code(), nobody.message()), (Code::Unknown, "\"leader\" field must be provided"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_and_elections_of_a_brain() {
    let place = BINARY.place();
    let brain = Start::brain(&place, "default").run().await;
    goes_from_hand_to_hand(&brain).await;
    elects(&brain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_and_elections_of_several_groups_in_one_process() {
    let place = BINARY.place();
    let standalone = Start::standalone(&place).run().await;
    goes_from_hand_to_hand(&standalone).await;
    elects(&standalone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_of_two_proxies_are_the_same_and_outlive_a_brain() {
    let place = BINARY.place();
    let (mut brains, proxies) = cluster(&place).await;
    goes_from_hand_to_hand(&proxies[0]).await;
    elects(&proxies[1]).await;
    // In a group of its own, and of leases at home.
    let name = "/registry/pods/lock";
    let (here, there) = (Client::new(proxies[0].address()), Client::new(proxies[1].address()));
    let (ours, theirs) = (lease(&here, 0x30).await, lease(&there, 0x31).await);
    let held_here = held(lock(&here, name, ours)).await;
    let waits = lock(&there, name, theirs);
    queue(&here, name, 2).await;
    let pods = brains.pop().expect("the last one has the pods");
    brains.push(pods.restart().await);
    tokio::time::sleep(QUIET).await;
    assert!(!waits.is_finished(), "{:?}", waits.await);
    let mut locks = LockClient::new(here.channel());
    locks.unlock(UnlockRequest { key: held_here }).await.expect("given back");
    assert_eq!(held(waits).await, format!("{name}/31"));
}
