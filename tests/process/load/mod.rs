//! Load that hurts: each sort of it beside a client that goes on with its work.
//!
//! Every test prints the server's memory before, at its highest and after, and what the bystander got before, during
//! and after. Memory is held against a bound that is documented; the bystander against itself, never against a clock.

pub(crate) mod frames;
mod lists;
mod pulse;
mod resets;
mod silent;
mod txns;
mod unread;
mod watchers;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::time::Instant;

use self::pulse::Pulse;
use crate::BINARY;
use kit::client::{Client, ready};
use kit::process::{Place, Process, Start};
use kit::{PATIENCE, in_time};

/// Where a load is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Standalone,
    Brain,
}

const BOTH: [Mode; 2] = [Mode::Standalone, Mode::Brain];

/// How long the bystander is alone, before and after.
const ALONE: Duration = Duration::from_millis(500);
/// Afterwards it does at least one in so many of before.
const RECOVERED: f64 = 4.0;
/// What each test leaves of the server's memory as it was, whatever it does: caches, windows and the heap fill.
const HEAP_BYTES: u64 = 96 << 20;

impl Mode {
    fn start(self, place: &Place) -> Start {
        match self {
            Self::Standalone => Start::standalone(place),
            Self::Brain => Start::brain(place, "default"),
        }
    }
}

/// What a load may do to a server.
struct Bounds {
    /// Memory above what it had, at its highest.
    memory_bytes: u64,
    /// The bystander does at least this share of what it does alone, in a thousand; it shares two processors with
    /// those who make the load.
    share_permille: u32,
}

/// A server and what is known of it.
struct Hurt {
    server: Process,
    mode: Mode,
    _place: Place,
}

impl Hurt {
    async fn start(mode: Mode) -> Self {
        Self::start_with(mode, |start| start).await
    }

    async fn start_with(mode: Mode, flags: impl FnOnce(Start) -> Start) -> Self {
        let place = BINARY.place();
        let server = flags(mode.start(&place)).run().await;
        Self { server, mode, _place: place }
    }

    fn address(&self) -> &str {
        self.server.address()
    }

    /// Puts a load on it; gives what the load gives.
    async fn under<T>(&mut self, name: &str, bounds: &Bounds, load: impl Future<Output = T>) -> T {
        let (done, share) = self.measured(name, bounds, load).await;
        assert!(share >= bounds.share_permille, "{name}: a bystander got {share} of 1000");
        done
    }

    /// `under`, for a share that other tests on the same cores may spoil: one of three loads has to leave the bystander its
    /// share. A server that starves it does so each time.
    async fn under_one_of<T, L: Future<Output = T>>(
        &mut self,
        name: &str,
        bounds: &Bounds,
        load: impl Fn() -> L,
    ) -> T {
        let mut shares = Vec::new();
        loop {
            let (done, share) = self.measured(name, bounds, load()).await;
            shares.push(share);
            if share >= bounds.share_permille {
                return done;
            }
            assert!(shares.len() < 3, "{name}: a bystander got {shares:?} of 1000");
        }
    }

    /// Holds memory and recovery to their bounds; gives what the load gives, and the bystander's share in permille.
    async fn measured<T>(&mut self, name: &str, bounds: &Bounds, load: impl Future<Output = T>) -> (T, u32) {
        let pulse = Pulse::start(self.address()).await;
        let alone = pulse.during(tokio::time::sleep(ALONE)).await.1;
        let before = self.server.resident_bytes();
        let peak = AtomicU64::new(before);
        let sample = async {
            loop {
                peak.fetch_max(self.server.resident_bytes(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let loaded = pulse.during(load);
        let (done, loaded) = tokio::select! {
            done = loaded => done,
            () = sample => unreachable!("it goes on for ever"),
        };
        let peak = peak.load(Ordering::Relaxed);
        in_time("a server that serves", ready(self.address())).await;
        // What is left of a load in buffers of the kernel is still carried out.
        let mut again = pulse.during(tokio::time::sleep(ALONE)).await.1;
        let end = Instant::now() + PATIENCE;
        while again.per_second() * RECOVERED < alone.per_second() && Instant::now() < end {
            again = pulse.during(tokio::time::sleep(ALONE)).await.1;
        }
        pulse.stop().await;
        self.server.must_run();
        let after = self.server.resident_bytes();
        eprintln!(
            "{name}, {:?}: memory {} MiB, at most {}, then {}; a bystander's put and get: {alone}; under load {loaded}; \
             then {again}",
            self.mode,
            before >> 20,
            peak >> 20,
            after >> 20
        );
        let grown = peak.saturating_sub(before);
        assert!(grown <= bounds.memory_bytes, "{name}: it grew by {} MiB", grown >> 20);
        let share = loaded.per_second() * 1000.0 / alone.per_second();
        assert!(again.per_second() * RECOVERED >= alone.per_second(), "{name}: it does not recover");
        (done, share as u32)
    }

    /// Writes `count` keys of `value_bytes` under a prefix.
    async fn fill(&self, prefix: &str, count: usize, value_bytes: usize) {
        let clients: Vec<_> = (0..4).map(|_| Client::new(self.address())).collect();
        let writes = stream::iter(0..count).map(|number| {
            let client = clients[number % clients.len()].clone();
            let key = format!("{prefix}ns/{number:06}");
            async move { client.put(&key, vec![b'x'; value_bytes]).await.expect("a put") }
        });
        writes.buffer_unordered(128).for_each(async |_revision| {}).await;
    }
}
