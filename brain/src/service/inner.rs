//! What every call of a listener is answered with, and what all answers have in common.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use kubebrain_net::reflection::Reflection;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::metadata;
use kubebrain_shared::placement::DocumentId;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stop;
use tokio::time::sleep;
use tonic::Status;

use super::members::Members;
use crate::lead::command::WriteError;
use crate::store::{Reply, Store, Terms, Unserved};

/// How long a slave's streams outlive its master's term.
const LAST_WORD_WITHIN: Duration = Duration::from_millis(100);

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// etcd clients.
    Clients,
    /// Proxies and brains.
    Peers,
}

/// What an endpoint serves with.
pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) audience: Audience,
    pub(super) progress_interval: Duration,
    pub(super) name: String,
    pub(super) client_urls: Vec<String>,
    pub(super) peer_urls: Vec<String>,
    pub(super) members: Members,
    /// `None` where nobody but proxies ask.
    pub(super) reflection: Option<Reflection>,
    pub(super) stop: Stop,
}

/// An encoded answer.
pub(super) type Answered = Result<tonic::Response<Bytes>, Status>;

pub(super) fn no_floor() -> Status {
    Status::invalid_argument("kubebrain: the floor is not the number of a revision")
}

impl Inner {
    /// The floor that a proxy sends with a request; a client's own is not looked at.
    pub(super) fn floor(&self, headers: &HeaderMap) -> Result<Revision, Status> {
        match headers.contains_key(&metadata::FLOOR) && self.audience == Audience::Peers {
            false => Ok(Revision::ZERO),
            true => metadata::revision(headers, &metadata::FLOOR).ok_or_else(no_floor),
        }
    }

    /// The document by which this group is asked for its part. One that cannot be read is none that a group goes by.
    pub(super) fn part(&self, headers: &HeaderMap) -> Option<DocumentId> {
        let part = headers.get(&metadata::PART).filter(|_| self.audience == Audience::Peers)?;
        let unread = DocumentId { lineage: u64::MAX, number: u64::MAX };
        Some(part.to_str().ok().and_then(|part| part.parse().ok()).unwrap_or(unread))
    }

    /// On which terms a proxy asks for a range; a client has none.
    pub(super) fn terms(&self, headers: &HeaderMap) -> Result<Terms, Status> {
        let of_peer = |name| headers.get(name).filter(|_| self.audience == Audience::Peers);
        Ok(Terms {
            floor: self.floor(headers)?,
            part: self.part(headers),
            cut_from: of_peer(&metadata::CUT).and_then(|bytes| bytes.to_str().ok()?.parse().ok()),
            fenced: of_peer(&metadata::FENCED).is_some(),
        })
    }

    /// What a request is refused with. Keys that are about to go are refused to proxies like keys that are gone: they ask
    /// where the keys will be; a client that asks a brain asks it again.
    pub(super) fn refusal(&self, error: WriteError) -> Status {
        match (self.audience, error) {
            (Audience::Clients, WriteError::Unserved(Unserved::Changing(_))) => Fault::LeaderChanged.into(),
            (_, error) => error.into(),
        }
    }

    /// True of a watch stream whose proxy judges progress itself.
    pub(super) fn tells_all(&self, headers: &HeaderMap) -> bool {
        headers.contains_key(&metadata::PROGRESS) && self.audience == Audience::Peers
    }

    /// An answer, with its revision in the metadata where a proxy listens.
    pub(super) fn answer<T>(&self, message: T, revision: Revision) -> tonic::Response<T> {
        let mut response = tonic::Response::new(message);
        if self.audience == Audience::Peers {
            let mut headers = HeaderMap::with_capacity(1);
            headers.insert(metadata::REVISION, metadata::number(revision));
            *response.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
        }
        response
    }

    pub(super) fn reply(&self, reply: Reply) -> tonic::Response<Bytes> {
        let mut response = self.answer(reply.message, reply.revision);
        if let Some(share) = reply.share {
            response.extensions_mut().insert(share);
        }
        response
    }

    pub(super) fn header(&self, revision: Revision) -> Option<kubebrain_proto::etcdserverpb::ResponseHeader> {
        let identity = &self.store.state().identity();
        Some(kubebrain_proto::etcdserverpb::ResponseHeader {
            cluster_id: identity.cluster,
            member_id: identity.member,
            revision: revision.to_wire(),
            raft_term: identity.epoch,
        })
    }

    /// Returns when this brain leaves, and that had time to be said in the streams of slaves.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let stop = self.stop.clone();
        async move {
            stop.asked().await;
            sleep(LAST_WORD_WITHIN).await;
        }
    }
}
