//! Keys in groups that do not own them: found, moved, dropped, over a network that loses answers, with masters that die.

use kubebrain_proto::admin::placement_repair::{Action, Keep};
use kubebrain_proto::admin::{PlacementQuery, PlacementRepair, PlacementRepaired, PlacementStrays};
use tonic::{Code, Status};

use super::world::{THREE, World};
use super::*;

const ALONE: &str = "home: core\ndefault: core\ngroups: { core: {} }\n";

/// Each of core and pods has pods of a time when it went by a file of its own.
async fn strange(world: &World) {
    world.goes_by("core", ALONE);
    for key in ["/registry/pods/a", "/registry/pods/b", "/registry/pods/both", "/registry/pods/same"] {
        world.put("core", key).await;
    }
    world.put("core", "/registry/secrets/a").await;
    world.goes_by("pods", "home: pods\ndefault: pods\ngroups: { pods: {} }\n");
    world.write("pods", "/registry/pods/both", "other").await;
    world.put("pods", "/registry/pods/same").await;
    world.awaits("core").await;
    world.awaits("pods").await;
}

fn of(action: Action) -> PlacementRepair {
    PlacementRepair { action: action.into(), kind: "pods".to_owned(), ..PlacementRepair::default() }
}

async fn ask(world: &World, repair: PlacementRepair) -> Result<PlacementRepaired, Status> {
    let report = match repair.action() {
        Action::List => {
            world.now().report(PlacementQuery { repair: Some(repair), ..PlacementQuery::default() }).await?
        }
        _ => {
            let verb = kubebrain_proto::admin::placement_command::Verb::Repair(repair);
            world.now().change(kubebrain_proto::admin::PlacementCommand { verb: Some(verb) }).await?
        }
    };
    Ok(report.repaired.expect("what was repaired"))
}

