//! [`Learner`]: how a proxy comes by the cluster's placement, and by the next one.
//!
//! ```text
//! contacts ── before there is a placement, and while nobody of it is heard ──┐
//! standing streams ── a brain says another number or lineage ────────────────┼→ ask that brain → judge → the next table
//! refusals ── a group does not own what it was asked for ────────────────────┘
//! ```
//!
//! Invariants:
//! * Of one lineage the number only rises.
//! * Another lineage is taken on the word of a brain of the home group alone, and one that was left only on its master's.
//! * What a group has adopted and is not committed is never routed by.
//! * What contact addresses were given with, such as a placement file, is not believed.

mod ask;
mod contacts;
mod judge;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kubebrain_net::dial::Connector;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, Placement};
use kubebrain_shared::stop::Stop;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::core::Core;
use crate::group::Group;
use crate::table::Table;
use judge::{Speaker, is_worth_asking, judge};

/// Between two looks, however many requests are refused: a commit is noticed within this and a question.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Until a brain is asked again that has said news and did not tell them; doubled.
const AGAIN: Duration = Duration::from_millis(20);
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// What a brain may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long others are waited for once one has answered: one that hangs must not keep the news away.
const OTHERS_WITHIN: Duration = Duration::from_millis(50);
/// Between two rounds of questions to the contact addresses.
const CONTACT_EVERY: Duration = Duration::from_millis(500);
/// The same where there is a placement, and a group of it is not heard.
const LOST_EVERY: Duration = Duration::from_secs(2);

/// How a proxy gets to a brain by its URL; the error is a sentence.
#[derive(Clone)]
pub struct Reach(Arc<Way>);

type Way = dyn Fn(&str) -> Result<Connector, String> + Send + Sync;

impl Reach {
    /// It is asked for every URL of a new placement, and must answer at once.
    pub fn new(connector: impl Fn(&str) -> Result<Connector, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(connector))
    }

    fn connector(&self, url: &str) -> Result<Connector, String> {
        (self.0)(url)
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reach")
    }
}

/// Where brains of the cluster may be found. Nothing else that stands there is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contacts {
    /// Peer URLs.
    pub urls: Vec<String>,
    /// A placement file, for its brains' addresses: also where the cluster's placement names none for a group.
    pub file: Option<Placement>,
}

impl Contacts {
    fn all(&self) -> BTreeSet<String> {
        let of_file = self.file.iter().flat_map(|file| file.groups().flat_map(|(_, urls)| urls));
        self.urls.iter().chain(of_file).cloned().collect()
    }

    fn of(&self, group: &GroupName) -> impl Iterator<Item = &String> {
        let groups = self.file.iter().flat_map(Placement::groups);
        groups.filter(move |(name, _)| *name == group).flat_map(|(_, urls)| urls)
    }
}

/// See the module. Runs until the proxy stops.
pub(crate) struct Learner {
    core: Arc<Core>,
    reach: Reach,
    contacts: watch::Receiver<Contacts>,
    /// The URLs by which each group is reached, where they come from a placement.
    reached: HashMap<GroupName, Vec<String>>,
    /// Of contacts that have said of which group they are.
    met: BTreeMap<GroupName, BTreeSet<String>>,
    again: Duration,
    /// Numbers of documents that cannot be read, each said once.
    unreadable: BTreeSet<String>,
}

impl Learner {
    pub(crate) fn new(core: &Arc<Core>, reach: Reach, contacts: watch::Receiver<Contacts>) -> Self {
        let table = core.table();
        let named = table.is_known().then(|| table.document().table().groups());
        let reached =
            named.into_iter().flatten().map(|(group, urls)| (group.clone(), urls.to_vec())).collect();
        Self {
            core: Arc::clone(core),
            reach,
            contacts,
            reached,
            met: BTreeMap::new(),
            again: AGAIN,
            unreadable: BTreeSet::new(),
        }
    }

    /// The connectors of a document that is used from the start.
    pub(crate) fn connectors_of(
        document: &Document,
        reach: &Reach,
        contacts: &Contacts,
    ) -> HashMap<GroupName, Vec<Connector>> {
        let groups = document.table().groups();
        groups
            .map(|(group, urls)| {
                let named: Vec<&String> =
                    if urls.is_empty() { contacts.of(group).collect() } else { urls.iter().collect() };
                (group.clone(), connect(reach, group, named))
            })
            .collect()
    }

    pub(crate) async fn run(mut self, stop: Stop) {
        tokio::select! {
            () = stop.asked() => {}
            () = self.learn() => {}
        }
    }

