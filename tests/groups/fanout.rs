//! Large lists through a proxy: put together from all brains of a group, whole also while brains are killed and asleep; and what
//! a proxy holds of them for clients that read slowly or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use kubebrain_proto::etcdserverpb::kv_client::KvClient;
use kubebrain_proto::etcdserverpb::{RangeRequest, RangeResponse};
use kubebrain_shared::method;
use kubebrain_shared::wire::frame;
use prost::Message as _;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Status;

use crate::elections::Group;
use kit::client::{Client, end_of, ready};
use kit::cluster::Cluster;
use kit::http1::get;
use kit::process::Process;
use kit::raw::Raw;
use kit::{full_tier, in_time};

const PREFIX: &str = "/registry/pods/";
const KEYS: usize = 6_000;
const VALUE_BYTES: usize = 1 << 10;

async fn counted(group: &Group, name: &str) -> f64 {
    let (_, page) = get(group.proxy.address(), "/metrics").await;
    let line = page.lines().find(|line| line.starts_with(&format!("{name}{{")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

async fn fill(client: &Client, value_bytes: usize) {
    let writes = stream::iter(0..KEYS).map(|number| {
        let mut value = number.to_string().into_bytes();
        value.resize(value_bytes, b'v');
        async move { client.put(&format!("{PREFIX}{number:06}"), value).await }
    });
    writes.buffer_unordered(64).for_each(async |written| assert!(written.is_ok(), "{written:?}")).await;
}

fn all() -> RangeRequest {
    RangeRequest { key: PREFIX.into(), range_end: end_of(PREFIX).into(), ..RangeRequest::default() }
}

async fn unary(client: &Client, request: RangeRequest) -> Result<RangeResponse, Status> {
    Ok(KvClient::new(client.channel())
        .max_decoding_message_size(usize::MAX)
        .range(request)
        .await?
        .into_inner())
}

async fn streamed(client: &Client, request: RangeRequest) -> Result<RangeResponse, Status> {
    let mut kv = KvClient::new(client.channel()).max_decoding_message_size(usize::MAX);
    let mut chunks = kv.range_stream(request).await?.into_inner();
    let mut whole = RangeResponse::default();
    while let Some(chunk) = chunks.message().await? {
        let chunk = chunk.range_response.unwrap_or_default();
        whole.kvs.extend(chunk.kvs);
        (whole.header, whole.more, whole.count) = (chunk.header, chunk.more, chunk.count);
    }
    Ok(whole)
}

/// Without what another member says of itself.
fn content(mut answer: RangeResponse) -> RangeResponse {
    if let Some(header) = &mut answer.header {
        (header.member_id, header.raft_term) = (0, 0);
    }
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_list_is_of_all_brains_and_the_one_that_a_brain_gives() {
    let Some(cluster) = Cluster::any().await else { return };
    let mut group = Group::start(&cluster, "fanout").await;
    let client = Client::new(group.proxy.address());
    fill(&client, VALUE_BYTES).await;
    let (master, _) = group.master();
    for request in [
        all(),
        RangeRequest { limit: 4_500, ..all() },
        RangeRequest { serializable: true, ..all() },
        RangeRequest { key: format!("{PREFIX}001000").into(), limit: 2_000, ..all() },
    ] {
        let before = counted(&group, "kubebrain_proxy_fanout_parts_total").await;
        let own = unary(&Client::new(group.brains[master].address()), request.clone()).await.expect("a list");
        let whole = unary(&client, request.clone()).await.expect("a list");
        let chunks = streamed(&client, request.clone()).await.expect("a list");
        assert!(content(own.clone()) == content(whole), "{request:?}: another answer");
        assert!(content(own) == content(chunks), "{request:?}: another stream");
        let parts = counted(&group, "kubebrain_proxy_fanout_parts_total").await - before;
        assert!(parts >= 4.0, "{parts} parts of {request:?}");
    }
    let served = stream::iter(&group.brains).then(async |brain| {
        let (_, page) = get(brain.address(), "/metrics").await;
        let line = page.lines().find(|line| line.starts_with("etcd_mvcc_range_total"));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0_f64)
    });
    let served: Vec<f64> = served.collect().await;
    assert!(served.iter().all(|ranges| *ranges > 5.0), "all brains have read parts: {served:?}");

    let expected = Arc::new(content(unary(&client, all()).await.expect("a list")));
    let (lists, rounds) = (Arc::new(AtomicUsize::new(0)), if full_tier() { 50 } else { 4 });
    let reading = tokio::spawn({
        let (client, expected, lists) =
            (Client::new(group.proxy.address()), Arc::clone(&expected), Arc::clone(&lists));
        async move {
            loop {
                let number = lists.load(Ordering::Relaxed);
                let list = match number % 2 {
                    0 => in_time("a list", unary(&client, all())).await,
                    _ => in_time("a list", streamed(&client, all())).await,
                };
                let list = list.unwrap_or_else(|status| panic!("list {number}: {status}"));
                let revision =
                    |list: &RangeResponse| list.header.as_ref().map_or(0, |header| header.revision);
                assert!(revision(&list) >= revision(&expected), "list {number} goes back");
                assert!(
                    list.kvs == expected.kvs && list.count == expected.count && !list.more,
                    "list {number} is another"
                );
                lists.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    for round in 0..rounds {
        let before = lists.load(Ordering::Relaxed);
        // Slaves, and now and then the master.
        let (master, _) = group.master();
        let at = if round % 4 == 3 { master } else { (master + 1 + round % 2) % group.brains.len() };
        sleep(Duration::from_millis(37 * (round as u64 % 7))).await;
        if round % 3 == 2 {
            group.brains[at].signal("STOP");
            sleep(Duration::from_secs(3)).await;
            group.brains[at].signal("CONT");
        } else {
            let mut brain = group.brains.remove(at);
            brain.kill().await;
            let start = brain.start();
            drop(brain);
            group.brains.insert(at, start.run().await);
        }
        ready(group.brains[at].address()).await;
        kit::until("a list more", async || {
            (lists.load(Ordering::Relaxed) > before + 1 || reading.is_finished()).then_some(())
        })
        .await;
        assert!(!reading.is_finished(), "the reader has ended in round {round}");
    }
    reading.abort();
    assert!(reading.await.is_err_and(|ended| ended.is_cancelled()), "every list was whole");
    let tries = counted(&group, "kubebrain_proxy_fanout_second_tries_total").await;
    println!(
        "{} lists over {rounds} kills and stops, {tries} parts asked for twice",
        lists.load(Ordering::Relaxed)
    );
}

/// What a proxy may take more than it took before its first list, while a client reads as fast as it can and some slowly.
const ABOVE_IDLE_BYTES: u64 = 64 << 20;
/// The same while `IDLERS` clients have begun a list and read nothing of it.
const ABOVE_IDLE_BYTES_OF_IDLERS: u64 = 64 << 20;
const IDLERS: usize = 30;

/// A client with a connection of its own that has asked for everything.
struct Asked {
    _raw: Raw,
    _request: h2::SendStream<Bytes>,
    answer: h2::client::ResponseFuture,
}

impl Asked {
    async fn by(method: &'static str, address: &str, list: &RangeRequest) -> Self {
        let mut raw = Raw::connect(address).await;
        let message = list.encode_to_vec();
        let (answer, request) = raw.ask(method, frame(&message)).await;
        Self { _raw: raw, _request: request, answer }
    }

    /// Reads so much a second until it is dropped.
    async fn read(self, bytes_per_second: f64) {
        let mut body = in_time("an answer's head", self.answer).await.expect("an answer").into_body();
        while let Some(piece) = body.data().await {
            let bytes = piece.expect("it goes on").len();
            sleep(Duration::from_secs_f64(bytes as f64 / bytes_per_second)).await;
            body.flow_control().release_capacity(bytes).expect("it was read");
        }
    }
}

/// The most memory that a process has while this is done, above what it had.
async fn grown<T>(process: &Process, before: u64, work: impl Future<Output = T>) -> (u64, T) {
    let mut most = before;
    let sample = async {
        loop {
            most = most.max(process.resident_bytes());
            sleep(Duration::from_millis(5)).await;
        }
    };
    let done = tokio::select! {
        done = work => done,
        never = sample => never,
    };
    (most - before, done)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_holds_little_of_lists_however_they_are_read() {
    let Some(cluster) = Cluster::any().await else { return };
    let group = Group::start(&cluster, "fanout").await;
    let client = Client::new(group.proxy.address());
    fill(&client, if full_tier() { 175 << 10 } else { 10 << 10 }).await;
    let idle = group.proxy.resident_bytes();

    let (address, methods) = (group.proxy.address(), [method::RANGE, method::RANGE_STREAM]);
    let mut slow = JoinSet::new();
    for number in 0..3 {
        slow.spawn(Asked::by(methods[number % 2], address, &all()).await.read(100.0 * 1024.0));
    }
    let lists = async {
        for _ in 0..2 {
            in_time("a list", unary(&client, all())).await.expect("a list");
            in_time("a list", streamed(&client, all())).await.expect("a list");
        }
    };
    let (of_slow, ()) = grown(&group.proxy, idle, lists).await;
    if full_tier() {
        sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(slow.len(), 3);
    assert!(slow.try_join_next().is_none(), "whoever reads slowly is not cut off");
    slow.shutdown().await;

    // About 60 MB in both tiers: so many of 1 GB would take all that brains have for answers.
    let some = RangeRequest { limit: if full_tier() { 350 } else { 0 }, ..all() };
    let idlers = async {
        let mut idlers = Vec::new();
        for number in 0..IDLERS {
            idlers.push(Asked::by(methods[number % 2], address, &some).await);
        }
        sleep(Duration::from_secs(1)).await;
        in_time("a list", unary(&client, some.clone())).await.expect("a list");
        in_time("a list", streamed(&client, some.clone())).await.expect("a list");
        in_time("a write", client.put("/registry/pods/zzz", "x")).await.expect("a write");
        idlers
    };
    let (of_idlers, idlers) = grown(&group.proxy, idle, idlers).await;
    drop(idlers);
    let tries = counted(&group, "kubebrain_proxy_fanout_second_tries_total").await;
    println!(
        "a proxy above idle: {} KiB with slow readers, {} KiB with {IDLERS} that read nothing; {tries} parts asked for twice",
        of_slow >> 10,
        of_idlers >> 10
    );
    assert!(of_slow <= ABOVE_IDLE_BYTES, "{of_slow} bytes with slow readers");
    assert!(of_idlers <= ABOVE_IDLE_BYTES_OF_IDLERS, "{of_idlers} bytes with {IDLERS} that read nothing");
    // What they held is free again.
    kit::until("a list of all brains", async || {
        let before = counted(&group, "kubebrain_proxy_fanout_parts_total").await;
        unary(&client, all()).await.expect("a list");
        (counted(&group, "kubebrain_proxy_fanout_parts_total").await > before).then_some(())
    })
    .await;
}
