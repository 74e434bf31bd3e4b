//! The cluster of a brain: its placement, where its brains are, and who decides.
//!
//! What a brain was given, a file or `--join`, are addresses: by them it finds whoever knows the placement. Only where its
//! group is home in its own file, and there is no placement yet, is the file what the cluster begins with.

use std::sync::Arc;
use std::time::Duration;

use kubebrain_brain::authority::{Authority, Seed};
use kubebrain_brain::service::{Decided, Decides};
use kubebrain_brain::store::Store;
use kubebrain_proto::admin::{PlacementCommand, PlacementQuery};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::metadata;
use kubebrain_shared::placement::{Document, Placement};
use kubebrain_shared::stop::Stop;
use parking_lot::Mutex;
use tokio::time::sleep;
use tonic::{Status, async_trait};

use super::reach::{Asked, Network, Reached};
use crate::placement::File;

/// Between two looks at what the group goes by.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// See the module. Shared by all that this brain is over time.
pub(super) struct Cluster {
    pub(super) group: GroupName,
    pub(super) peer_urls: Vec<String>,
    pub(super) network: Arc<Network>,
    file: Mutex<Option<File>>,
    /// The store of this moment, and who decides if that is here.
    pub(super) now: Mutex<Now>,
}

#[derive(Clone, Default)]
pub(super) struct Now {
    pub(super) store: Option<Store>,
    pub(super) authority: Option<Authority>,
}

impl Cluster {
    pub(super) fn new(
        group: GroupName,
        peer_urls: Vec<String>,
        network: Arc<Network>,
        file: Option<File>,
    ) -> Arc<Self> {
        let file = Mutex::new(file);
        Arc::new(Self { group, peer_urls, network, file, now: Mutex::default() })
    }

    /// The group is served from this store now.
    pub(super) fn goes_by(&self, store: &Store) {
        *self.now.lock() = Now { store: Some(store.clone()), authority: None };
    }

    fn document(&self) -> Option<Document> {
        let store = self.now.lock().store.clone()?;
        let document = store.state().held.load().document().clone();
        (document.number() > 0).then_some(document)
    }

    /// The file has changed: brains may be elsewhere.
    pub(super) fn read_again(&self, file: File) {
        self.network.contacts(&file.table);
        let authority = self.now.lock().authority.clone();
        if let Some(authority) = authority {
            authority.reseed(seed(&file));
        }
        *self.file.lock() = Some(file);
    }

    /// While this brain is master: decides what the placement is, if its group is home.
    pub(super) async fn decide(self: Arc<Self>, store: Store, stop: Stop) {
        let mut placed = store.state().placed();
        while !self.is_home(&store) {
            tokio::select! { biased;
                () = stop.asked() => return,
                Ok(()) = placed.changed() => {}
                else => return,
            }
        }
        let file = self.file.lock().clone();
        let seed = file.filter(|file| *file.table.home() == self.group).map(|file| seed(&file));
        let reach =
            Reached { group: self.group.clone(), store: store.clone(), network: self.network.clone() };
        let authority = Authority::new(store, Arc::new(reach), seed);
        self.now.lock().authority = Some(authority.clone());
        tracing::info!(group = %self.group, "this brain decides the cluster's placement");
        authority.run(stop).await;
        self.now.lock().authority = None;
    }

    fn is_home(&self, store: &Store) -> bool {
        let decided = store.state().decided();
        if decided.current.is_some() || decided.prepared.is_some() {
            return true;
        }
        let held = store.state().held.load();
        match held.document().number() {
            0 => self.file.lock().as_ref().is_some_and(|file| *file.table.home() == self.group),
            _ => *held.table().home() == self.group,
        }
    }

