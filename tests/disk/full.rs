//! A disk that is full: reads and deletions go on, through as many starts as there may be, puts are refused, and all goes on
//! by itself when there is room.

use std::collections::BTreeMap;
use std::time::Duration;

use kubebrain_net::dial::{Channel, Connector, DialConfig};
use kubebrain_proto::etcdserverpb::lease_client::LeaseClient;
use kubebrain_proto::etcdserverpb::{LeaseGrantRequest, RangeRequest};
use kubebrain_shared::fault::Fault as Told;

use crate::BINARY;
use crate::power::small;
use crate::shim::{Fault, Injection, Shim};
use kit::client::Client;
use kit::process::{Place, Process, Start};
use kit::{full_tier, until};

/// Values of some of these fill a segment of the log, which has half a memtable of 1 MiB.
const VALUE: usize = 20_000;
/// So many fill all that may be there already: segments, memtables, the reserve.
const PUTS_MAX: usize = 500;

/// What must be there, by what clients were told.
pub(crate) struct Kept {
    there: BTreeMap<String, usize>,
    next: usize,
}

impl Kept {
    pub(crate) fn new() -> Self {
        Self { there: BTreeMap::new(), next: 0 }
    }

    /// Puts until it is refused for want of space; whatever else it is refused for is a failure.
    pub(crate) async fn put_until_refused(&mut self, server: &Process, puts_max: usize) {
        let client = Client::new(server.address());
        for _ in 0..puts_max {
            let key = format!("/registry/pods/{:06}", self.next);
            self.next += 1;
            match client.put(&key, vec![b'v'; VALUE]).await {
                Ok(_) => {
                    self.there.insert(key, VALUE);
                }
                Err(status) => {
                    assert_eq!(Told::of(&status), Some(Told::NoSpace), "{status:?}");
                    return;
                }
            }
        }
        panic!("{puts_max} puts on a full disk, and none is refused");
    }

    /// Reads go on, and deletions do.
    pub(crate) async fn read_and_delete(&mut self, server: &Process) {
        self.read(server).await;
        let (gone, _) = self.there.pop_first().expect("there are enough");
        Client::new(server.address()).delete(&gone).await.expect("a deletion needs hardly any room");
        self.read(server).await;
    }

    pub(crate) async fn read(&self, server: &Process) {
        let client = Client::new(server.address());
        let (mut found, mut key) = (BTreeMap::new(), b"/registry/pods/".to_vec());
        loop {
            let end = b"/registry/pods0".to_vec();
            let range = RangeRequest {
                key: key.clone().into(),
                range_end: end.into(),
                limit: 50,
                ..Default::default()
            };
            let answer = client.range(range).await.expect("reads go on");
            for kv in answer.kvs {
                key = [&kv.key[..], b"\0"].concat();
                found.insert(String::from_utf8(kv.key.to_vec()).expect("UTF-8"), kv.value.len());
            }
            if !answer.more {
                break;
            }
        }
        assert_eq!(found, self.there);
    }

    /// There is room again.
    pub(crate) async fn put_with_room(&mut self, server: &Process) {
        let client = Client::new(server.address());
        until("a put that is taken", async || client.put("/registry/pods/~", vec![b'v'; 7]).await.ok()).await;
        self.there.insert("/registry/pods/~".to_owned(), 7);
        for _ in 0..60 {
            let key = format!("/registry/pods/{:06}", self.next);
            self.next += 1;
            client.put(&key, vec![b'v'; VALUE]).await.expect("there is room");
            self.there.insert(key, VALUE);
        }
        self.read(server).await;
    }
}

async fn grant(server: &Process) -> Option<Told> {
    let channel = Channel::new(Connector::Tcp(server.address().to_owned()), DialConfig::default());
    let asked = LeaseClient::new(channel).lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await;
    asked.err().as_ref().and_then(Told::of)
}

async fn fills_up(program: fn(&Place) -> Start) {
    let place = BINARY.place();
    let shim = Shim::new(&place);
    let mut server = small(shim.without_syncs(program(&place))).run().await;
    let mut told = Kept::new();
    let client = Client::new(server.address());
    for number in 0..60 {
        let key = format!("/registry/pods/a{number:03}");
        client.put(&key, vec![b'v'; VALUE]).await.expect("there is room");
        told.there.insert(key, VALUE);
    }
    shim.inject(Injection { fault: Fault::DiskFull, after: 0, times: 0 });
    told.put_until_refused(&server, PUTS_MAX).await;
    assert!(shim.hits() > 0, "something was refused");
    assert_eq!(grant(&server).await, Some(Told::NoSpace));
    told.read_and_delete(&server).await;
    let log = server.log();
    assert_eq!(log.matches("the disk is full: puts and new leases are refused").count(), 1, "{log}");
    for round in 0..if full_tier() { 20 } else { 4 } {
        let start = server.start();
        server.signal(if round % 2 == 0 { "KILL" } else { "TERM" });
        server.ended().await;
        drop(server);
        server = start.run().await;
        told.read_and_delete(&server).await;
        told.put_until_refused(&server, PUTS_MAX).await;
        told.read_and_delete(&server).await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    server.must_run();
    shim.heal();
    told.put_with_room(&server).await;
    let server = server.restart().await;
    told.read(&server).await;
    assert!(server.log().contains("the disk has room again: puts are taken"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brain_on_a_full_disk_serves_reads_and_deletions_through_many_starts() {
    fills_up(|place| Start::brain(place, "default")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standalone_on_a_full_disk_serves_reads_and_deletions_through_many_starts() {
    fills_up(Start::standalone).await;
}
