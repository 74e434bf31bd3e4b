//! Following a change until it holds or does not.

use std::time::Duration;

use kubebrain_proto::admin::{PlacementGroup, PlacementQuery, PlacementReport};
use tokio::time::{Instant, sleep};

use super::ask;
use super::outcome::Outcome;
use crate::ctl::progress::Progress;
use crate::ctl::servers::Reach;

/// Between two looks: a change takes a second if all groups agree.
const EVERY: Duration = Duration::from_millis(200);

/// A change that was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    /// As it was sent.
    pub(super) text: String,
    /// The number that was current before.
    pub(super) before: u64,
    /// Its own number, once it is known.
    pub(super) number: Option<u64>,
}

impl Asked {
    /// What a report says of it: `None` where nothing is decided.
    pub(super) fn judge(&mut self, report: &PlacementReport) -> Option<Outcome> {
        if let Some(prepared) = report.prepared.as_ref().filter(|prepared| prepared.text == self.text) {
            self.number = Some(prepared.number);
        }
        let current = report.document.as_ref().map_or(0, |document| document.number);
        let is_mine = report.document.as_ref().is_some_and(|document| document.text == self.text);
        if is_mine && current > self.before && self.number.is_none_or(|number| number == current) {
            return Some(Outcome::Holds(current));
        }
        let ended = report.outcome_number;
        if report.outcome_refused && ended > self.before && self.number.is_none_or(|number| number == ended) {
            return Some(Outcome::TakenBack(ended, report.outcome.clone()));
        }
        None
    }

    /// True if others have come after it, so that only the history knows.
    fn is_past(&self, report: &PlacementReport) -> bool {
        let current = report.document.as_ref().map_or(0, |document| document.number);
        self.number.is_some_and(|number| current > number)
    }

    /// What the history says of a change after which others have come.
    fn recall(&self, history: &PlacementReport) -> Option<Outcome> {
        let number = self.number?;
        let documents = history.history.iter().filter_map(|entry| entry.document.as_ref());
        let held = documents.clone().any(|document| document.number == number && document.text == self.text);
        match held {
            true => Some(Outcome::Holds(number)),
            false if documents.clone().any(|document| document.number > number) => {
                Some(Outcome::TakenBack(number, "another one has taken its place".to_owned()))
            }
            false => None,
        }
    }
}

/// Looks again and again until the change holds, is taken back, or the time is over. The last report that came stands in
/// `report`.
///
/// # Cancel safety
/// A dropped call has changed nothing.
pub(super) async fn settle(
    reach: &Reach,
    asked: &mut Asked,
    report: &mut Option<PlacementReport>,
    within: Duration,
) -> Outcome {
    let deadline = Instant::now() + within;
    let mut progress = Progress::new();
    let mut trouble = "no group has told of it".to_owned();
    loop {
        if let Some(report) = report.as_ref() {
            if let Some(outcome) = asked.judge(report) {
                return outcome;
            }
            progress.show(|| waits(asked, report));
        }
        if report.as_ref().is_some_and(|report| asked.is_past(report))
            && let Ok(history) =
                ask::report(reach, PlacementQuery { history: true, ..PlacementQuery::default() }).await
            && let Some(outcome) = asked.recall(&history)
        {
            return outcome;
        }
        if Instant::now() >= deadline {
            return match asked.number {
                Some(number) => Outcome::UnderWay(number),
                None => Outcome::Unknown(trouble),
            };
        }
        sleep(EVERY).await;
        match ask::current(reach).await {
            Ok(next) => *report = Some(next),
            Err(error) => {
                trouble = format!("{error:#}");
                progress.show(|| format!("waiting for a server: {trouble}"));
            }
        }
    }
}

/// Whom a change waits for, for people.
fn waits(asked: &Asked, report: &PlacementReport) -> String {
    let Some(number) = asked.number else { return "waiting for the change to begin".to_owned() };
    let names: Vec<_> = waited_for(number, report).map(|group| group.name.as_str()).collect();
    match &names[..] {
        [] => format!("number {number} is adopted by all groups"),
        names => format!("number {number} waits for {}", names.join(", ")),
    }
}

/// The groups that have not adopted a number that is prepared.
pub(super) fn waited_for(number: u64, report: &PlacementReport) -> impl Iterator<Item = &PlacementGroup> {
    report.groups.iter().filter(move |group| group.number < number && group.adopted < number)
}

#[cfg(test)]
mod tests {
    use kubebrain_proto::admin::PlacementEntry;
    use kubebrain_proto::peer::PlacementDocument;

    use super::*;

    fn document(number: u64, text: &str) -> Option<PlacementDocument> {
        Some(PlacementDocument { number, text: text.to_owned(), ..Default::default() })
    }

    fn asked(number: Option<u64>) -> Asked {
        Asked { text: "new".to_owned(), before: 17, number }
    }

    #[test]
    fn a_report_says_how_a_change_stands() {
        let refused = |number| PlacementReport {
            document: document(19, "old"),
            outcome: "pods has keys".to_owned(),
            outcome_number: number,
            outcome_refused: true,
            ..Default::default()
        };
        let holds = |number, text| PlacementReport { document: document(number, text), ..Default::default() };
        let under_way = PlacementReport { prepared: document(18, "new"), ..holds(17, "old") };
        let taken = Outcome::TakenBack(18, "pods has keys".to_owned());
        for (what, report, number, wanted) in [
            ("before it began", holds(17, "old"), None, None),
            ("under way", under_way, None, None),
            ("it holds", holds(18, "new"), Some(18), Some(Outcome::Holds(18))),
            ("it holds, and its number was not heard", holds(18, "new"), None, Some(Outcome::Holds(18))),
            ("the same text again, later", holds(20, "new"), Some(18), None),
            ("taken back", refused(18), Some(18), Some(taken.clone())),
            ("taken back, and its number was not heard", refused(18), None, Some(taken)),
            ("an older one was taken back", refused(16), None, None),
            ("another one was taken back", refused(21), Some(18), None),
        ] {
            assert_eq!(asked(number).judge(&report), wanted, "{what}");
        }
    }

    #[test]
    fn history_says_what_became_of_a_change_after_which_others_came() {
        let history = |numbers: &[(u64, &str)]| PlacementReport {
            history: numbers
                .iter()
                .map(|(number, text)| PlacementEntry {
                    document: document(*number, text),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let held = history(&[(17, "old"), (18, "new"), (19, "newer")]);
        assert_eq!(asked(Some(18)).recall(&held), Some(Outcome::Holds(18)));
        let not = history(&[(17, "old"), (19, "old")]);
        assert!(matches!(asked(Some(18)).recall(&not), Some(Outcome::TakenBack(18, _))));
        assert_eq!(asked(Some(18)).recall(&history(&[(17, "old")])), None);
        assert_eq!(asked(None).recall(&held), None);
    }

    #[test]
    fn progress_names_whom_it_waits_for() {
        let group = |name: &str, number, adopted| PlacementGroup {
            name: name.to_owned(),
            number,
            adopted,
            ..Default::default()
        };
        let groups =
            vec![group("core", 17, 18), group("pods", 17, 0), group("events", 18, 0), group("x", 0, 0)];
        let mut report = PlacementReport { groups, ..Default::default() };
        assert_eq!(waits(&asked(Some(18)), &report), "number 18 waits for pods, x");
        report.groups.retain(|group| group.name == "core");
        assert_eq!(waits(&asked(Some(18)), &report), "number 18 is adopted by all groups");
        assert_eq!(waits(&asked(None), &report), "waiting for the change to begin");
    }
}
