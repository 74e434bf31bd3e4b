//! One group's flood leaves the others' watches whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use kubebrain_shared::wire::frame;
use prost::Message;
use tokio::time::Instant;

use crate::BINARY;
use kit::client::Client;
use kit::process::Start;
use kit::raw::Raw;
use kit::watch::{create, key, mod_revision};
use kit::{full_tier, in_time};

const WRITERS: usize = 4;
const EVENTS: &str = "/registry/events/";
const PODS: &str = "/registry/pods/";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_events_leaves_watches_on_pods_whole() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    let (stop, flooded) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));

    let mut work = Vec::new();
    for _ in 0..WRITERS {
        let (client, stop, flooded) = (Client::new(server.address()), stop.clone(), flooded.clone());
        work.push(tokio::spawn(async move {
            let writes = |lane: usize| {
                let (client, stop, flooded) = (client.clone(), stop.clone(), flooded.clone());
                async move {
                    while !stop.load(Ordering::Relaxed) {
                        let number = flooded.fetch_add(1, Ordering::Relaxed);
                        let key = format!("{EVENTS}ns/{lane}-{:04}", number % 1000);
                        client.put(&key, vec![b'x'; 1 << 10]).await.expect("a put");
                    }
                }
            };
            futures_util::future::join_all((0..8).map(writes)).await;
        }));
    }
    let mut watching = Vec::new();
    for _ in 0..8 {
        let mut watch = Client::new(server.address()).watch(EVENTS, 0).await;
        watching.push(tokio::spawn(async move {
            while watch.next().await.is_ok_and(|events| events.is_some()) {}
        }));
    }
    // And two that take nothing.
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::connect(server.address()).await;
        let stream = raw.open("/etcdserverpb.Watch/Watch", frame(&create(EVENTS, 1).encode_to_vec())).await;
        idle.push((raw, stream));
    }

    let pods = Client::new(server.address());
    let mut watches = vec![
        pods.watch(PODS, 1).await,
        pods.watch(PODS, 1).await,
        Client::new(server.address()).watch(PODS, 1).await,
    ];
    let count = if full_tier() { 3000 } else { 300 };
    let mut written = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 0..count {
        let pod = format!("{PODS}ns/{:03}", number % 50);
        let began = Instant::now();
        let revision = match number % 7 {
            // There is something to delete by then.
            6 if number >= 50 => in_time("a delete", pods.delete(&pod)).await.expect("a delete"),
            _ => in_time("a put", pods.put(&pod, number.to_string())).await.expect("a put"),
        };
        written.push((revision, pod));
        for watch in &mut watches {
            let events = watch.events_to(revision).await;
            let seen: Vec<_> = events.iter().map(|event| (mod_revision(event), key(event))).collect();
            assert_eq!(seen, &written[written.len() - 1..]);
        }
        slowest = slowest.max(began.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    for work in work {
        in_time("the end of a writer", work).await.expect("no write failed");
    }
    let flooded = flooded.load(Ordering::Relaxed);
    eprintln!(
        "{flooded} events beside {count} pods; a pod's write and its three events took at most {slowest:?}"
    );
    assert!(flooded > count, "that was no flood: {flooded} events");
    // The same from history.
    let mut again = pods.watch(PODS, 1).await;
    let last = written.last().expect("some").0;
    let seen: Vec<_> =
        again.events_to(last).await.iter().map(|event| (mod_revision(event), key(event))).collect();
    assert_eq!(seen, written);
    watching.into_iter().for_each(|watch| watch.abort());
}
