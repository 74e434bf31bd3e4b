//! Hashes and snapshots: etcd's `HashKV`, `Hash` and `Snapshot`, and what proxies ask to answer them for all groups.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use kubebrain_net::probe::ETCD_VERSION;
use kubebrain_proto::etcdserverpb as wire;
use kubebrain_proto::peer::export_response::Part;
use kubebrain_proto::peer::{
    ContentRequest, ContentResponse, ExportBegin, ExportEnd, ExportRecords, ExportRequest, ExportResponse,
};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::snapshot::{Header, Messages};
use tokio::sync::mpsc;
use tonic::{Request, Status};

use super::inner::Inner;
use crate::copy::export::ExportPart;

/// Messages that wait for a client.
const MESSAGES_MAX: usize = 4;
/// A client that takes nothing for so long gets no more: what it is sent is kept from the sweep.
const STALLED: Duration = Duration::from_secs(60);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn revision(wire: i64) -> Result<Revision, Status> {
    // etcd knows no revision below 1 either, and says it like this.
    Revision::checked_from(wire)
        .ok_or_else(|| if wire < 0 { Fault::Compacted } else { Fault::FutureRevision }.into())
}

pub(super) async fn hash_kv(
    inner: Arc<Inner>,
    request: Request<wire::HashKvRequest>,
) -> Result<tonic::Response<wire::HashKvResponse>, Status> {
    let floor = inner.floor(request.metadata().as_ref())?;
    let at = revision(request.into_inner().revision)?;
    let found = inner.store.content(at, -1, floor).await?;
    let answer = wire::HashKvResponse {
        header: inner.header(found.header),
        hash: found.content.hash(),
        compact_revision: found.compacted,
        hash_revision: found.revision.to_wire(),
    };
    Ok(inner.answer(answer, found.header))
}

pub(super) async fn hash(
    inner: Arc<Inner>,
    _request: Request<wire::HashRequest>,
) -> Result<tonic::Response<wire::HashResponse>, Status> {
    let found = inner.store.content_of_all().await?;
    let answer = wire::HashResponse { header: inner.header(found.header), hash: found.content.hash() };
    Ok(inner.answer(answer, found.header))
}

pub(super) async fn content(
    inner: Arc<Inner>,
    request: Request<ContentRequest>,
) -> Result<tonic::Response<ContentResponse>, Status> {
    let floor = inner.floor(request.metadata().as_ref())?;
    let request = request.into_inner();
    let at = revision(request.revision)?;
    let found = inner.store.content(at, request.compacted, floor.max(at)).await?;
    let answer = ContentResponse {
        hash: found.content.hash(),
        revision: found.revision.to_wire(),
        compacted: found.compacted,
    };
    Ok(inner.answer(answer, found.header))
}

pub(super) async fn export(
    inner: Arc<Inner>,
    request: Request<ExportRequest>,
) -> Result<tonic::Response<Answers<ExportResponse>>, Status> {
    let floor = inner.floor(request.metadata().as_ref())?;
    let request = request.into_inner();
    let at = revision(request.revision)?;
    let export = inner.store.export(at, request.compacted, floor.max(at)).await?;
    let (header, stop) = (export.header, inner.stop.clone());
    let begin = Part::Begin(ExportBegin {
        revision: export.revision.to_wire(),
        compacted: export.compacted,
        rows: export.rows,
        store_prefix: inner.store.state().layout.prefix().clone(),
    });
    let first = futures_util::stream::iter([Ok(begin)]);
    let parts = futures_util::stream::unfold(Some((export, stop)), |state| async {
        let (mut export, stop) = state?;
        let part = tokio::select! {
            () = stop.asked() => Some(Err(Fault::Stopped)),
            part = export.next() => part,
        };
        match part {
            Some(Ok(ExportPart::Records(records, rows))) => {
                Some((Ok(Part::Records(ExportRecords { records, rows })), Some((export, stop))))
            }
            Some(Ok(ExportPart::End(end))) => {
                let rows = end.puts + end.tombstones;
                Some((Ok(Part::End(ExportEnd { rows, hash: end.hash })), None))
            }
            Some(Err(fault)) => Some((Err(Status::from(fault)), None)),
            None => Some((Err(Fault::Stopped.into()), None)),
        }
    });
    let answers = futures_util::StreamExt::chain(first, parts);
    let answers =
        futures_util::StreamExt::map(answers, |part| part.map(|part| ExportResponse { part: Some(part) }));
    let answers: Answers<ExportResponse> = Box::pin(answers);
    Ok(inner.answer(answers, header))
}

pub(super) async fn snapshot(
    inner: Arc<Inner>,
    request: Request<wire::SnapshotRequest>,
) -> Result<tonic::Response<Answers<wire::SnapshotResponse>>, Status> {
    let floor = inner.floor(request.metadata().as_ref())?;
    let mut export = inner.store.export(Revision::ZERO, -1, floor).await?;
    let shared = inner.store.state();
    let file = Header {
        revision: export.revision.get(),
        compacted: export.compacted,
        groups: vec![shared.group.as_str().to_owned()],
        placement_version: shared.held.load().table().version(),
        store_prefix: shared.layout.prefix().clone(),
        program: concat!("kubebrain ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let header = inner.header(export.revision).unwrap_or_default();
    let mut messages = Messages::new(file, header, ETCD_VERSION.to_owned(), export.rows);
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    let (revision, stop) = (export.header, inner.stop.clone());
    tokio::spawn(async move {
        let send = async |message| sender.send_timeout(message, STALLED).await.is_ok();
        loop {
            let part = tokio::select! {
                () = stop.asked() => Some(Err(Fault::Stopped)),
                part = export.next() => part,
            };
            match part.unwrap_or(Err(Fault::Stopped)) {
                Ok(ExportPart::Records(records, rows)) => {
                    for message in messages.records(&records, rows) {
                        if !send(Ok(message)).await {
                            return;
                        }
                    }
                }
                Ok(ExportPart::End(end)) => {
                    messages.end_group(end.puts + end.tombstones, end.hash);
                    for message in messages.finish() {
                        if !send(Ok(message)).await {
                            return;
                        }
                    }
                    return;
                }
                Err(fault) => {
                    let _gone = send(Err(Status::from(fault))).await;
                    return;
                }
            }
        }
    });
    let answers: Answers<wire::SnapshotResponse> = Box::pin(whole(receiver));
    Ok(inner.answer(answers, revision))
}

/// What the task sends; an error at the end unless the last message was among it.
fn whole(
    receiver: mpsc::Receiver<Result<wire::SnapshotResponse, Status>>,
) -> impl Stream<Item = Result<wire::SnapshotResponse, Status>> + Send {
    futures_util::stream::unfold(Some(receiver), |receiver| async {
        let mut receiver = receiver?;
        let Some(message) = receiver.recv().await else {
            let stalled =
                Status::unavailable("kubebrain: the snapshot was given up: nobody took it for a minute");
            return Some((Err(stalled), None));
        };
        let ended = message.as_ref().map_or(true, |message| message.remaining_bytes == 0);
        Some((message, (!ended).then_some(receiver)))
    })
}
