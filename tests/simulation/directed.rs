//! Small worlds in which one thing happens: what seeds have found, and what they cannot say.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::watch_client::WatchClient;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_shared::group::GroupName;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::client::Client;
use crate::record::{Answer, Ask};
use crate::world::{Plan, World};

async fn world() -> (Arc<World>, Client) {
    let world = World::new(Plan::quiet()).await;
    let client = Client::new(Arc::clone(&world), 0, 0);
    (world, client)
}

async fn ask(client: &mut Client, ask: Ask) -> Result<Answer, Status> {
    client.ask(ask).await.expect("answered in time")
}

async fn put(client: &mut Client, key: &str) -> i64 {
    let put =
        pb::PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value: "v".into(), ..<_>::default() };
    ask(client, Ask::Put(put)).await.expect("put").revision()
}

/// A watch of everything.
async fn watch(
    world: &World,
    start_revision: i64,
) -> (mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>) {
    let (requests, body) = mpsc::channel(8);
    let create =
        pb::WatchCreateRequest { key: "\0".into(), range_end: "\0".into(), start_revision, ..<_>::default() };
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    requests.send(create).await.expect("room");
    let opened = WatchClient::new(world.channel(0)).watch(ReceiverStream::new(body)).await.expect("opens");
    (requests, opened.into_inner())
}

/// The revisions of the next so many events.
async fn events(stream: &mut Streaming<pb::WatchResponse>, count: usize) -> Vec<i64> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let next = timeout(Duration::from_secs(30), stream.message()).await;
        let response = next
            .unwrap_or_else(|_| panic!("no more than {heard:?} of {count}"))
            .expect("no end")
            .expect("no end");
        heard.extend(response.events.into_iter().filter_map(|event| event.kv).map(|kv| kv.mod_revision));
    }
    heard
}

#[tokio::test(start_paused = true)]
async fn a_lone_client_sees_dense_revisions() {
    let (_world, mut client) = world().await;
    for round in 0..10 {
        for (index, key) in
            ["/registry/pods/a/x", "/registry/configmaps/a/x", "/registry/events/a/x"].iter().enumerate()
        {
            assert_eq!(put(&mut client, key).await, 2 + round * 3 + index as i64, "{key}");
        }
    }
}

/// As in etcd: it has no time to live, and that is no error.
#[tokio::test(start_paused = true)]
async fn an_unknown_lease_has_no_time_to_live_and_no_keys() {
    let (_world, mut client) = world().await;
    for keys in [false, true] {
        let answer = ask(&mut client, Ask::TimeToLive(pb::LeaseTimeToLiveRequest { id: 404, keys })).await;
        let Ok(Answer::TimeToLive(lease)) = answer else { panic!("keys {keys}: {answer:?}") };
        assert_eq!(lease.ttl, -1, "keys {keys}");
    }
}

/// A table with other addresses is another table, though its version is the same.
#[tokio::test(start_paused = true)]
async fn a_watch_over_all_groups_goes_on_at_a_groups_new_address() {
    let (world, mut client) = world().await;
    let (_requests, mut stream) = watch(&world, 1).await;
    assert_eq!(put(&mut client, "/registry/pods/a/x").await, 2);
    assert_eq!(events(&mut stream, 1).await, [2]);
    world.move_brain(&GroupName::parse("pods").expect("a name")).await;
    assert_eq!(put(&mut client, "/registry/configmaps/a/x").await, 3);
    assert_eq!(put(&mut client, "/registry/pods/a/x").await, 4);
    assert_eq!(events(&mut stream, 2).await, [3, 4]);
}
