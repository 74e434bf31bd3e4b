//! [`Miss`]: why a node has not answered, and what its group learns of that.

use http::Response;
use kubebrain_net::dial::DialError;
use kubebrain_shared::metadata;
use tonic::body::Body;

use super::node::Node;
use super::roster::Roster;

/// Why a node has not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Miss {
    /// It handed the request back, and may have named who would take it.
    #[error("this brain is not its group's master")]
    NotMaster { named: Option<usize> },
    /// It was surely not sent, and so not applied.
    #[error("the request was not sent: {0}")]
    Unsent(#[source] DialError),
    /// It may have been carried out.
    #[error("the outcome is not known")]
    Unknown,
}

/// What a node's answer is worth. Where it did not take the request, the next one that knows no better goes to another
/// node.
pub(super) fn judge(
    roster: &Roster,
    node: &Node,
    sent: Result<Response<Body>, DialError>,
) -> Result<Response<Body>, Miss> {
    match sent {
        Ok(response) => match metadata::refusing_master(response.headers()) {
            None => Ok(response),
            Some(urls) => {
                let named = roster.find(urls).filter(|named| *named != node.index);
                roster.leave(node.index, named);
                Err(Miss::NotMaster { named })
            }
        },
        Err(error) if error.surely_not_sent() => {
            roster.leave(node.index, None);
            Err(Miss::Unsent(error))
        }
        Err(_) => Err(Miss::Unknown),
    }
}

/// Tells the node's breaker how it went.
pub(super) fn note<T>(node: &Node, outcome: &Result<T, Miss>) {
    match outcome {
        Ok(_) | Err(Miss::NotMaster { .. }) => node.breaker.answered(),
        Err(Miss::Unsent(_) | Miss::Unknown) => node.has_failed(),
    }
}
