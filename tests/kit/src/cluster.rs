//! [`Cluster`]: PD and a store of `tests/kits/tikv` for one test, in a directory and on ports of its own.
//!
//! A test that kills or faults takes [`Cluster::own`], any other one [`Cluster::any`], which may be the cluster that
//! `KUBEBRAIN_TEST_PD` names. Without the kit's binaries both give `None` and the test ends there, having said so; with
//! `CI=true` that is a failure. `KUBEBRAIN_TEST_PD=none`: no cluster in this run, wherever it is.

use std::net::TcpListener;
use std::process::Child;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::programs::{self, Programs};

/// Nothing here takes this long on a machine that works, however slow it is.
const PATIENCE: Duration = Duration::from_secs(90);

/// Where the system takes no ports for outgoing connections from.
const PORTS: std::ops::Range<u16> = 14_000..32_000;

/// What else than their own addresses PD and the store give to clients: a relay's.
#[derive(Clone, Default)]
pub struct Advertised {
    pub pd: Option<String>,
    pub store: Option<String>,
}

/// See the module. Dropping it kills both and removes what they wrote.
pub struct Cluster {
    endpoints: String,
    own: Option<Own>,
}

/// Two processes.
struct Own {
    kit: Programs,
    ports: Ports,
    advertised: Advertised,
    pd: Option<Child>,
    store: Option<Child>,
}

/// Loopback ports, chosen before anything runs: whoever stands between has to know them.
#[derive(Clone, Copy)]
pub struct Ports {
    pub pd: u16,
    peer: u16,
    pub store: u16,
    status: u16,
}

impl Ports {
    pub fn free() -> Self {
        Self { pd: free_port(), peer: free_port(), store: free_port(), status: free_port() }
    }
}

