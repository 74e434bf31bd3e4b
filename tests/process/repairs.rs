//! `ctl placement repair`: two brains that were alone and become groups of one cluster, with keys that the file gives to the
//! other one.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use kubebrain_proto::etcdserverpb::lease_client::LeaseClient;
use kubebrain_proto::etcdserverpb::{LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest, StatusRequest};
use serde_json::Value;
use tokio::task::spawn_blocking;

use crate::BINARY;
use crate::ctl_placement::{told, with};
use kit::client::{Client, keys};
use kit::process::{Place, Process, Start};
use kit::{seed, until};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

const LEASE: i64 = 7;

/// Two brains that go by what they have recorded, since home's file contradicts it.
struct Contrary {
    place: Place,
    file: PathBuf,
    /// Where each of them is reached by the other and by `ctl`.
    peers: BTreeMap<&'static str, String>,
    brains: BTreeMap<&'static str, Process>,
}

impl Contrary {
    /// The keys with their values are written while each brain is alone.
    async fn new(filled: &[(&'static str, Vec<(String, String)>)]) -> Self {
        let place = BINARY.place();
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let free = || free().expect("a port is free").to_string();
        let peers = BTreeMap::from([("core", free()), ("pods", free())]);
        let text = format!(
            "home: core\ndefault: core\ngroups:\n  core: {{ brains: [\"http://{}\"] }}\n  pods: {{ brains: [\"http://{}\"] }}\n\
             kinds: [{{ kind: pods, group: pods }}]\n",
            peers["core"], peers["pods"]
        );
        let file = place.file("placement.yaml", &text);
        let mut brains = BTreeMap::new();
        for (group, entries) in filled {
            let mut alone = Start::brain(&place, group).run().await;
            let client = Client::new(alone.address());
            if *group == "core" {
                let grant = LeaseGrantRequest { id: LEASE, ttl: 600 };
                LeaseClient::new(client.channel()).lease_grant(grant).await.expect("a lease");
            }
            for (key, value) in entries {
                let lease = if value == "leased" { LEASE } else { 0 };
                let (key, value) = (key.clone().into(), value.clone().into());
                let put = PutRequest { key, value, lease, ..PutRequest::default() };
                kubebrain_proto::etcdserverpb::kv_client::KvClient::new(client.channel())
                    .put(put)
                    .await
                    .expect("a put");
            }
            alone.signal("TERM");
            alone.ended().await;
        }
        let mut contrary = Self { place, file, peers, brains: BTreeMap::new() };
        for group in ["core", "pods"] {
            brains.insert(group, contrary.start(group).await);
        }
        contrary.brains = brains;
        contrary
    }

    async fn start(&self, group: &'static str) -> Process {
        let start = Start::brain(&self.place, group).placement(&self.file).tied();
        // One that has nothing yet is not ready before there is a placement.
        let listens = start.peers("http", &self.peers[group]).begins().listens().await;
        listens.unwrap_or_else(|failure| panic!("{group} has ended: {}", failure.message))
    }

    fn home(&self) -> [String; 1] {
        [format!("--endpoints=http://{}", self.peers["core"])]
    }

    fn client(&self, group: &str) -> Client {
        Client::new(self.brains[group].address())
    }

    /// Everything up to now, so that the group can give away what it has had.
    async fn compact(&self, group: &str) {
        let client = self.client(group);
        let status = client.maintenance().status(StatusRequest {}).await.expect("a status").into_inner();
        let now = status.header.expect("a header").revision;
        client.compact(now).await.expect("a compaction");
    }

    async fn seeded(&self) {
        until("number 1 holds", async || {
            told(&with(&["show", "-o", "yaml"], &self.home()), "")
                .said
                .starts_with("# number: ")
                .then_some(())
        })
        .await;
    }
}

fn entries(named: &[(&str, &str)]) -> Vec<(String, String)> {
    named.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_another_time_are_found_moved_and_dropped_and_then_the_placement_holds() {
    let contrary = Contrary::new(&[
        (
            "core",
            entries(&[
                ("/registry/pods/ns/a", "a"),
                ("/registry/pods/ns/b", "leased"),
                ("/registry/pods/ns/both", "core's"),
                ("/registry/secrets/ns/a", "s"),
            ]),
        ),
        ("pods", entries(&[("/registry/pods/ns/both", "pods's"), ("/registry/events/ns/a", "e")])),
    ])
    .await;
    let home = contrary.home();
    until("the seed is refused with a way out", async || {
        contrary.brains["core"].log().contains("`kubebrain ctl placement repair` says which").then_some(())
    })
    .await;

    let said = told(&with(&["repair"], &home), "").ends(0, "4 keys stand in a group that does not own them");
    assert!(said.contains("by the home group's file, since no placement holds yet"), "{said}");
    assert!(said.contains("core   kind pods    pods   3     1     1        0"), "{said}");
    let asked_of_clients = [format!("--endpoints=http://{}", contrary.brains["pods"].address())];
    let json = told(&with(&["repair", "--keys", "-o", "json"], &asked_of_clients), "").ends(0, "");
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["keys"].as_array().expect("keys").len(), 4, "{json:#}");
    told(&with(&["repair", "--kind=pods", "--move"], &asked_of_clients), "").ends(1, "--placement-admin");

    told(&with(&["repair", "--kind=pods", "--move", "--dry-run", "--keys"], &home), "")
        .ends(1, "would be moved");
    let moved = told(&with(&["repair", "--kind=pods", "--move"], &home), "");
    let said = moved.ends(1, "1 key left, and named with the reason");
    assert!(said.contains("/registry/pods/ns/both  left: group pods has it with another value"), "{said}");
    told(&with(&["repair", "--stored-key=/registry/pods/ns/both", "--move", "--keep=owner"], &home), "")
        .ends(0, "");
    told(&with(&["repair", "--kind=events", "--drop", "--from=core"], &home), "").ends(0, "Nothing to do");
    told(&with(&["repair", "--prefix=/registry/events/", "--drop", "-o", "yaml"], &home), "")
        .ends(0, "dropped: 1\n");
    let said = told(&with(&["repair"], &home), "").ends(0, "No key stands");
    assert!(said.contains("as by `etcdctl compact"), "{said}");
    for group in ["core", "pods"] {
        contrary.compact(group).await;
    }
    contrary.seeded().await;

    let proxy = Start::proxy(&contrary.place, "proxy", &contrary.file).run().await;
    let client = Client::new(proxy.address());
    let pods = client.list("/registry/").await.expect("a list");
    let found =
        ["/registry/pods/ns/a", "/registry/pods/ns/b", "/registry/pods/ns/both", "/registry/secrets/ns/a"];
    assert_eq!(keys(&pods), found);
    let value = |key: usize| String::from_utf8(pods.kvs[key].value.to_vec()).expect("UTF-8");
    assert_eq!([value(0), value(1), value(2), value(3)], ["a", "leased", "pods's", "s"]);
    assert_eq!(pods.kvs[1].lease, LEASE);
    let asked = LeaseTimeToLiveRequest { id: LEASE, keys: true };
    let lease =
        LeaseClient::new(client.channel()).lease_time_to_live(asked).await.expect("it lives").into_inner();
    assert_eq!(lease.keys, ["/registry/pods/ns/b"]);
    client.put("/registry/pods/ns/c", "c").await.expect("a put");
    let none = "No key stands in a group that does not own it, by placement number";
    for server in [proxy.address(), contrary.brains["pods"].address()] {
        told(&["repair", &format!("--endpoints=http://{server}")], "").ends(0, none);
    }
    for brain in contrary.brains.into_values() {
        drop(brain.restart().await); // they begin again by what they have
    }
}

/// Kill -9 of either side in the middle of a move: nothing is lost, and asked again it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_goes_on_after_a_kill() {
    let seed = seed(1);
    println!("KUBEBRAIN_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let filled: Vec<(String, String)> =
        (0..1500).map(|number| (format!("/registry/pods/ns/{number:04}"), format!("{number}"))).collect();
    let mut contrary = Contrary::new(&[("core", filled.clone()), ("pods", Vec::new())]).await;
    for victim in ["core", "pods"] {
        let reach = contrary.home();
        let moving = spawn_blocking(move || {
            told(&with(&["repair", "--kind=pods", "--move", "--command-timeout=2s"], &reach), "")
        });
        tokio::time::sleep(Duration::from_millis(random.random_range(20..250))).await;
        contrary.brains.get_mut(victim).expect("it runs").kill().await;
        let cut = moving.await.expect("it ends");
        println!("killed {victim}: {cut:?}");
        let brain = contrary.start(victim).await;
        contrary.brains.insert(victim, brain);
    }
    until("the move is done", async || {
        let moved = told(&with(&["repair", "--kind=pods", "--move"], &contrary.home()), "");
        (moved.code == Some(0)).then_some(())
    })
    .await;
    contrary.compact("core").await;
    contrary.seeded().await;
    let proxy = Start::proxy(&contrary.place, "proxy", &contrary.file).run().await;
    let found = Client::new(proxy.address()).list("/registry/pods/").await.expect("a list");
    let found: Vec<(String, String)> = found
        .kvs
        .iter()
        .map(|kv| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (text(&kv.key), text(&kv.value))
        })
        .collect();
    assert!(found == filled, "{} of {} keys", found.len(), filled.len());
    told(&with(&["repair"], &contrary.home()), "").ends(0, "No key stands");
}
