//! Snapshots of processes at work, what becomes of them on a disk, and stores that are made from them.

use std::path::Path;
use std::time::Duration;

use kubebrain_proto::etcdserverpb::{
    DefragmentRequest, RangeRequest, RangeResponse, SnapshotRequest, SnapshotResponse,
};
use kubebrain_proto::mvccpb::Event;
use kubebrain_shared::fault::Fault;
use tonic::{Status, Streaming};

use crate::BINARY;
use crate::proxies::{GROUPS, cluster, table};
use kit::client::{Client, revision};
use kit::in_time;
use kit::process::{Process, Start};
use kit::watch::{key, mod_revision};

/// A kind of each group of `standalone`.
const KINDS: [&str; 3] = ["/registry/configmaps", "/registry/events", "/registry/pods"];

/// More than connections hold on their way, so that a snapshot takes until it is read.
async fn fill(client: &Client) {
    let work = (0..8).map(|worker| {
        let client = client.clone();
        tokio::spawn(async move {
            for number in 0..300 {
                let key = format!("{}/ns/{worker}-{:03}", KINDS[number % 3], number % 200);
                client.put(&key, vec![b'v'; 6000]).await.expect("a put");
                if number % 20 == 19 {
                    client.delete(&key).await.expect("a deletion");
                }
            }
        })
    });
    for worker in work.collect::<Vec<_>>() {
        worker.await.expect("no panic");
    }
}

async fn begin(client: &Client) -> (i64, Vec<u8>, Streaming<SnapshotResponse>) {
    let messages = client.maintenance().snapshot(SnapshotRequest {}).await;
    let mut messages = messages.expect("a snapshot").into_inner();
    let first = messages.message().await.expect("a message").expect("a message");
    (first.header.expect("every answer has a header").revision, first.blob.to_vec(), messages)
}

async fn rest(mut messages: Streaming<SnapshotResponse>, bytes: &mut Vec<u8>) -> Result<(), Status> {
    while let Some(message) = in_time("a snapshot", messages.message()).await? {
        bytes.extend_from_slice(&message.blob);
    }
    Ok(())
}

async fn all_at(client: &Client, revision: i64) -> RangeResponse {
    let range = RangeRequest { key: "/".into(), range_end: "0".into(), revision, ..Default::default() };
    client.range(range).await.expect("a range")
}

