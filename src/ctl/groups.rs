//! `kubebrain ctl groups`: the brains of each group, and what they are.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use futures_util::future::join_all;
use kubebrain_proto::admin::admin_client::AdminClient;
use kubebrain_proto::admin::{Brain, Group, GroupsRequest, GroupsResponse};
use kubebrain_proto::peer::StandingResponse;
use kubebrain_proto::peer::standing_response::Role;
use tokio::time::timeout;

use super::placements::{self, OfMost};
use super::servers::{Output, Reach, Servers, sentence};
use super::table;
use super::verdict::Verdict;
use crate::print;

/// What one server says of the groups that it knows.
pub(super) async fn ask(servers: &Reach, endpoint: &str) -> Result<GroupsResponse, String> {
    let channel = servers.certificates.channel(endpoint).map_err(|error| format!("{error:#}"))?;
    let asked =
        timeout(servers.command_timeout, async { AdminClient::new(channel).groups(GroupsRequest {}).await });
    match asked.await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(sentence(&status)),
        Err(_late) => Err("no answer in time".to_owned()),
    }
}

type Groups = BTreeMap<String, BTreeMap<(String, String), Brain>>;

/// Fails where a server does not answer, a group has no master or a brain does not do its part: see [`Verdict`].
pub(super) async fn run(servers: Servers) -> Result<()> {
    let answers =
        join_all(servers.reach.endpoints.iter().map(|endpoint| ask(&servers.reach, endpoint))).await;
    let (mut groups, mut led) = (Groups::new(), BTreeSet::new());
    let mut verdict = Verdict::default();
    for (endpoint, answer) in servers.reach.endpoints.iter().zip(answers) {
        match answer {
            Ok(answer) => {
                verdict.add(judge_brains(&answer));
                led.extend(
                    answer
                        .groups
                        .iter()
                        .filter(|group| is_led(&answer, group))
                        .map(|group| group.name.clone()),
                );
                merge(&mut groups, answer);
            }
            Err(why) => verdict.refused(format!("{endpoint}: {why}")),
        }
    }
    // Of all answers together: servers that are asked one by one tell of themselves alone.
    let others = placements::of_most(groups.values().flat_map(BTreeMap::values));
    for (group, brains) in &groups {
        for (brain, note) in brains.values().filter_map(|brain| Some((brain, others.note(brain)?))) {
            verdict.reduced(format!("group {group}: brain {}: {note}", called(brain)));
        }
    }
    match servers.output {
        Output::Table => {
            let rows: Vec<_> = groups
                .iter()
                .flat_map(|(group, brains)| brains.values().map(|brain| row(group, brain, &others)))
                .collect();
            table::print(&HEAD, &rows)?;
        }
        Output::Json => print::line(&format!("{:#}", json(&groups, &others)))?,
    }
    for group in groups.keys().filter(|group| !led.contains(*group)) {
        verdict.refused(masterless(group));
    }
    verdict.done()
}

/// Of one server's answer: which groups have no master, and which brains are gone or do not do their part.
pub(super) fn judge(answer: &GroupsResponse) -> Verdict {
    let mut verdict = judge_brains(answer);
    let others = placements::of_most(answer.groups.iter().flat_map(|group| &group.brains));
    for group in &answer.groups {
        for (brain, note) in group.brains.iter().filter_map(|brain| Some((brain, others.note(brain)?))) {
            verdict.reduced(format!("group {}: brain {}: {note}", group.name, called(brain)));
        }
    }
    for group in answer.groups.iter().filter(|group| !is_led(answer, group)) {
        verdict.refused(masterless(&group.name));
    }
    verdict
}

fn judge_brains(answer: &GroupsResponse) -> Verdict {
    let mut verdict = Verdict::default();
    for group in &answer.groups {
        for brain in &group.brains {
            let name = called(brain);
            let trouble = trouble(brain);
            match (brain.gone, trouble.is_empty()) {
                (true, _) => verdict.reduced(format!("group {}: brain {name} is gone", group.name)),
                (false, false) => verdict.reduced(format!("group {}: brain {name}: {trouble}", group.name)),
                (false, true) => {}
            }
        }
    }
    verdict
}

/// True if the group has a master, by the word of who has answered. A brain tells of itself alone, and a slave names its
/// master for as long as it hears it.
fn is_led(answer: &GroupsResponse, group: &Group) -> bool {
    let names_one =
        |brain: &Brain| brain.standing.as_ref().is_some_and(|standing| !standing.master.is_empty());
    group.brains.iter().any(|brain| is_master(brain) || answer.server == "brain" && names_one(brain))
}

fn masterless(group: &str) -> String {
    format!("group {group} has no master: what is written to it waits or is refused")
}

/// True if who answers for the group has files of its own, and says how large they are.
pub(super) fn is_sized(group: &Group) -> bool {
    let stores = |brain: &Brain| brain.standing.as_ref().is_some_and(|standing| standing.stored_bytes > 0);
    group.brains.iter().any(|brain| !brain.gone && stores(brain))
}

