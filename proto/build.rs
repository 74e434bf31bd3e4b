//! Compiles the `.proto` files with protox: nobody needs protoc.
//!
//! The `KV` and `Watch` services are declared by hand on the server side (`raw` module): their answers are
//! concatenations of stored bytes, so what a handler returns is an already encoded message.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "etcd/rpc.proto",
        "etcd/kv.proto",
        "etcd/auth.proto",
        "etcd/v3lock.proto",
        "etcd/v3election.proto",
        "health/health.proto",
        "brain/peer.proto",
        "brain/admin.proto",
    ];
    const PD: &str = "tikv/pdpb.proto";
    for file in files.into_iter().chain([PD]) {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["etcd", "health", "brain", "."])?;
    // For reflection: names and types, without the comments.
    let mut bare = descriptors.clone();
    bare.file.iter_mut().for_each(|file| file.source_code_info = None);
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    std::fs::write(std::path::Path::new(&out).join("descriptors.bin"), bare.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(descriptors)?;
    // Apart: it is spoken to another server, so reflection does not show it.
    let pd = protox::compile([PD], ["."])?;
    tonic_prost_build::configure().bytes(".").build_server(false).build_transport(false).compile_fds(pd)?;
    Ok(())
}