    async fn learn(&mut self) {
        let changes = Arc::clone(self.core.changes());
        let mut ask_at = Instant::now(); // also of a placement that was kept: it may be of long ago
        let mut is_first = true;
        loop {
            let asks = (is_first && self.has_contacts()) || self.is_lost();
            tokio::select! {
                biased; // a contact is asked however many requests are refused
                () = sleep_until(ask_at), if asks => {
                    is_first = false;
                    self.ask_contacts().await;
                    let known = self.core.table().is_known();
                    ask_at = Instant::now() + if known { LOST_EVERY } else { CONTACT_EVERY };
                }
                changed = self.contacts.changed() => match changed {
                    Ok(()) => {
                        self.use_addresses();
                        ask_at = Instant::now();
                    }
                    Err(_) => std::future::pending().await, // the proxy is gone
                },
                refusing = changes.news() => {
                    self.look(&refusing).await;
                    sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    fn has_contacts(&self) -> bool {
        !self.contacts.borrow().all().is_empty()
    }

    /// True while there is no placement, and while nobody is heard of a group: it may be elsewhere now.
    fn is_lost(&self) -> bool {
        let table = self.core.table();
        !table.is_known() || (self.has_contacts() && table.groups().any(|group| !group.is_heard()))
    }

    /// Asks whoever may know a newer placement.
    async fn look(&mut self, refusing: &BTreeSet<GroupName>) {
        let table = self.core.table();
        let mut asked: BTreeMap<(GroupName, usize), (Arc<Group>, Speaker)> = BTreeMap::new();
        let mut has_news = false;
        for group in table.groups() {
            let mut words: HashMap<usize, Speaker> = HashMap::new();
            for word in group.words() {
                let is_home = word.is_home && group.is_same(table.home());
                let speaker = Speaker { is_home, is_master: word.is_master };
                words.insert(word.node, speaker);
                if is_worth_asking(table.document().id(), word.id, speaker) {
                    has_news = true;
                    asked.insert((group.name().clone(), word.node), (Arc::clone(group), speaker));
                }
            }
            for node in group.askable().filter(|_| refusing.contains(group.name())) {
                let speaker = words.get(&node).copied().unwrap_or_default();
                asked.insert((group.name().clone(), node), (Arc::clone(group), speaker));
            }
        }
        let core = Arc::clone(&self.core);
        let mut answers: FuturesUnordered<_> = asked
            .into_iter()
            .map(|((_, node), (group, speaker))| {
                let core = &core;
                async move {
                    let answer = timeout(ANSWER_WITHIN, ask::node(core, &group, node)).await;
                    (group, speaker, answer.unwrap_or_else(|_late| Err("it does not answer".to_owned())))
                }
            })
            .collect();
        let mut learned = false;
        let mut until = Instant::now() + ANSWER_WITHIN;
        while let Ok(Some((group, speaker, answer))) = timeout_at(until, answers.next()).await {
            until = until.min(Instant::now() + OTHERS_WITHIN);
            match answer {
                Ok(Some(document)) => learned |= self.consider(document, speaker),
                Ok(None) => {}
                Err(why) => {
                    tracing::debug!(group = %group.name(), why, "a brain has not told its placement");
                    if why.contains("cannot be read") && self.unreadable.insert(why.clone()) {
                        tracing::error!("the cluster's placement stays unknown to this proxy: {why}");
                    }
                }
            }
        }
        drop(answers);
        if learned || !has_news {
            self.again = AGAIN;
        } else {
            let (changes, pause) = (Arc::clone(self.core.changes()), self.again);
            self.again = (pause * 2).min(AGAIN_MAX);
            sleep(pause).await;
            changes.placement_told();
        }
    }

    /// Takes a document into use if it is to be believed; true if so.
    fn consider(&mut self, document: Document, speaker: Speaker) -> bool {
        let table = self.core.table();
        let left = self.core.left();
        let believed =
            judge(&self.core.config, table.is_known().then(|| table.document()), &left, &document, speaker);
        if believed {
            self.take(document);
        }
        believed
    }

    fn take(&mut self, document: Document) {
        let connectors = self.connectors(&document);
        self.core.use_document(document, connectors);
    }

    /// Brains may be at other addresses now, of groups of which the placement does not name any.
    fn use_addresses(&mut self) {
        let table = self.core.table();
        if table.is_known() {
            let connectors = self.connectors(table.document());
            if !connectors.is_empty() {
                self.core.use_document(table.document().clone(), connectors);
            }
        }
    }

    /// Connectors of the groups that are reached in another way than before. A group that the placement names no brain of, or
    /// of whose brains there nobody is heard, is looked for where contacts have said that they are of it.
    fn connectors(&mut self, document: &Document) -> HashMap<GroupName, Vec<Connector>> {
        let contacts = self.contacts.borrow().clone();
        let table = self.core.table();
        let is_same = table.is_known() && table.id() == document.id();
        let mut connectors = HashMap::new();
        let mut reached = HashMap::new();
        for (group, named) in document.table().groups() {
            let before = self.reached.get(group);
            let is_heard = table.group(group).is_some_and(|group| group.is_heard());
            let mut urls = named.to_vec();
            if named.is_empty() || (is_same && !is_heard) {
                let met = self.met.get(group).into_iter().flatten();
                for url in contacts.of(group).chain(met) {
                    if !urls.contains(url) {
                        urls.push(url.clone());
                    }
                }
            }
            if urls.is_empty() || (is_same && is_heard && !named.is_empty()) {
                urls = before.cloned().unwrap_or(urls);
            }
            if !urls.is_empty() && before != Some(&urls) {
                connectors.insert(group.clone(), connect(&self.reach, group, urls.iter().collect()));
            }
            reached.insert(group.clone(), urls);
        }
        self.reached = reached;
        connectors
    }
}

fn connect(reach: &Reach, group: &GroupName, urls: Vec<&String>) -> Vec<Connector> {
    let connector = |url: &String| match reach.connector(url) {
        Ok(connector) => Some(connector),
        Err(why) => {
            tracing::error!(%group, "a brain of the placement cannot be reached: {why}");
            None
        }
    };
    urls.into_iter().filter_map(connector).collect()
}

impl Core {
    /// Replaces the table by that of a document.
    pub(crate) fn use_document(&self, document: Document, connectors: HashMap<GroupName, Vec<Connector>>) {
        let before = self.table();
        let (id, was) = (document.id(), before.id());
        let table = Table::new(document, connectors, Some(&before), &self.config, self.changes());
        table.listen(&self.config);
        if before.is_known() && was.lineage != id.lineage && was.lineage != 0 {
            self.leave(was.lineage);
        }
        if !before.is_known() || was != id {
            tracing::info!(
                number = id.number,
                lineage = format!("{:x}", id.lineage),
                "a placement is in use"
            );
        } else {
            tracing::info!(number = id.number, "groups are reached in another way");
        }
        self.replace_table(table);
    }
}
