//! What a service manager hears: `sd_notify(3)` on a datagram socket.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::BINARY;
use kit::client::Client;
use kit::process::Start;
use kit::until;

/// The manager's end.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(socket: UnixDatagram) -> Self {
        socket.set_nonblocking(true).expect("a socket");
        Self { socket, heard: Vec::new() }
    }

    fn read(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8(buffer[..length].to_vec()).expect("UTF-8");
            self.heard.extend(text.lines().map(str::to_owned));
        }
    }

    async fn hears(&mut self, line: &str) {
        until(line, async || {
            self.read();
            self.heard.iter().any(|heard| heard.starts_with(line)).then_some(())
        })
        .await;
    }

    fn count(&mut self, line: &str) -> usize {
        self.read();
        self.heard.iter().filter(|heard| *heard == line).count()
    }
}

/// With a socket in the file system and with an abstract one, as managers have them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_when_it_is_ready_that_it_lives_and_that_it_stops() {
    let place = BINARY.place();
    let path = place.join("notify");
    let name = format!("kubebrain-test-{}", std::process::id());
    let of_name = SocketAddr::from_abstract_name(&name).expect("a name");
    let sockets = [
        (UnixDatagram::bind(&path), path.to_str().expect("UTF-8").to_owned()),
        (UnixDatagram::bind_addr(&of_name), format!("@{name}")),
    ];
    for (socket, address) in sockets {
        let mut manager = Manager::new(socket.expect("a socket"));
        let start = Start::standalone(&place).env("NOTIFY_SOCKET", &address).env("WATCHDOG_USEC", "400000");
        let mut server = start.run().await;
        manager.hears("READY=1").await;
        manager.hears("STATUS=ready: all groups are open").await;
        let place_of = |text: &str| manager.heard.iter().position(|heard| heard.starts_with(text));
        assert!(place_of("STATUS=opening").is_some_and(|opening| Some(opening) < place_of("READY=1")));
        let alive = manager.count("WATCHDOG=1");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let alive = manager.count("WATCHDOG=1") - alive;
        assert!((2..=8).contains(&alive), "{alive} times in a second, at half of 0.4 s");
        server.signal("TERM");
        manager.hears("STOPPING=1").await;
        assert!(server.ended().await.success());
        manager.hears("STATUS=stopped").await;
        assert_eq!(manager.count("READY=1"), 1);
    }
}

/// Where the writer hangs the watchdog is not answered any more, and says why; a probe says no.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_stands_still_is_not_alive() {
    let place = BINARY.place();
    let path = place.join("notify");
    let mut manager = Manager::new(UnixDatagram::bind(&path).expect("a socket"));
    let start = Start::brain(&place, "default")
        .env("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))
        .env("WATCHDOG_USEC", "1000000")
        .env("KUBEBRAIN_PLANTED", "hang=/registry/pods/hang");
    let server = start.run().await;
    manager.hears("WATCHDOG=1").await;
    let client = Client::new(server.address());
    let put = tokio::spawn(async move { client.put("/registry/pods/hang", "x").await });
    until("a line in the log", async || {
        manager.read();
        server.log().contains("the task that orders writes stands still").then_some(())
    })
    .await;
    let alive = manager.count("WATCHDOG=1");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(manager.count("WATCHDOG=1"), alive, "nobody says that it lives");
    until("a probe that says no", async || {
        (kit::http1::get(server.address(), "/livez").await.0 == 503).then_some(())
    })
    .await;
    put.abort();
}

/// etcd's own unit: `Type=notify`, its flags, its environment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcds_unit_works_as_it_is() {
    let place = BINARY.place();
    let path = place.join("notify");
    let mut manager = Manager::new(UnixDatagram::bind(&path).expect("a socket"));
    let data = place.join("data");
    // contrib/systemd/etcd.service has these in its environment, and its command line is `etcd` alone.
    let start = Start::exactly(&place, [])
        .env("ETCD_DATA_DIR", data.to_str().expect("UTF-8"))
        .env("ETCD_NAME", "host")
        .env("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:0")
        .env("ETCD_LOG_OUTPUTS", "default")
        .env("ETCD_LOG_LEVEL", "")
        .env("ETCD_UNSUPPORTED_ARCH", "arm64")
        .env("NOTIFY_SOCKET", path.to_str().expect("UTF-8"));
    let mut server = start.run().await;
    manager.hears("READY=1").await;
    server.signal("TERM");
    assert!(server.ended().await.success());
    manager.hears("STOPPING=1").await;
}
