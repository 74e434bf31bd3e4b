//! Generated code and nothing else: etcd v3 as published with etcd 3.7, gRPC health, the peer protocol, and what is
//! asked of TiKV's placement driver.
#![allow(missing_docs, clippy::all, unreachable_pub)]

pub mod authpb {
    tonic::include_proto!("authpb");
}
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
pub mod kubebrain {
    pub mod peer {
        pub mod v1 {
            tonic::include_proto!("kubebrain.peer.v1");
        }
    }
    pub mod admin {
        pub mod v1 {
            tonic::include_proto!("kubebrain.admin.v1");
        }
    }
}
pub use kubebrain::admin::v1 as admin;
pub use kubebrain::peer::v1 as peer;
pub mod pdpb {
    tonic::include_proto!("pdpb");
}

/// Every message and service, as `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
