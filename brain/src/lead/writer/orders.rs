//! What each command does: most give something to the batch that fills, and are answered when that is durable.

use kubebrain_net::trace::Step;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::revision::Revision;

use super::task::Writer;
use crate::lead::command::{Command, Reply};
use crate::rows::codec::{Small, small_value};

/// A larger step wastes more numbers at a crash, a smaller one writes more often: once in a million revisions.
const CEILING_STEP: u64 = 1_000_000;
/// What a lease is judged to take, as in etcd.
const LEASE_BYTES: u64 = 64;

impl Writer {
    /// Carries one out.
    // Long: there are many, an arm of some lines for each.
    pub(super) async fn take(&mut self, command: Command) {
        self.filling.proposals += i64::from(command.proposes());
        match command {
            Command::Write { op, floor, by, queued, span, reply } => {
                drop(queued);
                let span = span.map(|span| span.then(Step::Batch));
                #[cfg(any(test, feature = "faults"))]
                if let crate::request::Op::Put(put) = &op {
                    crate::planted::planted_at(&put.key).await;
                }
                self.write(op, floor, by, span, reply).await;
            }
            Command::Advance { floor, reply } => {
                let floor = floor.get();
                let flies = self.flying.as_ref().is_some_and(|flying| flying.closes() >= floor);
                let state = self.state.clone();
                let answer = Box::new(move || {
                    let _gone = reply.send(Ok(state.committed()));
                });
                match self.flying.as_mut().filter(|_| flies) {
                    Some(flying) => flying.then(answer),
                    None => {
                        self.raise(floor);
                        self.filling.then(answer);
                    }
                }
            }
            Command::Compact { revision, floor, reply } => {
                self.raise(floor.get());
                match self.compact(revision) {
                    Ok(()) => self.answer(reply, Ok(Revision::new(self.counter))),
                    Err(fault) => self.answer(reply, Err(fault)),
                }
            }
            Command::Grant { reply, .. } if self.is_full() => {
                let _gone = reply.send(Err(Fault::NoSpace));
            }
            Command::Grant { id, ttl, adoption, floor, reply } => {
                self.raise(floor.get());
                let room = if adoption.is_none() { self.make_room(LEASE_BYTES) } else { Ok(()) };
                let granted = room.and_then(|()| self.grant(id, ttl, adoption));
                self.answer(reply, granted);
            }
            Command::Revoke { id, floor, reply } => {
                self.raise(floor.get());
                let exists = self.state.leases.lock().exists(id);
                if exists {
                    self.revoke(id);
                }
                let revision = Revision::new(self.counter);
                self.answer(reply, if exists { Ok(revision) } else { Err(Fault::LeaseNotFound) });
            }
            Command::Share { id, group, reply } => {
                let held = self.share(id, &group);
                self.answer(reply, held);
            }
            Command::Renew { id, reply } => {
                let renewed = self.renew(id);
                self.answer(reply, Ok(renewed));
            }
            Command::Raise { alarm, reply } => {
                let raised = self.raise_alarm(alarm);
                self.answer(reply, raised);
            }
            Command::Disarm { alarm, reply } => {
                let disarmed = self.disarm(alarm);
                self.answer(reply, Ok(disarmed));
            }
            Command::Settle { reply } => self.answer(reply, Ok(())),
            Command::Trimmed { number } => {
                self.filling.put(self.state.layout.small(Small::Trimmed), small_value(number));
            }
            Command::Place { step, reply } => {
                let placed = self.place(step).await;
                self.answer(reply, placed);
            }
            Command::Decide { decision, reply } => {
                self.decide(*decision);
                self.answer(reply, Ok(()));
            }
            Command::Close { reply } => {
                // Nothing will be given out any more: a successor may go on right here.
                if self.ceiling > self.counter {
                    self.ceiling = self.counter;
                    self.filling.put(self.state.layout.small(Small::Ceiling), small_value(self.ceiling));
                }
                self.closing = Some(reply);
            }
        }
    }

    /// Answers once everything that was given out so far is durable.
    pub(super) fn answer<T: Send + 'static, E: Send + 'static>(
        &mut self,
        reply: Reply<T, E>,
        answer: Result<T, E>,
    ) {
        self.filling.then(Box::new(move || {
            let _gone = reply.send(answer);
        }));
    }

    /// Moves the counter to `floor` without a write. The ceiling goes first where no write backs the number.
    pub(super) fn raise(&mut self, floor: u64) {
        if floor <= self.counter {
            return;
        }
        self.counter = floor;
        self.filling.closes = floor;
        if floor > self.ceiling {
            self.ceiling = floor.saturating_add(CEILING_STEP);
            self.filling.put(self.state.layout.small(Small::Ceiling), small_value(self.ceiling));
        }
    }

    pub(super) fn compact(&mut self, revision: i64) -> Result<(), Fault> {
        if revision <= self.compacted {
            return Err(Fault::Compacted);
        }
        let new = u64::try_from(revision).ok().filter(|revision| *revision <= self.counter);
        let new = new.ok_or(Fault::FutureRevision)?;
        self.compacted = revision;
        self.filling.compacted = Some(new);
        self.filling.put(self.state.layout.small(Small::Compacted), small_value(new));
        Ok(())
    }
}
