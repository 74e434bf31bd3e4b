//! The same without a shim, on a file system of its own that is really full, or really read-only. It needs the right
//! to mount; where that is missing the test says so and passes.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use parking_lot::Mutex;

use kubebrain_shared::fault::Fault;

use crate::BINARY;
use crate::history::{Counting, History};
use crate::load::{Load, reached};
use crate::power::small;
use crate::seed;
use crate::seen::{self, brain};
use kit::client::Client;
use kit::{in_time, until};

/// A file system in memory. Dropping it unmounts it.
struct Mount(PathBuf);

impl Mount {
    fn new(path: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir(&path).expect("a directory");
        mount(&path, &format!("size={size}")).then_some(Self(path))
    }

    fn again(&self, options: &str) {
        assert!(mount(&self.0, &format!("remount,{options}")), "it was mounted once");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _status = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(path: &Path, options: &str) -> bool {
    let output = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).output();
    output.is_ok_and(|output| output.status.success())
}

/// Takes all the room there is.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    let chunk = vec![1; 1 << 16];
    while file.write_all(&chunk).is_ok() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_system_that_is_full_is_served_on_and_one_that_is_read_only_is_refused() {
    let place = BINARY.place();
    let Some(mount) = Mount::new(place.join("disk"), "400m") else {
        println!("skipped: this user may not mount a tmpfs, so no file system can be filled here");
        return;
    };
    let data = mount.0.join("data");
    let history = Arc::new(Mutex::new(History::default()));
    let mut server = small(brain(&place, &data)).run().await;
    let load = Load::start(&server, &history, place.join("no-trace"), seed());
    until("some traffic", async || reached(&server, 30).await.then_some(())).await;
    let ballast = mount.0.join("ballast");
    fill(&ballast);
    let refused = in_time("the clients' ends", load.ended()).await;
    for status in &refused {
        assert_eq!(Fault::of(status), Some(Fault::NoSpace), "{status:?}");
    }
    assert!(!refused.is_empty());
    // Again and again: each start writes something.
    for round in 0..8 {
        let start = server.start();
        server.signal(if round % 2 == 0 { "KILL" } else { "TERM" });
        server.ended().await;
        drop(server);
        server = start.run().await;
        assert!(
            server.log().contains("the disk is full: puts and new leases are refused"),
            "{}",
            server.log()
        );
        let client = Client::new(server.address());
        let status = client.put("/registry/nodes/a", "1").await.expect_err("the disk is full");
        assert_eq!(Fault::of(&status), Some(Fault::NoSpace), "{status:?}");
        client.delete("/registry/nodes/a").await.expect("a deletion");
        assert!(client.list("/registry/").await.expect("reads go on").count > 20);
    }
    std::fs::remove_file(&ballast).expect("the ballast");
    let client = Client::new(server.address());
    until("a put that is taken", async || client.put("/registry/nodes/a", "1").await.ok()).await;
    client.delete("/registry/nodes/a").await.expect("a deletion");
    let seen = seen::of_server(&server).await.expect("there is room again");
    let verdict = history.lock().judge(u64::MAX, &seen, Counting::OneGroup);
    verdict.unwrap_or_else(|error| panic!("{error}"));
    let start = server.start();
    drop(server);

    mount.again("ro");
    let failure = start.clone().fails().await;
    println!("on a read-only disk: {}", failure.message.trim());
    assert!(failure.code == Some(1) && failure.message.contains("cannot be written"), "{failure:?}");
    mount.again("rw,size=1g");
    drop(start.run().await);
    let history = history.lock();
    println!("{} writes, {} of them answered", history.writes.len(), history.answered());
}
