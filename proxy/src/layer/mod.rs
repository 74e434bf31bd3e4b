//! One tower layer each.

pub(crate) mod limit;
pub(crate) mod trace;
