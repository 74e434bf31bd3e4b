//! What watchers see: events by revision, the window of recent ones, and who wants which.

pub(crate) mod event;
pub(crate) mod window;
pub(crate) mod matching;
pub(crate) mod hub;
