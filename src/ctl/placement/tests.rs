//! Commands against a server that answers as it is told to, and what they print of made-up reports.

use std::collections::VecDeque;
use std::sync::Arc;

use clap::{CommandFactory as _, Parser};
use kubebrain_net::serve::{ServeConfig, serve_tcp};
use kubebrain_proto::admin::admin_server::{Admin, AdminServer};
use kubebrain_proto::admin::placement_command::Verb;
use kubebrain_proto::admin::{
    GroupsRequest, GroupsResponse, PlacementApply, PlacementCommand, PlacementEntry, PlacementGroup,
    PlacementQuery, PlacementReport,
};
use kubebrain_proto::peer::PlacementDocument;
use kubebrain_shared::placement::Difference;
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use super::outcome::{Outcome, Told};
use super::*;
use crate::ctl::Verdict;

const OLD: &str = "home: core\ndefault: core\ngroups: { core: {}, pods: {} }\n";
const NEW: &str =
    "home: core\ndefault: core\ngroups: { core: {}, pods: {} }\nkinds: [{ kind: pods, group: pods }]\n";

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    placement: Placement,
}

/// Answers of one server, and what it was told.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    /// The last one is said again and again.
    reports: VecDeque<PlacementReport>,
    history: PlacementReport,
    answer: Option<Result<PlacementReport, Status>>,
    heard: Vec<Verb>,
}

impl Fake {
    fn new(reports: Vec<PlacementReport>, answer: Result<PlacementReport, Status>) -> Self {
        let script = Script { reports: reports.into(), answer: Some(answer), ..Script::default() };
        Self(Arc::new(Mutex::new(script)))
    }
}

#[tonic::async_trait]
impl Admin for Fake {
    async fn groups(&self, _: Request<GroupsRequest>) -> Result<Response<GroupsResponse>, Status> {
        Ok(Response::new(GroupsResponse::default()))
    }

    async fn placement(&self, query: Request<PlacementQuery>) -> Result<Response<PlacementReport>, Status> {
        let PlacementQuery { number, history, .. } = query.into_inner();
        let mut script = self.0.lock();
        if history {
            return Ok(Response::new(script.history.clone()));
        }
        if number > 0 {
            let entries = script.history.history.iter().filter_map(|entry| entry.document.clone());
            let document = entries.clone().find(|document| document.number == number);
            return Ok(Response::new(PlacementReport { document, ..PlacementReport::default() }));
        }
        if script.reports.len() > 1 {
            return Ok(Response::new(script.reports.pop_front().unwrap_or_default()));
        }
        Ok(Response::new(script.reports.front().cloned().unwrap_or_default()))
    }

    async fn change_placement(
        &self,
        command: Request<PlacementCommand>,
    ) -> Result<Response<PlacementReport>, Status> {
        let mut script = self.0.lock();
        script.heard.extend(command.into_inner().verb);
        let answer = script.answer.clone().unwrap_or_else(|| Err(Status::unimplemented("")));
        answer.map(Response::new)
    }
}

/// What a command ends with, by the exit code.
async fn ended(fake: &Fake, arguments: &[&str]) -> (u8, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let endpoint = format!("--endpoints=http://{}", listener.local_addr().expect("it is bound"));
    let stopper = Stopper::default();
    let service = AdminServer::new(fake.clone());
    tokio::spawn(serve_tcp(listener, service, ServeConfig::default(), stopper.handle()));
    let line = ["placement"].into_iter().chain(arguments.iter().copied()).chain([&endpoint[..]]);
    let placement =
        Line::try_parse_from(line).unwrap_or_else(|error| panic!("{arguments:?}: {error}")).placement;
    let outcome = run(placement).await;
    stopper.ask();
    match outcome {
        Ok(()) => (0, String::new()),
        Err(error) => (error.downcast_ref::<Verdict>().map_or(1, Verdict::code), format!("{error:#}")),
    }
}

fn document(number: u64, text: &str) -> Option<PlacementDocument> {
    Some(PlacementDocument { lineage: 0xab12, number, text: text.to_owned(), ..PlacementDocument::default() })
}

