//! [`Store::range`] and [`Store::range_stream`]: fenced, weighed, read, and begun anew where a slave's rows went away meanwhile.
//! What is large is cut where that is offered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use kubebrain_net::budget;
use kubebrain_net::kinds::{Entered, Kind, KindId};
use kubebrain_net::trace;
use kubebrain_proto::peer;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::placement::DocumentId;
use kubebrain_shared::revision::Revision;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use super::{Reply, Store};
use crate::decide::answer::{Answer, Entry, RangeAnswer};
use crate::decide::held::Unserved;
use crate::fence::wait;
use crate::lead::command::WriteError;
use crate::read::chunks::{Chunks, stream_message};
use crate::read::cut::Cut;
use crate::read::reader::{Reader, Unread};
use crate::request::{Limits, Range, ReadAt};

/// Reads of what goes away meanwhile, on a slave.
const READS_MAX: usize = 8;

/// How long a read at a revision that its group has committed waits until it is visible here. A slave is some milliseconds
/// behind; one that is further away is better not asked.
const VISIBLE_WITHIN: Duration = Duration::from_millis(250);

/// On which terms a range is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// The answer is not older, unless the range is serializable.
    pub floor: Revision,
    /// By which document the group is asked for its part; none where the whole has to be its own.
    pub part: Option<DocumentId>,
    /// Where its rows take so many bytes, the answer may be how they are cut, into parts that are no larger, or little.
    pub cut_from: Option<u64>,
    /// The revision that is named is known to be committed.
    pub fenced: bool,
}

/// What a range is answered with.
#[derive(Debug)]
pub enum Ranged<T> {
    /// As it was asked for.
    Whole(T),
    /// The encoded `Cut` of it.
    Cut(Reply),
}

/// The header's revision, the chunks, and their share of the budget.
type Streamed<S> = (Revision, S, Option<Arc<budget::Share>>);

/// What a streamed range may have in memory for a client that does not read: a chunk that is made, one that waits, and
/// one that is sent, each up to twice what it should be.
fn stream_bytes(limits: &Limits) -> u64 {
    limits.request_bytes_max as u64 * 3
}

impl Store {
    /// Reads a range that is the group's, or with `part`, the document by which it is asked, what is the group's of it.
    ///
    /// # Errors
    /// What etcd answers; [`WriteError::Unserved`].
    pub async fn range_owned(
        &self,
        range: &Range,
        floor: Revision,
        part: Option<DocumentId>,
    ) -> Result<Reply, WriteError> {
        let terms = Terms { floor, part, ..Terms::default() };
        let (Ranged::Whole(reply) | Ranged::Cut(reply)) = self.range_on(range, &terms).await?;
        Ok(reply)
    }

    /// As [`Self::range_owned`], on these terms.
    ///
    /// # Errors
    /// As there.
    pub async fn range_on(&self, range: &Range, terms: &Terms) -> Result<Ranged<Reply>, WriteError> {
        let owned = || self.owns(std::slice::from_ref(&range.keys), terms.part);
        owned()?; // what never was the group's is refused at once
        let kind = self.state.kinds.of_range(&range.keys);
        let _entered = enter(&kind, terms)?;
        self.range_if(range, terms, kind.id(), owned).await
    }

    /// Reads a range, whoever owns it: for probes and tools.
    ///
    /// # Errors
    /// What etcd answers.
    pub async fn range(&self, range: &Range, floor: Revision) -> Result<Reply, Fault> {
        let anybodys = || Ok(());
        let terms = Terms { floor, ..Terms::default() };
        let kind = self.state.kinds.of_range(&range.keys).id();
        match self.range_if(range, &terms, kind, anybodys).await {
            Ok(Ranged::Whole(reply) | Ranged::Cut(reply)) => Ok(reply),
            Err(WriteError::Fault(fault)) => Err(fault),
            Err(WriteError::Unserved(_) | WriteError::TooLarge(_)) => Err(Fault::LeaderChanged),
        }
    }

