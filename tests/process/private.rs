//! What is written is for its user alone: the store, snapshots of it, and stores that are made from those, whatever the
//! umask. What is not ours is left alone.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::BINARY;
use kit::client::Client;
use kit::process::{Process, Start, under_umask};
use kit::until;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .permissions()
        .mode()
        & 0o7777
}

fn set(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
}

/// A directory and all that is in it; links are themselves.
fn tree(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_path_buf()];
    for entry in fs::read_dir(path).expect("a directory") {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("a type").is_dir() {
            true => found.extend(tree(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// Nobody else can do anything with it.
fn assert_private(what: &str, path: &Path) -> usize {
    let all = tree(path);
    for path in &all {
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(path), wanted, "{what}: {} is {:o}", path.display(), mode(path));
    }
    all.len()
}

/// So that tables are written.
async fn fill(address: &str) {
    let client = Client::new(address);
    for number in 0..40 {
        client.put(&format!("/registry/secrets/{number}"), vec![b's'; 100_000]).await.expect("a put");
    }
}

async fn with_tables(start: Start, data: &Path) -> Process {
    let server = start.flag("memtable-bytes", "1048576").run().await;
    fill(server.address()).await;
    let blobs = data.join("store/tree/blobs");
    until("a table", async || fs::read_dir(&blobs).is_ok_and(|mut all| all.next().is_some()).then_some(()))
        .await;
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_umask_what_is_written_is_for_its_user_alone() {
    for umask in ["000", "022", "077"] {
        let place = BINARY.place();
        let data = place.join("data");
        let server = with_tables(Start::standalone(&place).umask(umask), &data).await;
        assert!(assert_private(umask, &data) > 10, "segments, tables, manifests, directories");

        let file = place.join("backup.db");
        fs::write(place.join("backup.db.part"), "left over").expect("a file");
        set(&place.join("backup.db.part"), 0o666);
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let endpoint = format!("--endpoint=http://{}", server.address());
        BINARY.ctl_behind(&under_umask(umask), ["snapshot", "save", &text(&file), &endpoint]).expect("saved");
        assert_eq!(mode(&file), 0o600, "umask {umask}");
        let restored = place.join("restored");
        let into = format!("--data-dir={}", restored.display());
        BINARY.ctl_behind(&under_umask(umask), ["restore", &text(&file), &into]).expect("restored");
        assert_private(umask, &restored);
    }
}

/// Who may connect is what the umask says, as with etcd.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_has_the_mode_that_the_umask_gives_it() {
    for (umask, wanted) in [("000", 0o777), ("022", 0o755), ("077", 0o700)] {
        let place = BINARY.place();
        let path = place.join("client.sock");
        let start = Start::standalone(&place).clients("unix", path.to_str().expect("UTF-8"));
        let _server = start.umask(umask).run().await;
        assert_eq!(mode(&path), wanted, "umask {umask}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_left_open_is_closed_at_its_next_start_and_the_log_says_so() {
    let place = BINARY.place();
    let (data, outside) = (place.join("data"), place.file("outside", "not ours"));
    let mut server = with_tables(Start::standalone(&place), &data).await;
    server.signal("TERM");
    assert!(server.ended().await.success());
    let start = server.start();
    drop(server);
    for path in tree(&data) {
        set(&path, if path.is_dir() { 0o755 } else { 0o644 });
    }
    set(&outside, 0o644);
    symlink(&outside, data.join("store/link")).expect("a link");
    let server = start.run().await;
    fs::remove_file(data.join("store/link")).expect("a link");
    assert_private("again", &data);
    assert_eq!(mode(&outside), 0o644, "links are not followed");
    let log = server.log();
    let said: Vec<_> = log.lines().filter(|line| line.contains("could be read by other users")).collect();
    let [line] = said[..] else { panic!("one line is wanted: {log}") };
    assert!(line.contains(data.to_str().expect("UTF-8")) && line.contains("closed="), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_not_ours_is_refused_and_left_as_it_is() {
    let place = BINARY.place();
    let etc = place.join("etc");
    fs::create_dir_all(etc.join("ssl")).expect("a directory");
    fs::write(etc.join("passwd"), "root").expect("a file");
    set(&etc, 0o755);
    let before = tree(&etc);
    for start in [Start::standalone(&place), Start::brain(&place, "default")] {
        let failure = start.data_dir(&etc).fails().await;
        assert_eq!(failure.code, Some(1), "{failure:?}");
        for word in ["/etc", "nothing of this program", "name an empty directory"] {
            assert!(failure.message.contains(word), "{word}: {failure:?}");
        }
    }
    assert_eq!((mode(&etc), tree(&etc)), (0o755, before), "nothing was touched");
    // What every new volume has is nobody's.
    let volume = place.join("volume");
    fs::create_dir_all(volume.join("lost+found")).expect("a directory");
    let _server = Start::standalone(&place).data_dir(&volume).run().await;
}

/// A mount that belongs to root, under a process of another user.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_not_this_users_to_close_is_refused_only_if_every_user_can_write_there() {
    let nobody: Vec<_> =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned).to_vec();
    if !may(&nobody) {
        println!(
            "skipped: this test changes its user, which only root can, and the binary must be there for all"
        );
        return;
    }
    let place = BINARY.place();
    set(place.path(), 0o755);
    let volume = place.join("volume");
    fs::create_dir(&volume).expect("a directory");
    let start = || Start::standalone(&place).data_dir(&volume).behind(&nobody);

    set(&volume, 0o1777);
    let failure = start().fails().await;
    assert_eq!(failure.code, Some(1), "{failure:?}");
    for word in ["every user (mode 777)", "name a directory below it", "/volume"] {
        assert!(failure.message.contains(word), "{word}: {failure:?}");
    }
    assert_eq!(fs::read_dir(&volume).expect("a directory").count(), 0, "nothing was touched");

    // As Kubernetes mounts a volume with an fsGroup: the group may write, and the directory is root's.
    std::os::unix::fs::chown(&volume, Some(0), Some(65534)).expect("this is root");
    set(&volume, 0o2775);
    let server = start().run().await;
    Client::new(server.address()).put("/registry/secrets/a", "1").await.expect("a put");
    let log = server.log();
    assert_eq!(log.matches("not this user's to close").count(), 1, "{log}");
    for path in tree(&volume).into_iter().skip(1) {
        assert_eq!(mode(&path) & 0o077, 0, "{} is {:o}", path.display(), mode(&path));
    }
    assert_eq!(mode(&volume), 0o2775);
}

/// True if the binary runs so.
fn may(before: &[String]) -> bool {
    let [program, rest @ ..] = before else { return true };
    let output = Command::new(program).args(rest).args([BINARY.path(), "--version"]).output();
    output.is_ok_and(|output| output.status.success())
}