    /// Says by what the group goes, and once of each file in what it differs.
    pub(super) async fn watch(self: Arc<Self>, stop: Stop) {
        let (mut said, mut compared) = (None, None);
        loop {
            tokio::select! { biased;
                () = stop.asked() => return,
                () = sleep(LOOK_EVERY) => {}
            }
            self.say_whom_it_waits_for().await;
            let Some(document) = self.document() else { continue };
            if said != Some(document.id()) {
                said = Some(document.id());
                tracing::info!(group = %self.group, number = document.number(), "a new placement is in use");
            }
            let file = self.file.lock().clone();
            let Some(file) = file.filter(|file| compared.as_ref() != Some(&file.text)) else { continue };
            if let Some(difference) = difference(document.table(), &file.table) {
                tracing::warn!(
                    "the cluster goes by placement number {}, and {} differs: {difference}; of the file only the addresses \
                     count, and it is applied by `kubebrain ctl placement apply {}`",
                    document.number(),
                    file.name,
                    file.name
                );
            }
            compared = Some(file.text);
        }
    }

    /// Asks home's master, wherever it is.
    async fn ask(&self, asked: Asked, is_passed_on: bool) -> Decided {
        let authority = self.now.lock().authority.clone();
        if let Some(authority) = authority {
            return match asked {
                Asked::Report(query) => authority.report(query).await,
                Asked::Change(command) => authority.change(command).await,
            };
        }
        if is_passed_on {
            return Err(metadata::not_master(&[]));
        }
        let home = match self.home() {
            Some(home) => Ok(home),
            None => self.home_by_contacts().await,
        };
        let (name, urls) = home.map_err(|why| Status::unavailable(format!("kubebrain: {why}")))?;
        let urls: Vec<_> = urls.into_iter().filter(|url| !self.peer_urls.contains(url)).collect();
        if name == self.group && urls.is_empty() {
            let opens = "it is this brain, which has not begun to decide yet";
            return Err(Status::unavailable(format!(
                "kubebrain: no master of the home group {name} answers: {opens}"
            )));
        }
        self.network.pass_on(urls, asked).await.map_err(|status| match status.code() {
            tonic::Code::Unavailable => Status::unavailable(format!(
                "kubebrain: no master of the home group {name} answers: {}",
                status.message()
            )),
            _ => status,
        })
    }

    /// The home group and where its brains are, as far as this brain knows.
    pub(super) fn home(&self) -> Option<(GroupName, Vec<String>)> {
        let named = |table: &Placement| {
            let home = table.home();
            let urls = table.groups().find(|(group, _)| *group == home).map(|(_, urls)| urls.to_vec());
            (home.clone(), urls.unwrap_or_default())
        };
        let by_document = self.document().map(|document| named(document.table()));
        let by_file = self.file.lock().as_ref().map(|file| named(&file.table));
        let (home, mut urls) = by_document.or_else(|| by_file.clone())?;
        if let Some((_, contacts)) = by_file.filter(|(name, _)| *name == home) {
            urls.extend(contacts);
        }
        urls.extend_from_slice(self.network.joins());
        Some((home, urls))
    }
}

fn seed(file: &File) -> Seed {
    let (text, name) = (file.text.clone(), file.name.clone());
    Seed { text, file: name, lineage: rand::random(), is_watched: false }
}

/// In what a file differs from what holds; where brains are makes no difference.
fn difference(current: &Placement, file: &Placement) -> Option<String> {
    let alike = current.groups().map(|(group, _)| group).eq(file.groups().map(|(group, _)| group));
    (!alike || !current.owns_alike(file)).then(|| current.difference(file).to_string())
}

/// What calls about the placement are answered with.
pub(super) struct Deciding(pub Arc<Cluster>);

#[async_trait]
impl Decides for Deciding {
    async fn report(&self, query: PlacementQuery, is_passed_on: bool) -> Decided {
        self.0.ask(Asked::Report(query), is_passed_on).await
    }

    async fn change(&self, command: PlacementCommand, is_passed_on: bool) -> Decided {
        self.0.ask(Asked::Change(command), is_passed_on).await
    }
}
