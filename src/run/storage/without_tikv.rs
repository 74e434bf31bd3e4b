//! In the place of the engine on TiKV in a program that was built without it.

use std::sync::Arc;

use anyhow::{Result, bail};
use kubebrain_brain::engine::Engine;

use crate::flags::{self, Clients};
use crate::run::numbers::Numbers;

/// # Errors
/// Always.
pub(super) fn open(_: &flags::Store, _: &Clients, _: &Numbers) -> Result<Arc<dyn Engine>> {
    bail!("--engine tikv: this program was built without it; build it without --no-default-features")
}
