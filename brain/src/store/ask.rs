//! The way to the writer: a command into its queue, and its answer back.

use kubebrain_net::metrics::One;
use kubebrain_shared::fault::Fault;
use tokio::sync::{mpsc, oneshot};

use super::Store;
use crate::fence::wait;
use crate::lead::command::Command;
use crate::state::timeout::ANSWER_TIMEOUT;

impl Store {
    /// Refuses what only a master does.
    pub(super) fn leads(&self) -> Result<(), Fault> {
        if self.state.is_slave() { Err(Fault::LeaderChanged) } else { Ok(()) }
    }

    /// Returns when everything that can be seen now is durable and known to be fresh.
    ///
    /// # Errors
    /// [`Fault::Timeout`].
    pub async fn settle(&self) -> Result<(), Fault> {
        self.ask(|reply| Command::Settle { reply }).await
    }

    /// Asks the writer, and waits until its answer is known to be fresh.
    pub(super) async fn ask<T, E: From<Fault>>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Command,
    ) -> Result<T, E> {
        let ticket = self.ticket();
        if ticket.is_slaves() {
            return Err(Fault::LeaderChanged.into());
        }
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        let metrics = &self.state.metrics;
        let proposes = command.proposes();
        let _waiting = proposes.then(|| One::of(&metrics.all.pending));
        let failed = |fault: Fault| {
            metrics.all.failed.inc_by(proposes.into());
            fault
        };
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => failed(Fault::TooManyRequests),
            mpsc::error::TrySendError::Closed(_) => failed(Fault::Stopped),
        })?;
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(answer)) => {
                wait::fence_answer(&self.state, ticket).await?;
                answer
            }
            #[cfg(any(test, feature = "faults"))]
            Ok(Err(_)) if self.state.planted.unknown_is_failed && !self.state.has_ended() => {
                Err(failed(Fault::NoSpace).into())
            }
            // The writer ended with this on its way, or it is stuck: the outcome is not known.
            Ok(Err(_)) | Err(_) => Err(failed(Fault::Timeout).into()),
        }
    }
}
