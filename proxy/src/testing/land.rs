//! Brains at addresses, for proxies that find them by themselves.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use kubebrain_net::dial::Connector;
use kubebrain_net::serve::memory;
use kubebrain_proto::peer::PlacementDocument;
use kubebrain_shared::placement::Document;
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;

use super::brain::Brain;
use super::client::Client;
use super::{LINEAGE, document, name, serve};
use crate::config::Config;
use crate::proxy::{Contacts, Joining, Proxy, Reach};

/// Groups `core` (home), `events` and `pods`, each of one brain at `http://GROUP:1` and `http://GROUP:2`: one that is
/// reached in one way only, inside the process, says nothing of itself.
pub(crate) struct Land {
    pub(crate) brains: HashMap<&'static str, Arc<Brain>>,
    at: Arc<Mutex<HashMap<String, Connector>>>,
    stopper: Stopper,
}

/// Its first table; `kinds` are more rules.
pub(crate) fn text(kinds: &str) -> String {
    let brains =
        |group: &str| format!("  {group}: {{ brains: [\"http://{group}:1\", \"http://{group}:2\"] }}\n");
    let groups = ["core", "pods", "events"].map(brains).concat();
    format!(
        "home: core\ndefault: core\ngroups:\n{groups}kinds:\n  - {{ kind: pods, group: pods }}\n  \
         - {{ kind: events, group: events }}\n{kinds}"
    )
}

/// The rule by which jobs go from core to events.
pub(crate) const JOBS: &str = "  - { kind: jobs, group: events }\n";

pub(crate) fn numbered(kinds: &str, number: u64) -> Document {
    document(&text(kinds), LINEAGE, number)
}

impl Land {
    pub(crate) fn new() -> Self {
        let groups = ["core", "pods", "events"];
        let brains = groups.map(|group| (group, Arc::new(Brain::new(name(group), numbered("", 1)))));
        let land = Self { brains: brains.into(), at: Arc::default(), stopper: Stopper::default() };
        groups.into_iter().for_each(|group| land.found(group));
        land
    }

    pub(crate) fn brain(&self, group: &str) -> &Arc<Brain> {
        &self.brains[group]
    }

    /// A brain is at this address too, over a connection of its own.
    pub(crate) fn put(&self, group: &str, url: &str) {
        let connector = Connector::Memory(serve(self.brain(group).service(), &self.stopper));
        self.at.lock().insert(url.to_owned(), connector);
    }

    /// A group's brain is where the placement says.
    pub(crate) fn found(&self, group: &str) {
        [1, 2].into_iter().for_each(|port| self.put(group, &format!("http://{group}:{port}")));
    }

    /// Nobody is there for who looks from now on.
    pub(crate) fn lost(&self, group: &str) {
        for port in [1, 2] {
            self.at.lock().insert(format!("http://{group}:{port}"), Connector::Memory(memory().0));
        }
    }

    /// All brains go by this one.
    pub(crate) fn commit(&self, document: &Document) {
        self.brains.values().for_each(|brain| brain.commit(document.clone()));
    }

    /// A proxy that asks these addresses; not started.
    pub(crate) fn joining(
        &self,
        config: Config,
        urls: &[&str],
        directory: Option<PathBuf>,
    ) -> (Proxy, Client) {
        let at = Arc::clone(&self.at);
        let reach = Reach::new(move |url| {
            at.lock().get(url).cloned().ok_or_else(|| format!("{url}: there is no such address"))
        });
        let contacts = Contacts { urls: urls.iter().map(ToString::to_string).collect(), file: None };
        let proxy = Proxy::joining(config, Joining { reach, contacts, directory });
        let client = Client::new(Connector::Memory(serve(proxy.service(), &self.stopper)));
        (proxy, client)
    }

    /// A proxy that has found all of them.
    pub(crate) async fn proxy(&self, config: Config) -> (Proxy, Client) {
        let (proxy, client) = self.joining(config, &["http://core:1"], None);
        proxy.start().await;
        (proxy, client)
    }
}

/// As [`numbered`], for groups that are raised and compacted with it.
pub(crate) fn numbered_at(kinds: &str, number: u64, revision: i64, compacted: i64) -> Document {
    let wire = PlacementDocument { revision, compacted, ..numbered(kinds, number).to_wire() };
    Document::from_wire(&wire).expect("a legal placement")
}
