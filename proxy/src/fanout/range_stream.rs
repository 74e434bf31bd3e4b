//! A RangeStream over several groups: their streams merged in key order as they come.
//!
//! Bounded: one chunk of each group and one chunk on its way out. Header, `more` and `count` stand on the last chunk
//! only; every chunk before it has rows, and the last one has too unless there are none at all.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use futures_util::stream;
use http::Response;
use http_body::Frame;
use http_body_util::StreamBody;
use kubebrain_shared::method;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::wire::{self, Fields, Value};
use tonic::Status;
use tonic::body::Body;

use super::merge::{Part, Row, put_rows, slice, unreadable};
use super::range::put_end;
use super::{Setback, Split, part};
use crate::answer::Messages;
use crate::core::Core;
use crate::grpc::{self, Framed};
use crate::identity::Identity;

/// A chunk is sent when it has grown to this.
const CHUNK_BYTES: usize = 256 * 1024;

impl Core {
    /// Opens the groups' streams and waits for the first chunk of each.
    ///
    /// # Errors
    /// [`Setback::Again`] where nothing was learned; otherwise what the client is told.
    pub(crate) async fn merged_stream(&self, split: &Split<'_>) -> Result<Response<Body>, Setback> {
        let Split { headers, message, groups, id } = *split;
        let plan = self.plan(message, groups).await?;
        let ask = plan.ask(method::RANGE_STREAM, headers, id);
        let bytes_max = self.config.merged_bytes_max;
        let sources = try_join_all(groups.iter().map(|group| {
            part(async {
                let answer = self.send(group, &ask).await.map_err(Setback::of_read)?;
                let messages =
                    answer.messages(bytes_max).map_err(|status| plan.refusal(status, bytes_max))?;
                let mut source = Source { messages: Some(messages), ..Source::default() };
                source.fill().await.map_err(|status| plan.refusal(status, bytes_max))?;
                Ok::<_, Setback>(source)
            })
        }))
        .await?;
        let limit = usize::try_from(plan.request.limit).unwrap_or(0);
        Ok(StreamMerge::new(sources, limit, plan.header(), self.identity()).into_response())
    }
}

/// One group's stream.
#[derive(Default)]
struct Source {
    /// `None` after its end.
    messages: Option<Messages>,
    rows: VecDeque<Row>,
    more: bool,
    count: i64,
}

struct StreamMerge {
    sources: Vec<Source>,
    limit: usize,
    revision: Revision,
    identity: Identity,
    taken: usize,
    cut: bool,
    chunk: Vec<Row>,
    chunk_bytes: usize,
}

enum Step {
    Chunk(Framed),
    Last(Framed),
}

