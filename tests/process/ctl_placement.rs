//! `ctl placement`: what needs no server, who may change the placement where, and a change from `show` to `rollback`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::BINARY;
use kit::client::{Client, keys};
use kit::pki::{Authority, Pair};
use kit::process::{Place, Process, Start};
use kit::until;

/// The common name of every certificate that the kit makes: its library's own.
const COMMON_NAME: &str = "rcgen self signed cert";

const ONE: &str = "home: core\ndefault: core\ngroups: { core: {}, pods: {} }\n";

/// What a command ends with: exit code, standard output, standard error.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
    pub(crate) errors: String,
}

impl Told {
    #[track_caller]
    pub(crate) fn ends(self, code: i32, words: &str) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.said.contains(words) || self.errors.contains(words), "{words:?} is not in {self:?}");
        self.said
    }
}

/// `kubebrain ctl placement`, with something on its standard input.
pub(crate) fn told(arguments: &[&str], input: &str) -> Told {
    let mut command = Command::new(BINARY.path());
    command.args(["ctl", "placement"]).args(arguments).env_remove("ETCDCTL_ENDPOINTS");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    // A command that reads no input may be gone by now.
    let _unread = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Told { code: output.status.code(), said: text(output.stdout), errors: text(output.stderr) }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_file_is_checked_and_read_without_a_server() {
    let place = BINARY.place();
    let good = place.file("good.yaml", &format!("{ONE}kinds: [{{ kind: pods, group: pods }}]\n"));
    told(&["check", text(&good), "--standalone"], "").ends(0, "good.yaml can be applied.");
    let said = told(&["check", text(&good)], "").ends(0, "See whether the 2 warnings are meant so.");
    assert!(said.contains("good.yaml:3: warning: group core has no brains"), "{said}");
    let doubtful = "home: core\ndefault: core\ngroups: { core: {} }\nkinds: [{ kind: pod, group: core }]\n";
    let wanted = "standard input:4: warning: Kubernetes stores nothing as kind pod: is `kind: pods` meant?";
    told(&["check", "-", "--standalone"], doubtful).ends(0, wanted);
    let bad = "home: nobody\ndefault: core\ngroups: { core: {} }\n";
    let said = told(&["check", "-"], bad).ends(1, "1 error: it cannot be applied");
    assert!(said.contains("standard input:1: error: there is no group `nobody` under groups"), "{said}");
    let said = told(&["check", "-", "-o", "json"], bad).ends(1, "");
    let json: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (&json["findings"][0]["line"], &json["findings"][0]["severity"]),
        (&1.into(), &"error".into())
    );
    told(&["check", "/nowhere.yaml"], "").ends(1, "/nowhere.yaml");
    told(&["check"], "").ends(2, "<FILE>");

    let arguments = ["where", "/registry/pods/ns/a", "--file", text(&good)];
    told(&arguments, "").ends(0, "belongs to group pods, by the rule for /registry/pods/.");
    let said = told(&[&arguments[..], &["-o", "json"]].concat(), "").ends(0, "");
    let json: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&json["group"], &json["unit"]), (&"pods".into(), &"kind pods".into()));
    told(&["where", "compact_rev_key", "--file", "-"], ONE).ends(0, "belongs to group core, by home");

    let nobody = "--endpoints=http://127.0.0.1:1";
    told(&["show", nobody], "")
        .ends(1, "the placement could not be asked for: http://127.0.0.1:1: not reached");
    told(&["apply", text(&good), nobody], "").ends(1, "not reached");
    told(&["apply", text(&good), "--dry-run", "--wait", nobody], "").ends(2, "--wait");
    let help = told(&["--help"], "").ends(0, "Exit codes:");
    assert!(help.contains("show -o yaml"), "{help}");
}

/// What has to be named for a server with TLS.
fn secured(url: &str, ca: &Path, pair: &Pair) -> Vec<String> {
    let path = |flag: &str, path: &Path| format!("--{flag}={}", text(path));
    vec![
        format!("--endpoints={url}"),
        path("cacert", ca),
        path("cert", &pair.certificate),
        path("key", &pair.key),
    ]
}

pub(crate) fn with<'a>(arguments: &[&'a str], reach: &'a [String]) -> Vec<&'a str> {
    arguments.iter().copied().chain(reach.iter().map(String::as_str)).collect()
}

