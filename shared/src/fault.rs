//! [`Fault`]: the closed list of failures that a client can see, with etcd's codes and texts.
//!
//! etcd's client finds its error by the exact message and decides on retries by the code, so both are wire facts.
//! A write that may have happened is [`Fault::Timeout`]: `Unavailable` is the only code that makes no client
//! re-apply it (`Canceled` and `DeadlineExceeded` from a server are retried even for transactions).

use tonic::{Code, Status};

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        /// A failure that a client can see.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Fault { $($(#[$doc])* $name,)* }

        impl Fault {
            /// Every fault, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Code and message as etcd sends them.
            pub const fn wire(self) -> (Code, &'static str) {
                match self { $(Self::$name => (Code::$code, $text),)* }
            }
        }
    };
}

faults! {
    EmptyKey = InvalidArgument, "etcdserver: key is not provided";
    KeyNotFound = InvalidArgument, "etcdserver: key not found";
    ValueProvided = InvalidArgument, "etcdserver: value is provided";
    LeaseProvided = InvalidArgument, "etcdserver: lease is provided";
    TooManyOps = InvalidArgument, "etcdserver: too many operations in txn request";
    DuplicateKey = InvalidArgument, "etcdserver: duplicate key given in txn request";
    InvalidSortOption = InvalidArgument, "etcdserver: invalid sort option";
    /// Never sent: the version that a client names is not looked at; etcd refuses one that is not UTF-8.
    InvalidClientApiVersion = InvalidArgument, "etcdserver: invalid client api version";
    RequestTooLarge = InvalidArgument, "etcdserver: request is too large";
    Compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FutureRevision = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    NoSpace = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// etcd's own table says `ResourceExhausted`, its servers send `Unknown`; clients go by the text.
    TooManyRequests = ResourceExhausted, "etcdserver: too many requests";
    LeaseNotFound = NotFound, "etcdserver: requested lease not found";
    LeaseExists = FailedPrecondition, "etcdserver: lease already exists";
    LeaseTtlTooLarge = OutOfRange, "etcdserver: too large lease TTL";
    /// Never sent: a process without its group's master does not serve it.
    NoLeader = Unavailable, "etcdserver: no leader";
    /// Of a brain that learns, before it answers, that another one has taken its group over.
    LeaderChanged = Unavailable, "etcdserver: leader changed";
    Stopped = Unavailable, "etcdserver: server stopped";
    /// The outcome is not known, or nothing was done in time.
    Timeout = Unavailable, "etcdserver: request timed out";
    /// Never sent: whatever the reason, it is [`Self::Timeout`].
    TimeoutLeaderFailed =
        Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    /// Never sent: as [`Self::TimeoutLeaderFailed`].
    TimeoutConnectionLost = Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    /// Never sent: nothing here waits for an index of another member.
    TimeoutAppliedIndex =
        Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    /// Of a proxy that has not heard of every group yet.
    Unhealthy = Unavailable, "etcdserver: unhealthy cluster";
    /// Never sent: brains that are not master do not serve yet.
    NotLeader = FailedPrecondition, "etcdserver: not leader";
    /// Never sent: nothing waits for a cluster version.
    NotCapable = FailedPrecondition, "etcdserver: not capable";
    /// Never sent: there are no learners.
    NotSupportedForLearner = FailedPrecondition, "etcdserver: rpc not supported for learner";
    /// While an alarm of this kind stands.
    Corrupt = DataLoss, "etcdserver: corrupt cluster";
    /// Never sent, and so are the next four: there are no users.
    PermissionDenied = PermissionDenied, "etcdserver: permission denied";
    InvalidAuthToken = Unauthenticated, "etcdserver: invalid auth token";
    UserEmpty = InvalidArgument, "etcdserver: user name is empty";
    AuthFailed = InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    AuthOldRevision = InvalidArgument, "etcdserver: revision of auth store is old";
    AuthNotEnabled = FailedPrecondition, "etcdserver: authentication is not enabled";
    MemberNotFound = NotFound, "etcdserver: member not found";
    MemberNotLearner = FailedPrecondition, "etcdserver: can only promote a learner member";
    /// Never sent, and so is the next one: members are not added.
    MemberExists = FailedPrecondition, "etcdserver: member ID already exist";
    PeerUrlExists = FailedPrecondition, "etcdserver: Peer URLs already exists";
    BadLeaderTransferee = FailedPrecondition, "etcdserver: bad leader transferee";
    /// Never sent: etcd's server does not send it either; a cancelled watcher hears a reason on its stream.
    WatchCanceled = Cancelled, "etcdserver: watch canceled";
    /// Never sent, and so is the next one: a server that says so makes clients carry a write out again.
    Canceled = Cancelled, "etcdserver: request canceled";
    DeadlineExceeded = DeadlineExceeded, "etcdserver: context deadline exceeded";
}

