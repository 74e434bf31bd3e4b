//! What must hold for any bytes that reach a decoder. Each check panics where it does not.
//!
//! The same checks run under the fuzzer (`fuzz_targets/`) and, over the files in `corpus/` and changed copies of them,
//! in `cargo test --test fuzz`.

mod checks;

pub use checks::*;
