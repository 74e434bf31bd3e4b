//! What a client would take for a difference from etcd: the progress of a quiet watcher, streamed ranges that name a
//! target and no order, and the order of a list of leases. On a brain, on one process of three groups, and over a proxy.

use std::time::Duration;

use kubebrain_net::dial::Channel;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::kv_client::KvClient;
use kubebrain_proto::etcdserverpb::lease_client::LeaseClient;
use kubebrain_proto::etcdserverpb::watch_client::WatchClient;
use pb::range_request::{SortOrder, SortTarget};
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::BINARY;
use kit::client::{Client, end_of};
use kit::in_time;
use kit::process::{Place, Process, Start};

const INTERVAL: Duration = Duration::from_millis(300);
/// Long enough for what must not come.
const SILENCE: Duration = Duration::from_millis(800);

/// A brain, a process of several groups, and a proxy before that brain: all that serve clients.
async fn servers(place: &Place) -> Vec<Process> {
    let interval = |start: Start| start.flag("watch-progress-notify-interval", "300ms");
    let brain = interval(Start::brain(place, "default")).run().await;
    let table = format!(
        "prefix: /registry\nhome: default\ndefault: default\ngroups: {{ default: {{ brains: [http://{}] }} }}\nkinds: []\n",
        brain.peer_address()
    );
    let proxy = Start::proxy(place, "proxy", &place.file("placement.yaml", &table)).run().await;
    vec![interval(Start::standalone(place)).run().await, proxy, brain]
}

/// A stream with one watcher, and the revision at which it was created.
struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
    created: i64,
}

impl Stream {
    async fn open(server: &Process, prefix: &str, start_revision: i64) -> Self {
        let (requests, inbound) = mpsc::channel(4);
        let create = pb::WatchCreateRequest {
            key: prefix.to_owned().into(),
            range_end: end_of(prefix).into(),
            start_revision,
            progress_notify: true,
            ..Default::default()
        };
        let mut client = WatchClient::new(Client::new(server.address()).channel());
        send(&requests, RequestUnion::CreateRequest(create)).await;
        let opened = in_time("a watch stream", client.watch(ReceiverStream::new(inbound))).await;
        let mut stream = Self { requests, responses: opened.expect("it opens").into_inner(), created: 0 };
        let first = in_time("a created watcher", stream.responses.message()).await;
        let first = first.expect("no error").expect("a response");
        assert!(first.created && !first.canceled, "{first:?}");
        stream.created = revision(&first);
        stream
    }

    async fn ask(&self) {
        send(&self.requests, RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    }

    /// The revision of the next progress of `id`: -1 is what was asked for.
    async fn progress(&mut self, id: i64) -> i64 {
        loop {
            let next = in_time("progress", self.responses.message()).await;
            let next = next.expect("no error").expect("the stream goes on");
            assert!(next.events.is_empty() && !next.canceled, "{next:?}");
            if next.watch_id == id {
                return revision(&next);
            }
        }
    }

    async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(SILENCE, self.responses.message()).await.is_err()
    }
}

async fn send(requests: &mpsc::Sender<pb::WatchRequest>, request: RequestUnion) {
    let request = pb::WatchRequest { request_union: Some(request) };
    requests.send(request).await.expect("the stream is open");
}

fn revision(response: &pb::WatchResponse) -> i64 {
    response.header.as_ref().map_or(0, |header| header.revision)
}

/// `WatchProgressRequest`s are how kube-apiserver knows that a cache of a quiet kind is fresh.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_watcher_from_now_is_told_its_progress() {
    let place = BINARY.place();
    for server in servers(&place).await {
        let client = Client::new(server.address());
        client.put("/registry/events/a", "1").await.expect("a put");
        for prefix in ["/registry/pods/", "/registry/"] {
            let mut now = Stream::open(&server, prefix, 0).await;
            let mut above = Stream::open(&server, prefix, now.created + 1).await;
            now.ask().await;
            above.ask().await;
            let created = now.created;
            assert_eq!(now.progress(-1).await, created, "{prefix}: asked for");
            for _ in 0..2 {
                assert_eq!(now.progress(0).await, created, "{prefix}: every {INTERVAL:?}");
            }
            assert!(above.is_silent().await, "{prefix}: as in etcd, it names a revision that is to come");
            let written = client.put("/other", "1").await.expect("a put");
            above.ask().await;
            now.ask().await;
            assert!(above.progress(-1).await >= written, "{prefix}");
            assert!(now.progress(-1).await >= written, "{prefix}");
        }
    }
}

async fn streamed(server: &Process, request: pb::RangeRequest) -> Result<Vec<String>, Status> {
    let mut kv = KvClient::new(Client::new(server.address()).channel());
    let mut chunks = kv.range_stream(request).await?.into_inner();
    let mut keys = Vec::new();
    while let Some(chunk) = in_time("a chunk", chunks.message()).await? {
        let chunk = chunk.range_response.expect("never nil");
        keys.extend(chunk.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()));
    }
    Ok(keys)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streamed_range_is_refused_only_for_an_order() {
    let place = BINARY.place();
    for server in servers(&place).await {
        let client = Client::new(server.address());
        let mut keys: Vec<String> = (0..40)
            .map(|number| format!("/registry/{}/{number:02}", ["pods", "events"][number % 2]))
            .collect();
        for (number, key) in keys.iter().enumerate().rev() {
            client.put(key, vec![b'z' - number as u8 % 20]).await.expect("a put");
        }
        keys.sort();
        let targets =
            [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
        for target in targets {
            for order in [SortOrder::None, SortOrder::Ascend, SortOrder::Descend] {
                let request = pb::RangeRequest {
                    key: "/registry/".into(),
                    range_end: end_of("/registry/").into(),
                    sort_target: target.into(),
                    sort_order: order.into(),
                    ..Default::default()
                };
                let what = format!("{target:?} {order:?}");
                match streamed(&server, request).await {
                    Ok(found) => {
                        let plain = order == SortOrder::None
                            || (target == SortTarget::Key && order == SortOrder::Ascend);
                        assert!(plain, "{what} is no order that can be streamed");
                        assert_eq!(found, keys, "{what}");
                    }
                    Err(status) => {
                        assert!(order != SortOrder::None, "{what}: {status}");
                        assert_eq!(status.code(), Code::Unimplemented, "{what}");
                        assert_eq!(status.message(), "RangeStream does not support custom sort orders");
                    }
                }
            }
        }
    }
}

async fn listed(leases: &mut LeaseClient<Channel>) -> Vec<i64> {
    let answer = leases.lease_leases(pb::LeaseLeasesRequest {}).await.expect("listed");
    answer.into_inner().leases.iter().map(|lease| lease.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_that_runs_out_soonest_is_listed_first() {
    let place = BINARY.place();
    for server in servers(&place).await {
        let mut leases = LeaseClient::new(Client::new(server.address()).channel());
        for (id, ttl) in [(1, 3000), (2, 1000), (3, 2000), (4, 1000)] {
            leases.lease_grant(pb::LeaseGrantRequest { id, ttl }).await.expect("granted");
        }
        assert_eq!(listed(&mut leases).await, [2, 4, 3, 1]);
        let renewed = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: 2 }]);
        let mut answers = leases.lease_keep_alive(renewed).await.expect("a stream").into_inner();
        assert_eq!(answers.message().await.expect("an answer").expect("an answer").ttl, 1000);
        assert_eq!(listed(&mut leases).await, [4, 2, 3, 1]);
        for id in 1..=4 {
            leases.lease_revoke(pb::LeaseRevokeRequest { id }).await.expect("revoked");
        }
    }
}
