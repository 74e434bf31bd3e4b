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
    /// Who goes by a document does not begin at its revision.
    pub ignores_floor: bool,
    /// Who goes by a document does not take over its compacted revision.
    pub ignores_compacted: bool,
    /// A group adopts the next document without the present one.
    pub skips_base: bool,
    /// A group serves what it gains once it has adopted.
    pub serves_early: bool,
    /// A group lets go of keys.
    pub lets_keys_go: bool,
    /// A group lets go of units that have history.
    pub lets_history_go: bool,
    /// A slave waits for its master's revision, and not for what its master goes by.
    pub waits_by_revision: bool,
    /// A slave hears what its master goes by some responses later.
    pub hears_late: bool,
    /// A late document takes the place of a newer one.
    pub takes_older: bool,
    /// What was decided before what a group goes by takes its place, if its number is above it.
    pub ignores_after: bool,
    /// An adoption is not in the log.
    pub adopts_in_memory: bool,
    /// Whose keys are is judged before the revision of the answer is fixed.
    pub judges_first: bool,
    /// Watchers of what a group gives away go on.
    pub keeps_watches: bool,
    /// Progress that was ready before a watcher was handed over is told after.
    pub keeps_progress: bool,
    /// A slave takes two documents that say the same for one.
    pub compares_contents: bool,
    /// A group that has lost its data goes by what it is told.
    pub ignores_losses: bool,
    /// A watcher that is handed over is told that all was sent, whether it was or not.
    pub claims_all_sent: bool,
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
