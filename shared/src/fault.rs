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
    RequestTooLarge = InvalidArgument, "etcdserver: request is too large";
    Compacted = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FutureRevision = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    NoSpace = ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// etcd's own table says `ResourceExhausted`, its servers send `Unknown`; clients go by the text.
    TooManyRequests = ResourceExhausted, "etcdserver: too many requests";
    LeaseNotFound = NotFound, "etcdserver: requested lease not found";
    LeaseExists = FailedPrecondition, "etcdserver: lease already exists";
    LeaseTtlTooLarge = OutOfRange, "etcdserver: too large lease TTL";
    NoLeader = Unavailable, "etcdserver: no leader";
    LeaderChanged = Unavailable, "etcdserver: leader changed";
    Stopped = Unavailable, "etcdserver: server stopped";
    /// The outcome is not known, or nothing was done in time.
    Timeout = Unavailable, "etcdserver: request timed out";
    Unhealthy = Unavailable, "etcdserver: unhealthy cluster";
    NotLeader = FailedPrecondition, "etcdserver: not leader";
    NotCapable = FailedPrecondition, "etcdserver: not capable";
    Corrupt = DataLoss, "etcdserver: corrupt cluster";
    AuthNotEnabled = FailedPrecondition, "etcdserver: authentication is not enabled";
    MemberNotFound = NotFound, "etcdserver: member not found";
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

    #[test]
    fn every_fault_is_found_again_by_its_message() {
        for fault in Fault::ALL {
            assert_eq!(Fault::of(&Status::from(*fault)), Some(*fault));
        }
    }
}