/// By its name, or where it is asked.
fn called(brain: &Brain) -> &str {
    match &brain.standing {
        Some(standing) if !standing.name.is_empty() => &standing.name,
        _ => &brain.address,
    }
}

/// Why it does not do its part; empty where it does.
fn trouble(brain: &Brain) -> &str {
    let own = brain.standing.as_ref().map_or("", |standing| &standing.trouble);
    if brain.trouble.is_empty() && !brain.gone { own } else { &brain.trouble }
}

/// A brain that several servers tell of is shown as one that hears it tells of it, with the most recent revision.
fn merge(groups: &mut Groups, answer: GroupsResponse) {
    for group in answer.groups {
        let brains = groups.entry(group.name).or_default();
        for brain in group.brains {
            let key = match &brain.standing {
                Some(standing) => (standing.name.clone(), String::new()),
                None => (String::new(), brain.address.clone()),
            };
            let told = |brain: &Brain| {
                (!brain.gone, brain.standing.as_ref().map_or(-1, |standing| standing.revision))
            };
            match brains.get_mut(&key) {
                Some(known) if told(known) >= told(&brain) => {}
                Some(known) => *known = brain,
                None => {
                    brains.insert(key, brain);
                }
            }
        }
    }
}

fn is_master(brain: &Brain) -> bool {
    !brain.gone
        && brain.trouble.is_empty()
        && brain.standing.as_ref().is_some_and(|standing| standing.role() == Role::Master)
}

fn role(brain: &Brain) -> &'static str {
    match brain.standing.as_ref().map(StandingResponse::role) {
        _ if brain.gone => "gone",
        None => "-",
        Some(Role::Unknown) => "unknown",
        Some(Role::Master) => "master",
        Some(Role::Slave) => "slave",
    }
}

const HEAD: [&str; 10] =
    ["GROUP", "BRAIN", "ROLE", "EPOCH", "REVISION", "COMPACTED", "BEHIND", "READS", "PLACEMENT", "NOTE"];

fn row(group: &str, brain: &Brain, others: &OfMost) -> Vec<String> {
    let Some(standing) = &brain.standing else {
        let mut row = vec![group.to_owned(), brain.address.clone(), role(brain).to_owned()];
        row.extend((3..HEAD.len() - 1).map(|_| "-".to_owned()));
        row.push(brain.trouble.clone());
        return row;
    };
    let behind = match (standing.role(), standing.behind_ms) {
        (Role::Slave, ms) if ms >= 1000 => format!("{:.1} s", ms as f64 / 1000.0),
        (Role::Slave, ms) => format!("{ms} ms"),
        _ => "-".to_owned(),
    };
    let compacted = if standing.compacted < 0 { "-".to_owned() } else { standing.compacted.to_string() };
    vec![
        group.to_owned(),
        called(brain).to_owned(),
        role(brain).to_owned(),
        standing.epoch.to_string(),
        standing.revision.to_string(),
        compacted,
        behind,
        if standing.reads { "yes" } else { "no" }.to_owned(),
        placements::shown(standing),
        match (trouble(brain), others.note(brain)) {
            (trouble, None) => trouble.to_owned(),
            ("", Some(note)) => note,
            (trouble, Some(note)) => format!("{trouble}; {note}"),
        },
    ]
}

