//! Which path is which call: as the `google.api.http` annotations of etcd 3.7's `rpc.proto`, `v3lock.proto` and
//! `v3election.proto` say. All are POST with the message as body.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

/// Above all paths.
pub(super) const ROOT: &str = "/v3";
const BELOW: &str = "/v3/";
/// The name that etcd 3.3 had for it, which etcd still takes.
const BELOW_BETA: &str = "/v3beta/";

/// How many messages there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Streams {
    /// One each way.
    None,
    /// One in, many out.
    Out,
    /// Many each way.
    Both,
}

/// A call.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// Of the gRPC request: `/service/method`.
    pub(super) path: &'static str,
    pub(super) input: MessageDescriptor,
    pub(super) output: MessageDescriptor,
    pub(super) streams: Streams,
}

/// Below [`BELOW`], and the method.
const TABLE: &[(&str, &str)] = &[
    ("kv/range", "/etcdserverpb.KV/Range"),
    ("kv/put", "/etcdserverpb.KV/Put"),
    ("kv/deleterange", "/etcdserverpb.KV/DeleteRange"),
    ("kv/txn", "/etcdserverpb.KV/Txn"),
    ("kv/compaction", "/etcdserverpb.KV/Compact"),
    ("watch", "/etcdserverpb.Watch/Watch"),
    ("lease/grant", "/etcdserverpb.Lease/LeaseGrant"),
    ("lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    ("kv/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    ("lease/keepalive", "/etcdserverpb.Lease/LeaseKeepAlive"),
    ("lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
    ("kv/lease/timetolive", "/etcdserverpb.Lease/LeaseTimeToLive"),
    ("lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    ("kv/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    ("cluster/member/add", "/etcdserverpb.Cluster/MemberAdd"),
    ("cluster/member/remove", "/etcdserverpb.Cluster/MemberRemove"),
    ("cluster/member/update", "/etcdserverpb.Cluster/MemberUpdate"),
    ("cluster/member/list", "/etcdserverpb.Cluster/MemberList"),
    ("cluster/member/promote", "/etcdserverpb.Cluster/MemberPromote"),
    ("maintenance/alarm", "/etcdserverpb.Maintenance/Alarm"),
    ("maintenance/status", "/etcdserverpb.Maintenance/Status"),
    ("maintenance/defragment", "/etcdserverpb.Maintenance/Defragment"),
    ("maintenance/hash", "/etcdserverpb.Maintenance/Hash"),
    ("maintenance/hashkv", "/etcdserverpb.Maintenance/HashKV"),
    ("maintenance/snapshot", "/etcdserverpb.Maintenance/Snapshot"),
    ("maintenance/transfer-leadership", "/etcdserverpb.Maintenance/MoveLeader"),
    ("maintenance/downgrade", "/etcdserverpb.Maintenance/Downgrade"),
    ("auth/enable", "/etcdserverpb.Auth/AuthEnable"),
    ("auth/disable", "/etcdserverpb.Auth/AuthDisable"),
    ("auth/status", "/etcdserverpb.Auth/AuthStatus"),
    ("auth/authenticate", "/etcdserverpb.Auth/Authenticate"),
    ("auth/user/add", "/etcdserverpb.Auth/UserAdd"),
    ("auth/user/get", "/etcdserverpb.Auth/UserGet"),
    ("auth/user/list", "/etcdserverpb.Auth/UserList"),
    ("auth/user/delete", "/etcdserverpb.Auth/UserDelete"),
    ("auth/user/changepw", "/etcdserverpb.Auth/UserChangePassword"),
    ("auth/user/grant", "/etcdserverpb.Auth/UserGrantRole"),
    ("auth/user/revoke", "/etcdserverpb.Auth/UserRevokeRole"),
    ("auth/role/add", "/etcdserverpb.Auth/RoleAdd"),
    ("auth/role/get", "/etcdserverpb.Auth/RoleGet"),
    ("auth/role/list", "/etcdserverpb.Auth/RoleList"),
    ("auth/role/delete", "/etcdserverpb.Auth/RoleDelete"),
    ("auth/role/grant", "/etcdserverpb.Auth/RoleGrantPermission"),
    ("auth/role/revoke", "/etcdserverpb.Auth/RoleRevokePermission"),
    ("lock/lock", "/v3lockpb.Lock/Lock"),
    ("lock/unlock", "/v3lockpb.Lock/Unlock"),
    ("election/campaign", "/v3electionpb.Election/Campaign"),
    ("election/proclaim", "/v3electionpb.Election/Proclaim"),
    ("election/leader", "/v3electionpb.Election/Leader"),
    ("election/observe", "/v3electionpb.Election/Observe"),
    ("election/resign", "/v3electionpb.Election/Resign"),
];

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(kubebrain_proto::DESCRIPTORS).expect("the descriptors were made by our own build")
});

static ROUTES: LazyLock<HashMap<&str, Route>> = LazyLock::new(|| {
    let routes = TABLE.iter().map(|(name, path)| (*name, route(path)));
    routes.collect()
});

fn route(path: &'static str) -> Route {
    let (service, method) = path[1..].split_once('/').expect("a path is /service/method");
    let service = POOL.get_service_by_name(service).expect("a test looks every service up");
    let method = service.methods().find(|known| known.name() == method);
    let method = method.expect("a test looks every method up");
    let streams = match (method.is_client_streaming(), method.is_server_streaming()) {
        (false, false) => Streams::None,
        (false, true) => Streams::Out,
        (true, _) => Streams::Both,
    };
    Route { path, input: method.input(), output: method.output(), streams }
}

/// True for the paths that are the gateway's.
pub(super) fn is_below(path: &str) -> bool {
    path == ROOT || path.starts_with(BELOW) || path.starts_with(BELOW_BETA)
}

pub(super) fn find(path: &str) -> Option<Route> {
    let name = path.strip_prefix(BELOW).or_else(|| path.strip_prefix(BELOW_BETA))?;
    ROUTES.get(name).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_etcd_has_a_path_but_the_one_that_has_none_there() {
        for service in ["KV", "Watch", "Lease", "Cluster", "Maintenance", "Auth"]
            .map(|name| format!("etcdserverpb.{name}"))
            .iter()
            .map(String::as_str)
            .chain(["v3lockpb.Lock", "v3electionpb.Election"])
        {
            for method in POOL.get_service_by_name(service).expect(service).methods() {
                let path = format!("/{service}/{}", method.name());
                let there = ROUTES.values().any(|route| route.path == path);
                assert_eq!(there, path != "/etcdserverpb.KV/RangeStream", "{path}");
            }
        }
        assert_eq!(ROUTES.len(), TABLE.len(), "no path twice");
    }

    #[test]
    fn paths_are_found_as_they_are_written() {
        let watch = find("/v3/watch").expect("a route");
        assert_eq!((watch.path, watch.streams), ("/etcdserverpb.Watch/Watch", Streams::Both));
        let observe = find("/v3/election/observe").expect("a route");
        assert_eq!((observe.output.name(), observe.streams), ("LeaderResponse", Streams::Out));
        assert_eq!(find("/v3beta/kv/range").expect("an older name").streams, Streams::None);
        for none in ["/v3/kv/range/", "/v3/", "/v3alpha/kv/range", "/v3/KV/range", "/v3/kv"] {
            assert!(find(none).is_none(), "{none}");
        }
        assert!(
            is_below("/v3")
                && is_below("/v3/nope")
                && !is_below("/v3alpha/kv/range")
                && !is_below("/version")
        );
    }
}
