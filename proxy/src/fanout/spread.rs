//! A range of one group that is read from several of its brains at once.
//!
//! The brain that is asked first finds out, by its index, that a range is large, and says how it is cut instead of reading
//! it: a small one costs no trip more. The parts come from all brains that are up to date and leave in the order of their keys,
//! as one answer: exactly what one brain would have given. Nothing but parts that are ahead is held, and that has a bound for
//! each answer and for all of them; where all is taken, one brain answers.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use kubebrain_proto::etcdserverpb::RangeRequest;
use kubebrain_proto::peer::CutPart;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::metadata::CUT_PART_BYTES as PART_BYTES;
use kubebrain_shared::wire;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tonic::body::Body;

use super::Setback;
use super::cut::Cut;
use super::parts::{AHEAD, Parts, Source};
use crate::answer::Answer;
use crate::call::Failure;
use crate::core::Core;
use crate::group::Group;
use crate::grpc::{self, Framed};

/// More brains would share a range without being faster: one connection to a client is what bounds it then.
const SHARERS_MAX: usize = 8;

/// What is spread.
pub(crate) struct Large<'a> {
    pub(crate) group: &'a Arc<Group>,
    /// The client's headers, as far as brains may see them.
    pub(crate) headers: &'a HeaderMap,
    /// The request as it came.
    pub(crate) message: &'a Framed,
    /// The client has asked for a stream.
    pub(crate) streams: bool,
}

impl Core {
    /// Puts an answer together; `answer` says how it is cut. `None` where one brain had better answer: too many are put together
    /// already, or nobody is there to share it.
    ///
    /// # Errors
    /// [`Setback::Again`] where the whole is to be done again; otherwise what the client is told.
    pub(crate) async fn spread(
        self: &Arc<Self>,
        large: &Large<'_>,
        answer: Answer,
    ) -> Result<Option<Response<Body>>, Setback> {
        let cut = Cut::read(answer.message(self.config.merged_bytes_max).await?)?;
        let mut nodes = large.group.sharers();
        nodes.truncate(SHARERS_MAX);
        let held = held(&cut.parts, nodes.len());
        let permit = Arc::clone(&self.fanouts).try_acquire_many_owned(held).ok();
        let (Some(permit), Some(bytes), 2..) = (permit, cut.answer_bytes(), nodes.len()) else {
            return Ok(None);
        };
        let request: RangeRequest = grpc::decode(large.message.message())?;
        let mut parts = Parts::new(Source {
            core: Arc::clone(self),
            group: Arc::clone(large.group),
            headers: large.headers.clone(),
            revision: cut.revision,
            keys_only: request.keys_only,
            parts: cut.parts.clone(),
            nodes,
        });
        // Until something has left, all of it can be done again.
        let first = parts.next().await.map_err(|setback| match setback {
            Setback::Refused(status)
                if request.revision <= 0 && Fault::of(&status) == Some(Fault::Compacted) =>
            {
                Setback::Again(Failure::Unknown)
            }
            setback => setback,
        })?;
        let mut spread = Spread {
            cut,
            parts,
            streams: large.streams,
            ready: VecDeque::new(),
            is_over: false,
            _permit: permit,
        };
        if !large.streams {
            spread.ready.push_back(Bytes::copy_from_slice(&wire::frame_prefix(bytes)));
            spread.ready.push_back(spread.cut.head.clone());
        }
        first.into_iter().for_each(|rows| spread.put(rows));
        Ok(Some(spread.into_response()))
    }
}

/// How many parts of [`PART_BYTES`] an answer may hold: those that are ahead and the one that leaves, each as large as the largest,
/// which one row can make many times so large.
fn held(parts: &[CutPart], nodes: usize) -> u32 {
    let count = parts.len().min(AHEAD * nodes + 1) as u64;
    let largest = parts.iter().map(|part| part.bytes).max().unwrap_or_default();
    u32::try_from(count.saturating_mul(largest.div_ceil(PART_BYTES).max(1))).unwrap_or(u32::MAX)
}

/// An answer on its way.
struct Spread {
    cut: Cut,
    parts: Parts,
    streams: bool,
    /// What leaves next.
    ready: VecDeque<Bytes>,
    is_over: bool,
    _permit: OwnedSemaphorePermit,
}

impl Spread {
    /// The rows of the next part.
    fn put(&mut self, rows: Bytes) {
        let is_last = self.parts.is_done();
        let (head, tail) = match is_last {
            true => (self.cut.head.clone(), self.cut.tail.clone()),
            false => (Bytes::new(), Bytes::new()),
        };
        if self.streams {
            let bytes = head.len() + rows.len() + tail.len();
            let mut begin = BytesMut::new();
            wire::put_bytes_header(&mut begin, 1, bytes);
            let mut frame = BytesMut::from(&wire::frame_prefix(begin.len() + bytes)[..]);
            frame.unsplit(begin);
            frame.extend_from_slice(&head);
            self.ready.push_back(frame.freeze());
        }
        self.ready.push_back(rows);
        if !tail.is_empty() {
            self.ready.push_back(tail);
        }
    }

    async fn frame(&mut self) -> Option<Frame<Bytes>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(Frame::data(bytes));
            }
            if self.is_over {
                return None;
            }
            match self.parts.next().await {
                Ok(Some(rows)) => self.put(rows),
                Ok(None) => {
                    self.is_over = true;
                    return Some(Frame::trailers(grpc::trailers(Ok(()))));
                }
                Err(setback) => {
                    self.is_over = true;
                    return Some(Frame::trailers(grpc::trailers(Err(self.broken_off(setback)))));
                }
            }
        }
    }

    /// What ends an answer of which something has left.
    fn broken_off(&self, setback: Setback) -> Status {
        match setback {
            // A client of one message has nothing of it yet, and may ask again.
            Setback::Refused(status) if !self.streams && Fault::of(&status) == Some(Fault::Compacted) => {
                Fault::LeaderChanged.into()
            }
            Setback::Refused(status) => status,
            Setback::Again(_) => Fault::LeaderChanged.into(),
        }
    }

    fn into_response(self) -> Response<Body> {
        let frames = stream::unfold(self, |mut spread| async move {
            let frame = spread.frame().await?;
            Some((Ok::<_, Status>(frame), spread))
        });
        grpc::response(Body::new(StreamBody::new(frames)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_holds_is_counted_by_its_largest_part() {
        let parts = |sizes: &[u64]| -> Vec<_> {
            sizes.iter().map(|bytes| CutPart { bytes: *bytes, ..CutPart::default() }).collect()
        };
        assert_eq!(held(&parts(&[PART_BYTES; 100]), 3), 7);
        assert_eq!(held(&parts(&[PART_BYTES, 1_000]), 3), 2, "no more than there are");
        let mut large = [1_000; 100];
        large[50] = PART_BYTES + 1;
        assert_eq!(held(&parts(&large), 3), 14, "one row is larger than a part");
        large[50] = 32 << 20;
        assert_eq!(held(&parts(&large), 2), 5 * 64);
        large[50] = u64::MAX;
        assert_eq!(held(&parts(&large), 2), u32::MAX, "nobody has so much");
    }
}