impl Source {
    /// Waits until there are rows or the end.
    async fn fill(&mut self) -> Result<(), Status> {
        while self.rows.is_empty()
            && let Some(messages) = &mut self.messages
        {
            let Some(message) = messages.next().await? else {
                self.messages = None;
                break;
            };
            for field in Fields::new(&message) {
                let field = field.map_err(unreadable)?;
                if let (1, Value::Bytes(response)) = (field.number, field.value) {
                    self.add(&slice(&message, response))?;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, response: &Bytes) -> Result<(), Status> {
        let part = Part::read(response)?;
        self.more |= part.more;
        self.count += part.count; // on the last chunk only
        self.rows.extend(part.rows);
        Ok(())
    }
}

impl StreamMerge {
    fn new(sources: Vec<Source>, limit: usize, revision: Revision, identity: Identity) -> Self {
        Self { sources, limit, revision, identity, taken: 0, cut: false, chunk: Vec::new(), chunk_bytes: 0 }
    }

    async fn step(&mut self) -> Result<Step, Status> {
        loop {
            for source in &mut self.sources {
                source.fill().await?;
            }
            let heads = self
                .sources
                .iter()
                .enumerate()
                .filter_map(|(index, source)| source.rows.front().map(|row| (index, &row.key)));
            let Some(least) = heads.min_by(|a, b| a.1.cmp(b.1)).map(|(index, _)| index) else {
                return Ok(Step::Last(self.last()));
            };
            if self.limit != 0 && self.taken == self.limit {
                // the counts come at the end of each stream: read on, keep nothing
                self.cut = true;
                self.sources.iter_mut().for_each(|source| source.rows.clear());
                continue;
            }
            let full = (self.chunk_bytes >= CHUNK_BYTES).then(|| self.take_chunk());
            if let Some(row) = self.sources.get_mut(least).and_then(|source| source.rows.pop_front()) {
                self.chunk_bytes += row.raw.len();
                self.chunk.push(row);
                self.taken += 1;
            }
            if let Some(rows) = full {
                return Ok(Step::Chunk(framed(|answer| put_rows(answer, 2, &rows))));
            }
        }
    }

    fn take_chunk(&mut self) -> Vec<Row> {
        self.chunk_bytes = 0;
        std::mem::take(&mut self.chunk)
    }

    fn last(&mut self) -> Framed {
        let rows = self.take_chunk();
        let more = self.cut || self.sources.iter().any(|source| source.more);
        let count = self.sources.iter().map(|source| source.count).sum();
        framed(|answer| {
            self.identity.put_header(answer, self.revision);
            put_rows(answer, 2, &rows);
            put_end(answer, more, count);
        })
    }

    fn into_response(self) -> Response<Body> {
        let frames =
            stream::unfold(Some(Ok(self)), |state: Option<Result<Self, Result<(), Status>>>| async {
                let (frame, next) = match state? {
                    Err(end) => (Frame::trailers(grpc::trailers(end)), None),
                    Ok(mut merge) => match merge.step().await {
                        Ok(Step::Chunk(chunk)) => (Frame::data(chunk.frame()), Some(Ok(merge))),
                        Ok(Step::Last(chunk)) => (Frame::data(chunk.frame()), Some(Err(Ok(())))),
                        Err(status) => (Frame::trailers(grpc::trailers(Err(status))), None),
                    },
                };
                Some((Ok::<_, Status>(frame), next))
            });
        grpc::response(Body::new(StreamBody::new(frames)))
    }
}

/// A `RangeStreamResponse` with this inside.
fn framed(put: impl FnOnce(&mut BytesMut)) -> Framed {
    let mut inner = BytesMut::new();
    put(&mut inner);
    let mut outer = BytesMut::with_capacity(inner.len() + 12);
    wire::put_bytes_field(&mut outer, 1, &inner);
    Framed::new(&outer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubebrain_proto::etcdserverpb::RangeStreamResponse;
    use kubebrain_proto::mvccpb::KeyValue;
    use prost::Message as _;

    fn source(keys: impl Iterator<Item = u32>, value_bytes: usize) -> Source {
        let rows: VecDeque<_> = keys
            .map(|key| {
                let value = vec![b'v'; value_bytes].into();
                let kv = KeyValue { key: format!("{key:06}").into(), value, ..KeyValue::default() };
                super::super::merge::row(kv.encode_to_vec().into()).expect("readable")
            })
            .collect();
        Source { messages: None, more: false, count: rows.len() as i64, rows }
    }

    async fn chunks(sources: Vec<Source>, limit: usize) -> Vec<kubebrain_proto::etcdserverpb::RangeResponse> {
        let mut merge = StreamMerge::new(sources, limit, Revision::new(9), Identity::default());
        let mut chunks = Vec::new();
        loop {
            let (framed, last) = match merge.step().await.expect("merges") {
                Step::Chunk(framed) => (framed, false),
                Step::Last(framed) => (framed, true),
            };
            let chunk = RangeStreamResponse::decode(framed.message()).expect("decodes");
            chunks.push(chunk.range_response.expect("never nil"));
            if last {
                return chunks;
            }
        }
    }

    #[tokio::test]
    async fn only_the_last_chunk_has_a_header_and_none_is_empty() {
        let sources = vec![
            source((0..500).filter(|key| key % 3 == 0), 4096),
            source((0..500).filter(|key| key % 3 != 0), 4096),
        ];
        let chunks = chunks(sources, 0).await;
        assert!(chunks.len() > 3, "{} chunks", chunks.len());
        let (last, before) = chunks.split_last().expect("some");
        assert!(
            before.iter().all(|chunk| chunk.header.is_none() && chunk.count == 0 && !chunk.kvs.is_empty())
        );
        assert_eq!((last.count, last.more, last.kvs.is_empty()), (500, false, false));
        assert_eq!(last.header.as_ref().map(|header| header.revision), Some(9));
        let keys: Vec<_> = chunks.iter().flat_map(|chunk| &chunk.kvs).map(|kv| kv.key.clone()).collect();
        assert!(keys.is_sorted() && keys.len() == 500);
    }

    #[tokio::test]
    async fn a_limit_cuts_the_rows_and_not_the_count() {
        for limit in [1, 9, 10] {
            let chunks = chunks(vec![source(0..5, 1), source(5..10, 1)], limit).await;
            let last = chunks.last().expect("one");
            assert_eq!((last.kvs.len(), last.count, last.more), (limit, 10, limit < 10));
        }
    }
}
