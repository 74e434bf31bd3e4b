//! [`Pulse`]: a client on a connection of its own that writes and reads what it wrote, and times both.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use kit::client::Client;
use kit::in_time;

/// Of a kind that no load touches; in standalone it shares the group with the home keys.
const PREFIX: &str = "/registry/pods/bystander/";
const KEYS: usize = 64;

/// See the module.
pub(super) struct Pulse {
    client: Client,
    rounds: Arc<Mutex<Vec<Duration>>>,
    stop: Arc<AtomicBool>,
    work: JoinHandle<BTreeMap<String, String>>,
}

/// What a bystander got in some time.
pub(super) struct Got {
    rounds: Vec<Duration>,
    took: Duration,
}

impl Got {
    pub(super) fn per_second(&self) -> f64 {
        self.rounds.len() as f64 / self.took.as_secs_f64()
    }

    fn quantile(&self, permille: usize) -> Duration {
        let last = self.rounds.len().saturating_sub(1);
        self.rounds.get(last * permille / 1000).copied().unwrap_or(self.took)
    }
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0}/s, p50 {:.1?}, p99 {:.1?}, at most {:.1?}",
            self.per_second(),
            self.quantile(500),
            self.quantile(990),
            self.quantile(1000)
        )
    }
}

impl Pulse {
    pub(super) async fn start(address: &str) -> Self {
        let client = Client::new(address);
        in_time("a first put", client.put(&format!("{PREFIX}first"), "")).await.expect("a put");
        let (rounds, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (own, asked, seen) = (client.clone(), stop.clone(), rounds.clone());
        let work = tokio::spawn(async move {
            let mut acknowledged = BTreeMap::new();
            for number in 0.. {
                if asked.load(Ordering::Relaxed) {
                    break;
                }
                let began = Instant::now();
                let (key, value) = (format!("{PREFIX}{:02}", number % KEYS), number.to_string());
                in_time("a bystander's put", own.put(&key, value.clone())).await.expect("a bystander's put");
                let read = in_time("a bystander's get", own.get(&key)).await.expect("a bystander's get");
                assert_eq!(read.kvs[0].value, value.as_bytes());
                acknowledged.insert(key, value);
                seen.lock().push(began.elapsed());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            acknowledged
        });
        Self { client, rounds, stop, work }
    }

    /// What it gets while something else goes on.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> (T, Got) {
        self.rounds.lock().clear();
        let began = Instant::now();
        let done = work.await;
        let mut rounds = std::mem::take(&mut *self.rounds.lock());
        rounds.sort_unstable();
        (done, Got { rounds, took: began.elapsed() })
    }

    /// Fails if anything went wrong, or if anything that was acknowledged is not there.
    pub(super) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let acknowledged =
            in_time("the end of a bystander", self.work).await.expect("a bystander saw no error");
        let there = self.client.list(PREFIX).await.expect("a list");
        for (key, value) in acknowledged {
            let found = there.kvs.iter().find(|kv| kv.key == key.as_bytes());
            assert_eq!(found.map(|kv| &kv.value[..]), Some(value.as_bytes()), "{key} was acknowledged");
        }
    }
}
