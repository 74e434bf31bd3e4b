//! [`Relay`]: stands between a client and a server, and loses answers when told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Relay {
    lossy: Arc<AtomicBool>,
    /// Answers that were lost.
    pub(crate) lost: Arc<AtomicU64>,
    cut: watch::Sender<u64>,
}

impl Relay {
    pub(crate) async fn start(from: u16, to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", from)).await.expect("a free port");
        let (lossy, lost, cut) = (Arc::new(AtomicBool::new(false)), Arc::default(), watch::channel(0).0);
        let relay = Self { lossy: lossy.clone(), lost, cut: cut.clone() };
        let lost = relay.lost.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
                let _nodelay = (client.set_nodelay(true), server.set_nodelay(true));
                let (lossy, lost, mut cut) = (lossy.clone(), Arc::clone(&lost), cut.subscribe());
                tokio::spawn(async move {
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let asking = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
                    let answering = async {
                        let mut bytes = [0; 64 << 10];
                        loop {
                            let got = from_server.read(&mut bytes).await?;
                            if got == 0 {
                                return Ok(());
                            }
                            if lossy.load(Ordering::Relaxed) {
                                lost.fetch_add(1, Ordering::Relaxed);
                                continue;
                            }
                            to_client.write_all(&bytes[..got]).await?;
                        }
                    };
                    let _ended: Result<(), std::io::Error> = tokio::select! {
                        ended = asking => ended,
                        ended = answering => ended,
                        _cut = cut.changed() => Ok(()),
                    };
                });
            }
        });
        relay
    }

    /// Lets requests through and loses their answers for a while; then the connections are cut, and all is well.
    pub(crate) async fn lose(&self, time: Duration) {
        self.lossy.store(true, Ordering::Relaxed);
        tokio::time::sleep(time).await;
        self.lossy.store(false, Ordering::Relaxed);
        self.cut.send_modify(|count| *count += 1);
    }
}
