//! [`Identity`]: the ids that answers made here carry; learned from the home group.

use bytes::{Bytes, BytesMut};
use kubebrain_proto::etcdserverpb::ResponseHeader;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::wire;

/// Who answers, as etcd's header says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) raft_term: u64,
}

impl Identity {
    pub(crate) fn of(header: &ResponseHeader) -> Self {
        Self { cluster_id: header.cluster_id, member_id: header.member_id, raft_term: header.raft_term }
    }

    pub(crate) fn header(self, revision: Revision) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision: revision.to_wire(),
            raft_term: self.raft_term,
        }
    }

    /// [`Identity::header`] as field 1 of an answer, which is where every answer has it.
    pub(crate) fn put_header(self, answer: &mut BytesMut, revision: Revision) {
        let header = Bytes::from(prost::Message::encode_to_vec(&self.header(revision)));
        wire::put_bytes_field(answer, 1, &header);
    }
}
