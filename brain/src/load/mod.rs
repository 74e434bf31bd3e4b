//! From the engine into memory: keys, leases, owners and numbers of a group that is opened.

pub(crate) mod error;
pub(crate) mod format;
pub(crate) mod cluster;
pub(crate) mod placement;
pub(crate) mod held;
pub(crate) mod keys;
pub(crate) mod master;
