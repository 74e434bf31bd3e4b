//! [`Budget`]: what answers may take in memory together, from before they are made until their clients have read them.
//!
//! An answer is let in by its size; one that has to wait does so before it is made. Of those that wait kinds take turns, in
//! each in the order of asking, and the last eighth is for kinds that have less than that, so that a flood of lists of one kind
//! holds up that kind. Answers that
//! nobody reads would use it up, so while others wait those are given up of which nothing was taken for a while: their
//! bytes are freed at once, and a client that reads on gets "too many requests" at the end.
//!
//! Invariants: the sum of what is let in is at most the budget; an answer that is larger has seven eighths of it alone. An
//! answer up to [`UNCOUNTED_BYTES`] never waits. What HTTP/2 keeps of a counted answer that is not read is at most one
//! [`CHUNK_BYTES`], and is a copy: it does not keep the rest alive.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;
use kubebrain_shared::fault::Fault;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use crate::held::{self, Bound};
use crate::kinds::KindId;
use crate::permits::{Permit, Permits};

/// Up to this an answer is not counted: its stream costs about as much.
pub const UNCOUNTED_BYTES: u64 = 16 << 10;
/// What is handed to HTTP/2 at once.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Default of a process.
pub const DEFAULT_BYTES: u64 = 512 << 20;

const UNIT_BYTES: u64 = 4 << 10;
/// How long an answer waits to be made before its client is told to come back.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// An answer of which nothing was taken for so long is given up, if others wait.
const UNREAD_MAX: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(250);

fn makers() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(processors / 2).unwrap_or(u32::MAX).max(1)
}

/// See the module. One for each process.
pub struct Budget {
    /// Seven eighths.
    free: Arc<Permits>,
    units: u32,
    /// The last eighth.
    last: Arc<Semaphore>,
    last_units: u32,
    /// What each kind has of both.
    kinds: Mutex<HashMap<KindId, u32>>,
    makers: Arc<Permits>,
    answers: Mutex<Answers>,
    held: held::Held,
    /// As what it counts who waits, and who waits in vain.
    bounds: [Bound; 2],
}

#[derive(Default)]
struct Answers {
    next: u64,
    held: HashMap<u64, Arc<Mutex<Held>>>,
}

/// An answer that is let in. Dropping it gives its bytes back.
pub struct Share {
    budget: Arc<Budget>,
    kind: KindId,
    units: u32,
    _place: Place,
}

/// Where its units are from.
enum Place {
    Free { _permit: Permit },
    Last { _permit: OwnedSemaphorePermit },
}

/// A turn to make a part of an answer, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _permit: Permit,
}

/// An answer on its way to its client.
struct Held {
    /// `None` once it was given up.
    content: Option<Content>,
    taken: Instant,
}

struct Content {
    body: Body,
    /// Of the frame that is handed over in pieces.
    rest: Bytes,
    _share: Arc<Share>,
}

impl Budget {
    /// At most so many bytes, at least a unit. Nobody hears whom it holds back.
    pub fn new(bytes: u64) -> Arc<Self> {
        Self::of_answers(bytes, held::Held::default())
    }

    /// Of answers; `held` counts whom it holds back.
    pub fn of_answers(bytes: u64, held: held::Held) -> Arc<Self> {
        Self::with(bytes, held, [Bound::AnswersWaited, Bound::AnswersRefused])
    }

    /// Of requests.
    pub fn of_requests(bytes: u64, held: held::Held) -> Arc<Self> {
        Self::with(bytes, held, [Bound::RequestsWaited, Bound::RequestsRefused])
    }

