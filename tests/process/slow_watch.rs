//! Watches that are not read, and watches from long ago: they cost no memory of ours and miss nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use kubebrain_proto::etcdserverpb::WatchResponse;
use kubebrain_shared::wire::frame;
use prost::Message;

use crate::BINARY;
use kit::client::Client;
use kit::process::{Place, Process, Start};
use kit::raw::{Messages, Raw};
use kit::watch::{create, key, mod_revision};
use kit::{full_tier, in_time};

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const PODS: &str = "/registry/pods/";
/// What one watcher that does not read, or reads history, may cost.
const COST_BYTES: u64 = 32 << 20;
/// Writes on their way at once.
const WRITERS: usize = 128;
const CONNECTIONS: usize = 4;

/// Writes `count` pods; event `n` is of revision `n + 2`, the store was empty.
async fn write_pods(server: &Process, count: usize, keys: usize, value_bytes: usize) {
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| Client::new(server.address())).collect();
    let writes = stream::iter(0..count).map(|number| {
        let client = clients[number % CONNECTIONS].clone();
        async move {
            client
                .put(&format!("{PODS}ns/{:06}", number % keys), vec![b'x'; value_bytes])
                .await
                .expect("a put")
        }
    });
    let mut revisions: Vec<_> = writes.buffer_unordered(WRITERS).collect().await;
    revisions.sort_unstable();
    assert!(revisions.iter().copied().eq(2..count as i64 + 2), "one dense clock");
}

/// A watch whose client takes nothing until it is asked to: one window is all that may come.
async fn open_watch(raw: &mut Raw, start: i64) -> Messages {
    let (response, stream) = raw.open(WATCH, frame(&create(PODS, start).encode_to_vec())).await;
    let response = in_time("the head of a watch", response).await.expect("a watch stream");
    assert_eq!(response.status(), 200);
    // Dropped, it would reset the stream; it lives as long as the test.
    std::mem::forget(stream);
    Messages::new(response.into_body())
}

/// Reads every event of so many writes; fails unless each revision from 2 on comes once, in order.
async fn read_all(messages: &mut Messages, count: usize) {
    read_from(messages, 2, count).await;
}

/// As [`read_all`], from a later revision on.
async fn read_from(messages: &mut Messages, first: i64, count: usize) {
    let mut next = first;
    while next < count as i64 + 2 {
        let response = WatchResponse::decode(messages.next().await).expect("a watch response");
        assert!(!response.canceled, "{response:?}");
        for event in &response.events {
            assert_eq!(mod_revision(event), next, "{}", key(event));
            next += 1;
        }
        assert!(response.header.expect("a header").revision >= next - 1, "a header is not behind its events");
    }
}

/// Highest memory while some work is done.
async fn peak_bytes<T>(server: &Process, work: impl Future<Output = T>) -> (u64, T) {
    let peak = Arc::new(AtomicU64::new(server.resident_bytes()));
    let sample = async {
        loop {
            peak.fetch_max(server.resident_bytes(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let done = tokio::select! {
        done = work => done,
        () = sample => unreachable!("it goes on for ever"),
    };
    (peak.load(Ordering::Relaxed), done)
}

/// A window that is small, so that a watcher that lags is served from the engine, and caches that fill at once.
fn small(place: &Place) -> Start {
    Start::standalone(place)
        .flag("watch-window-bytes", "1048576")
        .flag("value-cache-bytes", "4194304")
        .flag("block-cache-bytes", "4194304")
}

/// The peak of memory while pods are written, and what a client that does not read gets when it does.
async fn written_with(watchers: usize, count: usize) -> u64 {
    let place = BINARY.place();
    let server = small(&place).run().await;
    let mut raws = Vec::new();
    for _ in 0..watchers {
        let mut raw = Raw::connect(server.address()).await;
        let messages = open_watch(&mut raw, 1).await;
        raws.push((raw, messages));
    }
    let work = async {
        write_pods(&server, count, count, 1 << 10).await;
        // What would be kept for a client that does not read is there by now.
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let (peak, ()) = peak_bytes(&server, work).await;
    for (_raw, messages) in &mut raws {
        read_all(messages, count).await;
    }
    peak
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_not_read_costs_no_memory_and_misses_nothing() {
    let count = if full_tier() { 100_000 } else { 10_000 };
    // More of them make what each costs stand out from what the heap does by itself.
    let watchers = 4;
    let without = written_with(0, count).await;
    let with = written_with(watchers, count).await;
    eprintln!(
        "{count} events of 1 KiB: {} KiB without, {} KiB with {watchers} that do not read",
        without >> 10,
        with >> 10
    );
    assert!(with.saturating_sub(without) < COST_BYTES, "{without} bytes without, {with} with");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_from_long_ago_costs_no_memory_and_misses_nothing() {
    // So that all of it at once would be far above the bound.
    let (count, value_bytes) = if full_tier() { (1_000_000, 16) } else { (50_000, 512) };
    let place = BINARY.place();
    let server = small(&place).flag("watch-window-bytes", "65536").run().await;
    write_pods(&server, count, 10_000, value_bytes).await;
    // What reading takes whatever its length, the heap's pages above all, is there before it is measured.
    let late = (count - count / 10) as i64;
    let mut raw = Raw::connect(server.address()).await;
    read_from(&mut open_watch(&mut raw, late).await, late, count).await;
    drop(raw);
    for round in ["as written", "after a compaction of nothing", "not read at first"] {
        let before = server.resident_bytes();
        let mut raw = Raw::connect(server.address()).await;
        let work = async {
            let mut messages = open_watch(&mut raw, if round == "as written" { 1 } else { 2 }).await;
            if round == "not read at first" {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            read_all(&mut messages, count).await;
        };
        let (peak, ()) = peak_bytes(&server, work).await;
        eprintln!(
            "{count} revisions from history, {round}: {} KiB, at most {} KiB",
            before >> 10,
            peak >> 10
        );
        assert!(peak.saturating_sub(before) < COST_BYTES, "{round}: {before} bytes before, at most {peak}");
        if round == "as written" {
            // Revision 1 is the empty store: nothing goes.
            Client::new(server.address()).compact(1).await.expect("a compaction of nothing");
        }
    }
}

/// etcd's headers say how far the store is, also while a watcher catches up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_a_watch_that_catches_up_do_not_go_back() {
    let place = BINARY.place();
    let server = small(&place).flag("watch-window-bytes", "65536").run().await;
    let count = 2000;
    write_pods(&server, count, 100, 16).await;
    let mut raw = Raw::connect(server.address()).await;
    let mut messages = open_watch(&mut raw, 1).await;
    let (mut shown, mut last) = (0, 0);
    while last < count as i64 + 1 {
        let response = WatchResponse::decode(messages.next().await).expect("a watch response");
        let header = response.header.expect("a header").revision;
        assert!(header >= shown, "a header went back from {shown} to {header}");
        shown = header;
        last = response.events.last().map_or(last, mod_revision);
    }
}
