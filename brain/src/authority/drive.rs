//! What follows from what is decided: groups are asked to adopt, and told what holds.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kubebrain_proto::peer::place_request::Step;
use kubebrain_proto::peer::{PlacePrepare, PlaceResponse, PlaceTake};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, DocumentId};
use kubebrain_shared::range::KeyRange;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Status;

use super::change::{self, Agreed, Stands};
use super::row::{Decided, Part};
use super::seed::Sown;
use super::{Authority, wall_clock};

/// A change whose losers were asked is over after so long: nobody serves what they give away.
const LOSING_MAX: Duration = Duration::from_secs(10);
/// A change that takes longer is spoken of, and again each time that this has passed.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// Between two looks at a group that goes by what holds, or will not.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Where something cannot be decided, or read, at the moment.
const PAUSE: Duration = Duration::from_millis(500);

/// A change that is under way, as this master has seen it.
struct Change {
    id: DocumentId,
    /// Adopted by these.
    agreed: BTreeMap<GroupName, Agreed>,
    /// Since when some loser has perhaps stopped to serve what it gives away.
    losing: Option<Instant>,
    /// When it is spoken of next.
    say: Instant,
}

/// How asking groups has ended.
enum Asked {
    /// All have adopted.
    All,
    /// Something else was decided meanwhile.
    Over,
    /// It cannot be.
    Refused(String),
    /// A group goes by it, or by a later one: this group's log is of before, and nothing is decided by it.
    Behind(String),
}

/// What a group has said that was asked to adopt.
enum Said {
    Adopted(Agreed),
    Refused(String),
    Behind(String),
}

impl Authority {
    pub(super) async fn live(&self) {
        let (mut sown, mut change, mut is_new) = (Sown::default(), None, true);
        loop {
            let decided = match self.decided() {
                Ok(decided) => decided,
                Err(status) => {
                    tracing::error!("{}", status.message());
                    let _ended = self.0.store.ended().await;
                    return;
                }
            };
            match (&decided.prepared, &decided.current) {
                (Some(prepared), _) => {
                    let change = match change.take().filter(|change: &Change| change.id == prepared.id()) {
                        Some(known) => change.insert(known),
                        None => change.insert(Change {
                            id: prepared.id(),
                            agreed: BTreeMap::new(),
                            // The master before has perhaps asked them.
                            losing: is_new.then(Instant::now).filter(|_| decided.current.is_some()),
                            say: Instant::now() + PATIENCE.0,
                        }),
                    };
                    self.carry_out(&decided, prepared, change, &mut sown).await;
                }
                (None, Some(current)) => self.tell(&decided, current).await,
                (None, None) => self.sow(&decided, &mut sown).await,
            }
            is_new = false;
        }
    }

    /// One change, until something else is decided.
    async fn carry_out(&self, decided: &Decided, prepared: &Document, change: &mut Change, sown: &mut Sown) {
        let id = prepared.id();
        let decision = match self.ask_all(decided, prepared, change).await {
            Asked::Over => return,
            Asked::Behind(why) => {
                tracing::error!(
                    "placement number {} is neither carried out nor taken back: {why}",
                    prepared.number()
                );
                tokio::select! {
                    () = self.decided_other_than(decided) => {}
                    () = sleep(PATIENCE.1) => {}
                }
                return;
            }
            Asked::Refused(why) if decided.current.is_none() => {
                return self.drop_seed(decided, sown, &why).await;
            }
            Asked::Refused(why) => {
                tracing::warn!("placement number {} is taken back: {why}", prepared.number());
                self.decide(move |decided| Ok(change::abort(decided, id, &why, wall_clock()))).await
            }
            Asked::All => {
                let agreed = change.agreed.clone();
                self.decide(move |decided| Ok(change::commit(decided, id, &agreed, wall_clock()))).await
            }
        };
        match decision {
            Ok(decided) if decided.row.outcome_number == id.number && !decided.row.outcome_refused => {
                tracing::info!("placement number {} holds", id.number);
            }
            Ok(_) => {}
            Err(status) => self.undecided(&status).await,
        }
    }

    async fn undecided(&self, status: &Status) {
        tracing::warn!("the home group's log does not take a decision at the moment: {}", status.message());
        sleep(PAUSE).await;
    }

    /// Asks whoever loses nothing, all at once, and then the others.
    async fn ask_all(&self, decided: &Decided, prepared: &Document, change: &mut Change) -> Asked {
        let without = decided.without();
        let parts = decided.parts();
        let asked = parts
            .iter()
            .filter(|(group, part)| (part.in_current || part.in_prepared) && !without.contains(*group));
        let loses = |group: &GroupName| {
            let before = decided.current.as_ref();
            before.is_some_and(|before| before.table().loses(prepared.table(), group, &KeyRange::ALL))
        };
        let (losers, others): (Vec<_>, Vec<_>) = asked.partition(|(group, _)| loses(group));
        if losers.is_empty() {
            change.losing = None; // nobody stops anything
        }
        for (groups, lose) in [(others, false), (losers, true)] {
            if lose && !groups.is_empty() {
                // An answer may be lost: so from the question on, not from the first answer.
                change.losing.get_or_insert_with(Instant::now);
            }
            let waiting = groups.into_iter().filter(|(group, _)| !change.agreed.contains_key(*group));
            match self.ask_some(decided, prepared, waiting.collect(), change).await {
                Asked::All => {}
                ended => return ended,
            }
        }
        Asked::All
    }

