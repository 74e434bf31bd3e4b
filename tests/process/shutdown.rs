//! SIGTERM: everything acknowledged is there, and nobody is told that all is well.

use std::sync::Arc;
use std::time::Duration;

use kubebrain_proto::mvccpb::Event;
use parking_lot::Mutex;
use tonic::{Code, Status};

use crate::BINARY;
use kit::client::{Client, revision};
use kit::process::{Process, Start};
use kit::watch::{Watch, key, mod_revision};
use kit::{in_time, until};

const WRITERS: usize = 32;
const PREFIXES: [&str; 4] = ["/registry/pods/", "/registry/events/", "/registry/leases/", "/"];

/// A write that was answered with success.
#[derive(Clone, Debug)]
struct Acked {
    key: String,
    revision: i64,
}

/// Writes new keys of three kinds until that fails.
async fn write(client: Client, writer: usize, acked: Arc<Mutex<Vec<Acked>>>) -> Status {
    for number in 0.. {
        let key = format!("{}w{writer:02}/{number:05}", PREFIXES[number % 3]);
        match client.put(&key, format!("{writer} {number}")).await {
            Ok(revision) => acked.lock().push(Acked { key, revision }),
            Err(status) => return status,
        }
    }
    unreachable!("a writer goes on for ever")
}

/// Reads until the stream ends.
async fn follow(mut watch: Watch) -> (Vec<Event>, Option<Status>) {
    let mut events = Vec::new();
    loop {
        match watch.next().await {
            Ok(Some(more)) => events.extend(more),
            Ok(None) => return (events, None),
            Err(status) => return (events, Some(status)),
        }
    }
}

async fn drain(mut server: Process) {
    let acked = Arc::new(Mutex::new(Vec::new()));
    let watching = Client::new(server.address());
    let mut watches = Vec::new();
    for prefix in PREFIXES {
        watches.push((prefix, tokio::spawn(follow(watching.watch(prefix, 1).await))));
    }
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            // Some share a connection.
            let client = Client::new(server.address());
            tokio::spawn(write(client, writer, acked.clone()))
        })
        .collect();
    until("writes", async || (acked.lock().len() > 1000).then_some(())).await;
    server.signal("TERM");

    let status = server.ended().await;
    assert_eq!(status.code(), Some(0), "{}", server.log());
    for writer in writers {
        let status = in_time("the end of a writer", writer).await.expect("no panic");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    let mut streams = Vec::new();
    for (prefix, watch) in watches {
        let (events, end) = in_time("the end of a watch", watch).await.expect("no panic");
        let end = end.unwrap_or_else(|| panic!("the watch on {prefix} ended with OK"));
        assert_eq!(end.code(), Code::Unavailable, "{prefix}: {end:?}");
        streams.push((prefix, events));
    }

    let mut again = server.start().run().await;
    again.must_run();
    let client = Client::new(again.address());
    let all = client.list("/").await.expect("a list");
    let acked = std::mem::take(&mut *acked.lock());
    for write in &acked {
        let found = all.kvs.iter().find(|kv| kv.key == write.key.as_bytes());
        assert_eq!(found.map(|kv| kv.mod_revision), Some(write.revision), "{write:?} was acknowledged");
    }
    let last = all.kvs.iter().map(|kv| kv.mod_revision).max().expect("keys");
    assert_eq!(revision(&all), last, "a graceful restart uses no revisions");
    assert_eq!(client.put("/registry/pods/next", "x").await.expect("a put"), last + 1);
    assert_eq!(client.put("/registry/leases/next", "x").await.expect("a put"), last + 2);

    // What a watch has shown is what is there: a beginning of it, in order.
    for (prefix, events) in streams {
        let mut kept: Vec<_> = all.kvs.iter().filter(|kv| kv.key.starts_with(prefix.as_bytes())).collect();
        kept.sort_by_key(|kv| kv.mod_revision);
        assert!(
            !events.is_empty() && events.len() <= kept.len(),
            "{prefix}: {} of {}",
            events.len(),
            kept.len()
        );
        let revisions: Vec<_> = events.iter().map(mod_revision).collect();
        let expected: Vec<_> = kept.iter().map(|kv| kv.mod_revision).take(events.len()).collect();
        assert_eq!(revisions, expected, "{prefix}");
        for event in &events {
            assert!(kept.iter().any(|kv| kv.key == key(event).as_bytes()), "{prefix}: {event:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standalone_drains_when_it_is_terminated() {
    let place = BINARY.place();
    drain(Start::standalone(&place).run().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brain_drains_when_it_is_terminated() {
    let place = BINARY.place();
    drain(Start::brain(&place, "default").run().await).await;
}

/// As above with nobody inside: it does not wait for the drain time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_process_ends_at_once() {
    let place = BINARY.place();
    let mut server = Start::standalone(&place).run().await;
    let client = Client::new(server.address());
    client.put("/registry/pods/a", "x").await.expect("a put");
    let began = tokio::time::Instant::now();
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0));
    // The client's connection is open and idle.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// kill -9 in the middle, three times: nothing acknowledged is lost, no revision is used twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_keeps_what_it_acknowledged() {
    let place = BINARY.place();
    let mut server = Start::standalone(&place).run().await;
    let acked = Arc::new(Mutex::new(Vec::<Acked>::new()));
    for round in 1..=3 {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                tokio::spawn(write(Client::new(server.address()), writer + round * 100, acked.clone()))
            })
            .collect();
        until("writes", async || (acked.lock().len() > 400 * round).then_some(())).await;
        let start = server.start();
        drop(server);
        for writer in writers {
            let status = in_time("the end of a writer", writer).await.expect("no panic");
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        }
        server = start.run().await;
        let all = Client::new(server.address()).list("/").await.expect("a list");
        for write in acked.lock().iter() {
            let found = all.kvs.iter().find(|kv| kv.key == write.key.as_bytes());
            assert_eq!(found.map(|kv| kv.mod_revision), Some(write.revision), "{write:?} was acknowledged");
        }
        let newest = all.kvs.iter().map(|kv| kv.mod_revision).max().expect("keys");
        assert!(revision(&all) >= newest);
    }
}
