//! `kubebrain ctl placement history`.

use anyhow::Result;
use kubebrain_proto::admin::{PlacementEntry, PlacementQuery};
use kubebrain_shared::placement::Placement;
use serde_json::{Value, json};

use super::{ask, show};
use crate::ctl::servers::{Output, Servers};
use crate::ctl::table;
use crate::print;

pub(super) async fn run(servers: Servers) -> Result<()> {
    let report =
        ask::report(&servers.reach, PlacementQuery { history: true, ..PlacementQuery::default() }).await?;
    match servers.output {
        Output::Table => table::print(&HEAD, &rows(&report.history)),
        Output::Json => print::line(&format!("{:#}", json(&report.history))),
    }
}

const HEAD: [&str; 4] = ["NUMBER", "SINCE", "REASON", "CHANGE"];

/// Oldest first, each with what it changed.
pub(super) fn rows(history: &[PlacementEntry]) -> Vec<Vec<String>> {
    let mut before: Option<Placement> = None;
    let mut rows = Vec::new();
    for entry in history {
        let Some(document) = &entry.document else { continue };
        let table = Placement::parse(&document.text).ok();
        let change = match (&before, &table) {
            (Some(before), Some(table)) => before.difference(table).to_string(),
            (_, None) => "cannot be read by this program".to_owned(),
            (None, Some(_)) => "-".to_owned(),
        };
        rows.push(vec![document.number.to_string(), time(entry.at), entry.reason.clone(), change]);
        before = table;
    }
    rows
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "-".to_owned(), |time| time.to_string())
}

pub(super) fn json(history: &[PlacementEntry]) -> Value {
    let entry = |entry: &PlacementEntry| json!({ "at": time(entry.at), "reason": entry.reason, "placement": entry.document.as_ref().map(show::one) });
    json!({ "history": history.iter().map(entry).collect::<Vec<_>>() })
}
