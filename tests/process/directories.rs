//! Data directories that cannot be used: one clear message, no panic.

use crate::BINARY;
use kit::client::Client;
use kit::process::Start;

async fn refused(what: &str, start: Start, words: &[&str]) {
    let failure = start.fails().await;
    assert_eq!(failure.code, Some(1), "{what}: {failure:?}");
    let said: Vec<_> = failure.message.lines().filter(|line| line.starts_with("kubebrain: ")).collect();
    let [sentence] = said[..] else { panic!("{what}: one message is wanted: {failure:?}") };
    for word in words {
        assert!(sentence.contains(word), "{what}: {sentence:?} does not say {word:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_data_directory_is_refused_with_one_sentence() {
    let place = BINARY.place();
    let in_use = Start::standalone(&place).run().await;
    let client = Client::new(in_use.address());
    client.put("/registry/pods/a", "1").await.expect("a put");

    let file = place.file("file", "not a directory");
    let newer = place.join("newer");
    std::fs::create_dir_all(newer.join("store")).expect("a directory");
    std::fs::write(newer.join("store/format"), "999\n").expect("a file");
    let cases: [(&str, std::path::PathBuf, &[&str]); 5] = [
        ("in use", place.join("data"), &["data directory", "/data", "in use"]),
        ("a file", file.clone(), &["/file is not a directory: remove it"]),
        ("under a file", file.join("below"), &["data directory", "/file/below", "ot a directory"]),
        ("another format", newer, &["/newer", "format 999"]),
        ("not writable, even for root", "/proc/kubebrain".into(), &["/proc/kubebrain", "data directory"]),
    ];
    for (what, path, words) in cases {
        let both = [Start::standalone(&place), Start::brain(&place, "default")];
        for start in both {
            refused(what, start.data_dir(&path), words).await;
        }
    }
    // The one that was there first did not notice.
    client.put("/registry/pods/a", "2").await.expect("a put");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store_is_refused_with_one_sentence() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    Client::new(server.address()).put("/registry/pods/a", "1").await.expect("a put");
    let start = server.start();
    drop(server);
    std::fs::remove_file(place.join("data/store/format")).expect("the format file");
    refused("no format file", start, &["/data", "damaged", "format file"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_refused_with_one_sentence() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    let other = server.start().data_dir(&place.join("other"));
    refused("a port in use", other, &["--listen-client-urls", server.address(), "cannot listen"]).await;
}
