//! Contact addresses: whoever is there is asked, all at once, until one of them tells the cluster's placement.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, Placement};
use tokio::time::{Instant, timeout, timeout_at};

use super::ask::{self, Heard};
use super::{ANSWER_WITHIN, Learner};

/// How long others are waited for once one has told a placement: home's word counts for more.
const OTHERS_WITHIN: Duration = Duration::from_millis(300);

/// What came of one address.
type Told = (String, Result<Heard, String>);

impl Learner {
    /// One round. Where there is no placement yet, what came of it is said.
    pub(super) async fn ask_contacts(&mut self) {
        let all = self.contacts.borrow().all();
        let mut told = self.ask_all(&all).await;
        if !self.core.table().is_known()
            && let Some(best) = best(&told)
            && !best.1
        {
            let home = best.0.table().home().clone();
            let asked: BTreeSet<&String> = told.iter().map(|(url, _)| url).collect();
            let urls =
                best.0.table().groups().filter(|(group, _)| **group == home).flat_map(|(_, urls)| urls);
            let urls = urls.filter(|url| !asked.contains(url)).cloned().collect();
            told.extend(self.ask_all(&urls).await);
        }
        for (url, heard) in &told {
            if let Ok(heard) = heard
                && let Some(group) = GroupName::parse(&heard.group)
            {
                self.met.entry(group).or_default().insert(url.clone());
            }
        }
        let table = self.core.table();
        if !table.is_known() {
            match best(&told) {
                Some((document, by_home)) => {
                    let (number, home) = (document.number(), document.table().home());
                    tracing::info!(
                        number,
                        by_home,
                        "the cluster's placement was told; its home group is {home}"
                    );
                    let document = document.clone();
                    self.core.set_trouble(String::new());
                    self.take(document);
                }
                None => match alone(&told) {
                    Some(group) => {
                        tracing::info!(%group, "the brain is of no cluster: its group has every key");
                        self.core.set_trouble(String::new());
                        self.take(Document::unnumbered(Placement::single(group)));
                    }
                    None => self.core.set_trouble(trouble(&told)),
                },
            }
            return;
        }
        for (_, heard) in told {
            if let Ok(mut heard) = heard {
                let speaker = heard.speaker(Some(self.core.table().home().name().as_str()));
                if let Some(document) = heard.document.take() {
                    self.consider(document, speaker);
                }
            }
        }
        self.use_addresses();
    }

    async fn ask_all(&self, urls: &BTreeSet<String>) -> Vec<Told> {
        let (core, reach) = (&self.core, &self.reach);
        let mut asked: FuturesUnordered<_> = urls
            .iter()
            .map(|url| async move {
                let work = async { ask::contact(core, reach.connector(url)?).await };
                let heard = timeout(ANSWER_WITHIN, work).await;
                (url.clone(), heard.unwrap_or_else(|_late| Err("it does not answer".to_owned())))
            })
            .collect();
        let mut told: Vec<Told> = Vec::new();
        let mut until = Instant::now() + ANSWER_WITHIN * 2;
        while let Ok(Some((url, heard))) = timeout_at(until, asked.next()).await {
            if heard.as_ref().is_ok_and(|heard| heard.document.is_some()) {
                until = until.min(Instant::now() + OTHERS_WITHIN);
            }
            told.push((url, heard));
        }
        told.sort_by(|one, next| one.0.cmp(&next.0));
        told
    }
}

/// The document to begin with, and whether the home group has told it: home's word first, then the highest number.
fn best(told: &[Told]) -> Option<(&Document, bool)> {
    let heard = told.iter().filter_map(|(_, heard)| heard.as_ref().ok());
    let documents = heard.filter_map(|heard| Some((heard.document.as_ref()?, heard.speaker(None).is_home)));
    documents.max_by_key(|(document, by_home)| (*by_home, document.number()))
}

/// The one group of brains that are of no cluster, if all that have answered are of it.
fn alone(told: &[Told]) -> Option<GroupName> {
    let mut heard = told.iter().filter_map(|(_, heard)| heard.as_ref().ok());
    let first = heard.next().filter(|first| first.is_alone)?;
    let same = heard.all(|other| other.is_alone && other.group == first.group);
    GroupName::parse(&first.group).filter(|_| same)
}

/// A sentence that names each address and what came of it.
fn trouble(told: &[Told]) -> String {
    let why = |heard: &Result<Heard, String>| match heard {
        Ok(heard) if heard.is_alone => {
            format!(
                "a brain of group {}, which is of no cluster: start it with a placement, or with --join",
                heard.group
            )
        }
        Ok(heard) => format!("a brain of group {}, which has no placement yet", heard.group),
        Err(why) => why.clone(),
    };
    let each: Vec<_> = told.iter().map(|(url, heard)| format!("{url}: {}", why(heard))).collect();
    let each = each.join("; ");
    match told.iter().any(|(_, heard)| heard.is_ok()) {
        true => format!(
            "the cluster has no placement yet: the home group's brains have not been reached by it, or a group is \
             missing ({each})"
        ),
        false if told.is_empty() => {
            "there is no address of a brain to ask for the cluster's placement".to_owned()
        }
        false => format!("no brain has told the cluster's placement yet ({each})"),
    }
}
