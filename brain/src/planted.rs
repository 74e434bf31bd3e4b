//! What is wrong on purpose, for tests that must find it. No program has any of it.

use std::time::Duration;

/// Faults that are planted by tests, of which each must be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    /// A fence joins the read that is in flight.
    pub early_fence: bool,
    /// A fence is content where the next record is its own.
    pub mine_is_fresh: bool,
    /// A slave does not look whether its master's claim holds.
    pub believes_claims: bool,
    /// Not a fault of ours: the machine slept so long, and its clock did not count it.
    pub clock_stood_still: Duration,
    /// A trim takes takeover records too.
    pub trims_takeovers: bool,
    /// A trim takes the record before a takeover.
    pub trims_before_takeovers: bool,
    /// A batch whose outcome is not known, and that is not there, counts as failed.
    pub unknown_is_failed: bool,
    /// A new master goes on from what it read before its takeover.
    pub loads_before_takeover: bool,
    /// A record does not say that the batch before it was tried more than once.
    pub forgets_repeats: bool,
    /// A takeover does not look at whether the log was trimmed meanwhile.
    pub takeover_ignores_trims: bool,
    /// A slave counts as closed what it has not applied.
    pub closes_before_events: bool,
    /// A slave that is promoted does not read what the log has after what it applied.
    pub skips_tail: bool,
}

/// Of a whole process, by `KUBEBRAIN_PLANTED`: `panic=KEY` or `hang=KEY` is what the writer does when it is to put KEY.
pub(crate) async fn planted_at(key: &[u8]) {
    static PLANTED: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("KUBEBRAIN_PLANTED").ok());
    match PLANTED.as_deref().and_then(|planted| planted.split_once('=')) {
        Some((what, at)) if at.as_bytes() == key => match what {
            "hang" => std::future::pending().await,
            _ => panic!("planted"),
        },
        _ => {}
    }
}
