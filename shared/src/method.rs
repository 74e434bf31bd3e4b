//! [`Method`]: the calls that there are, in one table: their paths, who may answer, how many messages go each way, and
//! whether a proxy bounds their time.

/// How many messages go each way, in the words of gRPC's own metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One each way.
    Unary,
    /// One in, many out.
    ServerStream,
    /// Many each way.
    BidiStream,
}

/// Which brain of a group may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// The master alone: writes and leases, compaction, fences, and what is asked of a group as a whole.
    Master,
    /// Any brain that follows: it proves itself how fresh it is. Asking twice does no harm.
    Follower,
    /// The brain that is asked, of itself.
    Itself,
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// As in a request: `/service/name`.
    pub path: &'static str,
    /// As in its `.proto` file, with the package.
    pub service: &'static str,
    /// As in its `.proto` file.
    pub name: &'static str,
    /// How many messages go each way.
    pub kind: Kind,
    /// Which brain may answer.
    pub answers: Answers,
    /// False where the work of one call has no bound in time, so that a proxy sets none either.
    pub is_bounded: bool,
}

macro_rules! bounded {
    () => {
        true
    };
    (unbounded) => {
        false
    };
}

macro_rules! methods {
    ($($(#[$doc:meta])* $list:ident: $($service:literal $({
        $($constant:ident $name:literal $kind:ident $answers:ident $($unbounded:ident)?;)+
    })+)+)+) => {
        $($($($(
            #[doc = concat!($service, "/", $name)]
            pub const $constant: &str = concat!("/", $service, "/", $name);
        )+)+)+)+
        $($(#[$doc])* pub const $list: &[Method] = &[$($($(Method {
            path: $constant,
            service: $service,
            name: $name,
            kind: Kind::$kind,
            answers: Answers::$answers,
            is_bounded: bounded!($($unbounded)?),
        },)+)+)+];)+
    };
}

methods! {
    /// What clients ask: etcd's calls, gRPC's own and ours.
    CLIENTS:
    "etcdserverpb.KV" {
        RANGE "Range" Unary Follower;
        RANGE_STREAM "RangeStream" ServerStream Follower;
        PUT "Put" Unary Master;
        DELETE_RANGE "DeleteRange" Unary Master;
        TXN "Txn" Unary Master;
        COMPACT "Compact" Unary Master unbounded;
    }
    "etcdserverpb.Watch" {
        WATCH "Watch" BidiStream Follower;
    }
    "etcdserverpb.Lease" {
        LEASE_GRANT "LeaseGrant" Unary Master;
        LEASE_REVOKE "LeaseRevoke" Unary Master;
        LEASE_KEEP_ALIVE "LeaseKeepAlive" BidiStream Master;
        LEASE_TIME_TO_LIVE "LeaseTimeToLive" Unary Master;
        LEASE_LEASES "LeaseLeases" Unary Master;
    }
    "etcdserverpb.Cluster" {
        MEMBER_LIST "MemberList" Unary Master;
        MEMBER_ADD "MemberAdd" Unary Master;
        MEMBER_REMOVE "MemberRemove" Unary Master;
        MEMBER_UPDATE "MemberUpdate" Unary Master;
        MEMBER_PROMOTE "MemberPromote" Unary Master;
    }
    "etcdserverpb.Maintenance" {
        ALARM "Alarm" Unary Master unbounded;
        STATUS "Status" Unary Itself unbounded;
        DEFRAGMENT "Defragment" Unary Itself unbounded;
        HASH "Hash" Unary Master unbounded;
        HASH_KV "HashKV" Unary Master unbounded;
        SNAPSHOT "Snapshot" ServerStream Master unbounded;
        MOVE_LEADER "MoveLeader" Unary Master unbounded;
        DOWNGRADE "Downgrade" Unary Master unbounded;
    }
    "etcdserverpb.Auth" {
        AUTH_STATUS "AuthStatus" Unary Master;
        AUTHENTICATE "Authenticate" Unary Master;
    }
    "v3lockpb.Lock" {
        LOCK "Lock" Unary Master;
        UNLOCK "Unlock" Unary Master;
    }
    "v3electionpb.Election" {
        CAMPAIGN "Campaign" Unary Master;
        PROCLAIM "Proclaim" Unary Master;
        LEADER "Leader" Unary Master;
        OBSERVE "Observe" ServerStream Master;
        RESIGN "Resign" Unary Master;
    }
    "grpc.health.v1.Health" {
        HEALTH_CHECK "Check" Unary Itself;
        HEALTH_WATCH "Watch" ServerStream Itself;
    }
    "kubebrain.admin.v1.Admin" {
        GROUPS "Groups" Unary Master;
        ADMIN_PLACEMENT "Placement" Unary Master unbounded;
        CHANGE_PLACEMENT "ChangePlacement" Unary Master unbounded;
    }
    "grpc.reflection.v1.ServerReflection" {
        REFLECTION "ServerReflectionInfo" BidiStream Itself;
    }
    "grpc.reflection.v1alpha.ServerReflection" {
        REFLECTION_ALPHA "ServerReflectionInfo" BidiStream Itself;
    }

    /// What proxies and brains ask besides.
    PEERS:
    "kubebrain.peer.v1.Peer" {
        ADVANCE "Advance" Unary Master;
        SHARE_LEASE "ShareLease" Unary Master;
        ADOPT_LEASE "AdoptLease" Unary Master;
        RENEW_LEASE "RenewLease" Unary Master;
        LEASE_HOLDERS "LeaseHolders" Unary Master;
        CONTENT "Content" Unary Master;
        EXPORT "Export" ServerStream Master;
        STANDING "Standing" ServerStream Itself;
        FOLLOW "Follow" ServerStream Master;
        ASK "Ask" BidiStream Master;
        PLACE "Place" Unary Master;
        REPAIR "Repair" Unary Master;
        PLACEMENT "Placement" Unary Itself;
    }

    /// Calls of etcd that are answered with a refusal: there are no users and roles.
    USERS:
    "etcdserverpb.Auth" {
        AUTH_ENABLE "AuthEnable" Unary Master;
        AUTH_DISABLE "AuthDisable" Unary Master;
        USER_ADD "UserAdd" Unary Master;
        USER_GET "UserGet" Unary Master;
        USER_LIST "UserList" Unary Master;
        USER_DELETE "UserDelete" Unary Master;
        USER_CHANGE_PASSWORD "UserChangePassword" Unary Master;
        USER_GRANT_ROLE "UserGrantRole" Unary Master;
        USER_REVOKE_ROLE "UserRevokeRole" Unary Master;
        ROLE_ADD "RoleAdd" Unary Master;
        ROLE_GET "RoleGet" Unary Master;
        ROLE_LIST "RoleList" Unary Master;
        ROLE_DELETE "RoleDelete" Unary Master;
        ROLE_GRANT_PERMISSION "RoleGrantPermission" Unary Master;
        ROLE_REVOKE_PERMISSION "RoleRevokePermission" Unary Master;
    }
}