fn group(name: &str, trouble: &str) -> PlacementGroup {
    PlacementGroup {
        name: name.to_owned(),
        answers: true,
        number: 17,
        trouble: trouble.to_owned(),
        in_current: true,
        in_prepared: true,
        ..PlacementGroup::default()
    }
}

fn at(number: u64, text: &str) -> PlacementReport {
    PlacementReport { document: document(number, text), ..PlacementReport::default() }
}

fn under_way() -> PlacementReport {
    let groups = vec![group("core", ""), group("pods", "")];
    PlacementReport { prepared: document(18, NEW), groups, ..at(17, OLD) }
}

fn taken_back() -> PlacementReport {
    PlacementReport {
        outcome: "group pods: /registry/pods/ has keys".to_owned(),
        outcome_number: 18,
        outcome_refused: true,
        ..at(19, OLD)
    }
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::TempDir::new().expect("a directory"))
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }
}

#[tokio::test]
async fn an_apply_ends_as_the_cluster_says() {
    let files = Files::new();
    let new = files.file("new", NEW);
    let old = || vec![at(17, OLD)];
    let busy = || Err(Status::failed_precondition("number 18 is prepared: wait for it, or abort it"));
    let disagree =
        PlacementReport { groups: vec![group("core", ""), group("pods", "compact first")], ..at(17, OLD) };
    let agree = PlacementReport { groups: vec![group("core", ""), group("pods", "")], ..at(17, OLD) };
    let cases: [(&str, Fake, &[&str], u8, &str); 13] = [
        ("it holds at once", Fake::new(old(), Ok(at(18, NEW))), &[], 0, ""),
        (
            "it is under way",
            Fake::new(old(), Ok(under_way())),
            &[],
            3,
            "number 18 is prepared and does not hold yet",
        ),
        (
            "waited for",
            Fake::new(vec![at(17, OLD), under_way(), at(18, NEW)], Ok(under_way())),
            &["--wait"],
            0,
            "",
        ),
        (
            "waited for in vain",
            Fake::new(vec![at(17, OLD), taken_back()], Ok(under_way())),
            &["--wait"],
            1,
            "number 18 was taken back, and the placement from before holds: group pods: /registry/pods/ has keys",
        ),
        (
            "not decided in time",
            Fake::new(vec![at(17, OLD), under_way()], Ok(under_way())),
            &["--wait", "--timeout=300ms"],
            3,
            "number 18 is prepared and does not hold yet",
        ),
        (
            "another change is under way",
            Fake::new(old(), busy()),
            &["--wait"],
            1,
            "refused, and nothing has changed: ",
        ),
        (
            "an answer that is lost",
            Fake::new(old(), Err(Status::unavailable("gone"))),
            &[],
            3,
            "it is not known whether it will hold: ",
        ),
        (
            "an answer that is lost, and it holds",
            Fake::new(vec![at(17, OLD), at(17, OLD), at(18, NEW)], Err(Status::unavailable("gone"))),
            &["--wait"],
            0,
            "",
        ),
        ("nothing to do", Fake::new(vec![at(17, NEW)], busy()), &[], 0, ""),
        ("all would agree", Fake::new(old(), Ok(agree)), &["--dry-run"], 0, ""),
        ("one would not", Fake::new(old(), Ok(disagree.clone())), &["--dry-run"], 1, "it would be refused"),
        ("that one is left out", Fake::new(old(), Ok(disagree)), &["--dry-run", "--without=pods"], 0, ""),
        (
            "a client that may not",
            Fake::new(old(), Err(Status::permission_denied("--placement-admin"))),
            &["--output=json"],
            1,
            "refused, and nothing has changed: ",
        ),
    ];
    for (what, fake, flags, code, words) in cases {
        let arguments = [&["apply", &new[..]], flags].concat();
        let (found, said) = ended(&fake, &arguments).await;
        assert_eq!(found, code, "{what}: {said}");
        assert!(said.starts_with(words), "{what}: {said}");
        let heard = &fake.0.lock().heard;
        assert_eq!(heard.len(), usize::from(what != "nothing to do"), "{what}: asked once, or not at all");
    }
}

