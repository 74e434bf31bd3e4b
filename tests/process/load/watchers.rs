//! Many watchers: on as many connections, and on one stream.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::future::join_all;
use h2::SendStream;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_proto::etcdserverpb::{WatchCancelRequest, WatchCreateRequest, WatchRequest, WatchResponse};
use kubebrain_shared::wire::frame;
use prost::Message;

use super::{BOTH, Bounds, HEAP_BYTES, Hurt};
use kit::client::Client;
use kit::raw::{Messages, Raw, send_part};
use kit::watch::{key, mod_revision};
use kit::{full_tier, in_time};

const PODS: &str = "/registry/pods/watched/";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_with_a_watch_each_see_every_event_once() {
    let (count, writes) = if full_tier() { (1000, 50) } else { (200, 20) };
    for mode in BOTH {
        let mut hurt = Hurt::start(mode).await;
        let address = hurt.address().to_owned();
        let writer = Client::new(&address);
        let load = async {
            let mut watches = Vec::new();
            for _ in 0..count {
                watches.push(Client::new(&address).watch(PODS, 0).await);
            }
            let mut revisions = Vec::new();
            for number in 0..writes {
                let written = writer.put(&format!("{PODS}{number}"), "value").await;
                revisions.push(written.expect("a put"));
            }
            let last = *revisions.last().expect("some");
            let seen = join_all(watches.iter_mut().map(|watch| watch.events_to(last))).await;
            for events in seen {
                assert!(events.iter().map(mod_revision).eq(revisions.iter().copied()), "each once, in order");
            }
            watches
        };
        // A connection's own: h2, two windows, a corked socket, a stream.
        let bounds = Bounds { memory_bytes: count * (256 << 10) + HEAP_BYTES, share_permille: 5 };
        drop(hurt.under(&format!("{count} connections with a watch"), &bounds, load).await);
    }
}

/// One stream, written to by hand.
struct Stream {
    requests: SendStream<Bytes>,
    responses: Messages,
}

impl Stream {
    async fn ask(&mut self, requests: impl Iterator<Item = RequestUnion>) {
        // Each in a DATA frame of its own, as clients in Go do.
        for request in requests {
            let request = WatchRequest { request_union: Some(request) };
            let message = frame(&request.encode_to_vec());
            in_time("room for a request", send_part(&mut self.requests, message)).await;
        }
    }

    async fn next(&mut self) -> WatchResponse {
        WatchResponse::decode(self.responses.next().await).expect("a watch response")
    }
}

fn watched(number: usize, keys: usize) -> String {
    format!("{PODS}{:05}", number % keys)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_watchers_on_one_stream_are_created_in_order_hear_exactly_theirs_and_end() {
    // Fewer would not be too many frames for h2.
    let count: usize = 10_000;
    let (keys, writes) = (count / 10, if full_tier() { 200 } else { 20 });
    for mode in BOTH {
        let mut hurt = Hurt::start(mode).await;
        let address = hurt.address().to_owned();
        let writer = Client::new(&address);
        let load = async {
            let mut builder = h2::client::Builder::new();
            // Else h2 gives the connection up, at our end, for the many small answers that wait while we ask.
            builder.initial_window_size(16 << 20).initial_connection_window_size(64 << 20);
            let mut raw = Raw::connect_with(&address, builder, false).await;
            let (response, requests) = raw.open("/etcdserverpb.Watch/Watch", Bytes::new()).await;
            let response = in_time("the head of a watch", response).await.expect("a watch stream");
            let mut stream = Stream { requests, responses: Messages::new(response.into_body()) };
            let create = |number| {
                let key = watched(number, keys).into();
                RequestUnion::CreateRequest(WatchCreateRequest { key, ..Default::default() })
            };
            stream.ask((0..count).map(create)).await;
            for number in 0..count {
                let created = stream.next().await;
                assert!(created.created && !created.canceled, "{created:?}");
                assert_eq!(created.watch_id, number as i64, "creates are answered in order");
            }
            for number in 0..writes {
                let name = watched(number * 7, keys);
                let revision = writer.put(&name, "value").await.expect("a put");
                let (mut left, mut heard) = (count / keys, BTreeMap::new());
                while left > 0 {
                    let response = stream.next().await;
                    let events: Vec<_> =
                        response.events.iter().map(|event| (mod_revision(event), key(event))).collect();
                    assert_eq!(events, [(revision, name.clone())], "exactly the event of that write");
                    *heard.entry(response.watch_id as usize).or_insert(0) += 1;
                    left -= 1;
                }
                let ids: BTreeSet<_> = (0..count).filter(|id| watched(*id, keys) == name).collect();
                assert!(heard.keys().copied().eq(ids), "those who watch it");
                assert!(heard.values().all(|times| *times == 1), "once each");
            }
            let cancel = |number| RequestUnion::CancelRequest(WatchCancelRequest { watch_id: number as i64 });
            stream.ask((0..count).map(cancel)).await;
            for number in 0..count {
                let canceled = stream.next().await;
                assert!(canceled.canceled, "{canceled:?}");
                assert_eq!(canceled.watch_id, number as i64, "and so are cancels");
            }
            writer.put(&watched(0, keys), "value").await.expect("a put");
            drop(stream);
        };
        let bounds = Bounds { memory_bytes: count as u64 * (8 << 10) + HEAP_BYTES, share_permille: 5 };
        hurt.under(&format!("{count} watchers on one stream"), &bounds, load).await;
    }
}
