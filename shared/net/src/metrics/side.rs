//! [`Side`]: whose calls a listener takes.

/// Whose calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// etcd clients'. Under etcd's names.
    Clients,
    /// Proxies'. Under names of our own, so that nothing is counted twice where both are added up.
    Peers,
}
