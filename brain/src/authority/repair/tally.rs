//! [`Tally`]: what was found and what became of it, for people; and what becomes of a key.

use std::collections::BTreeMap;

use bytes::Bytes;
use kubebrain_proto::admin::placement_repair::Keep;
use kubebrain_proto::admin::{PlacementRepairFrom, PlacementRepaired, PlacementStray, PlacementStrays};
use kubebrain_proto::peer::repair_done::What;
use kubebrain_proto::peer::{RepairDone, RepairKey, RepairUnit};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, Placement};

/// Keys that one answer names.
const KEYS_MAX: usize = 10_000;

/// What it means that a key is deleted where it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum After {
    /// Its owner has it now.
    Moved,
    /// It is gone, or its owner has another one.
    Dropped,
}

/// What becomes of a key in the group that has it, once its owner has said what became of it there.
///
/// # Errors
/// It is left; a sentence.
pub(super) fn after_take(done: &RepairDone, keep: Keep, owner: &GroupName) -> Result<After, String> {
    match (done.what(), keep) {
        (What::Done | What::Same, _) => Ok(After::Moved),
        (What::Other, Keep::Owner) => Ok(After::Dropped),
        (What::Other, _) => Err(format!("group {owner} has it with another value or lease")),
        (What::Left, _) => Err(done.why.clone()),
    }
}

/// # Errors
/// It stands where it stood; a sentence.
pub(super) fn after_drop(done: &RepairDone) -> Result<(), String> {
    match done.what() {
        What::Done => Ok(()),
        What::Other | What::Same => Err("it has changed meanwhile".to_owned()),
        What::Left => Err(done.why.clone()),
    }
}

/// See the module.
pub(super) struct Tally {
    number: u64,
    table: Placement,
    names_keys: bool,
    strays: BTreeMap<(GroupName, Bytes), PlacementStrays>,
    counted: BTreeMap<Bytes, u64>,
    keys: Vec<PlacementStray>,
    troubles: Vec<String>,
    next: Option<PlacementRepairFrom>,
}

impl Tally {
    pub(super) fn new(by: &Document, names_keys: bool) -> Self {
        Self {
            number: by.number(),
            table: by.table().clone(),
            names_keys,
            strays: BTreeMap::new(),
            counted: BTreeMap::new(),
            keys: Vec::new(),
            troubles: Vec::new(),
            next: None,
        }
    }

    /// No more keys have room in this answer.
    pub(super) fn is_full(&self) -> bool {
        self.keys.len() >= KEYS_MAX
    }

    fn unit(&mut self, group: &GroupName, key: &RepairKey) -> &mut PlacementStrays {
        let prefix = self.table.unit(&key.key).start().clone();
        self.strays.entry((group.clone(), prefix.clone())).or_insert_with(|| PlacementStrays {
            group: group.to_string(),
            unit: self.table.unit_name(&key.key),
            prefix,
            owner: self.table.owner(&key.key).to_string(),
            ..PlacementStrays::default()
        })
    }

    /// The group has it.
    pub(super) fn stands(&mut self, group: &GroupName, key: &RepairKey, revision: i64) {
        let unit = self.unit(group, key);
        unit.keys += 1;
        unit.revision = revision;
    }

    /// The group has had it.
    pub(super) fn history(&mut self, group: &GroupName, key: &RepairKey, revision: i64) {
        let unit = self.unit(group, key);
        unit.history += 1;
        unit.revision = revision;
    }

    /// Units of these keys whose owner has not said how many keys of them it has.
    pub(super) fn uncounted(&self, keys: &[RepairKey]) -> Vec<Bytes> {
        let mut units: Vec<Bytes> =
            keys.iter().map(|key| self.table.unit(&key.key).start().clone()).collect();
        units.dedup();
        units.retain(|unit| !self.counted.contains_key(unit));
        units
    }

