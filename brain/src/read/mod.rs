//! Reads of many keys at one revision, page by page, stable while writes go on.

pub(crate) mod fault;
pub(crate) mod reader;
pub(crate) mod chunks;
pub(crate) mod cut;
