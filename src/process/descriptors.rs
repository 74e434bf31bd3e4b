//! File descriptors: as many as the system gives, and what they are for.

use anyhow::{Result, bail};
use kubebrain_net::connections::Connections;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept back for what is opened inside: the log and its segments, merges, certificates, connections to others. etcd keeps
/// as many.
const RESERVED: u64 = 150;
/// Of all descriptors one in so many may hold a table of the store open.
const TABLES_SHARE: u64 = 8;
const TABLES_MIN: u64 = 16;
/// As many tables are kept open where there are descriptors for them.
const TABLES_MAX: u64 = 900;
/// With fewer connections there is no use in starting.
const CONNECTIONS_MIN: u64 = 16;
/// More than the system has.
const CONNECTIONS_MAX: u64 = 1 << 24;

/// How the descriptors of this process are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// Tables of the store that are kept open.
    pub tables: usize,
    connections: usize,
}

impl Descriptors {
    /// Raises the soft limit to the hard one, as Go's runtime does for etcd, and shares it out.
    ///
    /// # Errors
    /// There are too few to begin with.
    pub(crate) fn of_process() -> Result<Self> {
        let given = getrlimit(Resource::Nofile);
        let wanted = Rlimit { current: given.maximum, maximum: given.maximum };
        // Where the hard limit is more than the system allows, what is there stays.
        let _refused = setrlimit(Resource::Nofile, wanted);
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        tracing::debug!(limit, before = given.current, "open files");
        Self::within(limit)
    }

    fn within(limit: u64) -> Result<Self> {
        let tables = (limit / TABLES_SHARE).clamp(TABLES_MIN, TABLES_MAX);
        let Some(connections) = limit.checked_sub(RESERVED + tables).filter(|left| *left >= CONNECTIONS_MIN)
        else {
            bail!(
                "only {limit} files may be open: 200 are the least that serve anybody (ulimit -Hn, LimitNOFILE=)"
            );
        };
        let connections = usize::try_from(connections.min(CONNECTIONS_MAX))?;
        Ok(Self { tables: usize::try_from(tables)?, connections })
    }

    /// What all listeners of the process take together.
    pub(crate) fn connections(self) -> Connections {
        Connections::at_most(self.connections)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_and_what_is_inside_get_theirs_first() {
        let cases = [
            (u64::MAX, Some((900, 1 << 24))),
            (65_536, Some((900, 64_486))),
            (1024, Some((128, 746))),
            (256, Some((32, 74))),
            (189, Some((23, 16))),
            (188, None),
            (0, None),
        ];
        for (limit, expected) in cases {
            let found = Descriptors::within(limit).ok().map(|shared| (shared.tables, shared.connections));
            assert_eq!(found, expected, "{limit}");
        }
    }
}
