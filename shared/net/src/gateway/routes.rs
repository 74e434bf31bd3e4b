//! Which path is which call: as the `google.api.http` annotations of etcd 3.7's `rpc.proto`, `v3lock.proto` and
//! `v3election.proto` say. All are POST with the message as body.

use std::collections::HashMap;
use std::sync::LazyLock;

use kubebrain_shared::method::{self, Kind};
use prost_reflect::{DescriptorPool, MessageDescriptor};

/// Above all paths.
pub(super) const ROOT: &str = "/v3";
const BELOW: &str = "/v3/";
/// The name that etcd 3.3 had for it, which etcd still takes.
const BELOW_BETA: &str = "/v3beta/";

/// A call.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// Of the gRPC request: `/service/method`.
    pub(super) path: &'static str,
    pub(super) input: MessageDescriptor,
    pub(super) output: MessageDescriptor,
    pub(super) kind: Kind,
}

/// Below [`BELOW`], and the method.
const TABLE: &[(&str, &str)] = &[
    ("kv/range", method::RANGE),
    ("kv/put", method::PUT),
    ("kv/deleterange", method::DELETE_RANGE),
    ("kv/txn", method::TXN),
    ("kv/compaction", method::COMPACT),
    ("watch", method::WATCH),
    ("lease/grant", method::LEASE_GRANT),
    ("lease/revoke", method::LEASE_REVOKE),
    ("kv/lease/revoke", method::LEASE_REVOKE),
    ("lease/keepalive", method::LEASE_KEEP_ALIVE),
    ("lease/timetolive", method::LEASE_TIME_TO_LIVE),
    ("kv/lease/timetolive", method::LEASE_TIME_TO_LIVE),
    ("lease/leases", method::LEASE_LEASES),
    ("kv/lease/leases", method::LEASE_LEASES),
    ("cluster/member/add", method::MEMBER_ADD),
    ("cluster/member/remove", method::MEMBER_REMOVE),
    ("cluster/member/update", method::MEMBER_UPDATE),
    ("cluster/member/list", method::MEMBER_LIST),
    ("cluster/member/promote", method::MEMBER_PROMOTE),
    ("maintenance/alarm", method::ALARM),
    ("maintenance/status", method::STATUS),
    ("maintenance/defragment", method::DEFRAGMENT),
    ("maintenance/hash", method::HASH),
    ("maintenance/hashkv", method::HASH_KV),
    ("maintenance/snapshot", method::SNAPSHOT),
    ("maintenance/transfer-leadership", method::MOVE_LEADER),
    ("maintenance/downgrade", method::DOWNGRADE),
    ("auth/enable", method::AUTH_ENABLE),
    ("auth/disable", method::AUTH_DISABLE),
    ("auth/status", method::AUTH_STATUS),
    ("auth/authenticate", method::AUTHENTICATE),
    ("auth/user/add", method::USER_ADD),
    ("auth/user/get", method::USER_GET),
    ("auth/user/list", method::USER_LIST),
    ("auth/user/delete", method::USER_DELETE),
    ("auth/user/changepw", method::USER_CHANGE_PASSWORD),
    ("auth/user/grant", method::USER_GRANT_ROLE),
    ("auth/user/revoke", method::USER_REVOKE_ROLE),
    ("auth/role/add", method::ROLE_ADD),
    ("auth/role/get", method::ROLE_GET),
    ("auth/role/list", method::ROLE_LIST),
    ("auth/role/delete", method::ROLE_DELETE),
    ("auth/role/grant", method::ROLE_GRANT_PERMISSION),
    ("auth/role/revoke", method::ROLE_REVOKE_PERMISSION),
    ("lock/lock", method::LOCK),
    ("lock/unlock", method::UNLOCK),
    ("election/campaign", method::CAMPAIGN),
    ("election/proclaim", method::PROCLAIM),
    ("election/leader", method::LEADER),
    ("election/observe", method::OBSERVE),
    ("election/resign", method::RESIGN),
];

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(kubebrain_proto::DESCRIPTORS).expect("the descriptors were made by our own build")
});

static ROUTES: LazyLock<HashMap<&str, Route>> = LazyLock::new(|| {
    let routes = TABLE.iter().map(|(name, path)| (*name, route(path)));
    routes.collect()
});

fn route(path: &'static str) -> Route {
    let known = method::find(path).expect("a test looks every path up");
    let service = POOL.get_service_by_name(known.service).expect("a test looks every service up");
    let method = service.methods().find(|method| method.name() == known.name);
    let method = method.expect("a test looks every method up");
    Route { path, input: method.input(), output: method.output(), kind: known.kind }
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
        assert_eq!((watch.path, watch.kind), ("/etcdserverpb.Watch/Watch", Kind::BidiStream));
        let observe = find("/v3/election/observe").expect("a route");
        assert_eq!((observe.output.name(), observe.kind), ("LeaderResponse", Kind::ServerStream));
        assert_eq!(find("/v3beta/kv/range").expect("an older name").kind, Kind::Unary);
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
