//! What the stand-in says of itself: the master of its group, alone there.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http::Response;
use http_body::Frame;
use http_body_util::StreamBody;
use kubebrain_proto::peer::StandingResponse;
use kubebrain_proto::peer::standing_response::Role;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;

use super::brain::Brain;
use crate::grpc::{self, Framed};

/// At once, at every change, and each second.
pub(super) fn speak(brain: Arc<Brain>) -> Response<Body> {
    let mut changed = brain.changed.subscribe();
    changed.mark_changed();
    let first = standing(&brain);
    let frames =
        stream::unfold((brain, changed, first, true), |(brain, mut changed, first, is_first)| async move {
            let _changed_or_not = timeout(Duration::from_secs(1), changed.changed()).await;
            let now = if is_first || brain.state.lock().is_late { first.clone() } else { standing(&brain) };
            let frame = Framed::of(&now).frame();
            Some((Ok::<_, Status>(Frame::data(frame)), (brain, changed, now, false)))
        });
    grpc::response(Body::new(StreamBody::new(frames)))
}

fn standing(brain: &Brain) -> StandingResponse {
    let state = brain.state.lock();
    let mut standing = StandingResponse {
        group: brain.name.to_string(),
        name: format!("{}-0", brain.name),
        reads: true,
        epoch: 1,
        ..StandingResponse::default()
    };
    standing.set_role(Role::Master);
    if !state.is_unplaced {
        let id = state.document.id();
        (standing.placement_lineage, standing.placement_number) = (id.lineage, id.number);
        standing.placement_adopted = state.adopted.as_ref().map_or(0, |adopted| adopted.number());
        standing.is_home = state.document.table().home() == &brain.name;
    }
    standing
}
