//! A list over several groups: streamed, it costs its proxy little memory, however large it is and however slowly it is read.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use kit::client::{Client, end_of};
use kit::exposition::scrape;
use kit::full_tier;
use kit::groups::Groups;
use kit::process::Start;
use kubebrain_proto::etcdserverpb::RangeRequest;
use kubebrain_proto::etcdserverpb::kv_client::KvClient;

use crate::BINARY;

const VALUE_BYTES: usize = 100 << 10;
const ABOVE_IDLE_BYTES: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streamed_list_over_groups_costs_little_memory() {
    let place = BINARY.place();
    let table = |at: &dyn Fn(&str) -> String| {
        let (core, pods) = (at("core"), at("pods"));
        format!(
            "home: core\ndefault: core\ngroups: {{ core: {core}, pods: {pods} }}\nkinds: [{{ kind: pods, group: pods }}]\n"
        )
    };
    let groups = Groups::start(&place, &["core", "pods"], &table, |start| start).await;
    let proxy = Start::joining(&place, "proxy", &[groups.peer_url("core")]).run().await;
    let client = Client::new(proxy.address());
    // A large list of each group: 1 GB together, or as much as shows that it is not held.
    let keys = if full_tier() { 10_000 } else { 2_000 };
    let kinds = ["nodes", "pods"];
    let writes = stream::iter(0..keys).map(|number| {
        let key = format!("/registry/{}/{number:06}", kinds[number % 2]);
        let client = &client;
        async move { client.put(&key, vec![b'v'; VALUE_BYTES]).await }
    });
    writes.buffer_unordered(16).for_each(async |written| assert!(written.is_ok(), "{written:?}")).await;

    let idle = proxy.resident_bytes();
    for pause in [Duration::ZERO, Duration::from_millis(2)] {
        let all = RangeRequest {
            key: "/registry/".into(),
            range_end: end_of("/registry/").into(),
            ..<_>::default()
        };
        let mut kv = KvClient::new(client.channel()).max_decoding_message_size(usize::MAX);
        let mut chunks = kv.range_stream(all).await.expect("a stream").into_inner();
        let (mut rows, mut count, mut most) = (0, 0, 0);
        while let Some(chunk) = chunks.message().await.expect("it goes on") {
            let chunk = chunk.range_response.unwrap_or_default();
            rows += chunk.kvs.len();
            count = count.max(chunk.count);
            most = most.max(proxy.resident_bytes().saturating_sub(idle));
            tokio::time::sleep(pause).await;
        }
        println!("{rows} rows of {VALUE_BYTES} bytes: the proxy had {} KiB above idle", most >> 10);
        assert_eq!((rows, count), (keys, keys as i64));
        assert!(most <= ABOVE_IDLE_BYTES, "{most} bytes above idle");
    }
}

/// What is begun and given up is over everywhere: nothing is at work for it, and nothing is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_lists_of_which_one_page_is_read_leave_nothing() {
    let place = BINARY.place();
    let table = |at: &dyn Fn(&str) -> String| {
        format!("home: core\ndefault: core\ngroups: {{ core: {} }}\n", at("core"))
    };
    let groups = Groups::start(&place, &["core"], &table, |start| start).await;
    let proxy = Start::joining(&place, "proxy", &[groups.peer_url("core")]).run().await;
    let client = Client::new(proxy.address());
    for number in 0..100 {
        client.put(&format!("/registry/pods/{number:03}"), vec![b'v'; VALUE_BYTES]).await.expect("a put");
    }
    let idle = proxy.resident_bytes();
    let all = RangeRequest {
        key: "/registry/pods/".into(),
        range_end: end_of("/registry/pods/").into(),
        ..<_>::default()
    };
    let begun = stream::iter(0..1000).map(|number| {
        let (all, client) = (all.clone(), &client);
        async move {
            let mut kv = KvClient::new(client.channel()).max_decoding_message_size(usize::MAX);
            if number % 2 == 0 {
                let mut chunks = kv.range_stream(all).await?.into_inner();
                chunks.message().await.map(drop) // and it goes away
            } else {
                let mut answer = Box::pin(kv.range(all));
                let _given_up = tokio::time::timeout(Duration::from_millis(number % 7), &mut answer).await;
                Ok(())
            }
        }
    });
    let refused: Vec<_> = begun.buffer_unordered(50).filter_map(async |begun| begun.err()).collect().await;
    assert!(refused.iter().all(|status| status.code() == tonic::Code::ResourceExhausted), "{refused:?}");
    kit::until("nothing at work", async || {
        let brain = scrape(groups.brains["core"].address()).await;
        let at_work = brain.value("kubebrain_kind_in_flight", &[("group", "core"), ("kind", "pods")]);
        let at_proxy = scrape(proxy.address()).await.value("kubebrain_proxy_requests_in_flight", &[]);
        (at_work == 0.0 && at_proxy == 0.0).then_some(())
    })
    .await;
    let grown = proxy.resident_bytes().saturating_sub(idle);
    assert!(grown <= ABOVE_IDLE_BYTES, "{grown} bytes above idle");
    assert_eq!(client.list("/registry/pods/").await.expect("a list").kvs.len(), 100);
}
