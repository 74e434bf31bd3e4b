//! `kubebrain ctl placement show`.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use kubebrain_proto::admin::{PlacementGroup, PlacementQuery, PlacementReport};
use kubebrain_proto::peer::PlacementDocument;
use kubebrain_shared::placement::{Placement, Whose};
use serde_json::{Value, json};

use super::outcome::group;
use super::settle::waited_for;
use super::{Form, Show, ask, file};
use crate::ctl::table;
use crate::print;

/// How many kinds stand in a row; the rest is counted.
const IN_A_ROW: usize = 6;

pub(super) async fn run(flags: Show) -> Result<()> {
    let number = flags.number.unwrap_or(0);
    let report = match number {
        0 => ask::report(&flags.reach, PlacementQuery::default()).await?,
        // An old one says nothing of how groups stand.
        number => PlacementReport {
            document: Some(ask::numbered(&flags.reach, number).await?),
            ..PlacementReport::default()
        },
    };
    match (flags.output, &report.document) {
        (Form::Json, _) => print::line(&format!("{:#}", json(&report))),
        (Form::Yaml, Some(document)) => print::print(&file::with_head(document)),
        (Form::Yaml, None) => bail!("{NONE}"),
        (Form::Table, None) => print::line(&capital(NONE)),
        (Form::Table, Some(document)) => {
            let was = if flags.number.is_some() { "as it was" } else { "is current" };
            print::print(&format!("{}{}", head(document, was), states(&report)))?;
            let (head, rows) = rows(&ask::table(document)?, &report);
            table::print(&head, &rows)
        }
    }
}

const NONE: &str =
    "there is no placement here: the server is part of no cluster, or home has not been heard yet";

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn head(document: &PlacementDocument, was: &str) -> String {
    let PlacementDocument { number, lineage, .. } = document;
    format!("Placement number {number} of lineage {lineage:x}, {was}.\n")
}

/// What is under way, how the last change ended, and what to do about it.
pub(super) fn states(report: &PlacementReport) -> String {
    let mut text = String::new();
    if let Some(prepared) = &report.prepared {
        let number = prepared.number;
        let names: Vec<_> = waited_for(number, report).map(|group| group.name.as_str()).collect();
        text += &match &names[..] {
            [] => format!("Number {number} is prepared and adopted by all groups.\n"),
            names => format!(
                "Number {number} is prepared, and waits for {}. `kubebrain ctl placement abort` takes it back.\n",
                names.join(", ")
            ),
        };
    }
    if report.outcome_refused && !report.outcome.is_empty() {
        text += &format!(
            "The last change, to number {}, was taken back: {}\n",
            report.outcome_number, report.outcome
        );
    }
    text
}

/// Who owns what and how it stands. What is the same for all rows is left out.
pub(super) fn rows(table: &Placement, report: &PlacementReport) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let mut owned: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (group, _) in table.groups() {
        owned.insert(group.as_str(), Vec::new());
    }
    owned.entry(table.home().as_str()).or_default().push("home".to_owned());
    for group in table.defaults() {
        owned.entry(group.as_str()).or_default().push("default".to_owned());
    }
    for rule in table.boundaries() {
        let unit = table.unit_name(rule);
        let unit = unit.strip_prefix("kind ").or(unit.strip_prefix("prefix ")).unwrap_or(&unit);
        owned.entry(table.owner(rule).as_str()).or_default().push(unit.to_owned());
    }
    let brains: BTreeMap<&str, &[String]> =
        table.groups().map(|(group, brains)| (group.as_str(), brains)).collect();
    let standing: BTreeMap<&str, &PlacementGroup> =
        report.groups.iter().map(|group| (group.name.as_str(), group)).collect();
    let mut names: Vec<&str> = owned.keys().chain(standing.keys()).copied().collect();
    names.sort_unstable();
    names.dedup();
    let row = |name: &str| {
        let owns = owned.get(name).map_or(&[][..], Vec::as_slice);
        let brains = brains.get(name).map_or_else(String::new, |brains| brains.join(","));
        let mut row = vec![name.to_owned(), dash(listed(owns)), dash(brains)];
        if !standing.is_empty() {
            let number = |number: u64| if number == 0 { "-".to_owned() } else { number.to_string() };
            let group = standing.get(name);
            row.push(number(group.map_or(0, |group| group.number)));
            row.push(number(group.map_or(0, |group| group.adopted)));
            row.push(group.map_or_else(String::new, |group| note(group, owned.contains_key(name))));
        }
        row
    };
    let mut head = vec!["GROUP", "OWNS", "BRAINS"];
    if !standing.is_empty() {
        head.extend(["NUMBER", "ADOPTED", "NOTE"]);
    }
    (head, names.into_iter().map(row).collect())
}

fn listed(units: &[String]) -> String {
    let shown = units.iter().take(IN_A_ROW).map(String::as_str).collect::<Vec<_>>().join(", ");
    match units.len().saturating_sub(IN_A_ROW) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn note(group: &PlacementGroup, is_current: bool) -> String {
    let mut notes = Vec::new();
    if !group.answers {
        notes.push("does not answer");
    }
    if !group.trouble.is_empty() {
        notes.push(&group.trouble);
    }
    match (is_current, group.in_prepared) {
        (false, true) => notes.push("comes with the change"),
        (true, false) if group.adopted > group.number => notes.push("goes with the change"),
        _ => {}
    }
    notes.join("; ")
}

pub(super) fn json(report: &PlacementReport) -> Value {
    let PlacementReport { document, prepared, groups, outcome, outcome_number, outcome_refused, .. } = report;
    json!({
        "current": document.as_ref().map(one),
        "prepared": prepared.as_ref().map(one),
        "groups": groups.iter().map(group).collect::<Vec<_>>(),
        "outcome": outcome,
        "outcomeNumber": outcome_number,
        "outcomeRefused": outcome_refused,
    })
}

pub(super) fn one(document: &PlacementDocument) -> Value {
    json!({
        "number": document.number,
        "lineage": format!("{:x}", document.lineage),
        "replaces": (document.replaces != 0).then(|| format!("{:x}", document.replaces)),
        "revision": document.revision,
        "compacted": document.compacted,
        "clusterId": format!("{:x}", document.cluster_id),
        "text": document.text,
    })
}

/// For people and for machines: whose a key is.
pub(super) fn owner(table: &Placement, number: u64, key: &str) -> (String, Value) {
    let (group, whose) = (table.owner(key.as_bytes()), table.whose(key.as_bytes()));
    let unit = table.unit_name(key.as_bytes());
    let text =
        format!("{key} belongs to group {group}, by {whose}. Its unit, which moves as one, is {unit}.");
    let (by, rule) = match &whose {
        Whose::Rule(rule) => ("rule", Some(rule)),
        Whose::Default => ("default", None),
        Whose::Hash(_) => ("hash", None),
        Whose::Home => ("home", None),
    };
    let json = json!({
        "key": key,
        "group": group.as_str(),
        "by": by,
        "rule": rule,
        "unit": unit,
        "number": (number > 0).then_some(number),
    });
    (text, json)
}
