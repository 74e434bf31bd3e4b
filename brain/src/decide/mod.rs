//! What a request does and what it answers, decided on what is in memory: pure, without waiting.

pub(crate) mod identity;
pub(crate) mod answer;
pub(crate) mod index;
pub(crate) mod pending;
pub(crate) mod evaluate;
pub(crate) mod held;
pub(crate) mod repair;