    async fn range_if(
        &self,
        range: &Range,
        terms: &Terms,
        kind: KindId,
        owned: impl Fn() -> Result<(), Unserved>,
    ) -> Result<Ranged<Reply>, WriteError> {
        self.raise(range, terms).await?;
        self.state.metrics.all.ranges.inc();
        for _ in 0..READS_MAX {
            let reader = Reader::new(&self.state, range.at)?;
            let judged = owned(); // once the revision is fixed
            #[cfg(any(test, feature = "faults"))]
            let judged = if self.state.planted.judges_first { Ok(()) } else { judged };
            judged?;
            let read = self.read_with(&reader, range, terms.cut_from, kind).await;
            match read.map_err(|fault| reader.unread(fault)) {
                Ok(reply) => return Ok(reply),
                Err(Unread::Fault(fault)) => return Err(fault.into()),
                Err(Unread::Gone) => {
                    self.advance(terms.floor).await?;
                }
            }
        }
        Err(Fault::Timeout.into())
    }

    async fn read_with(
        &self,
        reader: &Reader<'_>,
        range: &Range,
        cut_from: Option<u64>,
        kind: KindId,
    ) -> Result<Ranged<Reply>, Fault> {
        // One key is read sooner than weighed.
        let single = range.keys.as_one().is_some();
        let bytes = match cut_from.filter(|_| !single && range.is_plain()) {
            _ if single => 0,
            None => reader.weigh(range, u64::MAX, &self.answers).await?,
            Some(from) => match reader.cut(range, from, &self.answers).await? {
                (_, Some(cut)) => return Ok(Ranged::Cut(self.cut_reply(reader, cut))),
                (bytes, None) => bytes,
            },
        };
        let mut share = self.answers.take_of(kind, bytes).await?;
        let _turn = if share.is_some() { Some(self.answers.turn(kind).await) } else { None };
        let answer = reader.range(range).await?;
        if single {
            share = self.answers.take_of(kind, answer.entries.iter().map(Entry::weight).sum()).await?;
        }
        let answer = Answer::Range(answer);
        Ok(Ranged::Whole(Reply {
            message: answer.encode(Some(&self.state.identity()), reader.header),
            revision: reader.header,
            share,
        }))
    }

    /// The answer without its rows, and where to read these.
    fn cut_reply(&self, reader: &Reader<'_>, cut: Cut) -> Reply {
        let rows: u64 = cut.parts.iter().map(|part| part.rows).sum();
        let bare =
            RangeAnswer { more: cut.left > 0, count: rows as usize + cut.left, ..RangeAnswer::default() };
        let parts = cut.parts.into_iter().map(|part| peer::CutPart {
            key: part.keys.start().clone(),
            range_end: part.keys.wire_end(),
            bytes: part.bytes,
            rows: part.rows,
        });
        let cut = peer::Cut {
            answer: Answer::Range(bare).encode(Some(&self.state.identity()), reader.header),
            revision: reader.at.to_wire(),
            parts: parts.collect(),
        };
        Reply { message: cut.encode_to_vec().into(), revision: reader.header, share: None }
    }

    async fn raise(&self, range: &Range, terms: &Terms) -> Result<(), Fault> {
        if !range.serializable {
            self.advance(terms.floor).await?;
        } else if terms.fenced
            && let ReadAt::Revision(at) = range.at
        {
            wait::until_visible(&self.state, at.get(), VISIBLE_WITHIN).await;
        }
        Ok(())
    }

    /// Reads a range in chunks, as [`Self::range`]. The revision is the header's; it is known at once. The share is for a few
    /// chunks, as many as may wait for the client.
    ///
    /// # Errors
    /// What etcd answers, at once or as the end of the stream; [`WriteError::Unserved`] at once.
    pub async fn range_stream(
        &self,
        range: Range,
        terms: Terms,
    ) -> Result<Ranged<Streamed<impl Stream<Item = Result<Bytes, Fault>> + Send + use<>>>, WriteError> {
        let Terms { part, cut_from, .. } = terms;
        self.owns(std::slice::from_ref(&range.keys), part)?;
        let kind = self.state.kinds.of_range(&range.keys);
        let (entered, kind) = (enter(&kind, &terms)?, kind.id());
        self.raise(&range, &terms).await?;
        self.state.metrics.all.ranges.inc();
        let reader = Reader::new(&self.state, range.at)?;
        self.owns(std::slice::from_ref(&range.keys), part)?;
        let enough = stream_bytes(&self.limits);
        let bytes = match cut_from.filter(|_| range.is_plain()) {
            None => reader.weigh(&range, enough, &self.answers).await?,
            Some(from) => match reader.cut(&range, from, &self.answers).await? {
                (_, Some(cut)) => return Ok(Ranged::Cut(self.cut_reply(&reader, cut))),
                (bytes, None) => bytes.min(enough),
            },
        };
        let share = self.answers.take_of(kind, bytes).await?;
        let header = reader.header;
        // The reader borrows the store, so both live in a task.
        let (chunks, messages) = mpsc::channel::<Result<Bytes, Fault>>(1);
        let (store, turns) = (self.clone(), share.is_some().then_some(kind));
        let (begun, begins) = oneshot::channel();
        tokio::spawn(async move {
            let _entered = entered; // it waits for its answer until the last chunk
            let sent = store.stream(&range, part, turns, begun, &chunks).await;
            if let Err(fault) = sent {
                let _gone = chunks.send(Err(fault)).await;
            }
        });
        let header = begins.await.unwrap_or(header);
        let messages = futures_util::stream::unfold(messages, |mut messages| async move {
            messages.recv().await.map(|message| (message, messages))
        });
        Ok(Ranged::Whole((header, messages, share)))
    }