#[tokio::test]
async fn an_apply_names_the_number_that_it_is_a_change_of() {
    let files = Files::new();
    let plain = files.file("plain", NEW);
    let headed = files.file("headed", &format!("# number: 17, lineage: ab12\n{NEW}"));
    let stale = files.file("stale", &format!("# number: 16\n{NEW}"));
    let foreign = files.file("foreign", &format!("# number: 17, lineage: 1\n{NEW}"));
    let cases: [(&[&str], Option<u64>); 9] = [
        (&[&plain], Some(17)),
        (&[&headed], Some(17)),
        (&[&stale], None),
        (&[&stale, "--from=16"], None),
        (&[&stale, "--from=17"], Some(17)),
        (&[&stale, "--from=0"], Some(0)),
        (&[&foreign], None),
        (&[&foreign, "--from=17"], Some(17)),
        (&[&plain, "--from=18"], None),
    ];
    for (arguments, sent) in cases {
        let fake = Fake::new(vec![at(17, OLD)], Ok(at(18, NEW)));
        let (code, said) = ended(&fake, &[&["apply"], arguments].concat()).await;
        let heard = fake.0.lock().heard.clone();
        let wanted = sent.map(|from| {
            Verb::Apply(PlacementApply { text: NEW.to_owned(), from, ..PlacementApply::default() })
        });
        assert_eq!(heard, wanted.into_iter().collect::<Vec<_>>(), "{arguments:?}");
        assert_eq!(code, u8::from(sent.is_none()), "{arguments:?}: {said}");
        assert!(sent.is_some() || said.contains("--from=17"), "{arguments:?}: {said}");
    }
    let bad = files.file("bad", "home: core\n");
    let (code, said) = ended(&Fake::default(), &["apply", &bad]).await;
    assert!(code == 1 && said.contains("groups: is missing"), "{said}");
}

#[tokio::test]
async fn the_other_commands_end_as_they_say() {
    let entry = |number, text| PlacementEntry {
        document: document(number, text),
        at: 1_800_000_000,
        reason: "applied".to_owned(),
    };
    let with_history = |answer| {
        let fake = Fake::new(vec![at(17, OLD)], answer);
        fake.0.lock().history =
            PlacementReport { history: vec![entry(16, NEW), entry(17, OLD)], ..PlacementReport::default() };
        fake
    };
    let fake = with_history(Ok(at(18, NEW)));
    assert_eq!(ended(&fake, &["rollback", "16", "--wait"]).await, (0, String::new()));
    let Some(Verb::Apply(sent)) = fake.0.lock().heard.first().cloned() else { panic!("no apply") };
    assert_eq!((&sent.text[..], sent.from), (NEW, 17));
    let (code, said) = ended(&with_history(Ok(at(18, NEW))), &["rollback", "15"]).await;
    assert!(code == 1 && said.starts_with("there is no placement number 15"), "{said}");
    assert_eq!(ended(&with_history(Ok(at(18, NEW))), &["history"]).await.0, 0);
    assert_eq!(ended(&with_history(Ok(at(18, NEW))), &["show", "--number=16", "-oyaml"]).await.0, 0);

    let aborted = PlacementReport { prepared: None, ..at(19, OLD) };
    assert_eq!(ended(&Fake::new(vec![under_way()], Ok(aborted.clone())), &["abort"]).await.0, 0);
    let (code, said) = ended(&Fake::new(vec![under_way()], Ok(at(18, NEW))), &["abort"]).await;
    assert!(code == 1 && said.contains("holds already"), "{said}");
    assert_eq!(ended(&Fake::new(vec![under_way()], Ok(under_way())), &["abort"]).await.0, 3);
    let idle = Fake::new(vec![at(17, OLD)], Ok(aborted));
    assert_eq!(ended(&idle, &["abort"]).await.0, 0);
    assert!(idle.0.lock().heard.is_empty(), "there is nothing to take back");

    let fake = Fake::new(vec![at(17, OLD)], Ok(at(18, OLD)));
    assert_eq!(ended(&fake, &["recover", "--without=pods", "--accept-loss=core"]).await.0, 0);
    let Some(Verb::Recover(sent)) = fake.0.lock().heard.first().cloned() else { panic!("no recover") };
    assert_eq!((sent.without, &sent.accept_loss[..]), (vec!["pods".to_owned()], "core"));
    assert_eq!(ended(&Fake::new(vec![], Ok(taken_back())), &["recover"]).await.0, 1);
    for output in ["table", "json"] {
        let arguments = ["where", "/registry/pods/ns/a", "-o", output];
        assert_eq!(ended(&Fake::new(vec![at(17, NEW)], Ok(at(0, ""))), &arguments).await.0, 0);
    }
    let none = || Fake::new(vec![PlacementReport::default()], Ok(PlacementReport::default()));
    assert_eq!(ended(&none(), &["show"]).await.0, 0);
    assert_eq!(ended(&none(), &["show", "-oyaml"]).await.0, 1);
    assert_eq!(ended(&none(), &["where", "a"]).await.0, 1);
}