/// No other call in this process gives it; other processes begin elsewhere.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    let begin = (std::process::id() % 997) as u16 * 18;
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (begin + next) % count;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What goes before a test's keys: no other test's, nor an earlier run's on the same cluster.
pub fn prefix(test: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let started =
        std::fs::metadata("/proc/self").and_then(|of| of.modified()).expect("a process has a start");
    let started = started.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos();
    format!("{test}-{started:x}-{}-{}/", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Cluster {
    /// For a test that neither kills nor faults.
    pub async fn any() -> Option<Self> {
        match std::env::var("KUBEBRAIN_TEST_PD") {
            Ok(endpoints) if endpoints != "none" => Some(Self { endpoints, own: None }),
            _ => Self::own().await,
        }
    }

    /// One that this test may do anything to.
    pub async fn own() -> Option<Self> {
        Self::with(Ports::free(), Advertised::default()).await
    }

    /// The same on these ports, known to its clients by other addresses.
    pub async fn with(ports: Ports, advertised: Advertised) -> Option<Self> {
        let mut cluster = Self::absent(ports, advertised)?;
        cluster.start_pd().await;
        cluster.start_store().await;
        Some(cluster)
    }

    /// Nothing runs yet.
    pub fn absent(ports: Ports, advertised: Advertised) -> Option<Self> {
        let kit = Programs::find("kits/tikv", &["pd-server", "tkstore"], "KUBEBRAIN_TEST_PD")?;
        let endpoints = format!("127.0.0.1:{}", ports.pd);
        Some(Self { endpoints, own: Some(Own { kit, ports, advertised, pd: None, store: None }) })
    }

    /// PD's endpoints, for `--pd`. Not a relay's.
    pub fn pd(&self) -> &str {
        &self.endpoints
    }

    fn own_ref(&self) -> &Own {
        self.own.as_ref().expect("a cluster of this test's own")
    }

    fn own_mut(&mut self) -> &mut Own {
        self.own.as_mut().expect("a cluster of this test's own")
    }

    /// Starts PD on what is in its directory and waits until it answers.
    pub async fn start_pd(&mut self) {
        let Own { kit, ports, advertised, pd: child, .. } = self.own_mut();
        let Ports { pd, peer, .. } = *ports;
        let own = format!("http://127.0.0.1:{pd}");
        let advertised = advertised.pd.as_ref().map_or_else(|| own.clone(), |at| format!("http://{at}"));
        let mut command = kit.command("pd-server");
        command.arg("--name=pd").arg("--config").arg(kit.binary("../pd/pd.toml"));
        command.arg("--data-dir").arg(kit.path().join("pd")).arg("--log-file").arg(kit.path().join("pd.log"));
        command.args([format!("--client-urls={own}"), format!("--advertise-client-urls={advertised}")]);
        command.args([format!("--peer-urls=http://127.0.0.1:{peer}"), "-L=warn".to_owned()]);
        *child = Some(kit.spawn(command, "pd.out"));
        let look = "/pd/api/v1/leader";
        self.until("PD", pd, async || get(pd, look).await.is_ok_and(|page| page.contains("member_id"))).await;
    }

    /// Starts the store on what is in its directory and waits until PD knows who leads its regions.
    pub async fn start_store(&mut self) {
        self.begin_store();
        let Ports { pd, status, .. } = self.own_ref().ports;
        self.until("the store", status, async || {
            get(status, "/status").await.is_ok_and(|page| page.contains("\"store\""))
        })
        .await;
        self.until("a leader", pd, async || {
            get(pd, "/pd/api/v1/regions").await.is_ok_and(|page| page.contains("\"leader\":{\"id\""))
        })
        .await;
    }

    fn begin_store(&mut self) {
        let Own { kit, ports, advertised, store: child, .. } = self.own_mut();
        let Ports { pd, store, status, .. } = *ports;
        let mut command = kit.command("tkstore");
        command.arg(format!("--pd=127.0.0.1:{pd}")).arg(format!("--addr=127.0.0.1:{store}"));
        command.arg(format!("--status-addr=127.0.0.1:{status}"));
        command.arg("--data-dir").arg(kit.path().join("store"));
        if let Some(advertised) = &advertised.store {
            command.arg(format!("--advertise-addr={advertised}"));
        }
        *child = Some(kit.spawn(command, "store.log"));
    }

    async fn until(&mut self, what: &str, port: u16, mut look: impl AsyncFnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !look().await {
            let own = self.own_mut();
            let logs = || own.kit.ends(&["pd.out", "pd.log", "store.log"]);
            if let Some(status) = programs::ended([&mut own.pd, &mut own.store]) {
                panic!("{what} (port {port}): a process of the cluster has ended, {status}:\n{}", logs());
            }
            assert!(Instant::now() < end, "{what} (port {port}): not within {PATIENCE:?}\n{}", logs());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// kill -9; it returns when the process is gone.
    pub fn kill_pd(&mut self) {
        programs::kill(&mut self.own_mut().pd);
    }

    /// kill -9; it returns when the process is gone.
    pub fn kill_store(&mut self) {
        programs::kill(&mut self.own_mut().store);
    }

    /// What PD and the store have written is gone; both must be dead.
    pub fn wipe(&mut self) {
        let own = self.own_mut();
        assert!(own.pd.is_none() && own.store.is_none(), "only the dead are wiped");
        for name in ["pd", "store"] {
            std::fs::remove_dir_all(own.kit.path().join(name)).expect("a directory of ours");
        }
    }

    /// From now on a region ends before this key, which is as the engine's client sends it.
    pub async fn split(&self, key: &[u8]) {
        self.ask(&format!("/split?key=hex:{}", hex(key))).await;
    }

    /// The store's next `count` requests are refused as too many.
    pub async fn busy(&self, count: u32) {
        self.ask(&format!("/busy?n={count}")).await;
    }

    /// The store's next `count` requests are refused as by one that does not lead.
    pub async fn not_leader(&self, count: u32) {
        self.ask(&format!("/notleader?n={count}")).await;
    }

    /// From now on the store carries insertions out whatever is there, which no store may do.
    pub async fn overwrite(&self) {
        self.ask("/overwrite?n=1").await;
    }

    /// Every call of `method` waits so long in the store before it is carried out; all calls, if it is empty.
    pub async fn delay(&self, method: &str, by: Duration) {
        self.ask(&format!("/delay?ms={}&call={method}", by.as_millis())).await;
    }

    /// The same for prewrites that hold a key which begins so.
    pub async fn delay_prewrites(&self, key: &[u8], by: Duration) {
        self.ask(&format!("/delay?ms={}&call=KvPrewrite&key=hex:{}", by.as_millis(), hex(key))).await;
    }

    /// Locks that stand in the store, a line each.
    pub async fn locks(&self) -> Vec<String> {
        self.ask("/locks").await.lines().map(str::to_owned).collect()
    }

    /// Regions of the store, a line each.
    pub async fn regions(&self) -> Vec<String> {
        self.ask("/regions").await.lines().map(str::to_owned).collect()
    }

    async fn ask(&self, path: &str) -> String {
        let port = self.own_ref().ports.status;
        get(port, path).await.unwrap_or_else(|error| panic!("the store's status port: {path}: {error}"))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        programs::kill(&mut self.store);
        programs::kill(&mut self.pd);
    }
}

fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// GET over HTTP/1.0.
async fn get(port: u16, path: &str) -> std::io::Result<String> {
    let exchange = async {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
        socket.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(Duration::from_secs(5), exchange).await??;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other(answer)),
    }
}
