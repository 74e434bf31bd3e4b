//! A Range over several groups: fence them, take the highest of their revisions, read each *at* it.
//!
//! Exact without a coordinator: every write acknowledged before the request is at or below R in its group, and a group
//! that was raised to R never again writes at or below it. Two round trips.

use std::sync::Arc;

use bytes::BytesMut;
use futures_util::future::try_join_all;
use http::{HeaderMap, Response};
use kubebrain_proto::etcdserverpb::RangeRequest;
use kubebrain_proto::etcdserverpb::range_request::SortTarget;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::method;
use kubebrain_shared::placement::DocumentId;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::wire;
use tonic::Status;
use tonic::body::Body;

use super::merge::{Order, Part, Row, merge, put_rows};
use super::{Setback, Split, part};
use crate::call::{Ask, Failure};
use crate::core::Core;
use crate::group::Group;
use crate::grpc::{self, Framed};
use crate::identity::Identity;

/// What is asked of all parts.
pub(crate) struct Plan {
    pub(crate) request: RangeRequest,
    /// What each group is sent.
    message: Framed,
    /// The header's revision: what the client may count on from now.
    pub(crate) revision: Revision,
    /// The client did not name a revision.
    at_now: bool,
}

impl Core {
    /// Fences the groups and decides at which revision all of them are read.
    ///
    /// # Errors
    /// For the client: not protobuf, or a group that does not answer.
    pub(crate) async fn plan(&self, message: &Framed, groups: &[Arc<Group>]) -> Result<Plan, Status> {
        let request: RangeRequest = grpc::decode(message.message())?;
        self.fence(groups).await?;
        // the floor is at or above what each of them answered
        let revision = self.floor.get();
        let at_now = request.revision <= 0;
        let message = message.with_fields(|fields| {
            if at_now && !self.config.planted(|seams| seams.read_parts_at_now) {
                wire::put_varint_field(fields, 4, revision.get());
            }
            if request.keys_only && request.sort_target() == SortTarget::Value {
                wire::put_varint_field(fields, 8, 0); // sorted by what is blanked only afterwards
            }
        });
        Ok(Plan { request, message, revision, at_now })
    }

    /// The whole answer, in memory.
    ///
    /// # Errors
    /// [`Setback::Again`] where nothing was learned; otherwise what the client is told.
    pub(crate) async fn merged_range(&self, split: &Split<'_>) -> Result<Response<Body>, Setback> {
        let Split { headers, message, groups, id } = *split;
        let plan = self.plan(message, groups).await?;
        let ask = plan.ask(method::RANGE, headers, id);
        let bytes_max = self.config.merged_bytes_max;
        let parts = try_join_all(groups.iter().map(|group| {
            part(async {
                let answer = self.send(group, &ask).await.map_err(Setback::of_read)?;
                answer.message(bytes_max).await.map_err(|status| plan.refusal(status, bytes_max))
            })
        }))
        .await?;
        if parts.iter().map(bytes::Bytes::len).sum::<usize>() > bytes_max {
            return Err(too_large(bytes_max).into());
        }
        let parts = parts.iter().map(Part::read).collect::<Result<Vec<_>, _>>()?;
        let answer = plan.merge(parts, self.identity())?.frame();
        self.config.metrics.all.merged_bytes.observe(answer.len() as f64);
        Ok(grpc::answer_framed(answer))
    }
}

fn too_large(bytes_max: usize) -> Status {
    Status::resource_exhausted(format!(
        "kubebrain: the answer from several groups exceeds {bytes_max} bytes: use RangeStream or a limit"
    ))
}

impl Plan {
    /// What each group is asked for.
    pub(crate) fn ask<'a>(&self, path: &'static str, headers: &'a HeaderMap, id: DocumentId) -> Ask<'a> {
        Ask { part: Some(id), ..Ask::new(path, headers, self.message.clone()) }
    }

    /// The header's revision. A named revision that every group has answered for is one that they have reached.
    pub(crate) fn header(&self) -> Revision {
        let named = Revision::checked_from(self.request.revision).filter(|_| !self.at_now);
        self.revision.max(named.unwrap_or_default())
    }

    /// A part's error. A revision that was compacted while it was read "at now" is looked up again.
    pub(crate) fn refusal(&self, status: Status, bytes_max: usize) -> Setback {
        match (Fault::of(&status), status.code()) {
            (Some(Fault::Compacted), _) if self.at_now => Setback::Again(Failure::Unknown),
            (Some(Fault::Timeout), _) => Setback::Again(Failure::Unknown),
            (None, tonic::Code::ResourceExhausted) => too_large(bytes_max).into(),
            _ => status.into(),
        }
    }

