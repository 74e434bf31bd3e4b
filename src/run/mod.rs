//! The three programs, put together from the library crates.

pub(crate) mod brain;
mod listen;
mod numbers;
mod opening;
pub(crate) mod proxy;
mod shutdown;
pub(crate) mod standalone;
mod storage;
