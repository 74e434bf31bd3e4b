//! Compiles the `.proto` files with protox: nobody needs protoc.
//!
//! The `KV` and `Watch` services are declared by hand on the server side (`raw` module): their answers are
//! concatenations of stored bytes, so what a handler returns is an already encoded message.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["etcd/rpc.proto", "etcd/kv.proto", "etcd/auth.proto", "health/health.proto", "brain/peer.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["etcd", "health", "brain", "."])?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
