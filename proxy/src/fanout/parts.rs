//! [`Parts`]: the parts of a cut range, asked for some ahead of whoever takes them, each of the brain whose turn it is.
//!
//! A part that fails or is late is asked for elsewhere, it alone. Every part is a serializable range at one revision that the
//! group has shown: whoever has come so far has the same rows, and asks nobody.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::HeaderMap;
use kubebrain_net::trace::Step;
use kubebrain_proto::etcdserverpb::RangeRequest;
use kubebrain_proto::peer::CutPart;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::method;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use super::cut::rows_of;
use super::pace::Pace;
use super::{Setback, part_of};
use crate::call::{Ask, Failure, Wanted};
use crate::core::Core;
use crate::group::Group;
use crate::grpc::Framed;

/// So many parts of each brain are on their way: one comes while the other is asked for.
pub(super) const AHEAD: usize = 2;
/// What an answer has beside its rows.
const BESIDE_BYTES: usize = 1 << 10;

/// Where parts come from.
pub(super) struct Source {
    pub(super) core: Arc<Core>,
    pub(super) group: Arc<Group>,
    /// The client's headers.
    pub(super) headers: HeaderMap,
    pub(super) revision: i64,
    pub(super) keys_only: bool,
    pub(super) parts: Vec<CutPart>,
    /// The brains that share it, two at least.
    pub(super) nodes: Vec<usize>,
}

/// See the module. Dropping it ends what was asked for.
pub(super) struct Parts {
    shared: Arc<Shared>,
    coming: VecDeque<Coming>,
    asked: usize,
}

struct Shared {
    source: Source,
    /// Whose turn it is first: the same for the same kind, so that brains have its values at hand.
    first: usize,
    pace: Mutex<Pace>,
    /// One bit for each of `nodes` that was late: the others take its turns.
    late: AtomicU64,
}

/// A part on its way.
struct Coming(JoinHandle<Result<Bytes, Setback>>);

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Parts {
    pub(super) fn new(source: Source) -> Self {
        let first = source.parts.first().map_or(0, |part| turn_of(&part.key));
        let shared = Shared { first, source, pace: Mutex::default(), late: AtomicU64::new(0) };
        Self { shared: Arc::new(shared), coming: VecDeque::new(), asked: 0 }
    }

    /// The rows of the next part; `None` after the last one.
    ///
    /// # Errors
    /// [`Setback`]: the range cannot be read on.
    ///
    /// # Cancel safety
    /// Safe: what comes meanwhile is there at the next call.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Setback> {
        let source = &self.shared.source;
        while self.asked < source.parts.len() && self.coming.len() < AHEAD * source.nodes.len() {
            let shared = Arc::clone(&self.shared);
            let index = self.asked;
            let span = source.core.config.tracer.step(&source.headers, Step::Part);
            self.coming
                .push_back(Coming(tokio::spawn(async move { part_of(span, shared.part(index)).await })));
            self.asked += 1;
        }
        let Some(coming) = self.coming.front_mut() else { return Ok(None) };
        let rows = (&mut coming.0).await;
        self.coming.pop_front();
        match rows {
            Ok(rows) => rows.map(Some),
            Err(_panicked) => Err(Status::internal("a part of a range was not read").into()),
        }
    }

    /// True if no part is left.
    pub(super) fn is_done(&self) -> bool {
        self.coming.is_empty() && self.asked == self.shared.source.parts.len()
    }
}

impl Shared {
    async fn part(&self, index: usize) -> Result<Bytes, Setback> {
        let Some(part) = self.source.parts.get(index) else { return Ok(Bytes::new()) };
        let mut retry = self.source.core.retry();
        let mut turn = self.first + index;
        loop {
            match self.in_time(part, turn).await {
                Ok(rows) => {
                    self.source.group.metrics.part(rows.len());
                    return Ok(rows);
                }
                Err(Setback::Again(failure @ (Failure::NotSent | Failure::Unknown))) => {
                    self.source.group.metrics.second_tries.inc();
                    retry.pause_after(failure).await?;
                }
                Err(setback) => return Err(setback),
            }
            turn += 1;
        }
    }

