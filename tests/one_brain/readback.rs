//! What was committed, read back from the server itself: by a watch of everything from the first revision on. That
//! this watch is true is judged like anything else: acknowledged writes, lists and other watches must agree with it.

use std::time::Duration;

use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::watch_client::WatchClient;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_shared::placement::Placement;
use tokio::sync::mpsc;
use tokio::time::interval;
use tokio_stream::wrappers::ReceiverStream;

use crate::traffic::Stage;
use kit::in_time;
use kit::judge::readback::Readback;
use kit::judge::record::Committed;

/// The history up to `target`, and what is wrong with it in itself.
pub(crate) async fn history(
    stage: &Stage,
    placement: &Placement,
    target: i64,
) -> (Vec<Committed>, Vec<String>) {
    in_time("the history", committed(stage, placement, target)).await
}

async fn committed(stage: &Stage, placement: &Placement, target: i64) -> (Vec<Committed>, Vec<String>) {
    let (requests, body) = mpsc::channel(8);
    let create = pb::WatchCreateRequest {
        key: b"\0"[..].into(),
        range_end: b"\0"[..].into(),
        start_revision: 1,
        ..Default::default()
    };
    let send = |union| requests.try_send(pb::WatchRequest { request_union: Some(union) });
    send(RequestUnion::CreateRequest(create)).expect("there is room");
    let mut client = WatchClient::new(stage.channel()).max_decoding_message_size(usize::MAX);
    let opened = client.watch(ReceiverStream::new(body)).await;
    let mut responses = opened.expect("nothing is in trouble").into_inner();
    let mut ask = interval(Duration::from_millis(100));
    let mut read = Readback::default();
    loop {
        tokio::select! {
            response = responses.message() => {
                let response = response.expect("nothing is in trouble").expect("the stream goes on");
                assert!(!response.canceled, "{response:?}");
                let revision = response.header.as_ref().map_or(0, |header| header.revision);
                if response.events.is_empty() && !response.created && revision >= target {
                    break;
                }
                read.take(placement, response.events);
            }
            _ = ask.tick() => {
                let _full = send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            }
        }
    }
    (read.committed, read.wrong)
}