    async fn ask_some(
        &self,
        decided: &Decided,
        prepared: &Document,
        groups: Vec<(&GroupName, &Part)>,
        change: &mut Change,
    ) -> Asked {
        let step = |group: &GroupName| {
            Step::Prepare(PlacePrepare {
                base: decided.current.as_ref().map(Document::to_wire),
                next: Some(prepared.to_wire()),
                known: decided.is_member(group),
            })
        };
        let mut waited: Vec<&GroupName> = groups.iter().map(|(group, _)| *group).collect();
        let mut answers: FuturesUnordered<_> = groups
            .iter()
            .map(|(group, part)| self.ask_on(GroupName::clone(group), part.brains.clone(), step(group)))
            .collect();
        while !answers.is_empty() {
            let too_late = async {
                match change.losing {
                    Some(since) => sleep_until(since + LOSING_MAX).await,
                    None => std::future::pending().await,
                }
            };
            let other_seed = async {
                match decided.current {
                    None => self.seed_other_than(prepared.text()).await,
                    Some(_) => std::future::pending().await,
                }
            };
            tokio::select! { biased;
                () = self.decided_other_than(decided) => return Asked::Over,
                Some((group, answer)) = answers.next() => match said(&group, decided, prepared, &answer) {
                    Said::Adopted(agreed) => {
                        waited.retain(|waited| **waited != group);
                        change.agreed.insert(group, agreed);
                    }
                    Said::Refused(why) => return Asked::Refused(why),
                    Said::Behind(why) => return Asked::Behind(why),
                },
                () = too_late => return Asked::Refused(format!(
                    "keys would be served by nobody for longer than {} s: {}",
                    LOSING_MAX.as_secs(),
                    self.why_waiting(&waited)
                )),
                () = other_seed => return Asked::Refused("the home group's file is another one now".to_owned()),
                () = sleep_until(change.say) => {
                    change.say = Instant::now() + PATIENCE.1;
                    tracing::warn!(
                        "placement number {} is prepared and waits: {}",
                        prepared.number(),
                        self.why_waiting(&waited)
                    );
                }
            }
        }
        Asked::All
    }

    fn why_waiting(&self, groups: &[&GroupName]) -> String {
        let why = |group: &&GroupName| match self.0.groups.of(group).unreached {
            why if why.is_empty() => format!("group {group} has not answered"),
            why => format!("group {group}: {why}"),
        };
        groups.iter().map(why).collect::<Vec<_>>().join("; ")
    }

    /// Tells every group what holds, and asks it now and then whether it still goes by it. Until something else is decided.
    async fn tell(&self, decided: &Decided, current: &Document) {
        let told = self.told(decided).await;
        let mut told: FuturesUnordered<_> = told
            .into_iter()
            .map(|(group, brains)| {
                // One that has lost everything takes it only where an operator has said that it may.
                let accept_loss = current.names(&group) && !decided.is_member(&group);
                let is_news = accept_loss || !current.names(&group);
                self.tell_one(group, brains, current, accept_loss, is_news)
            })
            .collect();
        tokio::select! { biased;
            () = self.decided_other_than(decided) => {}
            Some(group) = told.next() => {
                let taken = self.decide(move |decided| Ok(Some(change::taken(decided, &group)))).await;
                if let Err(status) = taken {
                    self.undecided(&status).await;
                }
            }
        }
    }

    /// Who has to hear what holds, and where it is; of those that are in no document as the last one said that named them.
    async fn told(&self, decided: &Decided) -> Vec<(GroupName, Vec<String>)> {
        let mut told: Vec<_> =
            decided.parts().into_iter().map(|(group, part)| (group, part.brains)).collect();
        if decided.row.removed.is_empty() {
            return told;
        }
        let history = self.kept().await.unwrap_or_default();
        for entry in history {
            let Some(Ok(document)) = entry.document.map(|wire| Document::from_wire(&wire)) else { continue };
            for (group, brains) in document.table().groups() {
                let gone = told.iter_mut().find(|(name, _)| name == group && !decided.names(name));
                if let Some((_, known)) = gone {
                    *known = brains.to_vec();
                }
            }
        }
        told
    }

    /// Tells one group. Returns when it has taken it, where that `is_news`.
    async fn tell_one(
        &self,
        group: GroupName,
        brains: Vec<String>,
        current: &Document,
        accept_loss: bool,
        is_news: bool,
    ) -> GroupName {
        loop {
            let take = PlaceTake { document: Some(current.to_wire()), accept_loss };
            let (_, answer) = self.ask_on(group.clone(), brains.clone(), Step::Take(take)).await;
            let trouble = match change::stands(&group, current, &answer) {
                Stands::By if is_news => return group,
                Stands::By => String::new(),
                Stands::Apart(why) => why,
            };
            if self.0.groups.is_troubled(&group, &trouble) && !trouble.is_empty() {
                tracing::error!("{trouble}");
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Reads the answer of a group that was asked to adopt. One that goes by the number itself, or by a later one, has heard that it
/// holds: a home group that does not know it was restored, and would give the old content out under a number above.
fn said(group: &GroupName, decided: &Decided, prepared: &Document, answer: &PlaceResponse) -> Said {
    let (number, home) = (prepared.number(), prepared.id().lineage);
    let is_ours = answer.lineage == home;
    if decided.current.is_some() && is_ours && (answer.number >= number || answer.adopted > number) {
        return Said::Behind(format!(
            "the home group is behind: group {group} has gone by placement number {} already, as if the home group's store was \
             restored; `kubebrain ctl placement recover` goes on from the newest",
            answer.number.max(answer.adopted)
        ));
    }
    if !answer.refusal.is_empty() {
        return Said::Refused(answer.refusal.clone());
    }
    match answer.adopted == number {
        true => Said::Adopted(answer.into()),
        false => Said::Refused(format!(
            "group {group} has adopted number {} in place of number {number}",
            answer.adopted
        )),
    }
}
