//! What operators type: `ctl status` and `ctl groups` with their exit codes, a proxy's readiness by group, and the program about
//! itself.

use std::fs::File;
use std::io::pipe;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::BINARY;
use crate::proxies::{GROUPS, cluster, table};
use kit::client::Client;
use kit::groups::apply;
use kit::http1::get;
use kit::process::{Process, Start};
use kit::until;

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY.path());
    command.args(arguments).stdin(Stdio::null()).env_remove("ETCDCTL_ENDPOINTS");
    command.output().expect("the binary runs")
}

/// The exit code, standard output and standard error.
fn told(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = run(arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn endpoints(process: &Process) -> String {
    format!("--endpoints=http://{}", process.address())
}

/// The columns of a brain's row in `ctl groups`.
fn row<'a>(table: &'a str, group: &str) -> Vec<&'a str> {
    let row = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    row.into_iter().find(|columns| columns.first() == Some(&group)).unwrap_or_else(|| panic!("{table}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brain_that_is_gone_is_shown_so_and_takes_only_its_own_check_with_it() {
    let place = BINARY.place();
    let (mut brains, proxies) = cluster(&place).await;
    let proxy = &proxies[0];
    let all = endpoints(proxy);
    let (code, said, errors) = told(&["ctl", "groups", &all]);
    assert_eq!((code, &errors[..]), (Some(0), ""), "{said}");
    assert_eq!(row(&said, "pods")[2], "master", "{said}");
    assert_eq!(
        told(&["ctl", "status", "--endpoint", proxy.address()]).0,
        Some(0),
        "the old name of the flag"
    );
    let (status, page) = get(proxy.address(), "/readyz?verbose").await;
    assert_eq!(status, 200, "{page}");
    for group in GROUPS {
        assert!(page.contains(&format!("[+]group-{group} ok\n")), "{page}");
    }

    let pods = GROUPS.iter().position(|group| *group == "pods").expect("a group");
    brains[pods].kill().await;
    let page = until("a check that fails", async || {
        let (status, page) = get(proxy.address(), "/readyz").await;
        (status == 503).then_some(page)
    })
    .await;
    let failed: Vec<_> = page.lines().filter(|line| line.starts_with("[-]")).collect();
    assert!(failed.len() == 1 && failed[0].starts_with("[-]group-pods failed: "), "{page}");
    for (path, wanted) in [
        ("/readyz/group-pods", 503),
        ("/readyz/group-core", 200),
        ("/readyz/group-nope", 404),
        ("/readyz/data_corruption", 200),
        ("/readyz?exclude=group-pods", 200),
        ("/livez", 200),
        ("/health", 503),
        ("/health?exclude=group-pods", 200),
    ] {
        assert_eq!(get(proxy.address(), path).await.0, wanted, "{path}");
    }
    let (code, said, errors) = told(&["ctl", "groups", &all]);
    assert_eq!((code, row(&said, "pods")[2], row(&said, "core")[2]), (Some(3), "gone", "master"), "{said}");
    assert!(errors.contains("group pods has no master") && errors.contains("is gone"), "{errors}");
    let (code, said, errors) = told(&["ctl", "status", &all]);
    assert!(code == Some(3) && errors.contains("group pods"), "{code:?}\n{said}\n{errors}");
    let (_, json, _) = told(&["ctl", "groups", "-o", "json", &all]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let pods = json["groups"].as_array().expect("groups").iter().find(|group| group["name"] == "pods");
    let brain = &pods.expect("the group")["brains"][0];
    assert!(brain["gone"] == true && brain["role"] == "gone" && brain["reads"] == false, "{brain}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urls_of_brains_that_were_swapped_are_named_and_nothing_is_asked_there() {
    let place = BINARY.place();
    let (brains, proxies) = cluster(&place).await;
    let client = Client::new(proxies[0].address());
    client.put("/registry/pods/ns/a", "v").await.expect("a put");
    let at = |name: &str| {
        let taken = match name {
            "pods" => "events",
            "events" => "pods",
            other => other,
        };
        let found = GROUPS.iter().position(|group| *group == taken).expect("a group");
        format!("{{ brains: [\"http://{}\"] }}", brains[found].peer_address())
    };
    let home = Client::new(brains[0].peer_address()).channel();
    let right = std::fs::read_to_string(place.join("placement.yaml")).expect("the placement");
    apply(&home, &table(at)).await.expect("groups are still where they were");
    let address = proxies[0].address();
    // Both are named; and the groups are found where they say that they are, by the addresses that were given at the start.
    until("that both are noticed", async || {
        let (code, said, errors) = told(&["ctl", "groups", &endpoints(&proxies[0])]);
        let named = said.contains("of group events") && said.contains("of group pods");
        (code == Some(4) && named && errors.contains("group pods")).then_some(())
    })
    .await;
    for (group, other) in [("pods", "events"), ("events", "pods")] {
        let logged = format!("the placement names a brain of group {other} for group {group}");
        assert!(proxies[0].log().contains(&logged), "{}", proxies[0].log());
    }
    assert_eq!(client.get("/registry/pods/ns/a").await.expect("a read").kvs.len(), 1);
    apply(&home, &right).await.expect("and back");
    until("ready", async || (get(address, "/readyz").await.0 == 200).then_some(())).await;
    assert_eq!(client.get("/registry/pods/ns/a").await.expect("a read").kvs.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standalone_shows_epochs_and_compactions_and_has_etcds_checks_only() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await.restart().await;
    let client = Client::new(server.address());
    for number in 0..5 {
        client.put("/registry/pods/ns/a", number.to_string()).await.expect("a put");
    }
    client.compact(4).await.expect("a compaction");
    let all = endpoints(&server);
    let (code, said, errors) = told(&["ctl", "groups", &all]);
    assert_eq!(code, Some(0), "{errors}");
    for group in GROUPS {
        let row = row(&said, group);
        let epoch: u64 = row[3].parse().expect("an epoch");
        assert!(row[2] == "master" && epoch > 1 && row[5] == "4", "{said}");
    }
    let (_, status, _) = told(&["ctl", "status", &all, "-o", "json"]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert!(status[0]["dbSize"].as_u64() > Some(0) && status[0]["epoch"].as_u64() > Some(1), "{status}");
    let (_, page) = get(server.address(), "/readyz?verbose").await;
    assert!(!page.contains("group-"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_files_has_no_size() {
    let place = BINARY.place();
    let server = Start::standalone(&place).flag("engine", "memory").run().await;
    let (_, status, _) = told(&["ctl", "status", &endpoints(&server), "-o", "json"]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert!(status[0]["dbSize"].is_null() && status[0]["dbSizeInUse"].is_u64(), "{status}");
    let (_, table, _) = told(&["ctl", "status", &endpoints(&server)]);
    let columns: Vec<_> = table.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(columns[7], "-", "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_replaces_no_file_unless_told_and_restore_counts_as_status_does() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    let client = Client::new(server.address());
    for number in 0..4 {
        client.put("/registry/pods/ns/a", number.to_string()).await.expect("a put");
        client.put("/registry/pods/ns/b", number.to_string()).await.expect("a put");
        client.delete("/registry/pods/ns/b").await.expect("a deletion");
    }
    let file = place.file("backup.db", "somebody's");
    let path = file.to_str().expect("UTF-8");
    let (code, _, errors) = told(&["ctl", "snapshot", "save", path, &endpoints(&server)]);
    assert!(code == Some(1) && errors.contains("exists") && errors.contains("--force"), "{errors}");
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "somebody's");
    let (code, _, errors) = told(&["ctl", "snapshot", "save", path, "--force", &endpoints(&server)]);
    assert_eq!(code, Some(0), "{errors}");
    let (_, status, _) = told(&["ctl", "snapshot", "status", path]);
    let into = place.join("restored");
    let into = format!("--data-dir={}", into.display());
    let (code, restored, errors) = told(&["ctl", "restore", path, &into]);
    assert_eq!(code, Some(0), "{errors}");
    for count in ["keys", "versions", "leases", "compacted"] {
        let of = |text: &str| {
            let line = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            line.into_iter().find(|words| words.first() == Some(&count)).map(|words| words[1].to_owned())
        };
        assert!(of(&status).is_some() && of(&status) == of(&restored), "{count}:\n{status}\n{restored}");
    }
    assert!(restored.contains("--bump-revision=1000000000 --mark-compacted"), "{restored}");
    let into = format!("--data-dir={}", place.join("bumped").display());
    let bumped = told(&["ctl", "restore", path, &into, "--bump-revision=10", "--mark-compacted"]).1;
    assert!(!bumped.contains("--bump-revision"), "{bumped}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_for_a_kind_that_is_spelled_wrong_is_named() {
    let place = BINARY.place();
    let text = table(|_| "{}".to_owned()).replace("kind: pods", "kind: pod");
    let server = Start::standalone(&place).placement(&place.file("placement.yaml", &text)).run().await;
    let log = server.log();
    let line = log.lines().find(|line| line.contains("WARN") && line.contains("placement.yaml"));
    assert!(line.is_some_and(|line| line.contains("kind pod,") && line.contains("`kind: pods`")), "{log}");
    assert!(!log.contains("kind events"), "{log}");
}

#[test]
fn the_program_tells_of_itself() {
    let (code, version, _) = told(&["version"]);
    let begins = ["kubebrain Version: ", "Git SHA: ", "Rust Version: ", "OS/Arch: ", "etcd API: "];
    let lines: Vec<_> = version.lines().collect();
    assert!(code == Some(0) && lines.len() == begins.len(), "{version}");
    assert!(
        lines.iter().zip(begins).all(|(line, begin)| line.len() > begin.len() && line.starts_with(begin))
    );

    for (shell, part) in
        [("bash", "complete -F _kubebrain"), ("zsh", "#compdef kubebrain"), ("fish", "complete -c kubebrain")]
    {
        let (code, script, _) = told(&["completion", shell]);
        assert!(code == Some(0) && script.contains(part) && script.contains("listen-client-urls"), "{shell}");
    }
    assert_eq!(told(&["completion", "nushell"]).0, Some(2));

    let (code, page, _) = told(&["man", "ctl", "restore"]);
    assert!(code == Some(0) && page.contains(".TH") && page.contains("bump\\-revision"), "{page}");
    let (code, _, errors) = told(&["man", "nothing"]);
    assert!(code == Some(1) && errors.contains("standalone"), "{errors}");
    let place = BINARY.place();
    assert_eq!(told(&["man", "--dir", place.path().to_str().expect("UTF-8")]).0, Some(0));
    for page in ["kubebrain.1", "kubebrain-standalone.1", "kubebrain-ctl-snapshot-save.1"] {
        assert!(place.join(page).exists(), "{page}");
    }

    let (_, help, _) = told(&["standalone", "--help"]);
    for heading in ["Listening:", "TLS:", "Storage:", "TiKV:", "Memory:", "Compaction:", "Logging:"] {
        assert!(help.lines().any(|line| line == heading), "{heading}\n{help}");
    }
    let (_, help, _) = told(&["ctl", "--help"]);
    for part in ["status", "groups", "snapshot", "restore", "save", "Exit codes", "etcdctl"] {
        assert!(help.contains(part), "{part}\n{help}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_panics_where_standard_output_is_closed_or_full() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    let all = endpoints(&server);
    let commands: [&[&str]; 7] = [
        &["ctl", "groups", &all],
        &["ctl", "status", &all, "-o", "json"],
        &["version"],
        &["completion", "bash"],
        &["man"],
        &["standalone", "--print-config"],
        &["standalone", "--help"],
    ];
    for arguments in commands {
        let command = || {
            let mut command = Command::new(BINARY.path());
            command.args(arguments).stdin(Stdio::null()).stderr(Stdio::piped());
            command
        };
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let output = command().stdout(writer).output().expect("the binary runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{arguments:?}: {}\n{errors}", output.status);

        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        let output = command().stdout(full).output().expect("the binary runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
        let is_help = arguments.contains(&"--help"); // clap's own
        assert!(
            is_help || (output.status.code() == Some(1) && errors.contains("standard output")),
            "{errors}"
        );
    }
}
