//! [`Arena`]: PD, a store, groups of brains and proxies, each behind a relay that can be bad to one of them alone.

use std::sync::Arc;
use std::time::Duration;

use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;

use crate::BINARY;
use crate::node::Node;
use crate::stage::{Door, KINDS};
use kit::cluster::{Advertised, Cluster, Ports, free_port};
use kit::process::Start;
use kit::relay::Relay;

pub(crate) const BRAINS: usize = 3;
/// The shipped ones: who is master is seen within so long, and nobody follows before it is over.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One group behind two proxies.
    OneGroup,
    /// The same without relays between brains and who asks them: a port of a process that is gone refuses, while a
    /// relay takes connections whoever is behind it, and then nobody knows what was carried out.
    Direct,
    /// Two groups behind one proxy.
    TwoGroups,
}

/// A brain: what comes to it from proxies and other brains goes through its relay.
pub(crate) struct Brain {
    pub(crate) node: Node,
    pub(crate) group: usize,
    pub(crate) peers: Relay,
    /// Its client listener, and its peers' past the relay.
    pub(crate) address: String,
    pub(crate) peer_address: String,
}

/// See the module.
pub(crate) struct Arena {
    pub(crate) cluster: Cluster,
    pub(crate) pd: Relay,
    pub(crate) store: Relay,
    pub(crate) brains: Vec<Brain>,
    pub(crate) proxies: Vec<Node>,
    pub(crate) placement: Arc<Placement>,
    pub(crate) groups: Vec<GroupName>,
    proxy_addresses: Vec<String>,
}

impl Arena {
    /// Everything serves. None without the kit.
    pub(crate) async fn start(shape: Shape, seed: u64) -> Option<Self> {
        let ports = Ports::free();
        let pd = Relay::discerning(ports.pd, seed).await;
        let store = Relay::discerning(ports.store, !seed).await;
        let advertised =
            Advertised { pd: Some(pd.address().to_owned()), store: Some(store.address().to_owned()) };
        let cluster = Cluster::with(ports, advertised).await?;
        let names: &[&str] = match shape {
            Shape::OneGroup | Shape::Direct => &["default"],
            Shape::TwoGroups => &["core", "pods-0"],
        };
        let mut arena = Self {
            cluster,
            pd,
            store,
            brains: Vec::new(),
            proxies: Vec::new(),
            placement: Arc::new(Placement::single(GroupName::parse("default").expect("a name"))),
            groups: names.iter().map(|name| GroupName::parse(name).expect("a name")).collect(),
            proxy_addresses: Vec::new(),
        };
        let ports: Vec<(u16, u16)> = (0..names.len() * BRAINS).map(|_| (free_port(), free_port())).collect();
        let mut relays = Vec::new();
        for (at, (_, peers)) in ports.iter().enumerate() {
            relays.push(Relay::discerning(*peers, seed ^ (at as u64 + 1)).await);
        }
        let place = |(relay, (_, peers)): (&Relay, &(u16, u16))| match shape {
            Shape::Direct => format!("127.0.0.1:{peers}"),
            _ => relay.address().to_owned(),
        };
        let places: Vec<String> = relays.iter().zip(&ports).map(place).collect();
        let text = placement(names, &places);
        arena.placement = Arc::new(Placement::parse(&text).expect("a placement"));
        for (at, (relay, (clients, peers))) in relays.into_iter().zip(ports).enumerate() {
            arena.add_brain(at, &text, &format!("robust-{seed:x}/"), &places[at], relay, (clients, peers));
        }
        let proxies = if shape == Shape::TwoGroups { 1 } else { 2 };
        for number in 0..proxies {
            let (place, address) = (BINARY.place(), format!("127.0.0.1:{}", free_port()));
            let file = place.file("placement.yaml", &text);
            let start = Start::proxy(&place, "proxy", &file).clients("http", &address);
            let start = start.flag("watch-progress-notify-interval", "300ms").tied();
            arena.proxies.push(Node::new(&format!("proxy-{number}"), place, start));
            arena.proxy_addresses.push(address);
        }
        arena.ready().await;
        Some(arena)
    }

