//! [`Writer`](task::Writer): the one task of a master that orders writes.
//!
//! ```text
//! inbox ─▶ lines, in turns ─▶ evaluate on index + pending ─▶ filling ──launch──▶ flying ──durable──▶ index, committed, hub, answers
//! ```
//!
//! * One batch flies at a time; the next one fills meanwhile, so batches grow with the load and nothing waits for a
//!   timer.
//! * Kinds take turns ([`Fair`](kubebrain_net::fair::Fair)), so a flood of one waits behind itself. What brains need of each
//!   other (floors, compactions, placements) goes first.
//! * A request is answered when everything it has seen is durable, also where it changed nothing.
//! * A batch whose outcome is unknown is repeated until it is known. One that another master's batch took the number
//!   of ends the writer: nothing that was given out since is ever answered as done.
//! * While a batch does not become durable no lease ends, and that time is given back to all of them afterwards.
//! * In order, for each durable batch: index, committed revision, watchers, answers. So whoever hears of a revision
//!   can read it, and a progress never runs ahead of an event.

mod alarms;
mod batch;
mod flight;
mod leases;
mod orders;
mod place;
#[cfg(test)]
mod sizes;
pub(crate) mod task;
#[cfg(test)]
mod tests;
mod write;
