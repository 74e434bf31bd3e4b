//! `kubebrain ctl groups`: the brains of each group, and what they are.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use futures_util::future::join_all;
use kubebrain_proto::admin::admin_client::AdminClient;
use kubebrain_proto::admin::{Brain, GroupsRequest, GroupsResponse};
use kubebrain_proto::peer::standing_response::Role;
use tokio::time::timeout;

use super::servers::{Output, Servers, sentence};
use super::table;

/// What one server says of the groups that it knows.
pub(super) async fn ask(servers: &Servers, endpoint: &str) -> Result<GroupsResponse, String> {
    let channel = servers.certificates.channel(endpoint).map_err(|error| format!("{error:#}"))?;
    let asked =
        timeout(servers.command_timeout, async { AdminClient::new(channel).groups(GroupsRequest {}).await });
    match asked.await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(sentence(&status)),
        Err(_late) => Err("no answer in time".to_owned()),
    }
}

/// Fails where a server does not answer or a group has no master.
pub(super) async fn run(servers: Servers) -> Result<()> {
    let answers = join_all(servers.endpoints.iter().map(|endpoint| ask(&servers, endpoint))).await;
    let mut groups = BTreeMap::<String, BTreeMap<(String, String), Brain>>::new();
    let mut failed = Vec::new();
    for (endpoint, answer) in servers.endpoints.iter().zip(answers) {
        match answer {
            Ok(answer) => merge(&mut groups, answer),
            Err(why) => failed.push(format!("{endpoint}: {why}")),
        }
    }
    match servers.output {
        Output::Table => {
            let rows: Vec<_> = groups
                .iter()
                .flat_map(|(group, brains)| brains.values().map(|brain| row(group, brain)))
                .collect();
            table::print(&HEAD, &rows);
        }
        Output::Json => println!("{:#}", json(&groups)),
    }
    let masterless = groups.iter().filter(|(_, brains)| !brains.values().any(is_master));
    failed.extend(masterless.map(|(group, _)| format!("group {group} has no master")));
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

/// A brain that several servers tell of is shown as it was told of with the most recent revision.
fn merge(groups: &mut BTreeMap<String, BTreeMap<(String, String), Brain>>, answer: GroupsResponse) {
    for group in answer.groups {
        let brains = groups.entry(group.name).or_default();
        for brain in group.brains {
            let key = match &brain.standing {
                Some(standing) => (standing.name.clone(), String::new()),
                None => (String::new(), brain.address.clone()),
            };
            let revision = |brain: &Brain| brain.standing.as_ref().map_or(-1, |standing| standing.revision);
            match brains.get_mut(&key) {
                Some(known) if revision(known) >= revision(&brain) => {}
                Some(known) => *known = brain,
                None => {
                    brains.insert(key, brain);
                }
            }
        }
    }
}

fn is_master(brain: &Brain) -> bool {
    brain.trouble.is_empty()
        && brain.standing.as_ref().is_some_and(|standing| standing.role() == Role::Master)
}

const fn role(role: Role) -> &'static str {
    match role {
        Role::Unknown => "unknown",
        Role::Master => "master",
        Role::Slave => "slave",
    }
}

const HEAD: [&str; 9] =
    ["GROUP", "BRAIN", "ROLE", "EPOCH", "REVISION", "COMPACTED", "BEHIND", "READS", "NOTE"];

fn row(group: &str, brain: &Brain) -> Vec<String> {
    let Some(standing) = &brain.standing else {
        let mut row = vec![group.to_owned(), brain.address.clone()];
        row.extend((2..HEAD.len() - 1).map(|_| "-".to_owned()));
        row.push(brain.trouble.clone());
        return row;
    };
    let behind = match (standing.role(), standing.behind_ms) {
        (Role::Slave, ms) if ms >= 1000 => format!("{:.1} s", ms as f64 / 1000.0),
        (Role::Slave, ms) => format!("{ms} ms"),
        _ => "-".to_owned(),
    };
    let compacted = if standing.compacted < 0 { "-".to_owned() } else { standing.compacted.to_string() };
    let note = if brain.trouble.is_empty() { &standing.trouble } else { &brain.trouble };
    vec![
        group.to_owned(),
        standing.name.clone(),
        role(standing.role()).to_owned(),
        standing.epoch.to_string(),
        standing.revision.to_string(),
        compacted,
        behind,
        if standing.reads { "yes" } else { "no" }.to_owned(),
        note.clone(),
    ]
}

fn json(groups: &BTreeMap<String, BTreeMap<(String, String), Brain>>) -> serde_json::Value {
    let brain = |brain: &Brain| {
        let standing = brain.standing.clone().unwrap_or_default();
        serde_json::json!({
            "name": standing.name,
            "address": brain.address,
            "role": role(standing.role()),
            "epoch": standing.epoch,
            "revision": standing.revision,
            "compacted": standing.compacted,
            "behindMs": standing.behind_ms,
            "reads": standing.reads,
            "trouble": if brain.trouble.is_empty() { &standing.trouble } else { &brain.trouble },
            "master": standing.master,
            "memberId": format!("{:x}", standing.member_id),
            "placementVersion": format!("{:x}", standing.placement),
            "clientUrls": standing.client_urls,
            "peerUrls": standing.peer_urls,
            "version": standing.version,
        })
    };
    let group = |(name, brains): (&String, &BTreeMap<_, Brain>)| serde_json::json!({ "name": name, "brains": brains.values().map(brain).collect::<Vec<_>>() });
    serde_json::json!({ "groups": groups.iter().map(group).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use kubebrain_proto::admin::Group;
    use kubebrain_proto::peer::StandingResponse;

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
        let rows: Vec<_> = groups["core"].values().map(|brain| row("core", brain)[1..5].join(" ")).collect();
        assert_eq!(rows, ["a master 0 7", "b slave 0 9"]);
        assert!(groups["core"].values().any(is_master));
    }

    #[test]
    fn a_brain_that_was_never_heard_is_shown_by_its_address() {
        let brain = Brain { address: "10.0.0.1:2380".into(), standing: None, trouble: "refused".into() };
        assert_eq!(row("core", &brain).join(" "), "core 10.0.0.1:2380 - - - - - - refused");
        assert!(!is_master(&brain));
    }
}
