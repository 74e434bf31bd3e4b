//! A group as a whole, as of one revision: its hash, its section of a snapshot, and a store made from one.

pub(crate) mod kept;
pub(crate) mod export;
pub mod restore;
