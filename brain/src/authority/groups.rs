//! What groups have answered lately, and asking them. Nothing is decided by it but through the answers themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use kubebrain_proto::peer::place_request::Step;
use kubebrain_proto::peer::{PlaceRequest, PlaceResponse};
use kubebrain_shared::group::GroupName;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{Authority, Unreached};

/// A group that has not answered for so long is asked anew.
const CALL_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries: the first, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// An answer that is older says nothing of now: groups are asked every 5 s.
const LATELY: Duration = Duration::from_secs(12);

/// A group's last answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    answered: Option<Instant>,
    pub lineage: u64,
    pub number: u64,
    pub adopted: u64,
    /// Why nobody answers at the moment.
    pub unreached: String,
    /// What is wrong with what it goes by.
    pub trouble: String,
}

impl Seen {
    pub(super) fn answers(&self) -> bool {
        self.unreached.is_empty() && self.answered.is_some_and(|at| at.elapsed() <= LATELY)
    }
}

/// By group.
#[derive(Debug)]
pub(super) struct Groups {
    seen: Mutex<BTreeMap<GroupName, Seen>>,
    /// Counts answers.
    heard: watch::Sender<u64>,
}

impl Default for Groups {
    fn default() -> Self {
        Self { seen: Mutex::default(), heard: watch::Sender::new(0) }
    }
}

impl Groups {
    pub(super) fn of(&self, group: &GroupName) -> Seen {
        self.seen.lock().get(group).cloned().unwrap_or_default()
    }

    pub(super) fn heard(&self) -> watch::Receiver<u64> {
        self.heard.subscribe()
    }

    /// What is wrong with a group, or that nothing is; true where that is news.
    pub(super) fn is_troubled(&self, group: &GroupName, trouble: &str) -> bool {
        let mut seen = self.seen.lock();
        let seen = seen.entry(group.clone()).or_default();
        let is_news = seen.trouble != trouble;
        trouble.clone_into(&mut seen.trouble);
        is_news
    }

    fn note(&self, group: &GroupName, answer: &Result<PlaceResponse, Unreached>) {
        {
            let mut seen = self.seen.lock();
            let seen = seen.entry(group.clone()).or_default();
            match answer {
                Ok(answer) => {
                    seen.answered = Some(Instant::now());
                    (seen.lineage, seen.number, seen.adopted) =
                        (answer.lineage, answer.number, answer.adopted);
                    seen.unreached.clear();
                }
                Err(why) => seen.unreached = why.to_string(),
            }
        }
        self.heard.send_modify(|count| *count += 1);
    }
}

impl Authority {
    /// Asks a group once.
    pub(super) async fn ask(
        &self,
        group: &GroupName,
        brains: &[String],
        step: Step,
    ) -> Result<PlaceResponse, Unreached> {
        let asked = self.0.reach.place(group, brains, PlaceRequest { step: Some(step) });
        let late = |_| {
            Err(Unreached::Gone(format!("group {group} has not answered for {} s", CALL_WITHIN.as_secs())))
        };
        let answer = timeout(CALL_WITHIN, asked).await.unwrap_or_else(late);
        self.0.groups.note(group, &answer);
        answer
    }

    /// Asks a group until it answers.
    pub(super) async fn ask_on(
        &self,
        group: GroupName,
        brains: Vec<String>,
        step: Step,
    ) -> (GroupName, PlaceResponse) {
        let mut pause = AGAIN.0;
        loop {
            if let Ok(answer) = self.ask(&group, &brains, step.clone()).await {
                return (group, answer);
            }
            sleep(pause).await;
            pause = (pause * 2).min(AGAIN.1);
        }
    }

    /// Asks a group until it answers or the time is over; then what its last answer was worth.
    pub(super) async fn ask_within(
        &self,
        group: &GroupName,
        brains: &[String],
        step: Step,
        within: Duration,
    ) -> Result<PlaceResponse, String> {
        let asked = timeout(within, self.ask_on(group.clone(), brains.to_vec(), step)).await;
        asked.map(|(_, answer)| answer).map_err(|_| match self.0.groups.of(group).unreached {
            why if why.is_empty() => {
                format!("group {group} has not answered for {} s", within.as_secs())
            }
            why => why,
        })
    }
}
