//! [`Cluster`]: a placement driver and a store, started for the tests of this binary and stopped when it ends, or one
//! that `KUBEBRAIN_TEST_PD` names.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kubebrain_brain_tikv::{Config, Tikv};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use super::Prefixed;

#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) pd: Vec<String>,
    /// Of what was started here.
    pub(crate) started: Option<Arc<Started>>,
    /// Goes before every name: a cluster that others use has seen these tests before.
    run: String,
}

pub(crate) struct Started {
    pub(crate) directory: PathBuf,
    pub(crate) ports: Ports,
    advertised: Option<u16>,
    /// Cleans up when its input ends, which it does with this process, whatever ends that.
    cleaner: Child,
    _directory: TempDir,
}

#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) pd: u16,
    pub(crate) peer: u16,
    pub(crate) store: u16,
    pub(crate) status: u16,
}

/// The cluster of all tests that leave it as it is. `None`: there is none, which was said.
pub(crate) async fn shared() -> Option<Cluster> {
    static SHARED: OnceCell<Option<Cluster>> = OnceCell::const_new();
    let cluster = SHARED.get_or_init(|| async {
        match std::env::var("KUBEBRAIN_TEST_PD") {
            Ok(pd) if pd != "none" => {
                let pd = pd.split(',').map(str::to_owned).collect();
                Some(Cluster { pd, started: None, run: run() })
            }
            _ => own(Ports::free()).await,
        }
    });
    let cluster = cluster.await.clone();
    if cluster.is_none() {
        println!("skipped: neither tests/kits/tikv/bin nor KUBEBRAIN_TEST_PD");
    }
    cluster
}

/// A cluster of a test's own.
pub(crate) async fn own(ports: Ports) -> Option<Cluster> {
    start(ports, None).await
}

/// The same; clients are told that the store is at another port.
pub(crate) async fn own_behind(ports: Ports, advertised: u16) -> Option<Cluster> {
    start(ports, Some(advertised)).await
}

async fn start(ports: Ports, advertised: Option<u16>) -> Option<Cluster> {
    let kit = kit();
    if std::env::var("KUBEBRAIN_TEST_PD").is_ok_and(|value| value == "none") {
        return None; // not in this run, wherever it is
    }
    if !kit.join("bin/tkstore").exists() {
        assert!(std::env::var("CI").is_err(), "tests/kits/tikv/build has not been run");
        println!("skipped: no tests/kits/tikv/bin");
        return None;
    }
    let directory =
        tempfile::Builder::new().prefix("kubebrain-tikv-").tempdir().expect("a temporary directory");
    let path = directory.path().to_owned();
    // The directory goes with the cleaner, the temporary one that is dropped may be gone then.
    let clean = format!("cat >/dev/null; '{0}/down' '{1}'; rm -rf '{1}'", kit.display(), path.display());
    let cleaner = Command::new("setsid")
        .args(["bash", "-c", &clean])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("bash");
    let started = Started { directory: path, ports, advertised, cleaner, _directory: directory };
    let cluster =
        Cluster { pd: vec![format!("127.0.0.1:{}", ports.pd)], started: Some(Arc::new(started)), run: run() };
    cluster.up().await;
    Some(cluster)
}

fn run() -> String {
    format!("test/{:08x}/", rand::random::<u32>())
}

fn kit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/kits/tikv")
}

impl Ports {
    /// Below the range from which the system gives ports to clients, which could take them while a server is down.
    pub(crate) fn free() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let base = 20_000 + (std::process::id() % 1000) as u16 * 10;
        let mut free = std::iter::repeat_with(|| base + NEXT.fetch_add(1, Ordering::Relaxed))
            .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
        let mut one = || free.next().expect("endless");
        Self { pd: one(), peer: one(), store: one(), status: one() }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        drop(self.cleaner.stdin.take());
        let _ended = self.cleaner.wait();
    }
}

impl Cluster {
    pub(crate) fn config(&self) -> Config {
        Config::new(self.pd.clone())
    }

    /// The engine of a name.
    pub(crate) async fn open(&self, name: &str) -> Arc<Prefixed<Tikv>> {
        self.open_with(name, self.config()).await
    }

    pub(crate) async fn open_with(&self, name: &str, config: Config) -> Arc<Prefixed<Tikv>> {
        let inner = Tikv::open(config).expect("a good configuration");
        Arc::new(Prefixed { inner, prefix: self.prefix(name) })
    }

    pub(crate) fn prefix(&self, name: &str) -> Bytes {
        format!("{}{name}/", self.run).into()
    }

    /// An [`Open`](kubebrain_brain::engine::contract::Open) whose names differ from those of other openers.
    pub(crate) fn opener<E, O>(
        self,
        kind: &'static str,
        open: impl Fn(Self, String) -> O + Sync,
    ) -> impl Fn(String) -> O + Sync
    where
        O: Future<Output = Arc<E>> + Send,
    {
        move |name| open(self.clone(), format!("{kind}/{name}"))
    }

    pub(crate) fn can_split(&self) -> bool {
        self.started.is_some()
    }

    /// Cuts regions inside a name.
    pub(crate) async fn split(&self, name: &str, keys: &[&str]) {
        for key in keys {
            let key = [&self.prefix(name)[..], key.as_bytes()].concat();
            let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            self.ask(&format!("/split?key=hex:{hex}")).await;
        }
    }

    /// Asks the store's other port.
    pub(crate) async fn ask(&self, path: &str) -> String {
        let started = self.started.as_ref().expect("a cluster of our own");
        http(started.ports.status, path).await
    }

    /// Below it versions may be gone.
    pub(crate) async fn safe_point(&self) -> u64 {
        let started = self.started.as_ref().expect("a cluster of our own");
        let answer = http(started.ports.pd, "/pd/api/v1/gc/safepoint").await;
        number(&answer, "\"gc_safe_point\":")
    }

    /// PD's clock.
    pub(crate) async fn timestamp_ms(&self) -> u64 {
        let client = tikv_client::TransactionClient::new(self.pd.clone()).await.expect("it answers");
        client.current_timestamp().await.expect("it answers").physical.cast_unsigned()
    }

    /// Starts what does not run.
    pub(crate) async fn up(&self) {
        let started = self.started.clone().expect("a cluster of our own");
        let Ports { pd, peer, store, status } = started.ports;
        let flags =
            started.advertised.map(|port| format!("--advertise-addr=127.0.0.1:{port}")).unwrap_or_default();
        let up = tokio::task::spawn_blocking(move || {
            Command::new(kit().join("up"))
                .arg(&started.directory)
                .env("PD_PORT", pd.to_string())
                .env("PEER_PORT", peer.to_string())
                .env("STORE_PORT", store.to_string())
                .env("STATUS_PORT", status.to_string())
                .env("TK_FLAGS", flags)
                .stdout(Stdio::null())
                .status()
        });
        assert!(up.await.expect("no panic").expect("bash").success(), "the cluster does not start");
    }

    /// Ends a part at once: `pd` or `store`.
    pub(crate) async fn kill(&self, part: &str) {
        let started = self.started.as_ref().expect("a cluster of our own");
        let pid = std::fs::read_to_string(started.directory.join(format!("{part}.pid"))).expect("it runs");
        let pid = pid.trim().to_owned();
        assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill").success());
        while Path::new("/proc").join(&pid).join("exe").read_link().is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn number(answer: &str, before: &str) -> u64 {
    let digits = answer.split(before).nth(1).unwrap_or("0").trim_start();
    digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

async fn http(port: u16, path: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.0\r\nHost: store\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(" 200 "), "{path}: {answer}");
    body.to_owned()
}
