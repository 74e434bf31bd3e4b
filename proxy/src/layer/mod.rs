//! One tower layer each. Counting and logging are around the whole service, in `shared::metrics`.

pub(crate) mod limit;
