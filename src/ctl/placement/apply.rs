//! Changes: `apply`, `rollback`, `abort` and `recover`.

use anyhow::{Context as _, Result, anyhow, bail};
use kubebrain_proto::admin::placement_command::Verb;
use kubebrain_proto::admin::{PlacementAbort, PlacementApply, PlacementRecover, PlacementReport};
use kubebrain_proto::peer::PlacementDocument;
use kubebrain_shared::placement::{Difference, Placement, limit_doubt};

use super::ask::{self, Failed};
use super::file::{File, Head};
use super::outcome::{Outcome, Told};
use super::settle::{Asked, settle};
use super::{Apply, Change, Recover, Rollback, show};
use crate::ctl::servers::{Output, Servers};
use crate::ctl::verdict::Verdict;
use crate::print;

/// What is to become the placement.
struct Proposal<'a> {
    text: String,
    table: Placement,
    /// The number that it is a change of; 0: of any.
    from: u64,
    dry_run: bool,
    change: &'a Change,
}

pub(super) async fn apply(flags: Apply) -> Result<()> {
    let file = flags.file.read()?;
    let table = file.table()?;
    let before = ask::current(&flags.change.servers.reach).await?;
    let from = base(&file, flags.from, before.document.as_ref())?;
    let text = file.body().to_owned();
    propose(Proposal { text, table, from, dry_run: flags.dry_run, change: &flags.change }, before).await
}

pub(super) async fn rollback(flags: Rollback) -> Result<()> {
    let reach = &flags.change.servers.reach;
    let before = ask::current(reach).await?;
    let wanted = ask::numbered(reach, flags.number).await?;
    let table = ask::table(&wanted)?;
    let from = before.document.as_ref().map_or(0, |document| document.number);
    propose(Proposal { text: wanted.text, table, from, dry_run: false, change: &flags.change }, before).await
}

/// Which number a file is a change of.
///
/// # Errors
/// Another one than is current, unless the flag says otherwise.
pub(super) fn base(file: &File, flag: Option<u64>, current: Option<&PlacementDocument>) -> Result<u64> {
    let number = current.map_or(0, |document| document.number);
    let behind = |what: &str, from: u64| {
        let now =
            if number == 0 { "there is none yet".to_owned() } else { format!("number {number} is current") };
        anyhow!(
            "{what} number {from}, and {now}: somebody else has changed the placement. `kubebrain ctl placement diff {}` says \
             what this file would change now; if that is what you want, apply it with --from={number}",
            file.name
        )
    };
    match (flag, file.head) {
        (Some(from), _) if from == 0 || from == number => Ok(from),
        (Some(from), _) => Err(behind("--from names", from)),
        (None, None) => Ok(number),
        (None, Some(Head { number: from, .. })) if from != number => {
            Err(behind(&format!("{} is a change of", file.name), from))
        }
        (None, Some(Head { lineage: Some(lineage), .. }))
            if current.is_some_and(|document| document.lineage != lineage) =>
        {
            let own = current.map_or(0, |document| document.lineage);
            bail!(
                "{} is of another cluster, or from before a recovery: its lineage is {lineage:x}, and {own:x} is current. Look \
                 at it with `kubebrain ctl placement diff`; if you want it, apply it with --from={number}",
                file.name
            )
        }
        (None, Some(_)) => Ok(number),
    }
}

/// Lines about what probably matches nothing, and is new.
fn doubts(table: &Placement, before: Option<&Placement>) -> String {
    let known: Vec<_> = before.into_iter().flat_map(Placement::limit_doubts).collect();
    let new = table.limit_doubts().filter(|doubt| !known.contains(doubt));
    new.map(|(kind, meant)| format!("warning: {}\n", limit_doubt(kind, &meant))).collect()
}

