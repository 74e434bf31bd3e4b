//! [`Method`]: the calls that have numbers of their own. Every other path is one: nobody makes new rows by asking.

use super::Side;

/// How many messages go each way, in the words of gRPC's own metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Unary,
    ServerStream,
    BidiStream,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    /// As in a request: `/service/name`.
    pub(super) path: &'static str,
    pub(super) service: &'static str,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

impl Kind {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

macro_rules! methods {
    ($($service:literal: $($name:literal $kind:ident),+;)+) => {
        &[$($(Method {
            path: concat!("/", $service, "/", $name),
            service: $service,
            name: $name,
            kind: Kind::$kind,
        },)+)+]
    };
}

/// etcd's, gRPC's own and ours, as clients ask for them.
const CLIENTS: &[Method] = methods! {
    "etcdserverpb.KV": "Range" Unary, "RangeStream" ServerStream, "Put" Unary, "DeleteRange" Unary, "Txn" Unary,
        "Compact" Unary;
    "etcdserverpb.Watch": "Watch" BidiStream;
    "etcdserverpb.Lease": "LeaseGrant" Unary, "LeaseRevoke" Unary, "LeaseKeepAlive" BidiStream,
        "LeaseTimeToLive" Unary, "LeaseLeases" Unary;
    "etcdserverpb.Cluster": "MemberList" Unary, "MemberAdd" Unary, "MemberRemove" Unary, "MemberUpdate" Unary,
        "MemberPromote" Unary;
    "etcdserverpb.Maintenance": "Alarm" Unary, "Status" Unary, "Defragment" Unary, "Hash" Unary, "HashKV" Unary,
        "Snapshot" ServerStream, "MoveLeader" Unary, "Downgrade" Unary;
    "etcdserverpb.Auth": "AuthStatus" Unary, "Authenticate" Unary;
    "v3lockpb.Lock": "Lock" Unary, "Unlock" Unary;
    "v3electionpb.Election": "Campaign" Unary, "Proclaim" Unary, "Leader" Unary, "Observe" ServerStream,
        "Resign" Unary;
    "grpc.health.v1.Health": "Check" Unary, "Watch" ServerStream;
    "kubebrain.admin.v1.Admin": "Groups" Unary;
    "grpc.reflection.v1.ServerReflection": "ServerReflectionInfo" BidiStream;
    "grpc.reflection.v1alpha.ServerReflection": "ServerReflectionInfo" BidiStream;
};

/// What proxies and brains ask besides.
const PEERS: &[Method] = methods! {
    "kubebrain.peer.v1.Peer": "Advance" Unary, "ShareLease" Unary, "AdoptLease" Unary, "RenewLease" Unary,
        "LeaseHolders" Unary, "Content" Unary, "Export" ServerStream, "Standing" ServerStream,
        "Follow" ServerStream, "Ask" BidiStream;
};

/// Every path that is not in a list.
const UNKNOWN: Method = Method { path: "", service: "unknown", name: "unknown", kind: Kind::Unary };

/// The rows of a listener; the last one is for paths that have none.
pub(super) fn of(side: Side) -> Vec<Method> {
    let peers = PEERS.iter().filter(|_| side == Side::Peers);
    CLIENTS.iter().chain(peers).chain([&UNKNOWN]).copied().collect()
}