async fn standalone(place: &Place, file: &Path, admin: &str) -> (Process, Vec<String>) {
    let ours = Authority::new(place, &format!("ours-{}", admin.len()));
    let (server, client) = (ours.issue("server", 1), ours.issue("client", 2));
    let start = Start::standalone(place).placement(file).https(&server.certificate, &server.key);
    let start = start.flag("trusted-ca-file", text(&ours.file)).flag("placement-admin", admin);
    let process = start.run().await;
    let reach = secured(&format!("https://{}", process.address()), &ours.file, &client);
    (process, reach)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_change_the_placement_only_by_a_certificate_that_is_named() {
    let place = BINARY.place();
    let file = place.file("placement.yaml", ONE);
    let next = format!("{ONE}kinds: [{{ kind: widgets, group: pods }}]\n");
    let refused = "ask with a certificate whose common name is in --placement-admin, or ask a brain at its --listen-peer-urls";

    let plain = Start::standalone(&place).placement(&file).run().await;
    let reach = [format!("--endpoints=http://{}", plain.address())];
    told(&with(&["show"], &reach), "").ends(0, "Placement number 1 of lineage ");
    told(&with(&["apply", "-"], &reach), &next).ends(1, refused);
    told(&with(&["recover"], &reach), "").ends(1, refused);
    told(&with(&["abort"], &reach), "").ends(0, "Nothing to do");
    assert!(plain.log().contains("a client may not make this call: refused"), "{}", plain.log());
    drop(plain);

    let (other, reach) = standalone(&place, &file, "somebody else").await;
    told(&with(&["show"], &reach), "").ends(0, "Placement number 1 of lineage ");
    told(&with(&["apply", "-"], &reach), &next).ends(1, refused);
    drop(other);

    let (_named, reach) = standalone(&place, &file, &format!("somebody else,{COMMON_NAME}")).await;
    told(&with(&["apply", "-", "--wait"], &reach), &next).ends(0, "kind widgets: from core to pods");
    told(&with(&["show", "-o", "yaml"], &reach), "").ends(0, "# number: 2, lineage: ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_need_certificates() {
    let place = BINARY.place();
    let failure = Start::standalone(&place).flag("placement-admin", "admin").fails().await;
    let wanted =
        "--placement-admin admin: clients have no names without certificates, so it needs --trusted-ca-file";
    assert!(failure.message.contains(wanted), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_file_after_an_apply_changes_nothing_at_a_restart_of_standalone() {
    let place = BINARY.place();
    let file = place.file("placement.yaml", ONE);
    let (server, reach) = standalone(&place, &file, COMMON_NAME).await;
    let next = format!("{ONE}kinds: [{{ kind: widgets, group: pods }}]\n");
    told(&with(&["apply", "-", "--wait"], &reach), &next)
        .ends(0, "Number 2 is the placement of the cluster now.");
    let server = server.restart().await;
    let url = format!("--endpoints=https://{}", server.address());
    let reach: Vec<_> = [url].into_iter().chain(reach[1..].iter().cloned()).collect();
    told(&with(&["where", "/registry/widgets/a"], &reach), "").ends(0, "belongs to group pods");
    told(&with(&["show", "-o", "yaml"], &reach), "").ends(0, "# number: 2, lineage: ");
}

/// Two brains and their proxy. Changes go to the home brain's listener for peers, the rest to the proxy.
struct Cluster {
    place: Place,
    brains: Vec<Process>,
    proxy: Process,
}

impl Cluster {
    async fn new() -> Self {
        let place = BINARY.place();
        let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let addresses =
            [free().expect("a port is free").to_string(), free().expect("a port is free").to_string()];
        let [core, pods] = &addresses;
        let text = format!(
            "home: core\ndefault: core\ngroups:\n  core: {{ brains: [\"http://{core}\"] }}\n  pods: {{ brains: [\"http://{pods}\"] }}\n"
        );
        let file = place.file("placement.yaml", &text);
        // They wait for each other: number 1 is there once all groups of the file have answered.
        let start =
            |group, address| Start::brain(&place, group).placement(&file).peers("http", address).run();
        let (core, pods) = tokio::join!(start("core", core), start("pods", pods));
        let proxy = Start::proxy(&place, "proxy", &file).run().await;
        Self { place, brains: vec![core, pods], proxy }
    }

    fn peers(&self) -> [String; 1] {
        [format!("--endpoints=http://{}", self.brains[0].peer_address())]
    }

    fn clients(&self) -> [String; 1] {
        [format!("--endpoints=http://{}", self.proxy.address())]
    }

    /// The current document, as a file to be changed.
    fn shown(&self) -> String {
        told(&with(&["show", "-o", "yaml"], &self.clients()), "").ends(0, "# number: ")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_moves_while_it_is_empty_and_back_again() {
    let cluster = Cluster::new().await;
    let (peers, clients) = (cluster.peers(), cluster.clients());
    let client = Client::new(cluster.proxy.address());
    client.put("/registry/secrets/a", "1").await.expect("a put");
    let shown = cluster.shown();
    assert!(shown.starts_with("# number: 1, lineage: "), "{shown}");

    let next = cluster.place.file("next.yaml", &format!("{shown}kinds: [{{ kind: pods, group: pods }}]\n"));
    let moved = "kind pods: from core to pods";
    told(&with(&["diff", text(&next)], &clients), "").ends(0, moved);
    told(&with(&["apply", text(&next), "--wait"], &clients), "").ends(1, "--placement-admin");
    let said =
        told(&with(&["apply", text(&next), "--dry-run"], &peers), "").ends(0, "Every group would agree.");
    assert!(said.contains("group core: agrees\ngroup pods: agrees\n"), "{said}");
    told(&with(&["apply", text(&next), "--wait"], &peers), "")
        .ends(0, "Number 2 is the placement of the cluster now.");
    told(&with(&["apply", text(&next)], &peers), "")
        .ends(1, "is a change of number 1, and number 2 is current");
    told(&with(&["apply", text(&next), "--from=0"], &peers), "").ends(0, "Nothing to do: number 2");
    told(&with(&["where", "/registry/pods/ns/a"], &clients), "")
        .ends(0, "belongs to group pods, by the rule");

    // Everybody goes by it, and says so.
    until("all brains show number 2", async || {
        let groups = BINARY.ctl(["groups", &clients[0], "-o", "json"]).ok()?;
        let json: Value = serde_json::from_str(&groups).expect("JSON");
        let brains = json["groups"]
            .as_array()?
            .iter()
            .flat_map(|group| group["brains"].as_array().into_iter().flatten());
        let numbers: Vec<_> = brains.map(|brain| brain["placementNumber"].as_u64()).collect();
        (numbers == [Some(2), Some(2)]).then_some(())
    })
    .await;

    // What has keys does not go, and nothing changes.
    client.put("/registry/pods/ns/a", "1").await.expect("a put");
    told(&with(&["rollback", "1", "--wait"], &peers), "").ends(1, "/registry/pods/");
    assert_eq!(keys(&client.list("/registry/pods/").await.expect("a list")), ["/registry/pods/ns/a"]);

    // Nor does what has history; once it is compacted it goes.
    let deleted = client.delete("/registry/pods/ns/a").await.expect("a deletion");
    told(&with(&["rollback", "1", "--wait"], &peers), "").ends(1, "compact");
    client.compact(deleted).await.expect("a compaction");
    told(&with(&["rollback", "1", "--wait"], &peers), "").ends(0, "kind pods: from pods to core").clear();
    told(&with(&["history"], &clients), "").ends(0, "applied");
    told(&with(&["abort"], &peers), "").ends(0, "Nothing to do: no change is under way.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_stopped_while_a_group_is_away() {
    let mut cluster = Cluster::new().await;
    let client = Client::new(cluster.proxy.address());
    let next = cluster.shown() + "kinds: [{ kind: widgets, group: pods }]\n";
    let next = cluster.place.file("next.yaml", &next);
    cluster.brains[1].kill().await;
    let peers = cluster.peers();
    let said =
        told(&with(&["apply", text(&next), "--wait", "--timeout=30s", "--command-timeout=20s"], &peers), "");
    assert!(matches!(said.code, Some(1)) && (said.said.clone() + &said.errors).contains("pods"), "{said:?}");
    client.put("/registry/widgets/a", "1").await.expect("the kind is where it was");
    assert!(cluster.shown().starts_with("# number: "), "the placement is shown by who is there");
}
