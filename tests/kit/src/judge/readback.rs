//! [`Readback`]: what was committed, made of the events of a watch of everything.

use std::collections::BTreeMap;

use kubebrain_proto::mvccpb::Event;
use kubebrain_proto::mvccpb::event::EventType;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use tokio::time::Instant;

use super::record::Committed;

/// See the module.
#[derive(Default)]
pub struct Readback {
    pub committed: Vec<Committed>,
    pub wrong: Vec<String>,
    last: i64,
}

impl Readback {
    /// Takes the events of one response: whole revisions, each higher than the last.
    pub fn take(&mut self, placement: &Placement, events: Vec<Event>) {
        let revision = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        for chunk in events.chunk_by(|one, next| revision(one) == revision(next)) {
            let at = revision(&chunk[0]);
            if at <= self.last {
                self.wrong.push(format!("the history has {at} after {}", self.last));
            }
            self.last = self.last.max(at);
            let mut groups: BTreeMap<GroupName, Committed> = BTreeMap::new();
            for event in chunk {
                let kv = event.kv.clone().unwrap_or_default();
                let group = placement.owner(&kv.key).clone();
                let committed = groups.entry(group.clone()).or_insert_with(|| Committed {
                    group,
                    revision: at,
                    changes: Vec::new(),
                    tick: u64::MAX,
                    at: Instant::now(),
                });
                let deleted = event.r#type() == EventType::Delete;
                committed.changes.push((kv.key.clone(), (!deleted).then_some(kv)));
            }
            self.committed.extend(groups.into_values());
        }
    }
}
