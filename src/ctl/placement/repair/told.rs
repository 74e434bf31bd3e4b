//! [`Told`]: what all answers of a repair come to, as sentences, as JSON, as YAML and as an exit code.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use bytes::Bytes;
use kubebrain_proto::admin::placement_repair::Action;
use kubebrain_proto::admin::{PlacementRepaired, PlacementStray, PlacementStrays};
use serde_json::{Value, json};

use crate::ctl::table;

/// See the module.
pub(super) struct Told {
    action: Action,
    dry_run: bool,
    number: u64,
    strays: BTreeMap<(String, Bytes), PlacementStrays>,
    keys: Vec<PlacementStray>,
    troubles: Vec<String>,
}

impl Told {
    pub(super) fn new(action: Action, dry_run: bool) -> Self {
        let (strays, keys, troubles) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { action, dry_run, number: 0, strays, keys, troubles }
    }

    /// One more answer.
    pub(super) fn add(&mut self, part: PlacementRepaired) {
        self.number = part.number;
        for strays in part.strays {
            let key = (strays.group.clone(), strays.prefix.clone());
            let Some(known) = self.strays.get_mut(&key) else {
                self.strays.insert(key, strays);
                continue;
            };
            known.keys += strays.keys;
            known.both += strays.both;
            known.history += strays.history;
            known.moved += strays.moved;
            known.dropped += strays.dropped;
            known.left += strays.left;
            known.owned = known.owned.max(strays.owned);
            known.revision = known.revision.max(strays.revision);
        }
        self.keys.extend(part.keys);
        for trouble in part.troubles {
            if !self.troubles.contains(&trouble) {
                self.troubles.push(trouble);
            }
        }
    }

    /// Nothing was found, or said.
    pub(super) fn is_empty(&self) -> bool {
        self.strays.is_empty() && self.troubles.is_empty()
    }

    fn sum(&self, of: impl Fn(&PlacementStrays) -> u64) -> u64 {
        self.strays.values().map(of).sum()
    }

    pub(super) fn lines(&self, names_keys: bool) -> Result<String> {
        let mut text = String::new();
        let is_list = self.action == Action::List;
        if !self.strays.is_empty() {
            text += &table::render(if is_list { &LISTED } else { &DONE }, &self.rows());
        }
        let keys: Vec<Vec<String>> =
            self.keys.iter().filter(|key| names_keys || is_left(key)).map(row).collect();
        if !keys.is_empty() {
            text += &table::render(&KEYS, &keys);
        }
        for sentence in self.sentences() {
            text += &sentence;
            text.push('\n');
        }
        Ok(text)
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |strays: &PlacementStrays| {
            let numbers = match self.action {
                Action::List => vec![strays.keys, strays.both, strays.owned, strays.history],
                _ => vec![strays.moved, strays.dropped, strays.left],
            };
            let mut row = vec![strays.group.clone(), strays.unit.clone(), strays.owner.clone()];
            row.extend(numbers.iter().map(ToString::to_string));
            row
        };
        self.strays.values().map(row).collect()
    }

    fn by(&self) -> String {
        match self.number {
            0 => "the home group's file, since no placement holds yet".to_owned(),
            number => format!("placement number {number}"),
        }
    }

    fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        let keys = self.sum(|strays| strays.keys);
        match self.action {
            Action::List if keys == 0 && self.troubles.is_empty() => {
                sentences.push(format!("No key stands in a group that does not own it, by {}.", self.by()));
            }
            Action::List if keys > 0 => sentences.push(format!(
                "{} in a group that does not own {}, by {}. Name a kind and say --move or --drop.",
                if keys == 1 { "1 key stands".to_owned() } else { format!("{keys} keys stand") },
                if keys == 1 { "it" } else { "them" },
                self.by()
            )),
            Action::List => {}
            _ if self.dry_run => sentences.push("Nothing was changed: say it without --dry-run.".to_owned()),
            _ if keys == 0 && self.troubles.is_empty() => {
                sentences.push(
                    "Nothing to do: none of these keys stands in a group that does not own it.".to_owned(),
                );
            }
            _ => {}
        }
        sentences.extend(self.strays.values().filter_map(|strays| self.history(strays)));
        sentences
    }

    /// What a group has had stands in the way of a placement as what it has does.
    fn history(&self, strays: &PlacementStrays) -> Option<String> {
        let PlacementStrays { group, unit, owner, history, revision, moved, dropped, .. } = strays;
        let was = if self.dry_run { *history } else { history + moved + dropped };
        (was > 0).then(|| {
            format!(
                "Group {group} has history of {unit}: a placement that gives it to group {owner} is taken once that is compacted, \
                 as by `etcdctl compact {revision}` at a brain of group {group}."
            )
        })
    }

    /// # Errors
    /// Something was left, or a group did not do its part.
    pub(super) fn verdict(&self) -> Result<()> {
        let left = self.sum(|strays| strays.left);
        let mut what = Vec::new();
        if left > 0 {
            let keys = if left == 1 { "1 key".to_owned() } else { format!("{left} keys") };
            let verb = if self.dry_run { "would be left" } else { "left" };
            what.push(format!(
                "{keys} {verb}, and named with the reason; of two that differ --keep says which one stays"
            ));
        }
        what.extend(self.troubles.iter().cloned());
        match what.is_empty() {
            true => Ok(()),
            false => bail!(what.join("; ")),
        }
    }

    pub(super) fn json(&self) -> Value {
        let strays = |strays: &PlacementStrays| {
            json!({
                "group": strays.group,
                "unit": strays.unit,
                "prefix": text(&strays.prefix),
                "owner": strays.owner,
                "keys": strays.keys,
                "both": strays.both,
                "ownersKeys": strays.owned,
                "history": strays.history,
                "moved": strays.moved,
                "dropped": strays.dropped,
                "left": strays.left,
                "revision": strays.revision,
            })
        };
        let key = |key: &PlacementStray| {
            json!({
                "group": key.group,
                "owner": key.owner,
                "key": text(&key.key),
                "revision": key.revision,
                "lease": format!("{:x}", key.lease),
                "ownersRevision": (key.owner_revision > 0).then_some(key.owner_revision),
                "outcome": key.outcome,
            })
        };
        json!({
            "number": (self.number > 0).then_some(self.number),
            "dryRun": self.dry_run,
            "strays": self.strays.values().map(strays).collect::<Vec<_>>(),
            "keys": self.keys.iter().map(key).collect::<Vec<_>>(),
            "troubles": self.troubles,
        })
    }

    /// The same, a line for each field.
    pub(super) fn yaml(&self) -> String {
        let mut yaml = String::new();
        let json = self.json();
        for (name, value) in json.as_object().into_iter().flatten() {
            match value.as_array() {
                Some(items) if items.is_empty() => yaml += &format!("{name}: []\n"),
                None => yaml += &format!("{name}: {value}\n"),
                Some(items) => {
                    yaml += &format!("{name}:\n");
                    items.iter().for_each(|item| put_item(&mut yaml, item));
                }
            }
        }
        yaml
    }
}

/// Scalars of JSON are scalars of YAML.
fn put_item(yaml: &mut String, item: &Value) {
    let Some(fields) = item.as_object() else {
        *yaml += &format!("  - {item}\n");
        return;
    };
    for (position, (name, value)) in fields.iter().enumerate() {
        let lead = if position == 0 { "  - " } else { "    " };
        *yaml += &format!("{lead}{name}: {value}\n");
    }
}

const LISTED: [&str; 7] = ["GROUP", "WHAT", "OWNER", "KEYS", "BOTH", "OWNER'S", "HISTORY"];
const DONE: [&str; 6] = ["GROUP", "WHAT", "OWNER", "MOVED", "DROPPED", "LEFT"];
const KEYS: [&str; 7] = ["GROUP", "OWNER", "REVISION", "LEASE", "OWNER'S", "KEY", ""];

