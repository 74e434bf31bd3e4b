//! Generated code and nothing else: etcd v3 as published with etcd 3.7, gRPC health, and the peer protocol.
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
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
pub mod peer {
    tonic::include_proto!("kubebrain.peer.v1");
}

/// Every message and service, as `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
