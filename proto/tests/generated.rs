//! `src/generated` is what the `.proto` files say. To make it anew: `KUBEBRAIN_GENERATE=1 cargo test -p kubebrain-proto`.
//!
//! The `KV` and `Watch` services are declared by hand on the server side (`raw` module): their answers are
//! concatenations of stored bytes, so what a handler returns is an already encoded message.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message as _;

type Files = BTreeMap<String, Vec<u8>>;

/// As protox and tonic make it: nobody needs protoc, and who builds KubeBrain needs neither of them.
fn generate() -> Result<Files, Box<dyn std::error::Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let roots = ["etcd", "health", "brain", "."].map(|root| here.join(root));
    let compile = |files: &[&str]| protox::compile(files.iter().map(|file| here.join(file)), &roots);
    let descriptors = compile(&[
        "etcd/rpc.proto",
        "etcd/kv.proto",
        "etcd/auth.proto",
        "etcd/v3lock.proto",
        "etcd/v3election.proto",
        "health/health.proto",
        "brain/peer.proto",
        "brain/admin.proto",
    ])?;
    // For reflection: names and types, without the comments.
    let mut bare = descriptors.clone();
    bare.file.iter_mut().for_each(|file| file.source_code_info = None);
    let out = tempfile::tempdir()?;
    let config = || tonic_prost_build::configure().bytes(".").build_transport(false).out_dir(out.path());
    config().compile_fds(descriptors)?;
    // Apart: it is spoken to another server, so reflection does not show it.
    config().build_server(false).compile_fds(compile(&["tikv/pdpb.proto"])?)?;
    let mut files = read(out.path())?;
    files.insert("descriptors.bin".to_owned(), bare.encode_to_vec());
    Ok(files)
}

fn read(directory: &Path) -> std::io::Result<Files> {
    std::fs::read_dir(directory)?
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?))
        })
        .collect()
}

#[test]
fn generated_code_is_what_the_proto_files_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    let want = generate().expect("the files are valid");
    if std::env::var_os("KUBEBRAIN_GENERATE").is_some() {
        for (name, bytes) in &want {
            std::fs::write(directory.join(name), bytes).expect("the directory is writable");
        }
    }
    let found = read(&directory).expect("the directory is there");
    assert_eq!(found.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (name, bytes) in &want {
        assert!(
            found.get(name) == Some(bytes),
            "{name} is old: KUBEBRAIN_GENERATE=1 cargo test -p kubebrain-proto"
        );
    }
}
