//! One brain of a group on TiKV, or rivals for it, judged from outside: the real binary, the real PD, the store of `tests/kits/tikv`, and everything
//! between and under them failing.
//!
//! `cargo test --test one_brain`; with `KUBEBRAIN_FULL=1` thirty rounds of faults instead of a few. Chance comes from a
//! seed, which is printed; `KUBEBRAIN_SEED` sets it: the same faults in the same order, though not the same traffic to
//! the letter. What the store does otherwise than TiKV stands in `tests/kits/tikv/README.md`.

mod absence;
mod faults;
mod locks;
mod planted;
mod readback;
mod relays;
mod rivals;
mod rounds;
mod rows;
mod tls;
mod traffic;
mod watching;

/// The program that is tested.
const BINARY: kit::process::Binary = kit::process::Binary::new(env!("CARGO_BIN_EXE_kubebrain"));

/// The seed of this run. What is given where none is asked for has most kinds of trouble in its first rounds.
fn seed() -> u64 {
    kit::seed(779)
}