fn is_left(key: &PlacementStray) -> bool {
    key.outcome.starts_with("left")
}

fn row(key: &PlacementStray) -> Vec<String> {
    let or_none = |is_there: bool, text: String| if is_there { text } else { "-".to_owned() };
    vec![
        key.group.clone(),
        key.owner.clone(),
        key.revision.to_string(),
        or_none(key.lease != 0, format!("{:x}", key.lease)),
        or_none(key.owner_revision > 0, key.owner_revision.to_string()),
        text(&key.key),
        key.outcome.clone(),
    ]
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strays(keys: u64, history: u64) -> PlacementStrays {
        PlacementStrays {
            group: "core".to_owned(),
            unit: "kind pods".to_owned(),
            prefix: Bytes::from_static(b"/registry/pods/"),
            owner: "pods".to_owned(),
            keys,
            both: 1,
            owned: 40,
            history,
            revision: 77,
            ..PlacementStrays::default()
        }
    }

    fn told(action: Action, parts: Vec<PlacementRepaired>) -> Told {
        let mut told = Told::new(action, false);
        parts.into_iter().for_each(|part| told.add(part));
        told
    }

    fn part(strays: PlacementStrays) -> PlacementRepaired {
        PlacementRepaired { number: 3, strays: vec![strays], ..PlacementRepaired::default() }
    }

    #[test]
    fn a_list_adds_its_parts_up_and_nothing_found_is_well() {
        let listed = told(Action::List, vec![part(strays(2, 0)), part(strays(3, 1))]);
        let text = listed.lines(false).expect("lines");
        assert!(text.contains("core   kind pods  pods   5     2     40       1\n"), "{text}");
        assert!(
            text.contains("5 keys stand in a group that does not own them, by placement number 3."),
            "{text}"
        );
        assert!(text.contains("`etcdctl compact 77` at a brain of group core"), "{text}");
        assert!(listed.verdict().is_ok(), "to be asked is no failure");
        let none = told(Action::List, vec![PlacementRepaired::default()]);
        let by = "No key stands in a group that does not own it, by the home group's file, since no placement holds yet.\n";
        assert_eq!(none.lines(true).expect("lines"), by);
        assert!(none.verdict().is_ok());
    }

    #[test]
    fn what_is_left_is_named_and_is_no_success() {
        let mut moved = part(PlacementStrays { moved: 4, left: 1, ..strays(5, 0) });
        moved.keys.push(PlacementStray {
            group: "core".to_owned(),
            owner: "pods".to_owned(),
            key: Bytes::from_static(b"/registry/pods/a\n"),
            revision: 9,
            outcome: "left: group pods has it with another value or lease".to_owned(),
            ..PlacementStray::default()
        });
        let moved = told(Action::Move, vec![moved]);
        let text = moved.lines(false).expect("lines");
        assert!(text.contains("core   kind pods  pods   4      0        1\n"), "{text}");
        assert!(text.contains("/registry/pods/a\\n  left: group pods has it"), "{text}");
        let error = moved.verdict().expect_err("a key was left").to_string();
        assert!(error.starts_with("1 key left, and named with the reason"), "{error}");
        let yaml = moved.yaml();
        let lines = "keys:\n  - group: \"core\"\n    key: \"/registry/pods/a\\\\n\"\n    lease: \"0\"\n";
        assert!(yaml.contains(lines), "{yaml}");
        assert!(yaml.contains("troubles: []\n") && yaml.contains("number: 3\n"), "{yaml}");
        let troubled =
            PlacementRepaired { troubles: vec!["group pods is away".to_owned()], ..part(strays(0, 0)) };
        let troubled = told(Action::List, vec![troubled]);
        assert_eq!(troubled.verdict().expect_err("one is away").to_string(), "group pods is away");
        assert!(!troubled.lines(false).expect("lines").contains("No key"), "nobody knows");
    }
}
