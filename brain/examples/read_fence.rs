//! What the read fence costs: point reads of a store over an engine in memory that says that it is shared, with and
//! without the fence, where the engine answers at once or after some time.
//!
//! ```text
//! cargo run --release -p kubebrain-brain --example read_fence
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kubebrain_brain::config::{Config, ReadFence};
use kubebrain_brain::engine::memory::Memory;
use kubebrain_brain::engine::{Batch, CommitError, Engine, ReadError, Snapshot, Span};
use kubebrain_brain::request::{Given, Put, Range, ReadAt};
use kubebrain_brain::store::{Store, read_all};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use tokio::time::Instant;

const TIME: Duration = Duration::from_secs(2);

/// Memory, as far away as `delay`.
struct Far {
    memory: Memory,
    delay: Duration,
    snapshots: AtomicU64,
}

#[async_trait]
impl Engine for Far {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, ReadError> {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        self.memory.snapshot().await
    }

    async fn commit(&self, batch: Batch) -> Result<(), CommitError> {
        self.memory.commit(batch).await
    }

    async fn partitions(&self, range: &Span) -> Result<Vec<Bytes>, ReadError> {
        self.memory.partitions(range).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn size(&self) -> u64 {
        0
    }
}

async fn measure(delay: Duration, read_fence: ReadFence, readers: usize) {
    let engine = Arc::new(Far { memory: Memory::new(), delay, snapshots: AtomicU64::new(0) });
    let group = GroupName::parse("core").expect("a name");
    let config = Config { read_fence, ..Config::new(group.clone(), "a") };
    let placement = Arc::new(Placement::single(group));
    let store = Store::open(config, engine.clone(), placement).await.expect("opens");
    let put = Put {
        key: Bytes::from_static(b"k"),
        value: Given::New(vec![b'v'; 512].into()),
        lease: Given::New(0),
        prev_kv: false,
    };
    store.put(put, Revision::ZERO).await.expect("put");
    let before = engine.snapshots.load(Ordering::Relaxed);
    let began = Instant::now();
    let tasks: Vec<_> = (0..readers)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let range =
                    Range { keys: KeyRange::one(Bytes::from_static(b"k")), ..read_all(ReadAt::Latest) };
                let mut reads = 0_u64;
                while began.elapsed() < TIME {
                    store.range(&range, Revision::ZERO).await.expect("read");
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    let mut reads = 0;
    for task in tasks {
        reads += task.await.expect("no panic");
    }
    let seconds = began.elapsed().as_secs_f64();
    let asked = engine.snapshots.load(Ordering::Relaxed) - before;
    println!(
        "{delay:>6?} away, {read_fence:?}, {readers:>3} readers: {:>8.0} reads/s, {:>7.1} us each, {asked} questions",
        reads as f64 / seconds,
        seconds * 1e6 * readers as f64 / reads as f64,
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    for delay in [Duration::ZERO, Duration::from_millis(1)] {
        for readers in [1, 16, 256] {
            for read_fence in [ReadFence::Trust, ReadFence::Engine] {
                measure(delay, read_fence, readers).await;
            }
        }
    }
}
