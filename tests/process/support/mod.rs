//! What the tests share: processes, clients, watches, and HTTP/2 by hand.

pub(crate) mod bystander;
pub(crate) mod client;
pub(crate) mod exposition;
pub(crate) mod http1;
pub(crate) mod pki;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod watch;

use std::time::Duration;

use tokio::time::Instant;

/// Nothing here takes this long on a machine that works, however slow it is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// True where the long tier is wanted.
pub(crate) fn full_tier() -> bool {
    std::env::var_os("KUBEBRAIN_FULL").is_some_and(|value| value == "1")
}

/// Looks until something is there.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
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
pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}
