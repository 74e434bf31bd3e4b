//! Questions to one brain: which placement it goes by, and who it is.

use http::{HeaderMap, Request};
use kubebrain_net::dial::{Channel, Connector};
use kubebrain_proto::peer::standing_response::Role;
use kubebrain_proto::peer::{PlacementRequest, PlacementResponse, StandingRequest, StandingResponse};
use kubebrain_shared::method;
use kubebrain_shared::placement::{Document, TEXT_BYTES_MAX};
use tonic::body::Body;
use tower::Service as _;

use super::judge::Speaker;
use crate::answer::Answer;
use crate::core::Core;
use crate::group::Group;
use crate::grpc::{self, Framed};

/// Two documents, and what is around them.
const BYTES_MAX: usize = 3 * TEXT_BYTES_MAX;

/// What a contact has said.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) group: String,
    /// It is of the group that is home by its own document.
    pub(super) is_home: bool,
    pub(super) is_master: bool,
    /// None where it has not heard of one.
    pub(super) document: Option<Document>,
    /// It is of no cluster: its group owns every key.
    pub(super) is_alone: bool,
}

impl Heard {
    /// As one who speaks of a table, or of its own document where there is none.
    pub(super) fn speaker(&self, home: Option<&str>) -> Speaker {
        let own = self.document.as_ref().map(|document| document.table().home().as_str());
        let of_home = home.or(own) == Some(&*self.group);
        Speaker { is_home: self.is_home && of_home, is_master: self.is_master }
    }
}

/// The document that a group's node goes by; `None` where it has none.
///
/// # Errors
/// A sentence.
pub(super) async fn node(core: &Core, group: &Group, node: usize) -> Result<Option<Document>, String> {
    let request = request(core, method::PLACEMENT, &PlacementRequest {});
    let response = group.ask_node(node, request).await?;
    let answer = placement(Answer::open(response).await.map_err(|miss| miss.to_string())?).await?;
    current(answer)
}

/// Who is at an address, and which document it goes by.
///
/// # Errors
/// A sentence.
pub(super) async fn contact(core: &Core, connector: Connector) -> Result<Heard, String> {
    let mut channel = Channel::new(connector, core.config.standing_dial());
    let mut call = async |request: Request<Body>| {
        let response = channel.call(request).await.map_err(|error| match channel.trouble() {
            Some(why) => format!("cannot connect to {why}"),
            None => error.to_string(),
        })?;
        Answer::open(response.map(Body::new)).await.map_err(|miss| miss.to_string())
    };
    let answer = call(request(core, method::STANDING, &StandingRequest {})).await?;
    let said = |status: tonic::Status| status.message().to_owned();
    let mut messages = answer.messages(BYTES_MAX).map_err(said)?;
    let first = messages.next().await.map_err(said)?.ok_or("it has not said what it is")?;
    let standing: StandingResponse = grpc::decode(first).map_err(said)?;
    let answer = call(request(core, method::PLACEMENT, &PlacementRequest {})).await?;
    let answer = placement(answer).await?;
    let (is_master, is_alone) = (standing.role() == Role::Master, answer.alone);
    let document = current(answer)?;
    Ok(Heard { group: standing.group, is_home: standing.is_home, is_master, document, is_alone })
}

async fn placement(answer: Answer) -> Result<PlacementResponse, String> {
    answer.decode(BYTES_MAX).await.map_err(|status| status.message().to_owned())
}

fn current(answer: PlacementResponse) -> Result<Option<Document>, String> {
    // never what is adopted: home may take it back
    let current = answer.current.filter(|current| current.number > 0);
    current.map(|wire| Document::from_wire(&wire).map_err(|error| error.to_string())).transpose()
}

fn request(core: &Core, path: &'static str, message: &impl prost::Message) -> Request<Body> {
    let frame = http_body_util::Full::new(Framed::of(message).frame());
    core.request(path, &HeaderMap::new(), None, Body::new(frame))
}