#[tokio::test]
async fn files_are_checked_without_a_server() {
    let files = Files::new();
    for (text, code, words) in [
        (NEW, 0, ""),
        ("home: core\ndefault: core\ngroups: { core: {} }\nkinds: [{ kind: pod, group: core }]\n", 0, ""),
        ("home: nobody\ndefault: core\ngroups: { core: {} }\n", 1, "1 error: it cannot be applied"),
        ("", 1, "1 error: it cannot be applied"),
    ] {
        for output in ["table", "json"] {
            let file = files.file("placement", text);
            let line = ["placement", "check", &file, "--standalone", "-o", output];
            let found = run(Line::try_parse_from(line).expect("a command line").placement).await;
            let said = found.as_ref().err().map_or_else(String::new, |error| error.to_string());
            assert_eq!(u8::from(found.is_err()), code, "{text}: {said}");
            assert!(said.ends_with(words), "{said}");
        }
    }
}

#[test]
fn command_lines_are_read() {
    Line::command().debug_assert();
    for good in [
        &["show", "--number", "3", "-o", "yaml"][..],
        &["apply", "-", "--from=0", "--without=a", "--without", "b", "--wait", "--timeout", "90s"],
        &["apply", "f", "--dry-run", "--endpoints=http://a:1,http://b:1", "--command-timeout=1s"],
        &["where", "k", "--file", "f", "-o", "json"],
        &["rollback", "3", "--wait"],
        &["recover"],
        &["repair", "--keys", "--from=a", "-o", "yaml"],
        &["repair", "--kind=pods", "--move", "--keep=stray", "--dry-run"],
        &["repair", "--stored-key=/a", "--drop"],
    ] {
        let line = ["placement"].iter().chain(good);
        assert!(Line::try_parse_from(line).is_ok(), "{good:?}");
    }
    for bad in [
        &["apply"][..],
        &["apply", "f", "--dry-run", "--wait"],
        &["apply", "f", "--timeout=1s"],
        &["show", "--number=0"],
        &["show", "-o", "text"],
        &["abort", "-o", "yaml"],
        &["rollback"],
        &["repair", "--move"],
        &["repair", "--kind=pods", "--move", "--drop"],
        &["repair", "--kind=pods", "--prefix=/registry/pods/", "--drop"],
        &["repair", "--kind=pods", "--drop", "--keep=owner"],
        &["repair", "--kind=pods", "--dry-run"],
    ] {
        let line = ["placement"].iter().chain(bad);
        let Err(error) = Line::try_parse_from(line) else { panic!("{bad:?} is taken") };
        assert_eq!(error.exit_code(), 2, "{bad:?}");
    }
}

