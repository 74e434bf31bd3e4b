//! [`Budget`]: what answers may take in memory together, from before they are made until their clients have read them.
//!
//! An answer is let in by its size, in the order of asking; one that has to wait does so before it is made. Answers that
//! nobody reads would use it up, so while others wait those are given up of which nothing was taken for a while: their
//! bytes are freed at once, and a client that reads on gets "too many requests" at the end.
//!
//! Invariants: the sum of what is let in is at most the budget, unless one answer alone is larger: then it is alone. An
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use crate::held::{self, Bound};

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

fn makers() -> usize {
    std::thread::available_parallelism().map_or(1, |count| (count.get() / 2).max(1))
}

/// See the module. One for each process.
pub struct Budget {
    free: Arc<Semaphore>,
    units: u32,
    makers: Semaphore,
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
    _permit: OwnedSemaphorePermit,
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
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 4);
        Arc::new(Self {
            free: Arc::new(Semaphore::new(units as usize)),
            units,
            makers: Semaphore::new(makers()),
            answers: Mutex::new(Answers::default()),
            held,
            bounds,
        })
    }

    /// Lets an answer of `bytes` in. `None` is a small one, which is not counted.
    ///
    /// # Errors
    /// [`Fault::TooManyRequests`] where it would have waited for too long.
    ///
    /// # Cancel safety
    /// A dropped call is not let in.
    pub async fn take(self: &Arc<Self>, bytes: u64) -> Result<Option<Arc<Share>>, Fault> {
        if bytes <= UNCOUNTED_BYTES {
            return Ok(None);
        }
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units);
        let mut permit = std::pin::pin!(Arc::clone(&self.free).acquire_many_owned(units));
        let [waited, refused] = self.bounds;
        let mut waits = false;
        let end = Instant::now() + WAIT_MAX;
        loop {
            tokio::select! {
                biased;
                permit = &mut permit => {
                    let permit = permit.map_err(|_closed| Fault::Stopped)?;
                    return Ok(Some(Arc::new(Share { budget: Arc::clone(self), _permit: permit })));
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

    /// Waits for a turn to make a part of a large answer; it is held while that goes on. Half of the processors make
    /// large answers, so that small ones do not stand in the queue of tasks behind all of them.
    ///
    /// # Cancel safety
    /// A dropped call has no turn.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.makers.acquire().await.ok()
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
        (u64::from(self.units) - self.free.available_permits() as u64) * UNIT_BYTES
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
