//! How far a group is, known to be fresh: for clients, proxies and slaves.

use kubebrain_shared::fault::Fault;
use kubebrain_shared::revision::Revision;

use super::Store;
use crate::fence::wait;
use crate::lead::command::Command;
use crate::state::fence::Ticket;
use crate::state::upstream::Fenced;

impl Store {
    /// A committed revision that is at least `floor` and at least every write answered before the call.
    ///
    /// # Errors
    /// [`Fault::Timeout`] if that takes too long, [`Fault::LeaderChanged`] on a slave that is not as far.
    pub async fn advance(&self, floor: Revision) -> Result<Revision, Fault> {
        let ticket = self.ticket();
        if ticket.is_slaves() {
            wait::fence_slave(&self.state, ticket, floor.get()).await?;
            return Ok(self.state.committed());
        }
        if floor > self.state.committed() {
            return self.ask(|reply| Command::Advance { floor, reply }).await;
        }
        wait::fence(&self.state, ticket).await?;
        Ok(self.state.committed())
    }

    /// As [`Self::advance`], for a slave: from memory, with a claim where this master is not sure that it still is one.
    /// Whoever asked proves that by a look into the log, which begins after the answer has come.
    ///
    /// # Errors
    /// As [`Self::advance`]; [`Fault::LeaderChanged`] on a slave.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn claim(&self, floor: Revision) -> Result<Fenced, Fault> {
        let state = &self.state;
        if state.is_slave() {
            return Err(Fault::LeaderChanged);
        }
        let claim = state.fence.claim(state.identity().epoch); // first: the rest shows that batch, or more
        let lifted = match floor > state.committed() {
            true => Some(self.advance(floor).await?),
            false => None,
        };
        let revision = lifted.unwrap_or_else(|| state.committed());
        // After the revision: what is given away is given away at or above it.
        let (compacted, held) = (state.compacted(), state.held.load());
        let (lineage, placement) = (held.document().id().lineage, held.pair());
        let is_sure = state.fence.is_sure()?; // last: what was read before is covered
        let claim = (lifted.is_none() && !is_sure).then_some(claim);
        Ok(Fenced { revision, compacted, lineage, placement, claim })
    }

    /// For a request that arrives now; see [`Self::fence`].
    pub(crate) fn ticket(&self) -> Ticket {
        wait::ticket(&self.state)
    }

    /// Returns when what was read in memory since `ticket` may be answered.
    ///
    /// # Errors
    /// [`Fault::LeaderChanged`], [`Fault::Timeout`].
    pub(crate) async fn fence(&self, ticket: Ticket) -> Result<(), Fault> {
        wait::fence(&self.state, ticket).await
    }
}
