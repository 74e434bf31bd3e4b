//! A [`Ballot`](kubebrain_brain::election::Ballot) on a `Lease` (`coordination.k8s.io/v1`) of a Kubernetes cluster: another one
//! than that whose state is stored here, which would have to be up for its own storage to have a master.
//!
//! ```text
//! MasterRecord ⇄ Lease: spec as client-go's leader election keeps it, the rest in annotations
//! look     ──▶ GET, answered from the cluster's own storage
//! replace  ──▶ PUT with the resource version of what was seen, POST where nothing was
//! ```
//!
//! * **Kubernetes' rules.** A holder renews; it releases by an empty holder and a duration of one second; another one's
//!   lease is judged by when it was *seen* to change. A holder that is not a brain is respected as long as it renews.
//! * **Times in the lease** are for people: nobody here compares them.
//! * **Nothing is repeated below.** A repeated PUT whose first try had arrived is refused, which would read as "somebody
//!   else was first": the client's own retries are off, and what is not known is said to be.
//! * **A call that hangs costs one try.** Each has half of the renew deadline, then its connection is given up.

pub mod connect;
pub mod lease;

mod ballot;

pub use ballot::LeaseBallot;
pub use connect::{Config, ConnectError, connect};
