//! Durability under attack: servers lose their power, their disks fill up or fail, their files are damaged.
//!
//! `cargo test --test disk`; with `KUBEBRAIN_FULL=1` many more cuts. A library in C (`shim.c`) is preloaded into the
//! real binary. It writes a trace of everything that changes the data directory, and makes operations fail on demand.
//! From the trace a power cut at any moment is made up again: what was synced is there, of the rest anything may be.
//!
//! Chance comes from a seed, which is printed; `KUBEBRAIN_SEED` sets it. The traffic is not repeated to the letter by
//! a seed, so a test that fails keeps trace and directory, and names them.

mod damage;
mod fault;
mod full;
mod history;
mod image;
mod load;
mod power;
mod real_disk;
mod seen;
mod shim;
mod trace;

/// The program that is tested.
const BINARY: kit::process::Binary = kit::process::Binary::new(env!("CARGO_BIN_EXE_kubebrain"));

/// The seed of this run.
fn seed() -> u64 {
    kit::seed(0x6b75_6265)
}
