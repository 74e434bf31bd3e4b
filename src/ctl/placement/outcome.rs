//! [`Outcome`]: how a change ended, in sentences that say what to do next, as JSON, and as an exit code.

use anyhow::{Result, anyhow};
use kubebrain_proto::admin::{PlacementGroup, PlacementReport};
use kubebrain_shared::placement::{Change, Difference, Limit};
use serde_json::{Value, json};

use crate::ctl::servers::Output;
use crate::ctl::verdict::Verdict;
use crate::print;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The current placement says the same.
    Same(u64),
    /// Of `--dry-run`: every group would agree.
    WouldHold,
    /// Of `--dry-run`: some would not.
    WouldNot,
    /// It is the placement of the cluster.
    Holds(u64),
    /// It did not come to be.
    Refused(String),
    /// It was prepared, and did not come to be.
    TakenBack(u64, String),
    /// It is not decided.
    UnderWay(u64),
    /// Nobody has said.
    Unknown(String),
}

/// A change as it is told of.
#[derive(Debug)]
pub(super) struct Told<'a> {
    pub(super) outcome: Outcome,
    pub(super) difference: &'a Difference,
    pub(super) report: Option<&'a PlacementReport>,
    /// Groups that do not have to agree.
    pub(super) without: &'a [String],
}

impl Told<'_> {
    /// Prints it. What is not well becomes the error, and so the exit code.
    pub(super) fn end(&self, output: Output) -> Result<()> {
        match output {
            Output::Table => print::print(&self.lines())?,
            Output::Json => print::line(&format!("{:#}", self.json()))?,
        }
        self.outcome.code()
    }

    pub(super) fn lines(&self) -> String {
        let mut lines: Vec<_> =
            self.groups().map(|group| answer(group, &self.outcome, self.without)).collect();
        lines.extend(self.outcome.sentence());
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn groups(&self) -> impl Iterator<Item = &PlacementGroup> {
        self.report.into_iter().flat_map(|report| &report.groups)
    }

    pub(super) fn json(&self) -> Value {
        let (word, number, why) = match &self.outcome {
            Outcome::Same(number) => ("same", *number, ""),
            Outcome::WouldHold => ("wouldHold", 0, ""),
            Outcome::WouldNot => ("wouldNotHold", 0, ""),
            Outcome::Holds(number) => ("holds", *number, ""),
            Outcome::Refused(why) => ("refused", 0, &why[..]),
            Outcome::TakenBack(number, why) => ("takenBack", *number, &why[..]),
            Outcome::UnderWay(number) => ("underWay", *number, ""),
            Outcome::Unknown(why) => ("unknown", 0, &why[..]),
        };
        json!({
            "outcome": word,
            "number": (number > 0).then_some(number),
            "why": why,
            "changes": changes(self.difference),
            "groups": self.groups().map(group).collect::<Vec<_>>(),
        })
    }
}

impl Outcome {
    /// What is printed where it went well; what did not is the error.
    fn sentence(&self) -> Option<String> {
        match self {
            Self::Same(number) => {
                Some(format!("Nothing to do: number {number}, which is current, says the same."))
            }
            Self::WouldHold => {
                Some("Every group would agree. Nothing was changed: apply it without --dry-run.".to_owned())
            }
            Self::Holds(number) => Some(format!("Number {number} is the placement of the cluster now.")),
            _ => None,
        }
    }

    fn code(&self) -> Result<()> {
        match self {
            Self::Same(_) | Self::WouldHold | Self::Holds(_) => Ok(()),
            Self::WouldNot => Err(anyhow!(
                "it would be refused, and nothing was changed: do what the groups above say, then try again"
            )),
            Self::Refused(why) => Err(anyhow!("refused, and nothing has changed: {why}")),
            Self::TakenBack(number, why) => {
                Err(anyhow!("number {number} was taken back, and the placement from before holds: {why}"))
            }
            Self::UnderWay(number) => Err(Verdict::unknown(format!(
                "number {number} is prepared and does not hold yet; `kubebrain ctl placement show` says whom it waits for, \
                 `kubebrain ctl placement abort` takes it back"
            ))),
            Self::Unknown(why) => Err(Verdict::unknown(format!(
                "it is not known whether it will hold: {why}; `kubebrain ctl placement show` says what is current"
            ))),
        }
    }
}

/// What one group says to a change.
fn answer(group: &PlacementGroup, outcome: &Outcome, without: &[String]) -> String {
    let PlacementGroup { name, answers, trouble, number, adopted, .. } = group;
    if without.contains(name) {
        return format!("group {name}: is not asked");
    }
    match (answers, &trouble[..], outcome) {
        (false, "", _) => format!("group {name}: does not answer"),
        (false, why, _) => format!("group {name}: does not answer: {why}"),
        (true, "", Outcome::WouldHold | Outcome::WouldNot) => format!("group {name}: agrees"),
        (true, "", Outcome::Holds(wanted)) if number >= wanted => format!("group {name}: goes by {number}"),
        (true, "", Outcome::Holds(_)) => format!("group {name}: agrees, and goes by {number} yet"),
        (true, "", Outcome::UnderWay(wanted)) if adopted == wanted || number >= wanted => {
            format!("group {name}: agrees")
        }
        (true, "", Outcome::UnderWay(_)) => format!("group {name}: has not answered to it yet"),
        (true, "", _) => format!("group {name}: goes by {number}"),
        (true, why, _) => format!("group {name}: does not agree: {why}"),
    }
}

pub(super) fn group(group: &PlacementGroup) -> Value {
    json!({
        "name": group.name,
        "answers": group.answers,
        "agrees": group.answers && group.trouble.is_empty(),
        "number": group.number,
        "adopted": group.adopted,
        "trouble": group.trouble,
        "inCurrent": group.in_current,
        "inPrepared": group.in_prepared,
    })
}

pub(super) fn changes(difference: &Difference) -> Value {
    difference.changes().iter().map(change).collect()
}

/// With the fields of the file; those that are left out are not there.
fn limit(limit: &Limit) -> Value {
    let fields = [
        ("writesPerSecond", limit.writes_per_second),
        ("burst", limit.burst),
        ("inFlight", limit.in_flight),
        ("bytesPerSecond", limit.bytes_per_second),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?)))).collect()
}

fn change(change: &Change) -> Value {
    match change {
        Change::Prefix { from, to } => json!({ "what": "prefix", "from": from, "to": to }),
        Change::Home { from, to } => json!({ "what": "home", "from": from, "to": to }),
        Change::Default { from, to } => json!({ "what": "default", "from": from, "to": to }),
        Change::Added { group, brains } => json!({ "what": "groupAdded", "group": group, "brains": brains }),
        Change::Removed { group } => json!({ "what": "groupRemoved", "group": group }),
        Change::Brains { group, from, to } => {
            json!({ "what": "brains", "group": group, "from": from, "to": to })
        }
        Change::Moved { unit, from, to } => json!({ "what": "moved", "unit": unit, "from": from, "to": to }),
        Change::Stays { unit, group, has_rule } => {
            json!({ "what": "rule", "unit": unit, "group": group, "hasRule": has_rule })
        }
        Change::Limited { kind, from, to } => {
            json!({ "what": "limit", "kind": kind, "from": limit(from), "to": limit(to) })
        }
    }
}