fn restore(file: &Path, into: &Path, flags: &[&str]) -> Result<String, String> {
    let into = format!("--data-dir={}", into.display());
    BINARY.ctl(["restore", file.to_str().expect("UTF-8"), &into].iter().chain(flags))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_under_writes_and_a_compaction_is_of_one_revision_and_restores_to_it() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    let client = Client::new(server.address());
    fill(&client).await;
    let busy = tokio::spawn({
        let client = client.clone();
        async move {
            for number in 0.. {
                let key = format!("{}/busy/{}", KINDS[number % 3], number % 7);
                if client.put(&key, "x").await.is_err() {
                    break;
                }
            }
        }
    });
    let (at, mut bytes, messages) = begin(&client).await;
    let wanted = client.hash_kv(at).await.expect("a hash");
    assert_eq!((wanted.hash_revision, wanted.compact_revision), (at, -1));
    let history = up_to(client.watch("/registry/", at - 100).await.events_to(at).await, at);
    assert!(history.len() >= 100, "{} events", history.len());
    client.compact(at).await.expect("a compaction");
    let compacted = client.hash_kv(at).await.expect("a hash");
    assert_eq!((compacted.hash, compacted.compact_revision), (wanted.hash, at), "history does not count");
    client.maintenance().defragment(DefragmentRequest {}).await.expect("defragments");
    assert_eq!(client.hash_kv(at).await.expect("a hash").hash, wanted.hash);
    assert!(
        matches!(client.hash_kv(at - 1).await, Err(status) if Fault::of(&status) == Some(Fault::Compacted))
    );
    rest(messages, &mut bytes).await.expect("the whole of it");
    assert!(bytes.len() > 8 << 20, "{} bytes are on their way at once", bytes.len());
    assert_eq!(bytes.len() % 512, 32);
    let rows = all_at(&client, at).await;
    busy.abort();
    let file = place.join("snapshot");
    std::fs::write(&file, &bytes).expect("a file");
    drop(server);
    let status = BINARY.ctl(["snapshot", "status", &text(&file), "--output=json"]).expect("a status");
    assert!(status.contains(&format!("\"hash\":{}", wanted.hash)), "HashKV of it: {status}");

    restore(&file, &place.join("restored"), &[]).expect("restores");
    let again = Start::standalone(&place).data_dir(&place.join("restored")).run().await;
    let client = Client::new(again.address());
    assert_eq!(all_at(&client, at).await.kvs, rows.kvs);
    let found = client.hash_kv(at).await.expect("a hash");
    assert_eq!((found.hash, found.compact_revision), (wanted.hash, -1));
    // Watches go on from before the snapshot, and writes after it.
    let mut watch = client.watch("/registry/", at - 100).await;
    let written = client.put("/registry/pods/ns/new", "x").await.expect("a put");
    assert_eq!(written, at + 1);
    let told = watch.events_to(written).await;
    assert_eq!(told.last().map(key).as_deref(), Some("/registry/pods/ns/new"));
    assert_eq!(up_to(told, at), history);
    client.compact(at).await.expect("a compaction");
    assert_eq!(client.hash_kv(at).await.expect("a hash").hash, wanted.hash);
    let again = again.restart().await;
    assert_eq!(Client::new(again.address()).put("/registry/pods/ns/newer", "x").await.ok(), Some(at + 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bumped_store_tells_old_watchers_and_lists_to_begin_anew() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    let client = Client::new(server.address());
    for kind in KINDS {
        client.put(&format!("{kind}/ns/a"), "old").await.expect("a put");
        client.put(&format!("{kind}/ns/a"), "new").await.expect("a put");
    }
    let file = place.join("snapshot");
    let saved =
        BINARY.ctl(["snapshot", "save", &text(&file), &format!("--endpoint=http://{}", server.address())]);
    assert!(saved.as_ref().is_ok_and(|said| said.contains("revision 7, 3 keys")), "{saved:?}");
    let status = BINARY.ctl(["snapshot", "status", &text(&file), "--output=json"]).expect("a status");
    let want = ["\"revision\":7", "\"totalKey\":3", "\"totalVersion\":6", "\"compacted\":-1"];
    assert!(want.iter().all(|part| status.contains(part)), "{status}");
    // Clients have seen more than the snapshot has.
    let seen = client.put("/registry/pods/ns/a", "after").await.expect("a put");
    drop(server);

    let into = place.join("bumped");
    let alone = restore(&file, &into, &["--bump-revision=1000"]).expect_err("half of it");
    assert!(alone.contains("--mark-compacted"), "{alone}");
    let alone = restore(&file, &into, &["--mark-compacted"]).expect_err("half of it");
    assert!(alone.contains("--bump-revision"), "{alone}");
    restore(&file, &into, &["--bump-revision=1000", "--mark-compacted"]).expect("restores");
    let again = Start::standalone(&place).data_dir(&into).run().await;
    let client = Client::new(again.address());
    let list = client.list("/registry/").await.expect("a list");
    assert_eq!(revision(&list), 1007);
    assert!(list.kvs.len() == 3 && list.kvs.iter().all(|kv| kv.value == "new" && kv.mod_revision <= 7));
    let old = RangeRequest { key: "/registry/pods/ns/a".into(), revision: seen, ..Default::default() };
    assert!(matches!(client.range(old).await, Err(status) if Fault::of(&status) == Some(Fault::Compacted)));
    let mut watch = client.watch("/registry/pods/", seen + 1).await;
    let refused = in_time("an answer", watch.response()).await.expect("no error").expect("an answer");
    assert!(refused.canceled && refused.compact_revision == 1007, "{refused:?}");
    assert_eq!(client.put("/registry/pods/ns/b", "x").await.ok(), Some(1008));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_in_processes_of_their_own_are_saved_through_a_proxy_and_restored_one_by_one() {
    let place = BINARY.place();
    let (brains, proxies) = cluster(&place).await;
    let client = Client::new(proxies[0].address());
    for number in 0..60 {
        let key = format!("{}/ns/{:03}", KINDS[number % 3], number % 30);
        client.put(&key, "x").await.expect("a put");
    }
    let whole = client.hash_kv(0).await.expect("a hash");
    // A brain answers for its own group, and the groups' hashes add up.
    let mut sum = 0_u32;
    for brain in &brains {
        let own = Client::new(brain.address()).hash_kv(whole.hash_revision).await.expect("a hash");
        assert_ne!(own.hash, whole.hash);
        sum = sum.wrapping_add(own.hash);
    }
    assert_eq!(sum, whole.hash);
    // A compaction that has reached one group counts for all of them.
    Client::new(brains[2].address()).compact(40).await.expect("a compaction");
    let (at, mut bytes, messages) = begin(&client).await;
    rest(messages, &mut bytes).await.expect("the whole of it");
    let wanted = client.hash_kv(at).await.expect("a hash");
    assert_eq!((wanted.compact_revision, at), (40, whole.hash_revision));
    assert!(matches!(client.hash_kv(39).await, Err(status) if Fault::of(&status) == Some(Fault::Compacted)));
    let rows = all_at(&client, at).await;
    assert_eq!(rows.kvs.len(), 30);
    let file = place.join("snapshot");
    std::fs::write(&file, &bytes).expect("a file");
    drop((proxies, brains));

    let owners = place.file("placement.yaml", &table(|_| "{}".to_owned()));
    let mut brains: Vec<Process> = Vec::new();
    for group in GROUPS {
        let into = place.join(&format!("{group}-again"));
        restore(&file, &into, &[&format!("--group={group}")]).expect("restores");
        brains.push(Start::brain(&place, group).placement(&owners).data_dir(&into).run().await);
    }
    let peer = |name: &str| {
        let found = GROUPS.iter().position(|group| *group == name).expect("a group");
        format!("{{ brains: [\"http://{}\"] }}", brains[found].peer_address())
    };
    let placement = place.file("placement.yaml", &table(peer));
    let proxy = Start::proxy(&place, "again", &placement).run().await;
    let client = Client::new(proxy.address());
    let found = client.hash_kv(at).await.expect("a hash");
    assert_eq!((found.hash, found.compact_revision), (wanted.hash, 40));
    assert_eq!(all_at(&client, at).await.kvs, rows.kvs);
    assert_eq!(client.put("/registry/pods/ns/new", "x").await.ok(), Some(at + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_or_cut_is_refused_and_leaves_no_store() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    let client = Client::new(server.address());
    fill(&client).await;
    let (_, mut bytes, messages) = begin(&client).await;
    rest(messages, &mut bytes).await.expect("the whole of it");

    // The server dies on the way.
    let (_, mut cut, messages) = begin(&client).await;
    drop(server);
    let ended = rest(messages, &mut cut).await;
    assert!(ended.is_err() && cut.len() < bytes.len(), "{ended:?} after {} bytes", cut.len());

    let into = place.join("restored");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 0x10;
    let mut sum = bytes.clone();
    *sum.last_mut().expect("a sum") ^= 1;
    let mut etcd = vec![0; 8192];
    etcd[16..20].copy_from_slice(&[0xed, 0xda, 0x0c, 0xed]);
    let at = format!("cut off at byte {}", bytes.len() - 1000);
    let cases: [(&str, &[u8], &str); 7] = [
        ("cut on the way", &cut, "cut off at byte"),
        ("shortened", &bytes[..bytes.len() - 1000], &at),
        ("flipped", &flipped, "is damaged at byte"),
        ("another sum", &sum, "its sha256 is not the one at its end"),
        ("an etcd's", &etcd, "snapshot of etcd (a bbolt database)"),
        ("something else", b"apiVersion: v1", "not a snapshot of kubebrain"),
        ("nothing", b"", "not a snapshot of kubebrain"),
    ];
    for (name, bytes, sentence) in cases {
        let file = place.join(name);
        std::fs::write(&file, bytes).expect("a file");
        for said in [restore(&file, &into, &[]), BINARY.ctl(["snapshot", "status", &text(&file)])] {
            let said = said.expect_err(name);
            assert!(said.contains(sentence) && said.contains(name), "{name}: {said}");
        }
        assert!(!into.join("store").exists() && !into.join("restore.unfinished").exists(), "{name}");
    }
    let file = place.join("another sum");
    restore(&file, &into, &["--skip-hash-check"]).expect("its records are whole");
    let taken = restore(&file, &into, &["--skip-hash-check"]).expect_err("there is a store already");
    assert!(taken.contains("is not empty, it has"), "{taken}");
    let gone = BINARY.ctl(["snapshot", "save", &text(&place.join("new")), "--endpoint=http://127.0.0.1:1"]);
    assert!(gone.is_err() && !place.join("new").exists() && !place.join("new.part").exists(), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_to_stop_cuts_a_snapshot_off() {
    let place = BINARY.place();
    let mut server = Start::standalone(&place).run().await;
    let client = Client::new(server.address());
    fill(&client).await;
    let (_, mut bytes, messages) = begin(&client).await;
    server.signal("TERM");
    // Time for it to hear of that, while nothing is taken; connections are given more than this to end.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let ended = rest(messages, &mut bytes).await;
    assert!(ended.is_err(), "it sent the whole of it first, {} bytes", bytes.len());
    let status = server.ended().await;
    assert!(status.success(), "{status}");
}

/// Events up to a revision. Groups count for themselves, so those of one revision may come in any order.
fn up_to(mut events: Vec<Event>, revision: i64) -> Vec<Event> {
    events.retain(|event| mod_revision(event) <= revision);
    events.sort_by_key(|event| (mod_revision(event), key(event)));
    events
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}
