//! [`Upstream`]: a slave's way to its master, and what is said on it.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use kubebrain_proto::peer::FollowResponse;
use kubebrain_shared::placement::Pair;
use kubebrain_shared::revision::Revision;
use thiserror::Error;
use tokio::time::Instant;

use super::claim::Claim;
#[cfg(doc)]
use crate::store::Store;

/// A slave's way to its master.
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Everything that changes from revision `from` on, as in [`Store::feed`]; 0: after the first response's `closed`.
    ///
    /// # Errors
    /// [`UpstreamError`], at once or as the end of the stream.
    ///
    /// # Cancel safety
    /// Safe.
    async fn follow(
        &self,
        from: u64,
    ) -> Result<BoxStream<'static, Result<FollowResponse, UpstreamError>>, UpstreamError>;

    /// How far a slave must be, by [`Store::claim`]: a committed revision of the master's that is at least `floor`, and at
    /// least every write answered before the call, if the claim holds.
    ///
    /// # Errors
    /// [`UpstreamError::Lost`] where it is not the master, or does not answer.
    ///
    /// # Cancel safety
    /// Safe.
    async fn ask(&self, floor: Revision) -> Result<Fenced, UpstreamError>;
}

/// Why a master is not followed any further.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UpstreamError {
    /// What is wanted is compacted: the slave begins anew.
    #[error("what is to be followed next is compacted")]
    Compacted,
    /// It does not answer, or is no master; the sentence says why.
    #[error("{0}")]
    Lost(String),
}

/// A master's answer to [`Upstream::ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// Every write that was answered before the question is at or below it, if the claim holds.
    pub revision: Revision,
    /// Its compacted revision; -1 where nothing was compacted.
    pub compacted: i64,
    /// Whose placement it goes by; 0 for none.
    pub lineage: u64,
    /// By which of its numbers.
    pub placement: Pair,
    /// What is left to be proven; `None` where the master is sure.
    pub claim: Option<Claim>,
}

/// How a slave does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Following {
    /// It has all keys, as of some moment: serializable reads are answered.
    pub loaded: bool,
    /// It is as far as its master was a moment ago: reads and watches are served.
    pub level: bool,
    /// The epoch of the master that it follows, or followed last; 0 where it has heard of none.
    pub epoch: u64,
    /// Why it is not level, for people; empty where it is.
    pub trouble: String,
    /// When it last heard of its master while it was level; `None` if it never was.
    pub level_at: Option<Instant>,
    /// The master is about to hand the group over.
    pub leaving: bool,
}

impl Default for Following {
    fn default() -> Self {
        Self {
            loaded: false,
            level: false,
            epoch: 0,
            trouble: "no master is known".to_owned(),
            level_at: None,
            leaving: false,
        }
    }
}