    fn with(bytes: u64, held: held::Held, bounds: [Bound; 2]) -> Arc<Self> {
        let all = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 4);
        let (units, last_units) = (all - all / 8, all / 8);
        Arc::new(Self {
            free: Permits::new(units),
            units,
            last: Arc::new(Semaphore::new(last_units as usize)),
            last_units,
            kinds: Mutex::default(),
            makers: Permits::new(makers()),
            answers: Mutex::new(Answers::default()),
            held,
            bounds,
        })
    }

    /// As [`Self::take_of`], for what is about no kind.
    ///
    /// # Errors
    /// As there.
    pub async fn take(self: &Arc<Self>, bytes: u64) -> Result<Option<Arc<Share>>, Fault> {
        self.take_of(KindId::NONE, bytes).await
    }

    /// Lets an answer of `bytes` about `kind` in. `None` is a small one, which is not counted.
    ///
    /// # Errors
    /// [`Fault::TooManyRequests`] where it would have waited for too long.
    ///
    /// # Cancel safety
    /// A dropped call is not let in.
    pub async fn take_of(self: &Arc<Self>, kind: KindId, bytes: u64) -> Result<Option<Arc<Share>>, Fault> {
        if bytes <= UNCOUNTED_BYTES {
            return Ok(None);
        }
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units);
        let has = self.kinds.lock().get(&kind).copied().unwrap_or(0);
        let may_be_last = has.saturating_add(units) <= self.last_units;
        let cost = u64::from(units) * UNIT_BYTES;
        let mut free = std::pin::pin!(self.free.acquire(kind, units, cost));
        let mut last = std::pin::pin!(Arc::clone(&self.last).acquire_many_owned(units));
        let [waited, refused] = self.bounds;
        let mut waits = false;
        let end = Instant::now() + WAIT_MAX;
        loop {
            tokio::select! {
                biased;
                permit = &mut free => return Ok(Some(self.share(kind, units, Place::Free { _permit: permit }))),
                permit = &mut last, if may_be_last => {
                    let permit = permit.map_err(|_closed| Fault::Stopped)?;
                    return Ok(Some(self.share(kind, units, Place::Last { _permit: permit })));
                }
                () = std::future::ready(()), if !waits => {
                    waits = true;
                    self.held.count(waited);
                }
                () = tokio::time::sleep_until(end) => {
                    self.held.count(refused);
                    return Err(Fault::TooManyRequests);
                }
                () = tokio::time::sleep(LOOK_EVERY) => self.give_up_unread(),
            }
        }
    }

    fn share(self: &Arc<Self>, kind: KindId, units: u32, place: Place) -> Arc<Share> {
        *self.kinds.lock().entry(kind).or_default() += units;
        Arc::new(Share { budget: Arc::clone(self), kind, units, _place: place })
    }

    /// Waits for a turn to make a part of a large answer about `kind`; it is held while that goes on. Half of the processors
    /// make large answers, so that small ones do not stand in the queue of tasks behind all of them.
    ///
    /// # Cancel safety
    /// A dropped call has no turn.
    pub async fn turn(&self, kind: KindId) -> Turn {
        Turn { _permit: self.makers.acquire(kind, 1, CHUNK_BYTES as u64).await }
    }

    /// Whose numbers these are.
    pub(crate) const fn held(&self) -> &held::Held {
        &self.held
    }

    fn give_up_unread(&self) {
        let held: Vec<_> = self.answers.lock().held.values().cloned().collect();
        for answer in held {
            let mut answer = answer.lock();
            if answer.taken.elapsed() >= UNREAD_MAX && answer.content.take().is_some() {
                self.held.count(Bound::AnswersUnread);
            }
        }
    }

    /// Bytes that are let in.
    pub fn used(&self) -> u64 {
        let free = u64::from(self.free.free()) + self.last.available_permits() as u64;
        (u64::from(self.units + self.last_units) - free) * UNIT_BYTES
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut kinds = self.budget.kinds.lock();
        if let Some(units) = kinds.get_mut(&self.kind) {
            *units -= self.units;
            if *units == 0 {
                kinds.remove(&self.kind);
            }
        }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("used", &self.used()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Share")
    }
}

impl Share {
    /// Holds it until the client has read `response`, is gone, or is given up.
    pub fn hold(self: Arc<Self>, response: Response<Body>) -> Response<Body> {
        let budget = Arc::clone(&self.budget);
        response.map(|body| {
            let content = Content { body, rest: Bytes::new(), _share: self };
            let held = Arc::new(Mutex::new(Held { content: Some(content), taken: Instant::now() }));
            let mut answers = budget.answers.lock();
            answers.next += 1;
            let id = answers.next;
            answers.held.insert(id, Arc::clone(&held));
            drop(answers);
            Body::new(Counted { held, id, budget, ended: false })
        })
    }
}

/// A body that hands its frames over in pieces and says when.
struct Counted {
    held: Arc<Mutex<Held>>,
    id: u64,
    budget: Arc<Budget>,
    ended: bool,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.budget.answers.lock().held.remove(&self.id);
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let mut held = this.held.lock();
        held.taken = Instant::now();
        let Some(content) = &mut held.content else {
            this.ended = true;
            return Poll::Ready(Some(Ok(Frame::trailers(refusal()))));
        };
        if content.rest.is_empty() {
            match ready!(Pin::new(&mut content.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.len() > CHUNK_BYTES => content.rest = data,
                    Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                other => {
                    this.ended = true;
                    return Poll::Ready(other);
                }
            }
        }
        let chunk = content.rest.split_to(content.rest.len().min(CHUNK_BYTES));
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&chunk)))))
    }
}

/// How an answer ends that was given up.
fn refusal() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    let status = Status::from(Fault::TooManyRequests);
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("8"));
    }
    trailers
}

#[cfg(test)]
mod tests;
