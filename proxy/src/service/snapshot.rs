//! Hash, HashKV and Snapshot: of all groups at one revision.
//!
//! All groups are fenced, the highest of their revisions is read in each of them, and in each as if compacted at the
//! highest of their compacted revisions. So what comes out is what one store with all the keys would give, also where
//! a compaction reaches the groups one after the other meanwhile.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream;
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use kubebrain_proto::etcdserverpb::{HashKvRequest, HashKvResponse, HashRequest, HashResponse};
use kubebrain_proto::peer::export_response::Part;
use kubebrain_proto::peer::{ContentRequest, ContentResponse, ExportBegin, ExportRequest, ExportResponse};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::method;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::snapshot::{Content, Header, Messages};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;

use super::call::Call;
use crate::answer;
use crate::call::Ask;
use crate::core::Core;
use crate::fence::Advanced;
use crate::group::Group;
use crate::grpc::{self, Framed};

/// Messages that wait for a client.
const MESSAGES_MAX: usize = 4;
/// A client that takes nothing for so long gets no more: the groups keep from their sweeps what it is sent.
const STALLED: Duration = Duration::from_secs(60);
/// Groups are compacted one after the other, and soon after each other.
const ATTEMPTS: usize = 5;

/// Where all groups are read.
struct Moment {
    /// The groups, in the order of their names.
    groups: Vec<Arc<Group>>,
    /// A hash of who owns what.
    version: u64,
    revision: Revision,
    compacted: i64,
}

/// A group's section on its way.
struct Section {
    group: Arc<Group>,
    begin: ExportBegin,
    messages: answer::Messages,
}

impl Core {
    /// Fences all groups; `named` 0 is the highest of their revisions.
    async fn moment(&self, named: i64) -> Result<Moment, Status> {
        let table = self.table();
        let mut groups: Vec<Arc<Group>> = table.groups().map(Arc::clone).collect();
        groups.sort_by(|one, next| one.name().cmp(next.name()));
        let fences = groups.iter().map(|group| self.advance_fully(group, Revision::ZERO));
        let fences: Vec<Advanced> = try_join_all(fences).await?;
        let newest = fences.iter().map(|fenced| fenced.revision).max().unwrap_or_default();
        let compacted = fences.iter().map(|fenced| fenced.compacted).max().unwrap_or(-1);
        let named = if named == 0 { newest.to_wire() } else { named };
        if named < compacted.max(0) {
            return Err(Fault::Compacted.into());
        }
        let revision = Revision::checked_from(named).filter(|revision| *revision <= newest);
        let revision = revision.ok_or(Fault::FutureRevision)?;
        Ok(Moment { groups, version: table.document().table().version(), revision, compacted })
    }

    /// Each group's hash at one moment, added up; `None` where a group was compacted further.
    async fn contents(&self, moment: &Moment) -> Result<Option<Content>, Status> {
        let request = ContentRequest { revision: moment.revision.to_wire(), compacted: moment.compacted };
        let path = method::CONTENT;
        let asked = moment.groups.iter().map(|group| self.ask::<ContentResponse>(group, path, &request));
        let mut all = Content::default();
        for found in try_join_all(asked).await? {
            if found.compacted != moment.compacted {
                return Ok(None);
            }
            all.merge(found.hash);
        }
        Ok(Some(all))
    }

    async fn open_section(&self, group: &Arc<Group>, moment: &Moment) -> Result<Section, Status> {
        let request = ExportRequest { revision: moment.revision.to_wire(), compacted: moment.compacted };
        let path = method::EXPORT;
        let message = Framed::of(&request);
        let headers = HeaderMap::new();
        let ask = Ask::new(path, &headers, message);
        let answer = self.send(group, &ask).await.map_err(|_| Fault::Timeout)?;
        let mut messages = answer.messages(self.config.merged_bytes_max)?;
        match next_part(&mut messages).await? {
            Part::Begin(begin) => Ok(Section { group: Arc::clone(group), begin, messages }),
            Part::Records(_) | Part::End(_) => Err(out_of_order()),
        }
    }

