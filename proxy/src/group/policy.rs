//! [`RoutingPolicy`]: which of a group's nodes may answer a request, as the table of calls says.

use kubebrain_shared::method::{self, Answers, Kind, Method};

/// What a request is, as far as the choice of a node goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoutingPolicy {
    /// A Range or RangeStream, linearizable or not, at now or at a revision, of a whole range or of a group's part. Any
    /// node that reads may answer: it fences itself, and the floor comes with the request. Without side effects: where
    /// one node does not answer another is asked.
    Read,
    /// A watch stream: to any node that reads, and moved to another one unseen.
    Watch,
    /// Everything else: writes and leases, compaction, fences, and what operators ask of a group. The master's alone,
    /// and sent again only where it surely was not carried out.
    Master,
}

impl RoutingPolicy {
    /// The policy of a path, which is `/service/method`.
    pub(crate) fn of(path: &str) -> Self {
        match method::find(path) {
            Some(Method { answers: Answers::Follower, kind: Kind::BidiStream, .. }) => Self::Watch,
            Some(Method { answers: Answers::Follower, .. }) => Self::Read,
            _ => Self::Master,
        }
    }

    /// True if asking twice does no harm.
    pub(crate) const fn is_harmless(self) -> bool {
        matches!(self, Self::Read | Self::Watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ranges_and_watches_leave_the_master() {
        for (path, expected) in [
            ("/etcdserverpb.KV/Range", RoutingPolicy::Read),
            ("/etcdserverpb.KV/RangeStream", RoutingPolicy::Read),
            ("/etcdserverpb.Watch/Watch", RoutingPolicy::Watch),
            ("/etcdserverpb.KV/Txn", RoutingPolicy::Master),
            ("/etcdserverpb.KV/Compact", RoutingPolicy::Master),
            ("/etcdserverpb.Lease/LeaseTimeToLive", RoutingPolicy::Master),
            ("/kubebrain.peer.v1.Peer/Advance", RoutingPolicy::Master),
            ("/etcdserverpb.KV/RangeOfNextYear", RoutingPolicy::Master),
        ] {
            assert_eq!(RoutingPolicy::of(path), expected, "{path}");
        }
    }
}
