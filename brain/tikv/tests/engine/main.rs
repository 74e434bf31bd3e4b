//! The engine on TiKV, on a placement driver and a store of TiKV's protocol: see `tests/kits/tikv`.

mod contract;
mod faults;
mod regions;
mod support;
