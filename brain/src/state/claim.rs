//! [`Claim`]: what a master says of itself, for whoever can look into the log. `fence::claim` says how the log proves it.

/// "I am the master, and this is the last of my batches that I know to be settled."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The master's epoch.
    pub epoch: u64,
    /// Its last settled batch.
    pub batch: u64,
}
