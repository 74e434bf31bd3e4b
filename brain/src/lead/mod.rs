//! What only a master has: the takeover that makes it one, the task that orders its writes, and the sweep behind it.

pub(crate) mod command;
pub(crate) mod sweep;
pub(crate) mod takeover;
pub(crate) mod writer;