    fn add_brain(
        &mut self,
        at: usize,
        table: &str,
        prefix: &str,
        advertised: &str,
        peers: Relay,
        (client, peer): (u16, u16),
    ) {
        let (group, number) = (at / BRAINS, at % BRAINS);
        let (place, name) = (BINARY.place(), format!("{}-{number}", self.groups[group]));
        let (address, peer_address) = (format!("127.0.0.1:{client}"), format!("127.0.0.1:{peer}"));
        let file = place.file("placement.yaml", table);
        let start = Start::brain(&place, self.groups[group].as_str())
            .clients("http", &address)
            .peers("http", &peer_address)
            .placement(&file)
            .flag("name", &name)
            .flag("election", "engine")
            .flag("initial-advertise-peer-urls", &format!("http://{advertised}"))
            .flag("watch-progress-notify-interval", "300ms")
            .tied()
            .on_tikv(self.pd.address(), prefix);
        let node = Node::new(&name, place, start);
        self.brains.push(Brain { node, group, peers, address, peer_address });
    }

    /// Whatever is down is started; all serve.
    pub(crate) async fn ready(&mut self) {
        let mut nodes: Vec<&mut Node> =
            self.brains.iter_mut().map(|brain| &mut brain.node).chain(&mut self.proxies).collect();
        for node in &mut nodes {
            node.start();
        }
        for node in nodes {
            node.ready().await;
        }
    }

    /// A door before each proxy and each brain.
    pub(crate) fn doors(&self) -> Vec<Door> {
        let proxies = self.proxies.iter().zip(&self.proxy_addresses);
        let mut doors: Vec<Door> = proxies.map(|(node, address)| Door::proxy(&node.name, address)).collect();
        for brain in &self.brains {
            let group = &self.groups[brain.group];
            let kinds = KINDS.into_iter().filter(|kind| self.placement.owner(kind.as_bytes()) == group);
            let scope = if self.groups.len() == 1 { 0 } else { 1 + brain.group };
            doors.push(Door::brain(&brain.node.name, &brain.address, kinds.collect(), scope));
        }
        doors
    }

    /// Who has become master of a group last, and in which epoch; it may be dead.
    pub(crate) fn master(&self, group: usize) -> Option<(usize, u64)> {
        let of_group = self.brains.iter().enumerate().filter(|(_, brain)| brain.group == group);
        of_group
            .filter_map(|(at, brain)| Some((at, epoch(&brain.node.log())?)))
            .max_by_key(|(_, epoch)| *epoch)
    }

    /// Everything between works again, and the store does what it is asked.
    pub(crate) async fn heal(&mut self) {
        self.pd.heal();
        self.store.heal();
        self.brains.iter().for_each(|brain| brain.peers.heal());
        self.cluster.busy(0).await;
        self.cluster.not_leader(0).await;
        self.cluster.delay("", Duration::ZERO).await;
    }

    pub(crate) fn must_run(&mut self) {
        self.brains.iter_mut().for_each(|brain| brain.node.must_run());
        self.proxies.iter_mut().for_each(Node::must_run);
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.brains.iter().map(|brain| &brain.node).chain(&self.proxies)
    }
}

/// The epoch of the last mastership in a log.
fn epoch(log: &str) -> Option<u64> {
    let last = log.lines().rev().find(|line| line.contains("master at"))?;
    last.split("epoch=").nth(1)?.split_whitespace().next()?.parse().ok()
}

/// The placement file, with brains at these places.
fn placement(names: &[&str], places: &[String]) -> String {
    let urls = |group: usize| {
        let of_group = &places[group * BRAINS..(group + 1) * BRAINS];
        let urls: Vec<_> = of_group.iter().map(|place| format!("\"http://{place}\"")).collect();
        urls.join(", ")
    };
    let groups: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(group, name)| format!("  {name}: {{ brains: [{}] }}\n", urls(group)))
        .collect();
    let mut text = format!(
        "prefix: /registry\nhome: {home}\ndefault: {home}\ngroups:\n{}",
        groups.concat(),
        home = names[0]
    );
    if let Some(pods) = names.get(1) {
        text += &format!("kinds:\n  - {{ kind: pods, group: {pods} }}\n");
    }
    text
}