#[test]
fn each_group_says_whether_it_agrees() {
    let gone = PlacementGroup { answers: false, ..group("events", "") };
    let adopted = PlacementGroup { adopted: 18, ..group("core", "") };
    let groups = vec![adopted, gone, group("pods", "compact first"), group("x", ""), group("y", "")];
    let report = PlacementReport { groups, ..at(17, OLD) };
    let difference = Difference::default();
    let lines = |outcome| {
        let without = ["y".to_owned()];
        Told { outcome, difference: &difference, report: Some(&report), without: &without }.lines()
    };
    assert_eq!(
        lines(Outcome::WouldNot),
        "group core: agrees\ngroup events: does not answer\ngroup pods: does not agree: compact first\n\
         group x: agrees\ngroup y: is not asked\n"
    );
    assert_eq!(
        lines(Outcome::UnderWay(18)),
        "group core: agrees\ngroup events: does not answer\ngroup pods: does not agree: compact first\n\
         group x: has not answered to it yet\ngroup y: is not asked\n"
    );
    let told = Told { outcome: Outcome::Holds(18), difference: &difference, report: None, without: &[] };
    assert_eq!(told.lines(), "Number 18 is the placement of the cluster now.\n");
}

#[test]
fn a_change_is_told_to_machines() {
    let read = |text| kubebrain_shared::placement::Placement::parse(text).expect("a placement");
    let difference = read(OLD).difference(&read(NEW));
    let report = under_way();
    let told =
        Told { outcome: Outcome::UnderWay(18), difference: &difference, report: Some(&report), without: &[] };
    let json = told.json();
    assert_eq!((&json["outcome"], &json["number"]), (&"underWay".into(), &18.into()));
    let moved = serde_json::json!({ "what": "moved", "unit": "kind pods", "from": "core", "to": "pods" });
    assert_eq!(json["changes"], serde_json::json!([moved]));
    assert_eq!((&json["groups"][1]["name"], &json["groups"][1]["agrees"]), (&"pods".into(), &true.into()));
}

#[test]
fn a_placement_is_shown_with_who_owns_what_and_how_it_stands() {
    let table = kubebrain_shared::placement::Placement::parse(NEW).expect("a placement");
    let (head, rows) = show::rows(&table, &under_way());
    assert_eq!(head, ["GROUP", "OWNS", "BRAINS", "NUMBER", "ADOPTED", "NOTE"]);
    let rows: Vec<_> = rows.iter().map(|row| row.join("|")).collect();
    assert_eq!(rows, ["core|home, default|-|17|-|", "pods|pods|-|17|-|"]);
    let (head, rows) = show::rows(&table, &at(16, NEW));
    assert_eq!((head.len(), rows[1].join("|")), (3, "pods|pods|-".to_owned()));
    let states = show::states(&under_way());
    assert!(states.starts_with("Number 18 is prepared, and waits for core, pods. "), "{states}");
    let states = show::states(&taken_back());
    assert_eq!(
        states,
        "The last change, to number 18, was taken back: group pods: /registry/pods/ has keys\n"
    );
    let json = show::json(&under_way());
    assert_eq!((&json["current"]["number"], &json["prepared"]["number"]), (&17.into(), &18.into()));
    assert_eq!(json["current"]["lineage"], "ab12");
    let (text, json) = show::owner(&table, 17, "/registry/pods/ns/a");
    assert_eq!(
        text,
        "/registry/pods/ns/a belongs to group pods, by the rule for /registry/pods/. Its unit, which moves as one, is kind pods."
    );
    assert_eq!((&json["group"], &json["by"], &json["number"]), (&"pods".into(), &"rule".into(), &17.into()));
}

#[test]
fn history_has_what_each_one_changed() {
    let entry = |number, text, reason: &str| PlacementEntry {
        document: document(number, text),
        at: 1_800_000_000,
        reason: reason.to_owned(),
    };
    let entries =
        [entry(16, OLD, "seeded"), entry(17, NEW, "applied"), entry(18, "no: placement\n", "applied")];
    let rows: Vec<_> = history::rows(&entries).iter().map(|row| row.join("|")).collect();
    let wanted = [
        "16|2027-01-15T08:00:00Z|seeded|-",
        "17|2027-01-15T08:00:00Z|applied|kind pods: from core to pods",
        "18|2027-01-15T08:00:00Z|applied|cannot be read by this program",
    ];
    assert_eq!(rows, wanted);
    let json = history::json(&entries);
    assert_eq!(
        (&json["history"][1]["placement"]["number"], &json["history"][1]["reason"]),
        (&17.into(), &"applied".into())
    );
}
