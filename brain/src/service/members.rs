//! [`Members`]: who is in this group: its master, and, as that knows, whoever follows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kubebrain_proto::etcdserverpb::Member;
use parking_lot::Mutex;

/// The brains of a group as member lists show them. Clones are of one list.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// By id; with how many streams each has open: a new one may begin before the old one has ended.
    slaves: Arc<Mutex<BTreeMap<u64, (Member, usize)>>>,
    master: Arc<AtomicU64>,
}

/// A slave is a member for as long as this lives.
#[derive(Debug)]
pub(super) struct Following {
    members: Members,
    id: u64,
}

impl Members {
    /// The list of a group whose master is this member.
    pub fn led_by(id: u64) -> Self {
        let members = Self::default();
        members.set_master(id);
        members
    }

    /// A slave has begun to follow.
    pub(super) fn follows(&self, slave: Member) -> Following {
        let id = slave.id;
        let mut slaves = self.slaves.lock();
        let streams = slaves.get(&id).map_or(0, |(_, streams)| *streams);
        slaves.insert(id, (slave, streams + 1));
        drop(slaves);
        Following { members: self.clone(), id }
    }

    /// Slaves, in the order of their ids.
    pub(super) fn slaves(&self) -> Vec<Member> {
        self.slaves.lock().values().map(|(member, _)| member.clone()).collect()
    }

    /// The id of the group's master; 0 while none is known.
    pub fn master(&self) -> u64 {
        self.master.load(Ordering::Relaxed)
    }

    /// Who is master from now on.
    pub fn set_master(&self, id: u64) {
        self.master.store(id, Ordering::Relaxed);
    }

    /// True if `id` follows.
    pub(super) fn has(&self, id: u64) -> bool {
        self.slaves.lock().contains_key(&id)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut slaves = self.members.slaves.lock();
        if let Some((_, streams)) = slaves.get_mut(&self.id) {
            *streams -= 1;
            if *streams == 0 {
                slaves.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str) -> Member {
        Member { id, name: name.to_owned(), ..Member::default() }
    }

    #[test]
    fn a_slave_is_a_member_while_it_follows() {
        let members = Members::default();
        let names = || members.slaves().into_iter().map(|slave| slave.name).collect::<Vec<_>>();
        let b = members.follows(member(2, "b"));
        let a = members.follows(member(1, "a"));
        assert_eq!(names(), ["a", "b"]);
        let again = members.follows(member(2, "b"));
        drop(b);
        assert_eq!(names(), ["a", "b"], "its new stream is open");
        drop((again, a));
        assert!(names().is_empty() && !members.has(2));
    }
}
