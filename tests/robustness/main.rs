//! Groups of three brains behind proxies while everything fails, judged from outside: processes of the real binary, the
//! real PD, the store of `tests/tikv`, relays between them all, and one judge for what every client was told.
//!
//! ```text
//! clients ──▶ proxies ──relay──▶ brains ──relay──▶ PD, store
//!    └──────────────────────────▶   └──relay──▶ each other
//! ```
//!
//! `cargo test --test robustness` makes five rounds of faults; with `KUBEBRAIN_FULL=1` a hundred and more. Chance comes
//! from a seed, which is printed; `KUBEBRAIN_SEED` sets it: the same faults in the same order, though not the same
//! traffic to the letter. Of a run that broke a promise everything is kept under `target/robustness`.

#[path = "../support/cluster.rs"]
#[allow(dead_code, reason = "shared with the engine's own tests")]
mod cluster;
#[path = "../support/kit.rs"]
mod kit;
#[path = "../support/judge/mod.rs"]
#[allow(dead_code, reason = "shared with the simulation")]
mod judge;
#[path = "../support/relay.rs"]
#[allow(dead_code, reason = "shared with tests of single brains")]
mod relay;
#[path = "../process/support/mod.rs"]
#[allow(dead_code, reason = "shared with the other tests of processes")]
mod support;

mod arena;
mod chapter;
mod directed;
mod doctored;
mod faults;
mod node;
mod report;
mod rounds;
mod scribe;
mod stage;
mod traffic;
mod unconditional;
mod watching;

/// The seed of this run.
fn seed() -> u64 {
    let given = std::env::var("KUBEBRAIN_SEED").ok().map(|text| text.parse().expect("a number as seed"));
    given.unwrap_or(2026)
}
