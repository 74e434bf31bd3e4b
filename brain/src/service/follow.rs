//! `Peer/Follow`: a master's changes for its slaves, and a slave's way to them.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _, stream};
use kubebrain_net::dial::Channel;
use kubebrain_proto::etcdserverpb::Member;
use kubebrain_proto::peer::peer_client::PeerClient;
use kubebrain_proto::peer::{FollowRequest, FollowResponse};
use kubebrain_shared::revision::Revision;
use tonic::{Request, Status};

use super::fault::lost;
use super::inner::Inner;
use super::questions::Questions;
use crate::state::upstream::{Fenced, Upstream, UpstreamError};

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
    let gone = inner.gone();
    let changes = stream::unfold((Box::pin(changes), member), |(mut changes, member)| async move {
        Some((changes.next().await?, (changes, member)))
    });
    Ok(tonic::Response::new(Box::pin(changes.take_until(gone))))
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
