//! Which keys are this group's, and the steps of a change of that.

use std::time::Duration;

use kubebrain_shared::fault::Fault;
use kubebrain_shared::placement::DocumentId;
use kubebrain_shared::range::KeyRange;
use tokio::time::timeout;

use super::Store;
use crate::decide::held::Unserved;
use crate::lead::command::{Command, Decision, PlaceStep, Placed};
use crate::load::error::OpenError;
use crate::rows::codec::{self, HistoryRow};
use crate::rows::retry::RetryingSnapshot;

/// A step that is refused is tried again once what is compacted is gone, if that takes no longer.
const SWEPT_WITHIN: Duration = Duration::from_secs(2);

impl Store {
    /// Carries out one step of a change of the placement; a step that is refused changes nothing. What the group goes by
    /// afterwards is durable. Repeating a step is harmless.
    ///
    /// # Errors
    /// [`Fault::LeaderChanged`] on a slave; [`Fault::Timeout`] where the outcome is not known: ask again.
    ///
    /// # Cancel safety
    /// A dropped call may have been carried out.
    pub async fn place(&self, step: PlaceStep) -> Result<Placed, Fault> {
        let placed = self.ask(|reply| Command::Place { step: step.clone(), reply }).await?;
        let (compacted, mut swept) = (u64::try_from(self.state.compacted()).unwrap_or(0), self.swept.clone());
        if placed.refusal.is_empty() || *swept.borrow() >= compacted {
            return Ok(placed);
        }
        // What is compacted is history still until it is taken out of the storage.
        let taken_out = timeout(SWEPT_WITHIN, swept.wait_for(|swept| *swept >= compacted))
            .await
            .is_ok_and(|it| it.is_ok());
        match taken_out {
            true => self.ask(|reply| Command::Place { step, reply }).await,
            false => Ok(placed),
        }
    }

    /// At the home group's master: writes down what it has decided. [`GroupState::decided`](super::GroupState::decided)
    /// gives it from then on, also at the next master.
    ///
    /// # Errors
    /// [`Fault::LeaderChanged`] on a slave; [`Fault::Timeout`] where the outcome is not known.
    ///
    /// # Cancel safety
    /// A dropped call may have been carried out.
    pub async fn decide(&self, decision: Decision) -> Result<(), Fault> {
        self.ask(|reply| Command::Decide { decision: Box::new(decision), reply }).await
    }

    /// At the home group: the placements that were current, as far as they are kept, oldest first.
    ///
    /// # Errors
    /// What the engine says.
    ///
    /// # Cancel safety
    /// Safe: a read.
    pub async fn placements(&self) -> Result<Vec<HistoryRow>, OpenError> {
        let snapshot = RetryingSnapshot::new(&self.state.engine).await?;
        let (mut span, mut history) = (self.state.layout.history_span(), Vec::new());
        loop {
            let page = crate::engine::Snapshot::scan(&snapshot, span.clone(), 16).await?;
            for (row, value) in page.rows {
                history.push(codec::read_message(&row, value)?);
            }
            match page.next {
                Some(next) => span.start = next,
                None => return Ok(history),
            }
        }
    }

    /// Refuses ranges of keys that are not this group's. To be asked once the revision of the answer is fixed.
    ///
    /// # Errors
    /// See [`Unserved`].
    pub fn owns(&self, ranges: &[KeyRange], part: Option<DocumentId>) -> Result<(), Unserved> {
        self.state.held.load().check(&self.state.group, ranges, part)
    }
}