    /// The owner has so many keys of a unit.
    pub(super) fn owned(&mut self, unit: &RepairUnit) {
        self.counted.insert(unit.prefix.clone(), unit.keys);
    }

    /// It is listed; its owner has it too, if it has, at a revision.
    pub(super) fn listed(&mut self, group: &GroupName, key: &RepairKey, owner_revision: Option<i64>) {
        self.unit(group, key).both += u64::from(owner_revision.is_some());
        self.name(group, key, owner_revision.unwrap_or(0), String::new());
    }

    /// It is gone where it stood, or would be.
    pub(super) fn done(&mut self, group: &GroupName, key: &RepairKey, after: After, dry_run: bool) {
        let unit = self.unit(group, key);
        let what = match after {
            After::Moved => {
                unit.moved += 1;
                "moved"
            }
            After::Dropped => {
                unit.dropped += 1;
                "dropped"
            }
        };
        let outcome = if dry_run { format!("would be {what}") } else { what.to_owned() };
        self.name(group, key, 0, outcome);
    }

    /// It stands where it stood.
    pub(super) fn left(&mut self, group: &GroupName, key: &RepairKey, why: &str) {
        self.unit(group, key).left += 1;
        // What is left is named in any case: somebody has to decide.
        let names_keys = std::mem::replace(&mut self.names_keys, true);
        self.name(group, key, 0, format!("left: {why}"));
        self.names_keys = names_keys;
    }

    fn name(&mut self, group: &GroupName, key: &RepairKey, owner_revision: i64, outcome: String) {
        if self.names_keys {
            self.keys.push(PlacementStray {
                group: group.to_string(),
                owner: self.table.owner(&key.key).to_string(),
                key: key.key.clone(),
                revision: key.revision,
                lease: key.lease,
                owner_revision,
                outcome,
            });
        }
    }

    /// A group does not do its part.
    pub(super) fn trouble(&mut self, why: String) {
        if !self.troubles.contains(&why) {
            self.troubles.push(why);
        }
    }

    /// The rest is for the next answer.
    pub(super) fn goes_on(&mut self, group: &GroupName, key: Bytes) {
        self.next = Some(PlacementRepairFrom { group: group.to_string(), key });
    }

    pub(super) fn told(self) -> PlacementRepaired {
        let counted = self.counted;
        let owned = |((_, prefix), strays): ((GroupName, Bytes), PlacementStrays)| PlacementStrays {
            owned: counted.get(&prefix).copied().unwrap_or(0),
            ..strays
        };
        PlacementRepaired {
            number: self.number,
            strays: self.strays.into_iter().map(owned).collect(),
            keys: self.keys,
            troubles: self.troubles,
            next: self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(what: What, why: &str) -> RepairDone {
        RepairDone { what: what.into(), why: why.to_owned() }
    }

    #[test]
    fn a_key_goes_once_its_owner_has_it_and_is_left_where_somebody_has_to_decide() {
        let owner = GroupName::parse("b").expect("a name");
        let other = Err("group b has it with another value or lease".to_owned());
        for (what, keep, after) in [
            (What::Done, Keep::Both, Ok(After::Moved)),
            (What::Same, Keep::Both, Ok(After::Moved)),
            (What::Same, Keep::Owner, Ok(After::Moved)),
            (What::Done, Keep::Stray, Ok(After::Moved)),
            (What::Other, Keep::Both, other.clone()),
            (What::Other, Keep::Stray, other),
            (What::Other, Keep::Owner, Ok(After::Dropped)),
            (What::Left, Keep::Owner, Err("why".to_owned())),
        ] {
            assert_eq!(after_take(&done(what, "why"), keep, &owner), after, "{what:?}, {keep:?}");
        }
        assert_eq!(after_drop(&done(What::Done, "")), Ok(()));
        assert_eq!(after_drop(&done(What::Other, "")), Err("it has changed meanwhile".to_owned()));
        assert_eq!(after_drop(&done(What::Left, "why")), Err("why".to_owned()));
    }
}
