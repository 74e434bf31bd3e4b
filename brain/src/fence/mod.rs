//! Fences: the question after which an answer is known to be fresh, also where another process may be master since.
//!
//! ```text
//! request ──ticket──▶ read in memory ──▶ pass ──────── wait ────────▶ answered
//!                                          │   one read of the engine, begun after the ticket was taken:
//!                                          └──▶ has anybody written the log after my last settled batch?
//! ```
//!
//! An engine of several processes has no way to tell a master that it is none any more: it learns that from the record
//! of the next batch, where its successor's takeover stands. So nothing that is read in memory is answered before
//! either of these *proofs*, begun after the request arrived:
//! * a look into the log that does not refute this master's [`Claim`](crate::state::claim::Claim);
//! * a batch of ours was committed. Its condition was judged at that moment, and held.
//!
//! What is answered is then at least the state of a moment that lies between the request and its answer.
//!
//! * **The next read, never the one in flight.** That one may have looked before a write that was acknowledged before
//!   this request arrived. Proofs are numbered as they begin; a ticket is the number of the last one that had begun
//!   when the request arrived, and only a later one counts for it.
//! * **A claim that is refuted** ends the group here, as it ends the writer.
//!
//! One read is in flight at most, whatever waits. An engine that does not answer makes those who wait time out; it is
//! asked again until nobody waits.
//!
//! Where no other process can write the engine, nothing is asked. With [`ReadFence::Lease`](crate::config::ReadFence::Lease) nothing is asked either while
//! the master lease is held: it was held when the answer was read, and nobody else takes over before it has run out. That
//! holds as far as clocks run while machines do, and as everybody who takes over was elected.
//!
//! **On a slave** the question goes to the master: how far must I be? It answers from memory, with its claim where it is
//! not sure by itself, and the slave looks into the log: so the look is the slave's, and costs the master nothing. The same
//! numbers order question and request. What is answered is read after the slave has applied that far, so tickets of slaves
//! pass before anything is read. Questions do not wait for each other's revisions to come: while one is waited for, the
//! next one may be asked.

mod ask;
pub(crate) mod claim;
mod look;
mod master;
mod pace;
pub(crate) mod slave;
#[cfg(test)]
mod tests;
pub(crate) mod wait;
