//! The calls that have numbers of their own. Every other path is one: nobody makes new rows by asking.

use kubebrain_shared::method::{Answers, CLIENTS, Kind, Method, PEERS};

use super::side::Side;

/// The value of a label, in the words of gRPC's own metrics.
pub(super) const fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Unary => "unary",
        Kind::ServerStream => "server_stream",
        Kind::BidiStream => "bidi_stream",
    }
}

/// Every path that is not in a list.
const UNKNOWN: Method = Method {
    path: "",
    service: "unknown",
    name: "unknown",
    kind: Kind::Unary,
    answers: Answers::Master,
    is_bounded: true,
};

/// The rows of a listener; the last one is for paths that have none.
pub(super) fn of(side: Side) -> Vec<Method> {
    let peers = PEERS.iter().filter(|_| side == Side::Peers);
    CLIENTS.iter().chain(peers).chain([&UNKNOWN]).copied().collect()
}
