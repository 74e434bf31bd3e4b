//! [`Bystander`]: a client that does its work while others misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::client::Client;
use super::in_time;
use super::watch::mod_revision;

/// Writes one key, reads it back and hears of it on a watch, over and over.
pub struct Bystander {
    stop: Arc<AtomicBool>,
    work: JoinHandle<Seen>,
}

/// What a bystander has seen.
#[derive(Debug)]
pub struct Seen {
    pub writes: usize,
    /// The longest round of a write, a read and an event.
    pub slowest: Duration,
}

impl Bystander {
    pub async fn start(address: &str, key: &str) -> Self {
        let (client, key) = (Client::new(address), key.to_owned());
        let mut watch = client.watch(&key, 0).await;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let work = tokio::spawn(async move {
            let mut seen = Seen { writes: 0, slowest: Duration::ZERO };
            while !asked.load(Ordering::Relaxed) || seen.writes < 3 {
                let began = Instant::now();
                let value = seen.writes.to_string();
                let revision =
                    in_time("a bystander's put", client.put(&key, value.clone())).await.expect("a put");
                let read = in_time("a bystander's get", client.get(&key)).await.expect("a get");
                assert_eq!(read.kvs[0].value, value.as_bytes());
                let events: Vec<_> = watch.events_to(revision).await.iter().map(mod_revision).collect();
                assert_eq!(events, [revision], "exactly the event of that write");
                seen.writes += 1;
                seen.slowest = seen.slowest.max(began.elapsed());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            seen
        });
        Self { stop, work }
    }

    /// What it has seen; fails if anything went wrong.
    pub async fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        in_time("the end of a bystander", &mut self.work).await.expect("a bystander saw no error")
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.work.abort();
    }
}
