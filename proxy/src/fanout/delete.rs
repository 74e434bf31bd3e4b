//! A DeleteRange over several groups: each deletes its part at its own revision. It is not one atomic step.

use std::collections::BTreeMap;

use bytes::BytesMut;
use futures_util::future::join_all;
use http::Response;
use kubebrain_proto::etcdserverpb::ResponseHeader;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::method;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::wire::{self, Fields, Value};
use tonic::Status;
use tonic::body::Body;

use super::merge::{Order, Row, merge, put_rows, row, slice, unreadable};
use super::{Setback, Split, part};
use crate::call::{Ask, Failure};
use crate::core::Core;
use crate::grpc::{self, Framed};

/// What the groups that are done have deleted; a group is asked until it answered once.
#[derive(Default)]
pub(crate) struct Deleted {
    done: BTreeMap<GroupName, (i64, Vec<Row>)>,
    revision: Revision,
}

impl Core {
    /// Deletes in the groups that are not done yet.
    ///
    /// # Errors
    /// [`Setback::Again`] if some surely did nothing; `Unavailable` where one may have.
    pub(crate) async fn merged_delete(
        &self,
        split: &Split<'_>,
        deleted: &mut Deleted,
    ) -> Result<Response<Body>, Setback> {
        let Split { headers, message, groups, id } = *split;
        let ask = Ask { part: Some(id), ..Ask::new(method::DELETE_RANGE, headers, message.clone()) };
        let open = groups.iter().filter(|group| !deleted.done.contains_key(group.name()));
        let ask = &ask;
        let answers =
            join_all(open.map(|group| async move { (group, part(self.send(group, ask)).await) })).await;
        let mut setback = None;
        for (group, answer) in answers {
            let message = match answer {
                Ok(answer) => answer.message(self.config.merged_bytes_max).await,
                Err(Failure::Unknown) => Err(Fault::Timeout.into()),
                Err(failure @ (Failure::NotSent | Failure::NotOwner)) => {
                    setback.get_or_insert(Setback::Again(failure));
                    continue;
                }
            };
            match message.and_then(|message| deleted.add(group.name(), &message)) {
                Ok(()) => {}
                Err(status) => setback = Some(Setback::Refused(status)),
            }
        }
        match setback {
            Some(setback) => Err(setback),
            None => Ok(deleted.answer(self)?),
        }
    }
}

impl Deleted {
    /// True if a group has deleted its part already.
    pub(crate) fn is_begun(&self) -> bool {
        !self.done.is_empty()
    }

    fn add(&mut self, group: &GroupName, message: &bytes::Bytes) -> Result<(), Status> {
        let (mut count, mut rows) = (0, Vec::new());
        for field in Fields::new(message) {
            let field = field.map_err(unreadable)?;
            match (field.number, field.value) {
                (1, Value::Bytes(header)) => {
                    let header: ResponseHeader = prost::Message::decode(header)
                        .map_err(|error| Status::internal(error.to_string()))?;
                    let revision = Revision::checked_from(header.revision);
                    self.revision = self.revision.max(revision.unwrap_or_default());
                }
                (2, Value::Varint(deleted)) => count = deleted.cast_signed(),
                (3, Value::Bytes(raw)) => rows.push(row(slice(message, raw)).map_err(unreadable)?),
                _ => {}
            }
        }
        self.done.insert(group.clone(), (count, rows));
        Ok(())
    }

    fn answer(&mut self, core: &Core) -> Result<Response<Body>, Status> {
        let done = std::mem::take(&mut self.done);
        let count: i64 = done.values().map(|(count, _)| *count).sum();
        let rows = merge(done.into_values().map(|(_, rows)| rows).collect(), Order::Key, 0)?;
        let mut answer = BytesMut::new();
        core.identity().put_header(&mut answer, self.revision);
        if count != 0 {
            wire::put_varint_field(&mut answer, 2, count.cast_unsigned());
        }
        put_rows(&mut answer, 3, &rows);
        Ok(grpc::answer_framed(Framed::new(&answer).frame()))
    }
}