/// The call with this path; `None` where there is none.
pub fn find(path: &str) -> Option<&'static Method> {
    [CLIENTS, PEERS, USERS].into_iter().flatten().find(|method| method.path == path)
}

/// Which brain may answer a call, where there is none such too: of gRPC's own the one that is asked, else the master.
pub fn answers(path: &str) -> Answers {
    match find(path) {
        Some(method) => method.answers,
        None if path.starts_with("/grpc.") => Answers::Itself,
        None => Answers::Master,
    }
}

/// Whether a proxy bounds the time of a call; so it does with one that there is not.
pub fn is_bounded(path: &str) -> bool {
    find(path).is_none_or(|method| method.is_bounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_once() {
        let all: Vec<&Method> = [CLIENTS, PEERS, USERS].into_iter().flatten().collect();
        for method in &all {
            assert_eq!(all.iter().filter(|other| other.path == method.path).count(), 1, "{}", method.path);
            assert_eq!(find(method.path), Some(*method));
            assert_eq!(method.path, format!("/{}/{}", method.service, method.name));
        }
        assert!(find("/etcdserverpb.KV/RangeOfNextYear").is_none());
    }

    #[test]
    fn what_followers_answer_and_what_has_time() {
        let follower = |path| answers(path) == Answers::Follower;
        assert!(follower(RANGE) && follower(RANGE_STREAM) && follower(WATCH));
        assert!(!follower(TXN) && !follower("/etcdserverpb.KV/RangeOfNextYear"));
        assert_eq!(answers("/grpc.channelz.v1.Channelz/GetServers"), Answers::Itself);
        assert!(!is_bounded(COMPACT) && !is_bounded(HASH_KV) && is_bounded(TXN) && is_bounded(LEASE_REVOKE));
    }

    /// Every call that the `.proto` files have is here, with as many messages each way.
    #[test]
    fn the_table_says_what_the_protocols_say() {
        use prost::Message as _;
        let files =
            prost_types::FileDescriptorSet::decode(kubebrain_proto::DESCRIPTORS).expect("descriptors");
        let mut count = 0;
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let want = match (method.client_streaming(), method.server_streaming()) {
                        (false, false) => Kind::Unary,
                        (false, true) => Kind::ServerStream,
                        (true, _) => Kind::BidiStream,
                    };
                    assert_eq!(find(&path).map(|method| method.kind), Some(want), "{path}");
                    count += 1;
                }
            }
        }
        let reflection = 2; // comes with its own library
        assert_eq!(count + reflection, CLIENTS.len() + PEERS.len() + USERS.len());
    }
}
