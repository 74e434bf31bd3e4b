//! Generated code and nothing else: etcd v3 as published with etcd 3.7, gRPC health, the peer protocol, and what is
//! asked of TiKV's placement driver. `tests/generated.rs` makes it from the `.proto` files.
#![allow(missing_docs, clippy::all, unreachable_pub)]

pub mod authpb {
    include!("generated/authpb.rs");
}
pub mod mvccpb {
    include!("generated/mvccpb.rs");
}
pub mod etcdserverpb {
    include!("generated/etcdserverpb.rs");
}
pub mod v3lockpb {
    include!("generated/v3lockpb.rs");
}
pub mod v3electionpb {
    include!("generated/v3electionpb.rs");
}
pub mod health {
    include!("generated/grpc.health.v1.rs");
}
pub mod kubebrain {
    pub mod peer {
        pub mod v1 {
            include!("generated/kubebrain.peer.v1.rs");
        }
    }
    pub mod admin {
        pub mod v1 {
            include!("generated/kubebrain.admin.v1.rs");
        }
    }
}
pub use kubebrain::admin::v1 as admin;
pub use kubebrain::peer::v1 as peer;
pub mod pdpb {
    include!("generated/pdpb.rs");
}

/// Every message and service, as `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");
