//! `kubebrain ctl placement repair`: asks until all is told, and says what it comes to.

mod told;

use anyhow::{Result, bail};
use bytes::Bytes;
use kubebrain_proto::admin::placement_command::Verb;
use kubebrain_proto::admin::placement_repair::{Action, Keep as Kept};
use kubebrain_proto::admin::{PlacementQuery, PlacementRepair, PlacementRepaired};

use self::told::Told;
use super::ask::{self, Failed};
use super::{Form, Keep, Repair};
use crate::ctl::verdict::Verdict;
use crate::print;

pub(super) async fn run(flags: Repair) -> Result<()> {
    let mut asked = asked(&flags);
    let mut told = Told::new(asked.action(), flags.dry_run);
    loop {
        let part = match part(&flags, &asked).await {
            Ok(part) => part,
            Err(failed) => return interrupted(&told, &flags, failed),
        };
        asked.after.clone_from(&part.next);
        told.add(part);
        if asked.after.is_none() {
            break;
        }
    }
    show(&told, &flags)?;
    told.verdict()
}

fn show(told: &Told, flags: &Repair) -> Result<()> {
    match flags.output {
        Form::Table => print::print(&told.lines(flags.keys)?),
        Form::Json => print::line(&format!("{:#}", told.json())),
        Form::Yaml => print::print(&told.yaml()),
    }
}

/// What was done before is done.
fn interrupted(told: &Told, flags: &Repair, failed: anyhow::Error) -> Result<()> {
    if told.is_empty() {
        return Err(failed);
    }
    show(told, flags)?;
    Err(failed)
}

async fn part(flags: &Repair, asked: &PlacementRepair) -> Result<PlacementRepaired> {
    let is_question = asked.action() == Action::List;
    let report = match is_question {
        true => {
            let query = PlacementQuery { repair: Some(asked.clone()), ..PlacementQuery::default() };
            ask::report(&flags.reach, query).await?
        }
        false => match ask::change(&flags.reach, Verb::Repair(asked.clone())).await {
            Ok(report) => report,
            Err(Failed::Refused(why)) => bail!("refused: {why}"),
            Err(Failed::Unknown(why)) => {
                return Err(Verdict::unknown(format!(
                    "it is not known how far it has come: {why}; run it again, it goes on from there"
                )));
            }
        },
    };
    let Some(repaired) = report.repaired else {
        bail!("the server that decides is of a version without repairs: upgrade it");
    };
    Ok(repaired)
}

fn asked(flags: &Repair) -> PlacementRepair {
    let bytes = |text: &Option<String>| Bytes::from(text.clone().unwrap_or_default());
    let mut asked = PlacementRepair {
        kind: flags.kind.clone().unwrap_or_default(),
        prefix: bytes(&flags.prefix),
        key: bytes(&flags.key),
        from: flags.from.clone().unwrap_or_default(),
        dry_run: flags.dry_run,
        keys: flags.keys,
        ..PlacementRepair::default()
    };
    asked.set_action(match (flags.moves, flags.drop) {
        (true, _) => Action::Move,
        (false, true) => Action::Drop,
        (false, false) => Action::List,
    });
    asked.set_keep(match flags.keep {
        None => Kept::Both,
        Some(Keep::Owner) => Kept::Owner,
        Some(Keep::Stray) => Kept::Stray,
    });
    asked
}
