//! What is known of a group's nodes, and what follows from it: who is master, who reads, who is left alone.
//!
//! Decided here, without a clock and without I/O; [`super::monitor`] reports, [`super::roster`] keeps.

use kubebrain_proto::peer::StandingResponse;
use kubebrain_proto::peer::standing_response::Role as WireRole;

/// What a brain says that it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It did not say, or is of a version that does not.
    #[default]
    Unknown,
    /// It orders the group's writes.
    Master,
    /// It does not.
    Slave,
}

impl Role {
    /// As metrics and `ctl` show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Master => "master",
            Self::Slave => "slave",
        }
    }
}

/// How the stream stands on which a node says what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Health {
    /// It is not there yet.
    #[default]
    Unheard,
    /// It speaks, or has said that there is no such stream.
    Fine,
    /// It has ended, or there is no connection.
    Broken,
    /// It is there and says nothing.
    Silent,
    /// It speaks, and is of another group.
    Foreign,
}

impl Health {
    pub(crate) const fn is_suspect(self) -> bool {
        matches!(self, Self::Broken | Self::Silent | Self::Foreign)
    }
}

/// What decides, of all that a node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) role: Role,
    pub(crate) reads: bool,
    pub(crate) epoch: u64,
}

impl Said {
    pub(crate) fn of(standing: &StandingResponse) -> Self {
        let role = match standing.role() {
            WireRole::Unknown => Role::Unknown,
            WireRole::Master => Role::Master,
            WireRole::Slave => Role::Slave,
        };
        Self { role, reads: standing.reads, epoch: standing.epoch }
    }
}

/// One node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    pub(crate) health: Health,
    /// `None` where it has said nothing, or cannot: as brains of older versions, and those without elections.
    pub(crate) said: Option<Said>,
}

/// What a node is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Place {
    /// Nothing is known: it is tried, and refuses if it is not master.
    Untold,
    /// A slave that answers reads.
    Reader,
    /// The master, for all that is known.
    Master,
    /// It is well and good for nothing: a slave that does not read yet, or a master of an earlier term.
    Idle,
    /// Suspect: its stream has ended.
    Broken,
    /// Suspect: its stream says nothing.
    Silent,
    /// A brain of another group, by its own words: never asked.
    Foreign,
}

impl Place {
    const ALL: [Self; 7] =
        [Self::Untold, Self::Reader, Self::Master, Self::Idle, Self::Broken, Self::Silent, Self::Foreign];

    pub(crate) fn from_u8(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Untold)
    }

    pub(crate) const fn is_suspect(self) -> bool {
        matches!(self, Self::Broken | Self::Silent | Self::Foreign)
    }

    /// True if it serves watches and reads, as far as is known.
    pub(crate) const fn serves(self) -> bool {
        matches!(self, Self::Reader | Self::Master)
    }
}

/// Each node's place, by the highest epoch that was ever heard of in the group. One who claims to be master of an
/// earlier term was stopped and resumed, or has not noticed yet: it is master of nothing.
pub(crate) fn places(highest: u64, nodes: &[Known]) -> Vec<Place> {
    let mut master = false;
    let place = |node: &Known| match (node.health, node.said) {
        (Health::Broken, _) => Place::Broken,
        (Health::Silent, _) => Place::Silent,
        (Health::Foreign, _) => Place::Foreign,
        (_, None) => Place::Untold,
        (_, Some(Said { role: Role::Master, epoch, .. })) if epoch >= highest && !master => {
            master = true;
            Place::Master
        }
        // One that has not heard of a takeover yet goes on reading: it fences itself.
        (_, Some(Said { role: Role::Slave, reads: true, .. })) => Place::Reader,
        (_, Some(_)) => Place::Idle,
    };
    nodes.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn node(health: Health, role: Role, reads: bool, epoch: u64) -> Known {
        Known { health, said: Some(Said { role, reads, epoch }) }
    }

    #[test]
    fn a_master_is_who_claims_the_highest_epoch_and_is_not_suspect() {
        use Health::{Broken, Fine, Silent, Unheard};
        use Place as P;
        use Role::{Master, Slave, Unknown};
        let untold = |health| Known { health, said: None };
        for (name, highest, nodes, expected) in [
            (
                "nothing is known",
                0,
                vec![untold(Unheard), untold(Fine), untold(Broken), untold(Silent)],
                vec![P::Untold, P::Untold, P::Broken, P::Silent],
            ),
            (
                "the usual",
                5,
                vec![node(Fine, Slave, true, 5), node(Fine, Master, true, 5), node(Fine, Slave, false, 5)],
                vec![P::Reader, P::Master, P::Idle],
            ),
            (
                "one that was stopped and resumed",
                6,
                vec![node(Fine, Master, true, 5), node(Fine, Master, true, 6)],
                vec![P::Idle, P::Master],
            ),
            (
                "slaves have heard of a master that has not",
                7,
                vec![node(Fine, Master, true, 6), node(Fine, Slave, true, 7)],
                vec![P::Idle, P::Reader],
            ),
            (
                "a slave has not heard of the takeover yet",
                7,
                vec![node(Fine, Master, true, 7), node(Fine, Slave, true, 6)],
                vec![P::Master, P::Reader],
            ),
            (
                "the master is suspect",
                7,
                vec![
                    node(Silent, Master, true, 7),
                    node(Broken, Master, true, 7),
                    node(Fine, Slave, true, 7),
                ],
                vec![P::Silent, P::Broken, P::Reader],
            ),
            ("no terms", 0, vec![node(Fine, Master, false, 0)], vec![P::Master]),
            (
                "two claims of one term",
                3,
                vec![node(Fine, Master, true, 3), node(Fine, Master, true, 3)],
                vec![P::Master, P::Idle],
            ),
            ("a role of next year", 3, vec![node(Fine, Unknown, true, 3)], vec![P::Idle]),
        ] {
            assert_eq!(places(highest, &nodes), expected, "{name}");
        }
    }
}