    /// Sends a range in chunks, at most one ahead of the client; a large one in turns with other kinds.
    async fn stream(
        &self,
        range: &Range,
        part: Option<DocumentId>,
        turns: Option<KindId>,
        begun: oneshot::Sender<Revision>,
        messages: &mpsc::Sender<Result<Bytes, Fault>>,
    ) -> Result<(), Fault> {
        let mut begun = Some(begun);
        for _ in 0..READS_MAX {
            let reader = Reader::new(&self.state, range.at)?.unpinned();
            // The keys have gone since the first look.
            self.owns(std::slice::from_ref(&range.keys), part).map_err(|_gone| Fault::LeaderChanged)?;
            match self.stream_with(&reader, range, turns, &mut begun, messages).await {
                Ok(()) => return Ok(()),
                // What a client has is of a revision that cannot be read on.
                Err(fault) if begun.is_none() => return Err(fault),
                Err(Fault::Compacted) if range.at == ReadAt::Latest => {
                    self.advance(Revision::ZERO).await?;
                }
                Err(fault) => match reader.unread(fault) {
                    Unread::Fault(fault) => return Err(fault),
                    Unread::Gone => {
                        self.advance(Revision::ZERO).await?;
                    }
                },
            }
        }
        Err(Fault::Timeout)
    }

    /// Says that it has begun, and at which revision, as soon as there is no way back.
    async fn stream_with(
        &self,
        reader: &Reader<'_>,
        range: &Range,
        turns: Option<KindId>,
        begun: &mut Option<oneshot::Sender<Revision>>,
        messages: &mpsc::Sender<Result<Bytes, Fault>>,
    ) -> Result<(), Fault> {
        let mut begin = || begun.take().map(|begun| begun.send(reader.header));
        if !reader.may_be_gone() {
            begin();
        }
        let identity = &self.state.identity();
        let mut sizes = Chunks::new(self.limits.request_bytes_max);
        let mut cursor = reader.cursor(range);
        let mut sent = 0;
        if range.count_only {
            let count = reader.left(&mut cursor).await?;
            begin();
            let message = stream_message(&[], Some((identity, reader.header, false, count)));
            let _gone = messages.send(Ok(message)).await;
            return Ok(());
        }
        loop {
            let turn = match turns {
                Some(kind) => Some(self.answers.turn(kind).await),
                None => None,
            };
            let entries = reader.chunk(&mut cursor, sizes.size(), range.keys_only).await?;
            sent += entries.len();
            let done = cursor.is_done();
            let message = match done {
                false => stream_message(&entries, None),
                true => {
                    let left = reader.left(&mut cursor).await?;
                    stream_message(&entries, Some((identity, reader.header, left > 0, sent + left)))
                }
            };
            drop(turn);
            begin();
            sizes.sent(message.len());
            if messages.send(Ok(message)).await.is_err() || done {
                return Ok(());
            }
        }
    }
}

/// Lets a range of this kind in by its limits; the parts of one that was let in are.
fn enter(kind: &Arc<Kind>, terms: &Terms) -> Result<Option<Entered>, Fault> {
    if terms.fenced {
        return Ok(None);
    }
    trace::about(kind.name());
    kind.enter().map(Some)
}