    /// Every group's section, begun, at one moment.
    async fn open_sections(&self) -> Result<(Moment, Vec<Section>), Status> {
        let mut compacted = -1;
        for _ in 0..ATTEMPTS {
            let mut moment = self.moment(0).await?;
            moment.compacted = moment.compacted.max(compacted);
            let opened = moment.groups.iter().map(|group| self.open_section(group, &moment));
            match try_join_all(opened).await {
                Ok(sections) => {
                    let furthest = sections.iter().map(|section| section.begin.compacted).max();
                    compacted = furthest.unwrap_or(-1);
                    if sections.iter().all(|section| section.begin.compacted == moment.compacted) {
                        return Ok((moment, sections));
                    }
                }
                // Compacted past what was the newest revision a moment ago.
                Err(status) if Fault::of(&status) == Some(Fault::Compacted) => {}
                Err(status) => return Err(status),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(Fault::Timeout.into())
    }
}

impl Call<'_> {
    /// The hash of the rows of all groups, at one revision.
    pub(crate) async fn hash_kv(&self) -> Result<Response<Body>, Status> {
        let request: HashKvRequest = grpc::decode(self.message.message())?;
        for _ in 0..ATTEMPTS {
            let moment = self.core.moment(request.revision).await?;
            let content = match self.core.contents(&moment).await {
                Err(status) if Fault::of(&status) == Some(Fault::Compacted) && request.revision == 0 => {
                    continue;
                }
                content => content?,
            };
            let Some(content) = content else { continue };
            return Ok(grpc::answer(&HashKvResponse {
                header: Some(self.core.identity().header(self.core.floor.get())),
                hash: content.hash(),
                compact_revision: moment.compacted,
                hash_revision: moment.revision.to_wire(),
            }));
        }
        Err(Fault::Timeout.into())
    }

    /// The hash of everything that each group holds now: rows and leases.
    pub(crate) async fn hash(&self) -> Result<Response<Body>, Status> {
        let table = self.core.table();
        let path = method::HASH;
        let asked = table.groups().map(|group| self.core.ask::<HashResponse>(group, path, &HashRequest {}));
        let mut all = Content::default();
        try_join_all(asked).await?.iter().for_each(|found| all.merge(found.hash));
        let header = Some(self.core.identity().header(self.core.floor.get()));
        Ok(grpc::answer(&HashResponse { header, hash: all.hash() }))
    }

    /// All groups' sections, one after the other.
    pub(crate) async fn snapshot(&self) -> Result<Response<Body>, Status> {
        let (moment, sections) = self.core.open_sections().await?;
        let file = Header {
            revision: moment.revision.get(),
            compacted: moment.compacted,
            groups: moment.groups.iter().map(|group| group.name().as_str().to_owned()).collect(),
            placement_version: moment.version,
            store_prefix: sections
                .first()
                .map(|section| section.begin.store_prefix.clone())
                .unwrap_or_default(),
            program: concat!("kubebrain ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let header = self.core.identity().header(moment.revision);
        let rows = sections.iter().map(|section| section.begin.rows).sum();
        let version = self.core.config.etcd_version.clone();
        let messages = Messages::new(file, header, version, rows);
        let stop = self.core.stop_handle().ok_or(Fault::Stopped)?;
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        tokio::spawn(async move {
            let ended = tokio::select! {
                () = stop.asked() => Err(Fault::Stopped.into()),
                ended = relay(messages, sections, &sender) => ended,
            };
            // A proxy that stops does not wait for a client that does not read.
            drop(stop);
            let _gone = sender.send_timeout(ended.map(|()| None), STALLED).await;
        });
        Ok(grpc::response(Body::new(StreamBody::new(frames(receiver)))))
    }
}

/// A frame, or `None` for a good end.
type Sent = Result<Option<Bytes>, Status>;

async fn relay(
    mut messages: Messages,
    sections: Vec<Section>,
    sender: &mpsc::Sender<Sent>,
) -> Result<(), Status> {
    let send = async |message| -> Result<(), Status> {
        let frame = Ok(Some(Framed::of(&message).frame()));
        sender.send_timeout(frame, STALLED).await.map_err(|_| stalled())
    };
    for mut section in sections {
        loop {
            match next_part(&mut section.messages).await {
                Ok(Part::Records(part)) => {
                    for message in messages.records(&part.records, part.rows) {
                        send(message).await?;
                    }
                }
                Ok(Part::End(end)) => {
                    messages.end_group(end.rows, end.hash);
                    break;
                }
                Ok(Part::Begin(_)) => return Err(out_of_order()),
                Err(status) => {
                    tracing::warn!(group = %section.group.name(), %status, "a snapshot was not finished");
                    return Err(status);
                }
            }
        }
    }
    for message in messages.finish() {
        send(message).await?;
    }
    Ok(())
}

/// A stream that ends without a part was cut off.
async fn next_part(messages: &mut answer::Messages) -> Result<Part, Status> {
    let message = messages.next().await?.ok_or(Fault::Timeout)?;
    let message: ExportResponse = prost::Message::decode(message)
        .map_err(|error| Status::internal(format!("a brain's answer cannot be read: {error}")))?;
    message.part.ok_or_else(out_of_order)
}

fn out_of_order() -> Status {
    Status::internal("a brain's section of a snapshot is not in order")
}

fn stalled() -> Status {
    Status::unavailable("kubebrain: the snapshot was given up: nobody took it for a minute")
}

fn frames(receiver: mpsc::Receiver<Sent>) -> impl stream::Stream<Item = Result<Frame<Bytes>, Status>> + Send {
    stream::unfold(Some(receiver), |receiver| async {
        let mut receiver = receiver?;
        let end = match receiver.recv().await {
            Some(Ok(Some(frame))) => return Some((Ok(Frame::data(frame)), Some(receiver))),
            Some(Ok(None)) => Ok(()),
            Some(Err(status)) => Err(status),
            None => Err(stalled()),
        };
        Some((Ok(Frame::trailers(grpc::trailers(end))), None))
    })
}
