//! Who of a group's brains is master, with the semantics and the words of Kubernetes' leader election: a holder renews a
//! record; a candidate that has not seen it change for the holder's lease takes it over.
//!
//! ```text
//! driver ──look──▶ Ballot ──what stands there──▶ Campaign ──Step──▶ driver ──replace──▶ Ballot
//!    └──Mastership──▶ role: Master until …, or Slave of …
//! ```
//!
//! * **An election gives the right to try.** What makes a master is its takeover record in the group's log (`lead/takeover`):
//!   two that both believe to be elected are harmless, the engine refuses one of them. The election saves them from
//!   deposing each other all the time.
//! * **Clocks.** Times of different machines are never compared. A lease is judged by when a change was *seen*, on the own
//!   monotonic clock; the holder counts from before it *sent* the renewal. So the holder's time is over before anybody
//!   else's patience is, as long as clocks run at nearly one speed.
//! * **Hand-overs.** A master that leaves releases the record. Candidates that are told so ([`Candidacy::hurry`]) look often
//!   enough to take it within a few milliseconds; others find it at their next look.
//! * **Names.** An identity is of one process, not of one configuration: a restarted brain waits for its own old lease.

pub mod ballot;
pub mod campaign;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod driver;
pub mod record;

pub use ballot::{Ballot, EngineBallot, Found, Replaced};
pub use campaign::{Campaign, Mastership, Step, Timing, TimingError};
pub use driver::{Candidacy, Driver};
pub use record::{Candidate, MasterRecord};

#[cfg(test)]
mod tests;
