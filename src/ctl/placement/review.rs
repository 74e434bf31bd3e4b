//! What asks or changes nothing: `check`, `diff` and `where`.

use anyhow::{Context as _, Result, bail};
use kubebrain_shared::placement::{self, Finding, Severity, Use};
use serde_json::json;

use super::apply::changes;
use super::{Check, Diff, Where, ask, outcome, show};
use crate::ctl::servers::Output;
use crate::print;

/// # Errors
/// The file has an error.
pub(super) fn check(flags: &Check) -> Result<()> {
    let file = flags.file.read()?;
    let used = if flags.standalone { Use::Standalone } else { Use::Cluster };
    let found = placement::check(&file.text, used);
    let count = |severity| found.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    match flags.output {
        Output::Table => {
            let lines: String = found.iter().map(|finding| format!("{}:{finding}\n", file.name)).collect();
            print::print(&lines)?;
            if errors == 0 {
                print::line(&verdict(&file.name, warnings))?;
            }
        }
        Output::Json => {
            let finding = |Finding { line, severity, reason }: &Finding| json!({ "line": line, "severity": severity.to_string(), "reason": reason });
            let found: Vec<_> = found.iter().map(finding).collect();
            print::line(&format!("{:#}", json!({ "file": file.name, "findings": found })))?;
        }
    }
    match errors {
        0 => Ok(()),
        1 => bail!("{}: 1 error: it cannot be applied", file.name),
        errors => bail!("{}: {errors} errors: it cannot be applied", file.name),
    }
}

fn verdict(name: &str, warnings: usize) -> String {
    match warnings {
        0 => format!("{name} can be applied."),
        1 => format!("{name} can be applied. See whether the 1 warning is meant so."),
        warnings => format!("{name} can be applied. See whether the {warnings} warnings are meant so."),
    }
}

pub(super) async fn diff(flags: Diff) -> Result<()> {
    let file = flags.file.read()?;
    let table = file.table()?;
    let report = ask::current(&flags.servers.reach).await?;
    let current = report.document.context("there is no placement yet to compare it with")?;
    let difference = ask::table(&current)?.difference(&table);
    match flags.servers.output {
        Output::Table => print::print(&changes(current.number, &difference)),
        Output::Json => {
            let json = json!({
                "number": current.number,
                "lineage": format!("{:x}", current.lineage),
                "changes": outcome::changes(&difference),
            });
            print::line(&format!("{json:#}"))
        }
    }
}

pub(super) async fn owner(flags: Where) -> Result<()> {
    let (table, number) = match &flags.file {
        Some(file) => (file.read()?.table()?, 0),
        None => {
            let report = ask::current(&flags.servers.reach).await?;
            let current = report.document.context("there is no placement here: name a file by --file")?;
            (ask::table(&current)?, current.number)
        }
    };
    let (text, json) = show::owner(&table, number, &flags.key);
    match flags.servers.output {
        Output::Table => print::line(&text),
        Output::Json => print::line(&format!("{json:#}")),
    }
}
