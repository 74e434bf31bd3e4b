//! [`Transitions`]: what an operator should know of a group's brains, said once when it changes: who is away and who is back,
//! who is master, and what clients see of it.

use kubebrain_shared::group::GroupName;

use super::node::Node;
use super::standing::Place;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Transitions {
    /// Nodes that were last said to be away.
    away: Vec<usize>,
    /// True if all of them were.
    all_away: bool,
    /// The last master that was named, and its epoch.
    master: Option<(usize, u64)>,
}

/// One change, by the numbers of the nodes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    /// It does not answer.
    Away(usize),
    /// It answers again.
    Back(usize),
    /// Nobody answers.
    AllAway,
    /// There was a master, and somebody is there.
    NoMaster,
    /// Another one, or the same one again, of this epoch.
    Master(usize, u64),
}

impl Transitions {
    /// What is new.
    pub(crate) fn note(&mut self, epoch: u64, places: &[Place]) -> Vec<Transition> {
        let mut entries = Vec::new();
        for (index, place) in places.iter().enumerate() {
            let known = self.away.iter().position(|away| *away == index);
            match (place.is_suspect(), known) {
                (true, None) => {
                    self.away.push(index);
                    entries.push(Transition::Away(index));
                }
                (false, Some(known)) => {
                    self.away.swap_remove(known);
                    entries.push(Transition::Back(index));
                }
                _ => {}
            }
        }
        let all_away = self.away.len() == places.len();
        if all_away && !self.all_away {
            entries.push(Transition::AllAway);
        }
        self.all_away = all_away;
        let master = places.iter().position(|place| *place == Place::Master).map(|index| (index, epoch));
        if master != self.master {
            match master {
                Some((index, epoch)) => entries.push(Transition::Master(index, epoch)),
                None if all_away => {}
                None => entries.push(Transition::NoMaster),
            }
            self.master = master;
        }
        entries
    }
}

impl Transition {
    /// Into the log.
    pub(crate) fn log(&self, group: &GroupName, nodes: &[Node]) {
        let node = |index: usize| {
            let node = nodes.get(index);
            let name = node.and_then(|node| node.standing.load().as_ref().map(|said| said.name.clone()));
            (node.map(|node| node.address.as_str()), name.filter(|name| !name.is_empty()))
        };
        match *self {
            Self::Away(index) => {
                let (address, brain) = node(index);
                let why = nodes.get(index).and_then(Node::trouble);
                let why = why.as_deref().unwrap_or("its connection has ended, or it is silent");
                tracing::warn!(
                    %group, brain, address,
                    "a brain does not answer: {why}. Its reads and watches go to another brain of the group, if there is one"
                );
            }
            Self::Back(index) => {
                let (address, brain) = node(index);
                tracing::info!(%group, brain, address, "a brain answers again");
            }
            Self::AllAway => tracing::warn!(
                %group,
                "no brain of the group answers: requests for its keys fail as Unavailable after some seconds, its watches \
                 are silent; other groups go on"
            ),
            Self::NoMaster => tracing::warn!(
                %group,
                "the group has no master: writes to its keys wait for the next one, some seconds at most; watches go on"
            ),
            Self::Master(index, epoch) => {
                let (address, master) = node(index);
                tracing::info!(%group, master, address, epoch, "the group's master");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Place::{Broken, Idle, Reader, Silent, Untold};
    use super::Transition::{AllAway, Away, Back, Master, NoMaster};
    use super::*;

    #[test]
    fn each_change_is_said_once() {
        let mut transitions = Transitions::default();
        let master = Place::Master;
        for (what, epoch, places, expected) in [
            ("nothing is known", 0, [Untold, Untold], vec![]),
            ("one is not there yet", 0, [Broken, Untold], vec![Away(0)]),
            ("a master speaks", 3, [Broken, master], vec![Master(1, 3)]),
            ("it speaks again", 3, [Broken, master], vec![]),
            ("the other one comes", 3, [Reader, master], vec![Back(0)]),
            ("the master dies", 3, [Reader, Silent], vec![Away(1), NoMaster]),
            ("its connection ends, too", 3, [Reader, Broken], vec![]),
            ("the other one is elected", 4, [master, Broken], vec![Master(0, 4)]),
            ("and dies", 4, [Broken, Broken], vec![Away(0), AllAway]),
            ("it is started again", 4, [Idle, Broken], vec![Back(0)]),
            ("and is master", 5, [master, Broken], vec![Master(0, 5)]),
            ("it hands over", 5, [Idle, Broken], vec![NoMaster]),
        ] {
            assert_eq!(transitions.note(epoch, &places), expected, "{what}");
        }
    }
}
