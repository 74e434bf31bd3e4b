//! Groups of several brains: who is elected, who follows, and what clients notice when that changes; and three brains behind
//! proxies while everything fails, judged from outside: processes of the real binary, the
//! real PD, the store of `tests/kits/tikv`, relays between them all, and one judge for what every client was told.
//!
//! ```text
//! clients ──▶ proxies ──relay──▶ brains ──relay──▶ PD, store
//!    └──────────────────────────▶   └──relay──▶ each other
//! ```
//!
//! `cargo test --test groups` makes five rounds of faults; with `KUBEBRAIN_FULL=1` a hundred and more. Chance comes
//! from a seed, which is printed; `KUBEBRAIN_SEED` sets it: the same faults in the same order, though not the same
//! traffic to the letter. Of a run that broke a promise everything is kept under `target/groups`.

mod arena;
mod certificates;
mod chapter;
mod directed;
mod doctored;
mod elections;
mod fanout;
mod faults;
mod leases;
mod node;
mod placement;
mod report;
mod rounds;
mod scribe;
mod slaves;
mod stage;
mod traffic;
mod unconditional;
mod watching;

/// The program that is tested.
const BINARY: kit::process::Binary = kit::process::Binary::new(env!("CARGO_BIN_EXE_kubebrain"));

/// The seed of this run.
fn seed() -> u64 {
    kit::seed(2026)
}
