//! The engine on TiKV: a brain that keeps nothing on its own disk.
