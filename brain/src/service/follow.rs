//! `Peer/Follow`: a master's changes for its slaves, and a slave's way to them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _, stream};
use kubebrain_proto::etcdserverpb::Member;
use kubebrain_proto::peer::peer_client::PeerClient;
use kubebrain_proto::peer::{FollowRequest, FollowResponse};
use kubebrain_shared::dial::Channel;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::stop::Stop;
use tokio::time::sleep;
use tonic::{Code, Request, Status};

use super::Inner;
use super::questions::Questions;
use crate::state::upstream::{Fenced, Upstream, UpstreamError};

/// How long a slave's streams outlive its master's term.
const LAST_WORD_WITHIN: Duration = Duration::from_millis(100);

type Changes = Pin<Box<dyn Stream<Item = Result<FollowResponse, Status>> + Send>>;

pub(super) async fn follow(
    inner: Arc<Inner>,
    request: Request<FollowRequest>,
) -> Result<tonic::Response<Changes>, Status> {
    let request = request.into_inner();
    let from = u64::try_from(request.from)
        .map_err(|_| Status::invalid_argument("kubebrain: this is not the number of a revision"))?;
    let member = inner.members.follows(Member {
        id: request.member_id,
        name: request.name.clone(),
        peer_ur_ls: request.peer_urls,
        client_ur_ls: request.client_urls,
        is_learner: false,
    });
    tracing::info!(slave = request.name, from, "a slave follows");
    let changes = inner.store.feed(from).map(|change| change.map_err(Status::from));
    let gone = after(inner.stop.clone());
    let changes = stream::unfold((Box::pin(changes), member), |(mut changes, member)| async move {
        Some((changes.next().await?, (changes, member)))
    });
    Ok(tonic::Response::new(Box::pin(changes.take_until(gone))))
}

/// Returns when this brain leaves, and that had time to be said in the stream.
pub(super) async fn after(stop: Stop) {
    stop.asked().await;
    sleep(LAST_WORD_WITHIN).await;
}

/// A slave's way to its master.
pub struct Remote {
    /// Changes come in bulk: questions do not wait behind them.
    changes: Channel,
    questions: Questions,
    /// Who follows.
    me: FollowRequest,
}

impl Remote {
    /// Over two connections to one master. `me` says who follows.
    pub fn new(changes: Channel, questions: Channel, me: FollowRequest) -> Self {
        Self { changes, questions: Questions::new(questions), me }
    }
}

pub(super) fn lost(status: &Status) -> UpstreamError {
    match status.code() {
        Code::OutOfRange => UpstreamError::Compacted,
        _ => UpstreamError::Lost(format!("the master does not answer: {}", status.message())),
    }
}

#[async_trait]
impl Upstream for Remote {
    async fn follow(
        &self,
        from: u64,
    ) -> Result<BoxStream<'static, Result<FollowResponse, UpstreamError>>, UpstreamError> {
        let request = FollowRequest { from: from.cast_signed(), ..self.me.clone() };
        let mut client = PeerClient::new(self.changes.clone()).max_decoding_message_size(usize::MAX);
        let changes = client.follow(request).await.map_err(|status| lost(&status))?.into_inner();
        Ok(changes.map(|change| change.map_err(|status| lost(&status))).boxed())
    }

    async fn ask(&self, floor: Revision) -> Result<Fenced, UpstreamError> {
        self.questions.ask(floor).await
    }
}
