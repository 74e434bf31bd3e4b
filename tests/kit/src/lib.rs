//! What test programs share. Nothing here is a test, or part of the product.
//!
//! ```text
//! process               a kubebrain that a test starts and ends: Binary (which), Place (where), Start (how), Process
//! client watch bystander    clients of etcd's API: calls, one watch, one that works while others misbehave
//! raw http1 exposition  HTTP/2 by hand, HTTP/1, and pages of metrics read strictly
//! pki                   authorities, certificates and connections that use them
//! programs              what tests/kubernetes and tests/kits/tikv build, and where it runs
//! groups                brains of a cluster that find each other by one file, and what is asked of its placement
//! cluster apiserver     PD and a store; a kube-apiserver: of one test, in a directory and on ports of its own
//! relay                 stands between two processes and cuts, delays, loses
//! changes newcomer      the placement changed by chance under traffic; and as one would who trusts a file
//! judge                 what clients were told, held against a model
//! ```
//!
//! A test program of the root package hands in the binary: `const BINARY: Binary =
//! Binary::new(env!("CARGO_BIN_EXE_kubebrain"))`, and every test begins with `BINARY.place()`.

pub mod process;
pub mod client;
pub mod watch;
pub mod bystander;
pub mod raw;
pub mod http1;
pub mod exposition;
pub mod pki;
pub mod programs;
pub mod cluster;
pub mod groups;
pub mod apiserver;
pub mod relay;
pub mod judge;
pub mod changes;
pub mod newcomer;

use std::time::Duration;

use tokio::time::Instant;

/// Nothing here takes this long on a machine that works, however slow it is.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The seed of this run: `KUBEBRAIN_SEED`, or what stands for it where none is asked for.
pub fn seed(otherwise: u64) -> u64 {
    let given = std::env::var("KUBEBRAIN_SEED").ok().map(|text| text.parse().expect("a number as seed"));
    given.unwrap_or(otherwise)
}

/// True where the long tier is wanted.
pub fn full_tier() -> bool {
    std::env::var_os("KUBEBRAIN_FULL").is_some_and(|value| value == "1")
}

/// Looks until something is there.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends a test that hangs with a sentence.
pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}