/// All answers, one after the other.
async fn all(world: &World, mut repair: PlacementRepair) -> (Vec<PlacementStrays>, Vec<String>) {
    let (mut strays, mut troubles) = (Vec::new(), Vec::new());
    loop {
        let part = ask(world, repair.clone()).await.expect("an answer");
        strays.extend(part.strays);
        troubles.extend(part.troubles);
        let Some(next) = part.next else { return (strays, troubles) };
        repair.after = Some(next);
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_placement_that_strays_stand_in_the_way_of_holds_once_they_are_moved() {
    let world = World::calm().await;
    strange(&world).await;
    world.authority(Some(THREE)).await;
    let refused = world.until(async |world| {
        let report = world.report().await;
        report.outcome_refused.then_some(report.outcome)
    });
    let refused = refused.await;
    assert!(refused.contains("`kubebrain ctl placement repair` says which"), "{refused}");

    let listed =
        ask(&world, PlacementRepair { keys: true, ..PlacementRepair::default() }).await.expect("a list");
    let [strays] = &listed.strays[..] else { panic!("{listed:?}") };
    assert_eq!((&strays.group[..], &strays.unit[..], &strays.owner[..]), ("core", "kind pods", "pods"));
    assert_eq!((listed.number, strays.keys, strays.both, strays.owned, strays.history), (0, 4, 2, 2, 0));
    assert_eq!(listed.keys.iter().filter(|key| key.owner_revision > 0).count(), 2);
    assert!(listed.next.is_none() && listed.troubles.is_empty());

    let tried = ask(&world, PlacementRepair { dry_run: true, keys: true, ..of(Action::Move) })
        .await
        .expect("a trial");
    assert_eq!((tried.strays[0].moved, tried.strays[0].left), (3, 1));
    assert_eq!(tried.keys.iter().filter(|key| key.outcome == "would be moved").count(), 3);
    assert_eq!(ask(&world, of(Action::List)).await.expect("a list").strays[0].keys, 4, "nothing has changed");

    let moved = ask(&world, of(Action::Move)).await.expect("moved");
    assert_eq!((moved.strays[0].moved, moved.strays[0].dropped, moved.strays[0].left), (3, 0, 1));
    let [left] = &moved.keys[..] else { panic!("what is left is named: {moved:?}") };
    assert_eq!(&left.key[..], b"/registry/pods/both");
    assert_eq!(left.outcome, "left: group pods has it with another value or lease");
    let kept = PlacementRepair { keep: Keep::Owner.into(), ..of(Action::Move) };
    let kept = ask(&world, kept).await.expect("moved");
    assert_eq!((kept.strays[0].moved, kept.strays[0].dropped, kept.strays[0].left), (0, 1, 0));

    let history = ask(&world, of(Action::List)).await.expect("a list");
    assert_eq!((history.strays[0].keys, history.strays[0].history), (0, 4), "{history:?}");
    world.compact("core").await;
    world.holds_a_first_one().await;
    for (key, value) in [("a", "v"), ("b", "v"), ("both", "other"), ("same", "v")] {
        let key = format!("/registry/pods/{key}");
        assert_eq!(world.value("pods", &key).await.as_deref(), Some(value), "{key}");
        assert_eq!(world.value("core", &key).await, None, "{key}");
    }
    assert_eq!(world.value("core", "/registry/secrets/a").await.as_deref(), Some("v"), "its own");
    let none = ask(&world, PlacementRepair::default()).await.expect("a list");
    assert_eq!((none.number, none.strays.len()), (world.pair("core").number, 0), "{none:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stray_may_take_the_owners_place_and_a_drop_asks_no_owner() {
    let world = World::calm().await;
    strange(&world).await;
    world.authority(Some(THREE)).await;
    let one = |key: &'static str, action: Action| PlacementRepair {
        action: action.into(),
        key: bytes::Bytes::from_static(key.as_bytes()),
        ..PlacementRepair::default()
    };
    let stray = PlacementRepair { keep: Keep::Stray.into(), ..one("/registry/pods/both", Action::Move) };
    assert_eq!(ask(&world, stray).await.expect("moved").strays[0].moved, 1);
    assert_eq!(world.value("pods", "/registry/pods/both").await.as_deref(), Some("v"));
    world.down("pods");
    let dropped = ask(&world, one("/registry/pods/a", Action::Drop)).await.expect("dropped");
    assert_eq!(
        (dropped.strays[0].dropped, dropped.troubles.len()),
        (1, 1),
        "pods is asked for its own strays"
    );
    let from = PlacementRepair { from: "core".to_owned(), ..one("/registry/pods/b", Action::Drop) };
    let dropped = ask(&world, from).await.expect("dropped");
    assert_eq!((dropped.strays[0].dropped, dropped.troubles.len()), (1, 0));
    world.up("pods");
    assert_eq!(world.value("core", "/registry/pods/b").await, None);
    assert_eq!(world.value("pods", "/registry/pods/b").await, None);

    let unnamed = PlacementRepair { action: Action::Drop.into(), ..PlacementRepair::default() };
    assert_eq!(ask(&world, unnamed).await.expect_err("what?").code(), Code::InvalidArgument);
    let unknown = PlacementRepair { from: "nobody".to_owned(), ..of(Action::Drop) };
    assert_eq!(ask(&world, unknown).await.expect_err("who?").code(), Code::InvalidArgument);
    let query = PlacementQuery { repair: Some(of(Action::Drop)), ..PlacementQuery::default() };
    let asked = world.now().report(query).await.expect_err("that is no question");
    assert_eq!(asked.code(), Code::InvalidArgument);
}

/// Between the owner's write and the deletion, and after the deletion.
#[tokio::test(start_paused = true)]
async fn a_move_that_is_cut_goes_on_where_it_was() {
    for (group, step) in [("pods", "take in"), ("core", "drop")] {
        let world = World::calm().await;
        strange(&world).await;
        world.authority(Some(THREE)).await;
        world.mute(group, step);
        let (strays, troubles) = all(&world, of(Action::Move)).await;
        assert!(troubles.iter().any(|why| why.contains("is lost")), "{step}: {troubles:?}");
        assert!(strays.iter().all(|strays| strays.moved == 0), "{step}: {strays:?}");
        world.dies().await;
        world.reopens("core").await;
        world.reopens("pods").await;
        world.up(group);
        world.authority(Some(THREE)).await;
        let (strays, troubles) = all(&world, of(Action::Move)).await;
        assert_eq!(troubles, Vec::<String>::new(), "{step}");
        let left: u64 = strays.iter().map(|strays| strays.left).sum();
        assert_eq!(left, 1, "{step}: the one that differs: {strays:?}");
        for key in ["a", "b", "same"] {
            let key = format!("/registry/pods/{key}");
            assert_eq!(world.value("pods", &key).await.as_deref(), Some("v"), "{step}: {key}");
            assert_eq!(world.value("core", &key).await, None, "{step}: {key}");
        }
    }
}

/// Whatever is lost and whoever dies: no key is lost, and at the end each stands in its owner alone.
#[tokio::test(start_paused = true)]
async fn nothing_is_lost_over_a_bad_network() {
    for seed in 1..=20 {
        println!("KUBEBRAIN_SEED={seed}");
        let world = World::new(seed).await;
        world.goes_by("core", ALONE);
        let keys: Vec<String> = (0..300).map(|number| format!("/registry/pods/{number:03}")).collect();
        for key in &keys {
            world.write("core", key, key).await;
        }
        world.awaits("core").await;
        world.authority(Some(THREE)).await;
        loop {
            if world.chance(0..4) == 0 {
                world.dies().await;
                world.reopens(["core", "pods"][usize::try_from(world.chance(0..2)).expect("small")]).await;
                world.authority(Some(THREE)).await;
            }
            let (strays, troubles) = all(&world, of(Action::Move)).await;
            for key in &keys {
                let found = [world.value("pods", key).await, world.value("core", key).await];
                assert!(found.iter().flatten().any(|value| value == key), "seed {seed}: {key} is lost");
            }
            if troubles.is_empty()
                && strays.iter().all(|strays| strays.moved + strays.left + strays.keys == 0)
            {
                break;
            }
        }
        for key in &keys {
            assert_eq!(world.value("pods", key).await.as_ref(), Some(key), "seed {seed}");
            assert_eq!(world.value("core", key).await, None, "seed {seed}");
        }
        world.compact("core").await;
        world.holds_a_first_one().await;
    }
}

#[tokio::test(start_paused = true)]
async fn leases_go_along_and_what_home_does_not_know_is_left() {
    let world = World::calm().await;
    world.goes_by("core", ALONE);
    world.grant("core", 7).await;
    world.write_leased("core", "/registry/pods/a", "v", 7).await;
    world.goes_by("events", "home: events\ndefault: events\ngroups: { events: {} }\n");
    world.grant("events", 8).await;
    world.write_leased("events", "/registry/pods/b", "v", 8).await;
    world.awaits("core").await;
    world.awaits("events").await;
    world.authority(Some(THREE)).await;
    let (strays, troubles) = all(&world, of(Action::Move)).await;
    assert!(troubles.is_empty(), "{troubles:?}");
    let count = |group: &str| {
        let strays = strays.iter().find(|strays| strays.group == group).expect("it had one");
        (strays.moved, strays.left)
    };
    assert_eq!((count("core"), count("events")), ((1, 0), (0, 1)));
    assert_eq!(world.lease_keys("pods", 7), ["/registry/pods/a"]);
    assert_eq!(world.lease_keys("core", 7).len(), 0);
    assert_eq!(world.holders(7), ["pods"]);
    let report = ask(&world, of(Action::Move)).await.expect("an answer");
    assert_eq!(report.keys[0].outcome, "left: the home group does not know its lease 8, or not any more");
}

/// Home's store is from before what another group has agreed to: that becomes current, and a group has keys of what it gives
/// away.
#[tokio::test(start_paused = true)]
async fn a_recovery_that_gives_keys_away_is_mended() {
    let world = World::calm().await;
    world.seeded().await;
    world.put("pods", "/registry/pods/a").await;
    let before = world.copy("core");
    // As pods was still empty: it would have agreed, and was not asked any more.
    world.agrees("events", 2, &THREE.replace("kind: pods, group: pods", "kind: pods, group: events")).await;
    world.dies().await;
    world.becomes("core", before).await;
    world.authority(Some(THREE)).await;
    world.now().change(world::recover(PlacementRecover::default())).await.expect("recovers");
    let trouble = world.until(async |world| {
        let groups = world.report().await.groups;
        let pods = groups.into_iter().find(|group| group.name == "pods").expect("it is in it");
        Some(pods.trouble).filter(|trouble| trouble.contains("`kubebrain ctl placement repair` says which"))
    });
    let trouble = trouble.await;
    assert!(trouble.contains("group pods has keys under /registry/pods/"), "{trouble}");
    assert_eq!(world.pair("pods").number, 1, "it stays with what it goes by");
    let (strays, troubles) = all(&world, of(Action::Move)).await;
    assert_eq!((strays[0].moved, &strays[0].owner[..], troubles.len()), (1, "events", 0), "{strays:?}");
    world.compact("pods").await;
    let number = world.pair("core").number;
    assert!(number > 2, "{number}");
    world.holds(number).await;
    assert_eq!(world.value("events", "/registry/pods/a").await.as_deref(), Some("v"));
    assert_eq!(world.serves("events", "/registry/pods/a"), Ok(()));
}

/// A group on another disk than its own would hide what it has, and not begin again.
#[tokio::test(start_paused = true)]
async fn a_loss_is_not_accepted_where_keys_would_be_hidden() {
    let world = World::calm().await;
    world.seeded().await;
    world.goes_by("pods", "home: pods\ndefault: pods\ngroups: { pods: {} }\n");
    world.put("pods", "/registry/secrets/a").await;
    world.put("pods", "/registry/pods/a").await;
    world.awaits("pods").await;
    let recover = PlacementRecover { without: Vec::new(), accept_loss: "pods".to_owned() };
    world.now().change(world::recover(recover)).await.expect("it is decided");
    let trouble = world.until(async |world| {
        let groups = world.report().await.groups;
        groups
            .into_iter()
            .find(|group| group.name == "pods" && group.trouble.contains("repair"))
            .map(|it| it.trouble)
    });
    assert!(trouble.await.contains("group pods has keys under /registry/secrets/"));
    let secrets = PlacementRepair { kind: "secrets".to_owned(), ..of(Action::Move) };
    let (strays, troubles) = all(&world, secrets).await;
    assert_eq!((strays[0].moved, troubles.len()), (1, 0), "{strays:?} {troubles:?}");
    world.compact("pods").await;
    world.until(async |world| (world.pair("pods").number == world.pair("core").number).then_some(())).await;
    world.reopens("pods").await;
    assert_eq!(world.value("pods", "/registry/pods/a").await.as_deref(), Some("v"));
    assert_eq!(world.value("core", "/registry/secrets/a").await.as_deref(), Some("v"));
}
