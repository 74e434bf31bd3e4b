//! Puts, deletions and transactions: ordered by the writer, answered with the values that they show.

use kubebrain_net::trace::{self, Step};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::placement::DocumentId;
use kubebrain_shared::revision::Revision;

use super::taking::Taken;
use super::{Reply, Store};
use crate::decide::answer::{Entry, RangeAnswer};
use crate::decide::repair::By;
use crate::lead::command::{Command, WriteError};
use crate::read::fault::read_fault;
use crate::request::{Delete, Op, Put, Txn};

impl Store {
    /// Puts a key.
    ///
    /// # Errors
    /// See [`WriteError`]; [`Fault::Timeout`] is the only one that may have happened.
    pub async fn put(&self, put: Put, floor: Revision) -> Result<Reply, WriteError> {
        self.write(Op::Put(put), floor, None).await
    }

    /// Deletes a range.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn delete(
        &self,
        delete: Delete,
        floor: Revision,
        part: Option<DocumentId>,
    ) -> Result<Reply, WriteError> {
        self.write(Op::Delete(delete), floor, part).await
    }

    /// Runs a transaction.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn txn(&self, txn: Txn, floor: Revision) -> Result<Reply, WriteError> {
        self.write(Op::Txn(txn), floor, None).await
    }

    async fn write(&self, op: Op, floor: Revision, part: Option<DocumentId>) -> Result<Reply, WriteError> {
        let changes = op.changes();
        if changes {
            self.state.alarms.trusted()?;
        }
        let Taken { _entered, queued } = self.take_on(&op)?;
        let kind = queued.kind();
        // What the answer shows was there at or after this revision: it is not swept before it is read.
        let _pin = self.state.pin();
        let (by, queued, span) = (By::Held(part), Some(queued), trace::step(Step::Queue));
        let written = self.ask(|reply| Command::Write { op, floor, by, queued, span, reply }).await?;
        let mut answer = written.answer;
        let (mut missing, mut bytes) = (Vec::new(), 0);
        answer.entries(&mut |entry| {
            bytes += Entry::weight(entry);
            if entry.kv.is_none() {
                missing.push(entry.clone());
            }
        });
        // What was applied is answered, also if that has to wait for too long.
        let share = self.answers.take_of(kind, bytes).await.unwrap_or(None);
        if !missing.is_empty() {
            self.state.values.fill(&mut missing).await.map_err(|error| {
                let fault = read_fault(&self.state, &error);
                // What was written stays written: this says that it may have been.
                if changes { Fault::Timeout } else { fault }
            })?;
            let mut filled = missing.into_iter();
            answer.entries(&mut |entry| {
                if entry.kv.is_none() {
                    entry.kv = filled.next().and_then(|found| found.kv);
                }
            });
        }
        answer.ranges(&mut RangeAnswer::settle);
        let message = answer.encode(Some(&self.state.identity()), written.revision);
        Ok(Reply { message, revision: written.revision, share })
    }
}
