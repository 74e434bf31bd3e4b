//! The same without a shim, on a file system of its own that is really full, or really read-only. It needs the right
//! to mount; where that is missing the test says so and passes.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::fault::{assert_unavailable, ends_with};
use crate::history::{Counting, History};
use crate::load::{Load, reached};
use crate::power::small;
use crate::seed;
use crate::seen::{self, brain};
use crate::support::process::Place;
use crate::support::{in_time, until};

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
async fn a_file_system_that_is_full_or_read_only_ends_the_process_and_loses_nothing() {
    let place = Place::new();
    let Some(mount) = Mount::new(place.join("disk"), "400m") else {
        println!("skipped: this user may not mount a tmpfs, so no file system can be filled here");
        return;
    };
    let data = mount.0.join("data");
    let history = Arc::new(Mutex::new(History::default()));
    let mut server = small(brain(&place, &data)).run().await;
    let load = Load::start(&server, &history, place.join("no-trace"), seed());
    until("some traffic", async || reached(&server, 30).await.then_some(())).await;
    fill(&mount.0.join("ballast"));
    ends_with(&mut server, 0, &["o space left", "nothing acknowledged is lost"]).await;
    assert_unavailable(&in_time("the clients' ends", load.ended()).await);
    let start = server.start();
    drop(server);

    // A store that is there has what it needs to open, or says what it lacks.
    match start.clone().starts().await {
        Ok(server) => drop(server),
        Err(failure) => {
            println!("on a full disk: {}", failure.message.trim());
            assert!(failure.code == Some(1) && failure.message.contains("o space left"), "{failure:?}");
        }
    }
    mount.again("ro");
    let failure = start.clone().fails().await;
    println!("on a read-only disk: {}", failure.message.trim());
    assert!(failure.code == Some(1) && failure.message.contains("cannot be written"), "{failure:?}");

    mount.again("rw,size=1g");
    let server = start.run().await;
    let seen = seen::of_server(&server).await.expect("there is room again");
    let history = history.lock();
    history.judge(u64::MAX, &seen, Counting::OneGroup).unwrap_or_else(|error| panic!("{error}"));
    println!("{} writes, {} of them answered", history.writes.len(), history.answered());
}
