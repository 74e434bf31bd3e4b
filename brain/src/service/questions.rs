//! `Peer/Ask`: how far a slave must be, asked and answered on one stream, which costs a master a fraction of a call each.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{Stream, StreamExt as _, stream};
use kubebrain_net::dial::Channel;
use kubebrain_proto::peer::peer_client::PeerClient;
use kubebrain_proto::peer::{AdvanceResponse, AskRequest, AskResponse, Claim as WireClaim};
use kubebrain_shared::placement::Pair;
use kubebrain_shared::revision::Revision;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Status, Streaming};

use super::fault::lost;
use super::inner::{Inner, no_floor};
use crate::state::claim::Claim;
use crate::state::upstream::{Fenced, UpstreamError};

/// Requests of one stream at once, and of those that wait to be sent. Most are answered from memory; one with a floor may
/// wait for the writer.
const REQUESTS_MAX: usize = 64;

type Answers = Pin<Box<dyn Stream<Item = Result<AskResponse, Status>> + Send>>;

/// The master's side.
pub(super) async fn answer(
    inner: Arc<Inner>,
    request: Request<Streaming<AskRequest>>,
) -> Result<tonic::Response<Answers>, Status> {
    let requests = request.into_inner().take_until(inner.gone());
    let answers = requests.map(move |request| {
        let inner = inner.clone();
        async move {
            let request = request?;
            let floor = Revision::checked_from(request.floor).ok_or_else(no_floor)?;
            let Fenced { revision, compacted, lineage, placement, claim } = inner.store.claim(floor).await?;
            let Pair { number, adopted } = placement;
            let answer =
                AdvanceResponse { revision: revision.to_wire(), compacted, lineage, number, adopted };
            let claim = claim.map(|Claim { epoch, batch }| WireClaim { epoch, batch });
            Ok(AskResponse { number: request.number, answer: Some(answer), claim })
        }
    });
    Ok(tonic::Response::new(Box::pin(answers.buffer_unordered(REQUESTS_MAX))))
}

/// A slave's side: questions to one master. The stream is opened by the first one, and anew by the first one after it was
/// lost.
pub(super) struct Questions {
    channel: Channel,
    numbers: AtomicU64,
    line: Mutex<Option<Arc<Line>>>,
}

/// One stream.
struct Line {
    requests: mpsc::Sender<AskRequest>,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    by_number: HashMap<u64, oneshot::Sender<Answer>>,
    /// Why nothing is answered any more.
    over: Option<UpstreamError>,
}

type Answer = Result<Fenced, UpstreamError>;

impl Questions {
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel, numbers: AtomicU64::new(0), line: Mutex::default() }
    }

    /// See [`Upstream::ask`](crate::store::Upstream::ask).
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn ask(&self, floor: Revision) -> Answer {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (answered, answer) = oneshot::channel();
        {
            let mut line = self.line.lock();
            let line = match &*line {
                Some(open) if open.lives() => open,
                _ => line.insert(Line::open(self.channel.clone())),
            };
            line.ask(AskRequest { number, floor: floor.to_wire() }, answered);
        }
        answer.await.unwrap_or_else(|_| Err(UpstreamError::Lost("the question was not answered".to_owned())))
    }
}

impl Line {
    fn open(channel: Channel) -> Arc<Self> {
        let (requests, mut inbox) = mpsc::channel(REQUESTS_MAX);
        let line = Arc::new(Self { requests, asked: Mutex::default() });
        let weak = Arc::downgrade(&line);
        // Ends with the master's stream, which ends with the requests, which end with the line.
        tokio::spawn(async move {
            let requests = stream::poll_fn(move |cx| inbox.poll_recv(cx));
            let opened = PeerClient::new(channel).ask(requests).await;
            let end = match opened {
                Err(status) => status,
                Ok(answers) => {
                    let mut answers = answers.into_inner();
                    loop {
                        match answers.message().await {
                            Ok(Some(answer)) => match weak.upgrade() {
                                Some(line) => line.answer(answer),
                                None => return,
                            },
                            Ok(None) => break Status::unavailable("the stream of questions has ended"),
                            Err(status) => break status,
                        }
                    }
                }
            };
            if let Some(line) = weak.upgrade() {
                line.end(&lost(&end));
            }
        });
        line
    }

    fn lives(&self) -> bool {
        self.asked.lock().over.is_none()
    }

    fn ask(&self, request: AskRequest, answered: oneshot::Sender<Answer>) {
        let mut asked = self.asked.lock();
        if let Some(over) = &asked.over {
            let _gone = answered.send(Err(over.clone()));
            return;
        }
        asked.by_number.retain(|_, waits| !waits.is_closed());
        let number = request.number;
        match self.requests.try_send(request) {
            Ok(()) => drop(asked.by_number.insert(number, answered)),
            Err(_) => {
                drop(answered.send(Err(UpstreamError::Lost("the master takes no questions".to_owned()))))
            }
        }
    }

    fn answer(&self, answer: AskResponse) {
        if let Some(answered) = self.asked.lock().by_number.remove(&answer.number) {
            let _gone = answered.send(read(answer));
        }
    }

    fn end(&self, why: &UpstreamError) {
        let mut asked = self.asked.lock();
        asked.over = Some(why.clone());
        for (_, waits) in asked.by_number.drain() {
            let _gone = waits.send(Err(why.clone()));
        }
    }
}

fn read(response: AskResponse) -> Answer {
    let broken = || UpstreamError::Lost("the master's answer is not one".to_owned());
    let answer = response.answer.ok_or_else(broken)?;
    let revision = Revision::checked_from(answer.revision).ok_or_else(broken)?;
    let claim = response.claim.map(|WireClaim { epoch, batch }| Claim { epoch, batch });
    let AdvanceResponse { compacted, lineage, number, adopted, .. } = answer;
    Ok(Fenced { revision, compacted, lineage, placement: Pair { number, adopted }, claim })
}

#[cfg(test)]
mod tests;