    fn merge(&self, parts: Vec<Part>, identity: Identity) -> Result<Framed, Status> {
        let count: i64 = parts.iter().map(|part| part.count).sum();
        let total: usize = parts.iter().map(|part| part.rows.len()).sum();
        let cut = parts.iter().any(|part| part.more);
        let limit = usize::try_from(self.request.limit).unwrap_or(0);
        let mut rows =
            merge(parts.into_iter().map(|part| part.rows).collect(), Order::of(&self.request), limit)?;
        let more = cut || rows.len() < total;
        if self.request.keys_only && self.request.sort_target() == SortTarget::Value {
            rows = rows.into_iter().map(blank).collect();
        }
        let mut answer =
            BytesMut::with_capacity(64 + rows.iter().map(|row| row.raw.len() + 6).sum::<usize>());
        identity.put_header(&mut answer, self.header());
        put_rows(&mut answer, 2, &rows);
        put_end(&mut answer, more, count);
        Ok(Framed::new(&answer))
    }
}

/// `more` and `count`, as protobuf writes them: not at all where they are zero.
pub(crate) fn put_end(answer: &mut BytesMut, more: bool, count: i64) {
    if more {
        wire::put_varint_field(answer, 3, 1);
    }
    if count != 0 {
        wire::put_varint_field(answer, 4, count.cast_unsigned());
    }
}

/// The row without its value.
fn blank(row: Row) -> Row {
    let raw = Framed::new(&row.raw).with_fields(|fields| wire::put_bytes_field(fields, 5, b"")).message();
    Row { key: row.key, raw }
}

#[cfg(test)]
mod tests {
    use kubebrain_proto::etcdserverpb::RangeResponse;
    use kubebrain_proto::mvccpb::KeyValue;
    use prost::Message as _;

    use super::*;

    fn part(keys: &[&str], more: bool, count: i64) -> Part {
        let kvs =
            keys.iter().map(|key| KeyValue { key: key.to_string().into(), ..KeyValue::default() }).collect();
        let message = RangeResponse { header: None, kvs, more, count }.encode_to_vec();
        Part::read(&message.into()).expect("readable")
    }

    fn merged(limit: i64, parts: Vec<Part>) -> (Vec<String>, bool, i64) {
        let request = RangeRequest { limit, ..RangeRequest::default() };
        let plan = Plan { request, message: Framed::new(b""), revision: Revision::new(7), at_now: true };
        let answer = plan.merge(parts, Identity::default()).expect("merges").message();
        let answer = RangeResponse::decode(answer).expect("decodes");
        assert_eq!(answer.header.expect("has one").revision, 7);
        let keys = answer.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
        (keys, answer.more, answer.count)
    }

    #[test]
    fn a_header_is_not_below_the_revision_that_was_read() {
        for (named, at_now, header) in [(9, false, 9), (3, false, 7), (0, true, 7)] {
            let request = RangeRequest { revision: named, ..RangeRequest::default() };
            let plan = Plan { request, message: Framed::new(b""), revision: Revision::new(7), at_now };
            assert_eq!(plan.header(), Revision::new(header), "read at {named}");
        }
    }

    #[test]
    fn limit_more_and_count_are_of_the_whole() {
        let keys = |keys: &[&str]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
        let two = || vec![part(&["a", "c"], false, 2), part(&["b"], false, 1)];
        assert_eq!(merged(0, two()), (keys(&["a", "b", "c"]), false, 3));
        assert_eq!(merged(3, two()), (keys(&["a", "b", "c"]), false, 3));
        assert_eq!(merged(2, two()), (keys(&["a", "b"]), true, 3));
        assert_eq!(merged(1, vec![part(&["a"], true, 9), part(&[], false, 0)]), (keys(&["a"]), true, 9));
        assert_eq!(
            merged(0, vec![part(&[], false, 4), part(&[], false, 3)]),
            (keys(&[]), false, 7),
            "count only"
        );
    }

    #[test]
    fn a_value_can_be_blanked_without_decoding() {
        let kv = KeyValue { key: "k".into(), value: "v".into(), mod_revision: 5, ..KeyValue::default() };
        let row = super::super::merge::row(kv.encode_to_vec().into()).expect("readable");
        let blanked = KeyValue::decode(blank(row).raw).expect("decodes");
        assert_eq!(blanked, KeyValue { value: bytes::Bytes::new(), ..kv });
    }
}
