//! Home masters that die at any moment, groups that are away, and a network that loses, delays and repeats.

mod repair;
mod world;

use std::time::Duration;

use kubebrain_proto::admin::{PlacementApply, PlacementQuery, PlacementRecover};
use tokio::time::{Instant, sleep};
use tonic::Code;

use world::{THREE, World, apply, group};

/// Widgets get a group of their own: nobody has keys of that kind.
fn with_widgets() -> String {
    THREE
        .replace("events: {} }", "events: {}, widgets: {} }")
        .replace("kinds:\n", "kinds:\n  - { kind: example.com/widgets, group: widgets }\n")
}

/// Pods go to core.
fn pods_to_core() -> String {
    THREE.replace("group: pods", "group: core")
}

#[tokio::test(start_paused = true)]
async fn the_first_placement_is_the_file_of_home_once_every_group_in_it_agrees() {
    let world = World::new(1).await;
    world.down("events");
    world.authority(Some(THREE)).await;
    sleep(Duration::from_secs(30)).await;
    let report = world.report().await;
    assert_eq!((report.document.is_none(), report.prepared.expect("a seed").number), (true, 1));
    let events = report.groups.iter().find(|group| group.name == "events").expect("it is named");
    assert!(!events.answers && events.trouble.contains("events"), "{events:?}");
    assert_eq!(world.pair("core").adopted, 1, "it has agreed, and serves nothing new");
    world.up("events");
    world.holds(1).await;
    let document = world.report().await.document.expect("it holds");
    assert_eq!((document.text.as_str(), document.cluster_id), (THREE, world.cluster()));
    assert_eq!(world.history().await, [(1, "seeded".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_seed_that_a_group_refuses_is_tried_again_under_the_next_number_and_with_the_same_lineage() {
    let world = World::new(2).await;
    // A key that the file gives to another group.
    world.goes_by("pods", "home: pods\ndefault: pods\ngroups: { pods: {} }\n");
    world.put("pods", "/registry/nodes/a").await;
    world.awaits("pods").await;
    world.authority(Some(THREE)).await;
    let refused = world.until(async |world| {
        let report = world.report().await;
        report.outcome_refused.then_some(report)
    });
    let refused = refused.await;
    assert!(refused.outcome.contains("group pods has keys under /registry/nodes/"), "{}", refused.outcome);
    assert!(refused.document.is_none());
    let first = refused.outcome_number;
    let again = world.until(async |world| {
        let number = world.report().await.outcome_number;
        (number > first).then_some(number)
    });
    assert_eq!(again.await, first + 1);
    // Corrected in the file: it is tried at once.
    let corrected = THREE.replace("default: core", "default: pods");
    world.now().reseed(world.seed(&corrected, 99));
    let document = world.until(async |world| world.report().await.document).await;
    assert_eq!((document.lineage, document.text), (7, corrected), "the lineage of the first try");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_adopted_by_all_and_then_holds_and_revisions_never_fall() {
    let world = World::new(3).await;
    world.seeded().await;
    for _ in 0..40 {
        world.put("events", "/registry/events/a").await;
    }
    let highest = world.revision("events");
    let report = world.apply(&with_widgets()).await.expect("it is prepared");
    assert_eq!(report.prepared.expect("at once").number, 2);
    world.holds(2).await;
    let document = world.report().await.document.expect("it holds");
    assert!(document.revision >= highest, "{} below {highest}, which events has shown", document.revision);
    assert!(world.revision("widgets") >= highest, "whoever gains begins there");
    world.put("widgets", "/registry/example.com/widgets/a").await;
    // Back to the old text: a group less, which has keys.
    let refused = world.apply(THREE).await.expect_err("widgets has keys");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("group widgets has keys"), "{}", refused.message());
    assert_eq!(world.report().await.document.expect("it stays").number, 2);
    // The same again changes nothing.
    let same = world.apply(&with_widgets()).await.expect("a report");
    assert_eq!((same.prepared.is_none(), same.outcome_number), (true, 2));
    assert!(same.outcome.contains("says this already"), "{}", same.outcome);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_refused_and_says_why() {
    let world = World::new(4).await;
    world.seeded().await;
    world.put("pods", "/registry/pods/a").await;
    let apply = |text: &str| PlacementApply { text: text.to_owned(), ..PlacementApply::default() };
    for (what, command, code, said) in [
        ("no placement", apply("home: [\n"), Code::InvalidArgument, "line 2"),
        (
            "two mistakes",
            apply("home: x\ndefault: y\ngroups: { a: {} }\n"),
            Code::InvalidArgument,
            "line 2: there",
        ),
        (
            "home",
            apply(&THREE.replace("home: core", "home: pods")),
            Code::InvalidArgument,
            "group core is home",
        ),
        (
            "from an older number",
            PlacementApply { from: 7, ..apply(&with_widgets()) },
            Code::FailedPrecondition,
            "number 1 is current",
        ),
        (
            "keys",
            apply(&pods_to_core()),
            Code::FailedPrecondition,
            "group pods has keys under /registry/pods/",
        ),
        (
            "without a group that owns keys",
            PlacementApply { without: vec!["pods".to_owned()], ..apply(&pods_to_core()) },
            Code::FailedPrecondition,
            "recover --accept-loss pods",
        ),
        (
            "without nobody",
            PlacementApply { without: vec!["nobody".to_owned()], ..apply(&with_widgets()) },
            Code::InvalidArgument,
            "no group \"nobody\"",
        ),
        (
            "a group that is missing",
            apply(&THREE.replace("events: {} }", "events: {}, missing: {} }")),
            Code::FailedPrecondition,
            "missing",
        ),
    ] {
        let refused = world.now().change(world::command(command)).await.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {refused:?}");
        assert!(refused.message().contains(said), "{what}: {}", refused.message());
    }
    let too_long = format!("# {}\n{THREE}", "x".repeat(1 << 20));
    assert_eq!(world.apply(&too_long).await.expect_err("too long").code(), Code::InvalidArgument);
    world.old("events");
    let refused = world.apply(&with_widgets()).await.expect_err("an older version");
    assert!(refused.message().contains("upgrade it"), "{}", refused.message());
    world.up("events");
    let trial = PlacementApply { dry_run: true, ..apply(&pods_to_core()) };
    let trial = world.now().change(world::command(trial)).await.expect("a report");
    let pods = trial.groups.iter().find(|group| group.name == "pods").expect("it is named");
    assert!(trial.outcome_refused && pods.trouble.contains("has keys"), "{trial:?}");
    assert_eq!((world.report().await.prepared, world.pair("core").adopted), (None, 0), "nothing has changed");
}

#[tokio::test(start_paused = true)]
async fn a_loser_serves_nothing_of_it_for_10_s_at_most() {
    let world = World::new(5).await;
    world.seeded().await;
    // Pods lose, core gains; the one of two losers that is silent holds the other one up.
    let next = THREE.replace("group: pods", "group: core").replace("group: events", "group: core");
    world.silent("events", "prepare");
    let began = Instant::now();
    world.apply(&next).await.expect("all would take it");
    let adopted = world.until(async |world| (world.pair("pods").adopted == 2).then(Instant::now)).await;
    assert!(world.serves("pods", "/registry/pods/a").is_err(), "it has let go");
    world.holds(3).await;
    assert!(began.elapsed() < Duration::from_secs(13), "{:?}", began.elapsed());
    assert!(adopted.elapsed() >= Duration::from_secs(9), "{:?}", adopted.elapsed());
    assert_eq!(world.serves("pods", "/registry/pods/a"), Ok(()), "it serves again");
    let report = world.report().await;
    assert_eq!((report.outcome_number, report.outcome_refused), (2, true));
    assert!(report.outcome.contains("events"), "{}", report.outcome);
    assert_eq!(report.document.expect("what was before").text, THREE);
    let history = world.history().await;
    assert!(history[1].0 == 3 && history[1].1.starts_with("aborted: "), "{history:?}");
}

/// The master before has perhaps stopped losers, and this one does not hear of it: it asks whoever gains first.
#[tokio::test(start_paused = true)]
async fn a_new_master_of_home_gives_an_inherited_change_10_s() {
    let world = World::new(15).await;
    world.seeded().await;
    world.silent("events", "prepare");
    let next = pods_to_core().replace("group: events", "group: core");
    world.apply(&next).await.expect("all would take it");
    world.until(async |world| (world.pair("pods").adopted == 2).then_some(())).await;
    world.dies().await;
    world.silent("core", "prepare");
    world.authority(Some(THREE)).await;
    let began = Instant::now();
    world.until(async |world| (world.report().await.document?.number == 3).then_some(())).await;
    assert!((9..13).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn whoever_loses_is_asked_once_all_others_have_adopted() {
    let world = World::new(6).await;
    world.seeded().await;
    world.silent("core", "prepare");
    world.apply(&pods_to_core()).await.expect("all would take it");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.pair("events").adopted, 2, "it neither gains nor loses");
    assert_eq!(world.pair("pods").adopted, 0, "core, which gains, has not agreed yet");
    assert_eq!(world.report().await.prepared.expect("for as long as it takes").number, 2);
    assert_eq!(world.serves("pods", "/registry/pods/a"), Ok(()));
    let second = world.apply(&with_widgets()).await.expect_err("one at a time");
    assert_eq!(second.code(), Code::FailedPrecondition);
    assert!(second.message().contains("number 2 is prepared"), "{}", second.message());
    world.now().change(world::abort()).await.expect("aborts");
    world.up("core");
    world.holds(3).await;
    assert!(world.now().change(world::abort()).await.is_err(), "nothing is under way");
}

#[tokio::test(start_paused = true)]
async fn of_two_changes_at_once_one_is_told_of_the_other() {
    let world = World::new(7).await;
    world.seeded().await;
    let (one, other) = (with_widgets(), pods_to_core());
    let (one, other) = tokio::join!(world.apply(&one), world.apply(&other));
    let refused = [one, other].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert_eq!(refused.len(), 1, "one of two: {refused:?}");
    let said = refused[0].message();
    assert!(said.contains("number 2 is prepared") || said.contains("number 2 has become current"), "{said}");
    world.holds(2).await;
    // Both have heard that all would take it before either is decided.
    let world = World::calm().await;
    world.seeded().await;
    let (one, other) = (with_widgets(), pods_to_core());
    let (one, other) = tokio::join!(world.apply(&one), world.apply(&other));
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
}

#[tokio::test(start_paused = true)]
async fn a_group_comes_and_goes_and_hears_that_it_is_gone() {
    let world = World::new(8).await;
    world.seeded().await;
    world.apply(&with_widgets()).await.expect("prepared");
    world.holds(2).await;
    world.apply(THREE).await.expect("it has no keys");
    world.holds(3).await;
    world.until(async |world| (world.pair("widgets").number == 3).then_some(())).await;
    world.until(async |world| world.row().removed.is_empty().then_some(())).await;
    assert!(!world.row().members.contains(&"widgets".to_owned()));
    // With an empty store it may come again: nothing is missing.
    world.empty("widgets").await;
    world.apply(&with_widgets()).await.expect("prepared");
    world.holds(4).await;
    // One that is gone and dead is waited for by nobody once an operator says so.
    let without = PlacementApply { without: vec!["widgets".to_owned()], ..apply(THREE) };
    assert!(world.now().change(world::command(without)).await.is_err(), "widgets are its own");
    let bare = with_widgets().replace("  - { kind: example.com/widgets, group: widgets }\n", "");
    world.apply(&bare).await.expect("prepared");
    world.holds(5).await;
    world.down("widgets");
    let without = PlacementApply { without: vec!["widgets".to_owned()], ..apply(THREE) };
    world.now().change(world::command(without)).await.expect("nothing is its own");
    world.until(async |world| (world.report().await.document?.number == 6).then_some(())).await;
    assert_eq!((world.row().removed.len(), world.row().without.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_group_that_lost_its_data_is_refused_until_an_operator_accepts_that() {
    let world = World::new(9).await;
    world.seeded().await;
    world.put("pods", "/registry/pods/a").await;
    let shown = world.revision("pods");
    world.empty("pods").await;
    let trouble = world.until(async |world| {
        let group = world.report().await.groups.into_iter().find(|group| group.name == "pods")?;
        (!group.trouble.is_empty()).then_some(group.trouble)
    });
    let trouble = trouble.await;
    assert!(trouble.contains("--accept-loss pods"), "{trouble}");
    assert!(world.serves("pods", "/registry/pods/a").is_err(), "it serves nothing");
    assert!(world.apply(&with_widgets()).await.is_err(), "no change meanwhile");
    let accept = PlacementRecover { accept_loss: "pods".to_owned(), ..PlacementRecover::default() };
    world.now().change(world::recover(accept)).await.expect("accepted");
    // Home dies before it has told anybody.
    world.dies().await;
    world.authority(Some(THREE)).await;
    world.holds(2).await;
    assert!(world.revision("pods") > shown + 900_000, "above whatever it has shown");
    world.until(async |world| world.row().members.contains(&"pods".to_owned()).then_some(())).await;
    world.put("pods", "/registry/pods/a").await;
}

/// What is prepared in an old copy of home's log has become current since. It may be taken back there, and nobody goes by that.
#[tokio::test(start_paused = true)]
async fn what_a_home_from_the_middle_of_a_change_decides_is_taken_by_nobody() {
    let world = World::new(11).await;
    world.seeded().await;
    world.apply(&with_widgets()).await.expect("prepared");
    let old = world.copy("core");
    world.holds(2).await;
    world.put("pods", "/registry/pods/a").await;
    world.dies().await;
    world.becomes("core", old).await;
    world.authority(Some(THREE)).await;
    sleep(Duration::from_secs(90)).await;
    let pair = world.pair("pods");
    assert_eq!((pair.number, pair.adopted), (2, 0), "it goes on by what holds");
    world.put("pods", "/registry/pods/b").await;
    let report = world.report().await;
    let pods = report.groups.iter().find(|group| group.name == "pods").expect("it is named");
    assert!(pods.trouble.contains("home group is behind"), "{report:?}");
    assert!(world.apply(&pods_to_core()).await.is_err());
    world.now().change(world::recover(PlacementRecover::default())).await.expect("recovers");
    let document = world.report().await.document.expect("one");
    assert!(document.number > 2 && document.text == with_widgets(), "{document:?}");
    world.until(async |world| (world.pair("pods").number == document.number).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_home_that_is_from_before_goes_on_by_what_groups_have_once_it_is_told_to() {
    for is_empty in [false, true] {
        let world = World::new(10).await;
        world.seeded().await;
        let old = world.copy("core");
        world.apply(&with_widgets()).await.expect("prepared");
        world.holds(2).await;
        let lineage = world.report().await.document.expect("one").lineage;
        world.dies().await;
        match is_empty {
            true => world.empty("core").await,
            false => world.becomes("core", old).await,
        }
        world.authority(Some(THREE)).await;
        sleep(Duration::from_secs(20)).await;
        assert_eq!(world.pair("pods").number, 2, "nothing older is taken");
        assert!(world.apply(&pods_to_core()).await.is_err(), "and nothing is changed");
        if !is_empty {
            let report = world.report().await;
            let pods = report.groups.iter().find(|group| group.name == "pods").expect("it is named");
            assert!(pods.trouble.contains("the home group is behind"), "{}", pods.trouble);
        }
        world.now().change(world::recover(PlacementRecover::default())).await.expect("recovers");
        let document = world.report().await.document.expect("one");
        assert_ne!(document.lineage, lineage);
        assert_eq!((document.replaces, document.text), (lineage, with_widgets()));
        if is_empty {
            let accept = PlacementRecover { accept_loss: "core".to_owned(), ..PlacementRecover::default() };
            world.now().change(world::recover(accept)).await.expect("accepted");
        }
        let number = world.report().await.document.expect("one").number;
        world.holds(number).await;
        assert!(number > 2);
        let healthy =
            world.now().change(world::recover(PlacementRecover::default())).await.expect_err("once");
        assert!(healthy.message().contains("nothing to recover"), "{healthy:?}");
    }
}

/// A snapshot holds keys and no placement.
#[tokio::test(start_paused = true)]
async fn a_home_that_was_restored_alone_takes_what_it_recovers_unless_it_would_hide_keys() {
    for hides in [false, true] {
        let world = World::new(12).await;
        world.seeded().await;
        world.put("core", "/registry/secrets/a").await;
        world.apply(&with_widgets()).await.expect("prepared");
        world.holds(2).await;
        world.dies().await;
        let keys = ["/registry/secrets/a", "/registry/example.com/widgets/a"];
        world.restored("core", if hides { &keys } else { &keys[..1] }).await;
        world.authority(Some(THREE)).await;
        sleep(Duration::from_secs(20)).await;
        assert_eq!(world.pair("pods").number, 2, "nothing older is taken");
        world.now().change(world::recover(PlacementRecover::default())).await.expect("recovers");
        let number = world.report().await.document.expect("one").number;
        if !hides {
            world.holds(number).await;
            continue;
        }
        sleep(Duration::from_secs(20)).await;
        assert_eq!(world.pair("core").number, 0);
        let report = world.report().await;
        let core = report.groups.iter().find(|group| group.name == "core").expect("it is named");
        assert!(
            core.trouble.contains("group core has keys under /registry/example.com/widgets/"),
            "{core:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_seed_goes_on_without_a_group_that_never_comes() {
    let world = World::new(11).await;
    world.down("events");
    world.authority(Some(THREE)).await;
    world.until(async |world| (world.pair("core").adopted == 1).then_some(())).await;
    let nobody = PlacementRecover { without: vec!["nobody".to_owned()], ..PlacementRecover::default() };
    assert!(world.now().change(world::recover(nobody)).await.is_err());
    assert!(world.now().change(world::abort()).await.is_err(), "there is nothing to go back to");
    let without = PlacementRecover { without: vec!["events".to_owned()], ..PlacementRecover::default() };
    world.now().change(world::recover(without)).await.expect("goes on");
    world.until(async |world| (world.pair("pods").number == 1).then_some(())).await;
    world.up("events");
    sleep(Duration::from_secs(20)).await;
    assert_eq!(world.pair("events").number, 0, "it comes back with nothing, and is not let in by itself");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_documents_are_kept() {
    let world = World::calm().await;
    world.seeded().await;
    for number in 2..=103 {
        world.apply(&format!("# {number}\n{THREE}")).await.expect("prepared");
        world.until(async |world| (world.report().await.document?.number == number).then_some(())).await;
        if number == 60 {
            world.dies().await;
            world.authority(Some(THREE)).await;
        }
    }
    let history = world.history().await;
    let numbers: Vec<u64> = history.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (4..=103).collect::<Vec<_>>());
    let of = |number| PlacementQuery { number, ..PlacementQuery::default() };
    assert_eq!(
        world.now().report(of(50)).await.expect("kept").document.expect("one").text,
        format!("# 50\n{THREE}")
    );
    assert_eq!(world.now().report(of(3)).await.expect_err("not kept").code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_file_is_applied_once_for_each_content() {
    let world = World::new(13).await;
    world.seeded_by_file().await;
    let authority = world.now();
    let is = async |text: &str| match world.now().apply_file(text).await {
        Ok(super::Applied::Already(document)) => format!("already {}", document.number()),
        Ok(super::Applied::Stale(document)) => format!("stale {}", document.number()),
        Ok(super::Applied::Now(document)) => format!("now {}", document.number()),
        Err(status) => status.message().to_owned(),
    };
    assert_eq!(is(THREE).await, "already 1");
    assert_eq!(is(&with_widgets()).await, "now 2");
    authority.change(world::command(apply(THREE))).await.expect("prepared");
    world.holds(3).await;
    assert_eq!(is(&with_widgets()).await, "stale 3", "it was applied, and something else after it");
    world.put("pods", "/registry/pods/a").await;
    for _ in 0..2 {
        let refused = is(&pods_to_core()).await;
        assert!(refused.contains("has keys"), "{refused}");
    }
    assert_eq!(is(THREE).await, "already 3", "by whoever it was applied");
    assert_eq!(is(&with_widgets()).await, "now 4");
}

/// Home dies between any two steps, and what it had decided is carried out by the next one.
#[tokio::test(start_paused = true)]
async fn a_home_that_dies_between_any_two_steps_leaves_one_placement() {
    for seed in 0..60 {
        let world = World::new(seed).await;
        world.authority(Some(THREE)).await;
        let texts = [with_widgets(), THREE.to_owned(), pods_to_core()];
        for round in 0..8 {
            let pause = world.chance(0..12_000);
            let text = texts[world.chance(0..3) as usize].clone();
            let change = async {
                let _refused = world.apply(&text).await;
                sleep(Duration::from_secs(60)).await;
            };
            let _died = tokio::time::timeout(Duration::from_millis(pause), change).await;
            world.dies().await;
            if round % 2 == 1 {
                world.reopens("core").await;
            }
            world.authority(Some(THREE)).await;
            world.agree(seed).await;
        }
        let last = world.until(async |world| {
            let report = world.report().await;
            report.document.filter(|_| report.prepared.is_none())
        });
        let last = last.await;
        world.holds(last.number).await;
        let table = kubebrain_shared::placement::Placement::parse(&last.text).expect("a placement");
        let owner = table.owner(b"/registry/pods/a").to_string();
        world.put(&owner, "/registry/pods/a").await;
        for name in ["core", "pods", "events"] {
            assert_eq!(world.serves(name, "/registry/pods/a").is_ok(), name == owner, "seed {seed}: {name}");
        }
        assert_eq!(group("core"), *table.home());
    }
}

#[test]
fn nothing_holds_that_one_group_has_not_adopted() {
    use kubebrain_proto::peer::PlacementDocument;

    use super::change::{self, Agreed};
    use super::row::Decided;
    use crate::rows::codec::DecidedRow;

    let document = |number, revision| PlacementDocument {
        lineage: 7,
        number,
        revision,
        compacted: 20,
        text: THREE.to_owned(),
        ..PlacementDocument::default()
    };
    let row = |without: &[&str]| DecidedRow {
        current: Some(document(1, 90)),
        prepared: Some(document(2, 0)),
        without: without.iter().map(ToString::to_string).collect(),
        last: 2,
        ..DecidedRow::default()
    };
    let decided = |without: &[&str]| Decided::read(row(without).into()).expect("it is read");
    let agreed = |names: &[&str]| {
        names.iter().map(|name| (group(name), Agreed { revision: 60, compacted: 30 })).collect()
    };
    let id = decided(&[]).prepared.expect("one").id();
    assert!(change::commit(&decided(&[]), id, &agreed(&["core", "pods"]), 0).is_none());
    let other = kubebrain_shared::placement::DocumentId { number: 3, ..id };
    assert!(change::commit(&decided(&[]), other, &agreed(&["core", "pods", "events"]), 0).is_none());
    let current = |decided: &Decided, names: &[&str]| {
        let document = change::commit(decided, id, &agreed(names), 0).expect("all have").row.current;
        document.map(|document| (document.number, document.revision, document.compacted))
    };
    assert_eq!(current(&decided(&[]), &["core", "pods", "events"]), Some((2, 90, 30)), "neither falls");
    let lost = 90 + change::AHEAD_OF_THE_LOST;
    assert_eq!(
        current(&decided(&["events"]), &["core", "pods"]),
        Some((2, lost, 30)),
        "above what it may have shown"
    );
}
