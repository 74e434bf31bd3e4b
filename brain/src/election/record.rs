//! [`MasterRecord`]: what stands on the ballot.

use std::time::Duration;

use prost::Message;

/// Who stands for election: one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Unlike any other process's, also one of the same name before or after.
    pub identity: String,
    /// The brain's name.
    pub name: String,
    /// Where proxies and brains reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}

impl Candidate {
    /// This process.
    pub fn of_process(name: String, peer_urls: Vec<String>, client_urls: Vec<String>) -> Self {
        let identity = format!("{name}_{:016x}", rand::random::<u64>());
        Self { identity, name, peer_urls, client_urls }
    }
}

/// The fields of Kubernetes' `LeaderElectionRecord` that decide anything, and where the holder is.
#[derive(Clone, PartialEq, Message)]
pub struct MasterRecord {
    /// Whose it is; empty: released, anybody may take it at once.
    #[prost(string, tag = "1")]
    pub holder: String,
    /// How long others wait after they last saw it change.
    #[prost(uint64, tag = "2")]
    pub lease_ms: u64,
    /// Grows when the holder changes.
    #[prost(uint64, tag = "3")]
    pub transitions: u64,
    /// Grows with each renewal, so that each is a change.
    #[prost(uint64, tag = "4")]
    pub renewals: u64,
    /// The holder's name.
    #[prost(string, tag = "5")]
    pub name: String,
    /// Where proxies and brains reach the holder.
    #[prost(string, repeated, tag = "6")]
    pub peer_urls: Vec<String>,
    /// Where clients do.
    #[prost(string, repeated, tag = "7")]
    pub client_urls: Vec<String>,
}

impl MasterRecord {
    /// How long others wait after they last saw it change.
    pub const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// True if nobody holds it.
    pub fn is_released(&self) -> bool {
        self.holder.is_empty()
    }
}
