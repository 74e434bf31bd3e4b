//! Requests after every check has passed. A wire request becomes one of these or a `Fault`; nothing behind the
//! services sees a wire type.

mod op;
mod check;
mod convert;

pub use convert::Limits;
pub use op::{Compare, Comparison, Delete, Filter, Given, Op, Operand, Put, Range, ReadAt, SortTarget, Txn};