impl Fault {
    /// The fault that a status carries, by its message.
    pub fn of(status: &Status) -> Option<Self> {
        Self::ALL.iter().copied().find(|fault| fault.wire().1 == status.message())
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let (code, message) = fault.wire();
        Self::new(code, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// etcd's own list (`api/v3rpc/rpctypes/error.go`), with gRPC's numbers. Written out: a slip in the table above must
    /// not be repeated here.
    const AS_IN_ETCD: &[(Fault, i32, &str)] = &[
        (Fault::EmptyKey, 3, "key is not provided"),
        (Fault::KeyNotFound, 3, "key not found"),
        (Fault::ValueProvided, 3, "value is provided"),
        (Fault::LeaseProvided, 3, "lease is provided"),
        (Fault::TooManyOps, 3, "too many operations in txn request"),
        (Fault::DuplicateKey, 3, "duplicate key given in txn request"),
        (Fault::InvalidSortOption, 3, "invalid sort option"),
        (Fault::InvalidClientApiVersion, 3, "invalid client api version"),
        (Fault::RequestTooLarge, 3, "request is too large"),
        (Fault::Compacted, 11, "mvcc: required revision has been compacted"),
        (Fault::FutureRevision, 11, "mvcc: required revision is a future revision"),
        (Fault::NoSpace, 8, "mvcc: database space exceeded"),
        (Fault::TooManyRequests, 8, "too many requests"),
        (Fault::LeaseNotFound, 5, "requested lease not found"),
        (Fault::LeaseExists, 9, "lease already exists"),
        (Fault::LeaseTtlTooLarge, 11, "too large lease TTL"),
        (Fault::NoLeader, 14, "no leader"),
        (Fault::LeaderChanged, 14, "leader changed"),
        (Fault::Stopped, 14, "server stopped"),
        (Fault::Timeout, 14, "request timed out"),
        (Fault::TimeoutLeaderFailed, 14, "request timed out, possibly due to previous leader failure"),
        (Fault::TimeoutConnectionLost, 14, "request timed out, possibly due to connection lost"),
        (Fault::TimeoutAppliedIndex, 14, "request timed out, waiting for the applied index took too long"),
        (Fault::Unhealthy, 14, "unhealthy cluster"),
        (Fault::NotLeader, 9, "not leader"),
        (Fault::NotCapable, 9, "not capable"),
        (Fault::NotSupportedForLearner, 9, "rpc not supported for learner"),
        (Fault::Corrupt, 15, "corrupt cluster"),
        (Fault::PermissionDenied, 7, "permission denied"),
        (Fault::InvalidAuthToken, 16, "invalid auth token"),
        (Fault::UserEmpty, 3, "user name is empty"),
        (Fault::AuthFailed, 3, "authentication failed, invalid user ID or password"),
        (Fault::AuthOldRevision, 3, "revision of auth store is old"),
        (Fault::AuthNotEnabled, 9, "authentication is not enabled"),
        (Fault::MemberNotFound, 5, "member not found"),
        (Fault::MemberNotLearner, 9, "can only promote a learner member"),
        (Fault::MemberExists, 9, "member ID already exist"),
        (Fault::PeerUrlExists, 9, "Peer URLs already exists"),
        (Fault::BadLeaderTransferee, 9, "bad leader transferee"),
        (Fault::WatchCanceled, 1, "watch canceled"),
        (Fault::Canceled, 1, "request canceled"),
        (Fault::DeadlineExceeded, 4, "context deadline exceeded"),
    ];

    #[test]
    fn codes_and_texts_are_etcds() {
        assert_eq!(AS_IN_ETCD.len(), Fault::ALL.len(), "every fault stands in the list");
        for (fault, code, text) in AS_IN_ETCD {
            let status = Status::from(*fault);
            assert_eq!(status.code() as i32, *code, "{fault:?}");
            assert_eq!(status.message(), format!("etcdserver: {text}"), "{fault:?}");
        }
    }

    #[test]
    fn every_fault_is_found_again_by_its_message() {
        for fault in Fault::ALL {
            assert_eq!(Fault::of(&Status::from(*fault)), Some(*fault));
        }
    }
}