fn json(groups: &Groups, others: &OfMost) -> serde_json::Value {
    let brain = |brain: &Brain| {
        let standing = brain.standing.clone().unwrap_or_default();
        serde_json::json!({
            "name": standing.name,
            "address": brain.address,
            "role": role(brain),
            "gone": brain.gone,
            "epoch": standing.epoch,
            "revision": standing.revision,
            "compacted": standing.compacted,
            "behindMs": standing.behind_ms,
            "reads": standing.reads,
            "trouble": trouble(brain),
            "master": standing.master,
            "memberId": format!("{:x}", standing.member_id),
            "placementLineage": format!("{:x}", standing.placement_lineage),
            "placementNumber": standing.placement_number,
            "placementAdopted": standing.placement_adopted,
            "placementNote": others.note(brain).unwrap_or_default(),
            "dbSize": (standing.stored_bytes > 0).then_some(standing.stored_bytes),
            "clientUrls": standing.client_urls,
            "peerUrls": standing.peer_urls,
            "version": standing.version,
        })
    };
    let group = |(name, brains): (&String, &BTreeMap<_, Brain>)| {
        let brains: Vec<_> = brains.values().map(brain).collect();
        serde_json::json!({ "name": name, "brains": brains })
    };
    serde_json::json!({ "groups": groups.iter().map(group).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(name: &str, role: Role, revision: i64) -> GroupsResponse {
        let standing = StandingResponse {
            name: name.to_owned(),
            role: role.into(),
            revision,
            ..StandingResponse::default()
        };
        let brains = vec![Brain { standing: Some(standing), ..Brain::default() }];
        GroupsResponse {
            groups: vec![Group { name: "core".to_owned(), brains }],
            ..GroupsResponse::default()
        }
    }

    #[test]
    fn a_brain_is_shown_once_as_it_was_last() {
        let mut groups = BTreeMap::new();
        for told in [answer("a", Role::Master, 7), answer("b", Role::Slave, 9), answer("a", Role::Slave, 5)] {
            merge(&mut groups, told);
        }
        let rows: Vec<_> = groups["core"]
            .values()
            .map(|brain| row("core", brain, &OfMost::default())[1..5].join(" "))
            .collect();
        assert_eq!(rows, ["a master 0 7", "b slave 0 9"]);
        assert!(groups["core"].values().any(is_master));
    }

    #[test]
    fn a_brain_that_was_never_heard_is_shown_by_its_address() {
        let brain = Brain {
            address: "10.0.0.1:2380".into(),
            trouble: "refused".into(),
            gone: true,
            ..Brain::default()
        };
        assert_eq!(
            row("core", &brain, &OfMost::default()).join(" "),
            "core 10.0.0.1:2380 gone - - - - - - refused"
        );
        assert!(!is_master(&brain));
    }

    #[test]
    fn one_that_is_gone_is_shown_so_and_is_master_of_nothing() {
        let mut told = answer("a", Role::Master, 7);
        assert!(judge(&told).done().is_ok());
        told.groups[0].brains[0].gone = true;
        told.groups[0].brains[0].trouble = "refused".to_owned();
        let verdict = judge(&told);
        assert_eq!(verdict.code(), 3);
        assert!(verdict.to_string().starts_with("group core has no master"), "{verdict}");
        let shown = row("core", &told.groups[0].brains[0], &OfMost::default());
        assert_eq!((&shown[2][..], &shown[7][..], &shown[9][..]), ("gone", "no", "refused"));

        // of two, the other one is there
        told.groups[0].brains.push(answer("b", Role::Master, 8).groups[0].brains[0].clone());
        let verdict = judge(&told);
        assert_eq!((verdict.code(), verdict.to_string().as_str()), (4, "group core: brain a is gone"));

        // and who hears it knows better
        let mut groups = BTreeMap::new();
        merge(&mut groups, told);
        merge(&mut groups, answer("a", Role::Slave, 6));
        assert_eq!(role(&groups["core"][&("a".to_owned(), String::new())]), "slave");
    }

    #[test]
    fn a_slave_that_is_asked_itself_names_its_master() {
        let mut told = answer("b", Role::Slave, 5);
        assert_eq!(judge(&told).code(), 3, "a proxy that hears no master");
        told.server = "brain".to_owned();
        assert!(judge(&told).done().is_err(), "a slave that has none");
        if let Some(standing) = &mut told.groups[0].brains[0].standing {
            standing.master = "a".to_owned();
        }
        assert!(judge(&told).done().is_ok());
    }

    #[test]
    fn a_slave_that_does_not_read_is_named_with_its_reason() {
        let mut told = answer("a", Role::Master, 7);
        told.groups[0].brains.push(answer("b", Role::Slave, 5).groups[0].brains[0].clone());
        if let Some(standing) = &mut told.groups[0].brains[1].standing {
            standing.trouble = "the master does not answer".to_owned();
        }
        let verdict = judge(&told);
        let wanted = "group core: brain b: the master does not answer";
        assert_eq!((verdict.code(), verdict.to_string().as_str()), (4, wanted));
    }

    #[test]
    fn who_goes_by_another_placement_is_named() {
        let mut told = answer("a", Role::Master, 7);
        for (name, number) in [("b", 17), ("c", 16), ("d", 0)] {
            told.groups[0].brains.push(answer(name, Role::Slave, 7).groups[0].brains[0].clone());
            let last = told.groups[0].brains.last_mut().and_then(|brain| brain.standing.as_mut());
            last.expect("a standing").placement_number = number;
        }
        let master = told.groups[0].brains[0].standing.as_mut().expect("a standing");
        (master.placement_number, master.placement_adopted) = (17, 18);
        let verdict = judge(&told);
        let wanted = "group core: brain c: goes by placement number 16, most go by 17; \
                      group core: brain d: goes by no placement, most go by number 17";
        assert_eq!((verdict.code(), verdict.to_string().as_str()), (4, wanted));
        let mut groups = BTreeMap::new();
        merge(&mut groups, told);
        let others = placements::of_most(groups.values().flat_map(BTreeMap::values));
        let rows: Vec<_> =
            groups["core"].values().map(|brain| row("core", brain, &others)[8..].join(" ")).collect();
        assert_eq!(
            rows,
            [
                "17, 18 adopted ",
                "17 ",
                "16 goes by placement number 16, most go by 17",
                "- goes by no placement, most go by number 17"
            ]
        );
        let json = json(&groups, &others);
        let first = &json["groups"][0]["brains"][0];
        assert_eq!((&first["placementNumber"], &first["placementAdopted"]), (&17.into(), &18.into()));
    }
}