async fn propose(proposal: Proposal<'_>, before: PlacementReport) -> Result<()> {
    let Proposal { text, table, from, dry_run, change } = proposal;
    let (reach, output) = (&change.servers.reach, change.servers.output);
    let current = before.document.as_ref();
    let number = current.map_or(0, |document| document.number);
    let difference = match current {
        Some(document) => ask::table(document)?.difference(&table),
        None => Difference::default(),
    };
    let told = |outcome, report: Option<&PlacementReport>| {
        let told = Told { outcome, difference: &difference, report, without: &change.without };
        told.end(output)
    };
    if current.is_some() && difference.is_empty() && before.prepared.is_none() {
        return told(Outcome::Same(number), None);
    }
    if output == Output::Table {
        print::print(&changes(number, &difference))?;
        print::print(&doubts(&table, current.and_then(|document| ask::table(document).ok()).as_ref()))?;
    }
    let verb = PlacementApply { text: text.clone(), from, dry_run, without: change.without.clone() };
    let answer = ask::change(reach, Verb::Apply(verb)).await;
    let mut asked = Asked { text, before: number, number: None };
    let (mut report, unknown) = match answer {
        Ok(report) if dry_run => {
            let outcome =
                if agree(&report, &change.without) { Outcome::WouldHold } else { Outcome::WouldNot };
            return told(outcome, Some(&report));
        }
        Ok(report) if is_refused(&report, number) => {
            return told(Outcome::Refused(report.outcome.clone()), Some(&report));
        }
        Ok(report) => (Some(report), None),
        Err(Failed::Refused(why)) => return told(Outcome::Refused(why), None),
        Err(Failed::Unknown(why)) => (None, Some(why)),
    };
    let at_once = report.as_ref().and_then(|report| asked.judge(report));
    let outcome = match (at_once, change.wait.wait, unknown) {
        (Some(outcome), _, _) => outcome,
        (None, true, _) => settle(reach, &mut asked, &mut report, change.wait.timeout).await,
        (None, false, Some(why)) => Outcome::Unknown(why),
        (None, false, None) => match asked.number {
            Some(number) => Outcome::UnderWay(number),
            None => Outcome::Unknown("the server did not say under which number".to_owned()),
        },
    };
    told(outcome, report.as_ref())
}

/// True if the answer to a change says that it has not even begun.
fn is_refused(report: &PlacementReport, before: u64) -> bool {
    let has_begun = report.prepared.is_some();
    let is_of_this_one = report.outcome_number == 0 || report.outcome_number > before;
    let current = report.document.as_ref().map_or(0, |document| document.number);
    report.outcome_refused && !has_begun && is_of_this_one && current == before
}

fn agree(report: &PlacementReport, without: &[String]) -> bool {
    let mut asked = report.groups.iter().filter(|group| !without.contains(&group.name));
    asked.all(|group| group.answers && group.trouble.is_empty())
}

pub(super) fn changes(number: u64, difference: &Difference) -> String {
    let mut text = match number {
        0 => "There is no placement yet: this would be the first one.\n".to_owned(),
        number if difference.is_empty() => format!("No change from number {number}, which is current.\n"),
        number => format!("Changes from number {number}, which is current:\n"),
    };
    difference.changes().iter().for_each(|change| text += &format!("  {change}\n"));
    text
}

pub(super) async fn abort(servers: Servers) -> Result<()> {
    let before = ask::current(&servers.reach).await?;
    let Some(prepared) = before.prepared else {
        return say(&servers, "Nothing to do: no change is under way.", &before);
    };
    let number = prepared.number;
    let report = asked_for(&servers, Verb::Abort(PlacementAbort {})).await?;
    let current = report.document.as_ref().map_or(0, |document| document.number);
    if current == number {
        bail!(
            "number {number} holds already: it cannot be taken back. `kubebrain ctl placement rollback` applies an older one"
        );
    }
    if report.prepared.as_ref().is_some_and(|prepared| prepared.number == number) {
        return Err(Verdict::unknown(format!(
            "number {number} is not taken back yet: `kubebrain ctl placement show` says how it stands"
        )));
    }
    let text =
        format!("Number {number} is taken back: number {current} is current, with the content from before.");
    say(&servers, &text, &report)
}

pub(super) async fn recover(flags: Recover) -> Result<()> {
    let Recover { without, accept_loss, servers } = flags;
    let verb = PlacementRecover { without, accept_loss: accept_loss.unwrap_or_default() };
    let report = asked_for(&servers, Verb::Recover(verb)).await?;
    if report.outcome_refused {
        bail!("not recovered: {}", report.outcome);
    }
    let current = report.document.as_ref().context("not recovered: there is still no placement")?;
    if let Some(prepared) = &report.prepared {
        return Err(Verdict::unknown(format!(
            "number {} is under way: `kubebrain ctl placement show` says whom it waits for",
            prepared.number
        )));
    }
    let PlacementDocument { number, lineage, .. } = current;
    let text = format!("Recovered: number {number} of lineage {lineage:x} is the placement of the cluster.");
    say(&servers, &text, &report)
}

/// # Errors
/// It was refused, or nobody knows whether it was done.
async fn asked_for(servers: &Servers, verb: Verb) -> Result<PlacementReport> {
    match ask::change(&servers.reach, verb).await {
        Ok(report) => Ok(report),
        Err(Failed::Refused(why)) => Err(anyhow!("refused, and nothing has changed: {why}")),
        Err(Failed::Unknown(why)) => Err(Verdict::unknown(format!(
            "it is not known whether it was done: {why}; `kubebrain ctl placement show` says what is current"
        ))),
    }
}

fn say(servers: &Servers, text: &str, report: &PlacementReport) -> Result<()> {
    match servers.output {
        Output::Table => print::line(text),
        Output::Json => print::line(&format!("{:#}", show::json(report))),
    }
}