    /// From whose turn it is; where that takes longer than usual, from another one, whoever is first.
    async fn in_time(&self, part: &CutPart, turn: usize) -> Result<Bytes, Setback> {
        let began = Instant::now();
        let patience = self.pace.lock().patience();
        let at = self.place(turn);
        let mut one = pin!(self.from(part, at));
        let first = tokio::select! {
            first = &mut one => Some(first),
            () = sleep(patience) => None,
        };
        let rows = match first {
            Some(rows) => rows,
            None => {
                self.source.group.metrics.second_tries.inc();
                let other = pin!(self.from(part, self.place_besides(at)));
                if self.source.core.config.planted(|seams| seams.tells_parts_twice) {
                    let (one, other) = (one.await?, other.await?);
                    return Ok([one, other].concat().into());
                }
                match select(one, other).await {
                    Either::Left((Err(_), other)) => other.await,
                    Either::Left((rows, _)) => rows,
                    Either::Right((Err(_), one)) => one.await,
                    Either::Right((rows, _)) => {
                        self.late.fetch_or(1 << at.min(63), Ordering::Relaxed);
                        rows
                    }
                }
            }
        };
        if rows.is_ok() {
            self.pace.lock().took(began.elapsed());
        }
        rows
    }

    /// Which of the brains a turn is of: of those that were not late, if there are such.
    fn place(&self, turn: usize) -> usize {
        let late = self.late.load(Ordering::Relaxed);
        let count = self.source.nodes.len().max(1);
        let at = |turn: usize| turn % count;
        (0..count).map(|next| at(turn + next)).find(|at| late & (1 << (*at).min(63)) == 0).unwrap_or(at(turn))
    }

    fn place_besides(&self, at: usize) -> usize {
        let other = self.place(at + 1);
        if other == at { (at + 1) % self.source.nodes.len().max(1) } else { other }
    }

    async fn from(&self, part: &CutPart, at: usize) -> Result<Bytes, Setback> {
        let Source { core, group, headers, revision, keys_only, nodes, .. } = &self.source;
        let request = RangeRequest {
            key: part.key.clone(),
            range_end: part.range_end.clone(),
            revision: *revision,
            serializable: true,
            keys_only: *keys_only,
            ..RangeRequest::default()
        };
        let node = nodes.get(at).copied().unwrap_or_default();
        let ask =
            Ask { wanted: Wanted::Part { node }, ..Ask::new(method::RANGE, headers, Framed::of(&request)) };
        let answer = core.send(group, &ask).await.map_err(Setback::of_read)?;
        let bytes_max = usize::try_from(part.bytes).unwrap_or(usize::MAX).saturating_add(BESIDE_BYTES);
        let message = answer.message(bytes_max).await.map_err(of_part)?;
        rows_of(&message, part).map_err(|status| {
            tracing::error!(group = %group.name(), revision, "{}", status.message());
            status.into()
        })
    }
}

/// What a part is refused with: what passes is tried again.
fn of_part(status: Status) -> Setback {
    match (Fault::of(&status), status.code()) {
        (Some(Fault::FutureRevision), _) | (_, Code::Unavailable) => Setback::Again(Failure::Unknown),
        (Some(Fault::TooManyRequests), _) => Setback::Again(Failure::Unknown),
        _ => status.into(),
    }
}

/// By what keys of one kind begin with.
fn turn_of(key: &[u8]) -> usize {
    let kind = key.split_inclusive(|byte| *byte == b'/').take(3);
    let mut hasher = DefaultHasher::new();
    kind.for_each(|piece| piece.hash(&mut hasher));
    usize::from(hasher.finish() as u16)
}
