//! What is stored: every key and value of a group in the engine, the log of its batches, and how they are read.

pub(crate) mod version;
pub(crate) mod codec;
pub(crate) mod entry;
pub(crate) mod retry;
pub(crate) mod log;
pub(crate) mod number;
pub(crate) mod ownership;

pub use codec::{
    AlarmRow, AlarmsRow, Change, Damaged, DataRow, DecidedRow, FORMAT, HistoryRow, Layout, LeaseRow, Record,
    Small, Write, collector, data_value, read_message, read_small, small_value,
};
