//! Pods are given to another group while there are pods, by who thinks that a file does it: nothing is hidden at any moment,
//! nothing is left over when the file is put back, and every process starts again.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Client, keys};
use crate::groups::{Groups, report};
use crate::process::{Binary, Place, Process, Start};
use crate::until;

const PODS: &str = "/registry/pods/";
const GROUPS: [&str; 3] = ["core", "pods", "events"];

/// Who lists pods all the time, through each proxy, and sees all that were acknowledged before.
struct Watchful {
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    over: Arc<AtomicBool>,
    lists: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Watchful {
    fn begin(proxies: &[Process]) -> Self {
        let mut watchful = Self {
            acknowledged: Arc::default(),
            over: Arc::default(),
            lists: Arc::default(),
            tasks: JoinSet::new(),
        };
        for proxy in proxies {
            let client = Client::new(proxy.address());
            let (acknowledged, over) = (watchful.acknowledged.clone(), watchful.over.clone());
            let lists = watchful.lists.clone();
            watchful.tasks.spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let wanted = acknowledged.lock().clone();
                    let listed = client.list(PODS).await.expect("nobody hinders a list");
                    let listed: BTreeSet<String> = keys(&listed).into_iter().collect();
                    let hidden: Vec<_> = wanted.difference(&listed).collect();
                    assert!(hidden.is_empty(), "hidden: {hidden:?}");
                    lists.fetch_add(1, Ordering::SeqCst);
                    sleep(Duration::from_millis(1)).await;
                }
            });
        }
        watchful
    }

    /// Makes a pod through a proxy; gives its revision.
    async fn create(&self, proxy: &Process, name: &str) -> i64 {
        let key = format!("{PODS}{name}");
        let revision = Client::new(proxy.address()).put(&key, "1").await.expect("pods are served");
        self.acknowledged.lock().insert(key);
        revision
    }

    /// How many lists there were; all showed all.
    async fn end(mut self) -> u64 {
        self.over.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("every list shows every pod");
        }
        self.lists.load(Ordering::SeqCst)
    }
}

fn text(at: &dyn Fn(&str) -> String, owner: &str) -> String {
    let groups: String = GROUPS.iter().map(|name| format!("  {name}: {}\n", at(name))).collect();
    format!("home: core\ndefault: core\ngroups:\n{groups}kinds:\n  - {{ kind: pods, group: {owner} }}\n")
}

/// `kubebrain ctl placement apply`, which has to end with one sentence of why not.
fn refused(binary: Binary, groups: &Groups, file: &Path) {
    let home = format!("--endpoints={}", groups.peer_url("core"));
    let file = file.to_str().expect("UTF-8");
    let why = binary.ctl(["placement", "apply", file, "--wait", &home]).expect_err("pods have keys");
    assert_eq!(why.lines().count(), 1, "{why}");
    for word in ["nothing has changed", "group pods has keys under /registry/pods/", "to group events"] {
        assert!(why.contains(word), "{word:?} is not in {why}");
    }
}

/// Nothing of it is anywhere.
async fn is_as_before(groups: &Groups, pods: &BTreeSet<String>) {
    for name in GROUPS {
        let held = groups.goes_by(name).await.expect("an answer");
        assert_eq!(held.current.map(|current| current.number), Some(1), "{name}");
        assert!(held.adopted.is_none(), "{name}");
        // The brain itself, past every proxy.
        let own = Client::new(groups.brains[name].address()).list(PODS).await;
        match name {
            "pods" => assert_eq!(&keys(&own.expect("a list")).into_iter().collect::<BTreeSet<_>>(), pods),
            _ => assert!(own.is_err(), "{name} serves pods: {own:?}"),
        }
    }
    let report = report(groups.channel("core")).await.expect("a report");
    assert!(report.prepared.is_none(), "{report:?}");
}

/// All of it; `adjust` says on what brains keep their state.
///
/// # Panics
/// Where a pod is hidden, or something is left over.
pub async fn run(place: &Place, binary: Binary, adjust: &dyn Fn(Start) -> Start) {
    let mut groups = Groups::start(place, &GROUPS, &|at| text(at, "pods"), adjust).await;
    let mut proxies = Vec::new();
    for name in ["first", "second"] {
        proxies.push(Start::proxy(place, name, &groups.file).tied().run().await);
    }
    let watchful = Watchful::begin(&proxies);
    let mut last = 0;
    for number in 0..20 {
        last = watchful.create(&proxies[number % 2], &format!("before-{number}")).await;
    }

    // The file that all were started with says something else.
    let before = std::fs::read_to_string(&groups.file).expect("a file");
    let after = text(&|name| groups.at(name), "events");
    std::fs::write(&groups.file, &after).expect("a file");
    for process in groups.brains.values().chain(&proxies) {
        until("that a file which differs is said to be none", async || {
            process.log().contains("kubebrain ctl placement apply").then_some(())
        })
        .await;
    }
    for (number, proxy) in proxies.iter().enumerate() {
        let revision = watchful.create(proxy, &format!("edited-{number}")).await;
        assert!(revision > last, "{revision} after {last}");
        last = revision;
    }
    // And so does who asks for it.
    refused(binary, &groups, &place.file("next.yaml", &after));
    for (number, proxy) in proxies.iter().enumerate() {
        last = watchful.create(proxy, &format!("refused-{number}")).await.max(last);
    }
    std::fs::write(&groups.file, before).expect("a file");
    sleep(Duration::from_millis(1500)).await; // it is looked at each second
    let pods = watchful.acknowledged.lock().clone();
    is_as_before(&groups, &pods).await;
    let lists = watchful.end().await;
    assert!(lists > 100, "{lists} lists");
    eprintln!("{lists} lists showed all of up to {} pods", pods.len());

    for name in GROUPS {
        let brain = groups.brains.remove(name).expect("a brain");
        groups.brains.insert(name.to_owned(), brain.restart().await);
    }
    for proxy in proxies {
        let proxy = proxy.restart().await;
        let client = Client::new(proxy.address());
        let listed = until("a list", async || client.list(PODS).await.ok()).await;
        assert_eq!(keys(&listed).into_iter().collect::<BTreeSet<_>>(), pods);
        let revision = client.put(&format!("{PODS}before-0"), "2").await.expect("pods are served");
        assert!(revision > last, "{revision} after {last}");
        last = revision;
    }
    is_as_before(&groups, &pods).await;
}
