//! [`Table`]: the placement as a lookup, with the groups it names; replaced whole.

use std::collections::HashMap;
use std::sync::Arc;

use kubebrain_net::dial::Connector;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, DocumentId, Placement};

use crate::classify::Span;
use crate::config::Config;
use crate::group::Group;
use crate::metrics::Metrics;
use crate::topology::TopologyChanges;

/// Where every key goes, at one moment.
#[derive(Debug)]
pub(crate) struct Table {
    document: Document,
    /// False before this proxy has heard of a placement: there are no groups, and whoever asks waits.
    is_known: bool,
    groups: HashMap<GroupName, Arc<Group>>,
    home: Arc<Group>,
}

impl Table {
    /// Groups that `before` had keep their connections; a group without a connector is a group that never answers.
    pub(crate) fn new(
        document: Document,
        mut connectors: HashMap<GroupName, Vec<Connector>>,
        before: Option<&Self>,
        config: &Config,
        changes: &Arc<TopologyChanges>,
    ) -> Self {
        let mut group =
            |name: &GroupName| match (connectors.remove(name), before.and_then(|b| b.groups.get(name))) {
                (Some(connectors), _) => Arc::new(Group::new(name.clone(), connectors, config, changes)),
                (None, Some(group)) => Arc::clone(group),
                (None, None) => {
                    tracing::error!(group = %name, "the placement names a group without a brain");
                    Arc::new(Group::new(name.clone(), Vec::new(), config, changes))
                }
            };
        let placement = document.table();
        let mut groups: HashMap<_, _> =
            placement.groups().map(|(name, _)| (name.clone(), group(name))).collect();
        let home =
            Arc::clone(groups.entry(placement.home().clone()).or_insert_with(|| group(placement.home())));
        Self { document, is_known: true, groups, home }
    }

    /// Of a proxy that has not heard of a placement: home is a group without a brain, of which nobody is told.
    pub(crate) fn unknown(config: &Config, changes: &Arc<TopologyChanges>) -> Self {
        let document = Document::unnumbered(Placement::builtin());
        // It is nobody, and shows nowhere.
        let config = Config { metrics: Metrics::default(), ..config.clone() };
        let home = Group::new(document.table().home().clone(), Vec::new(), &config, changes);
        Self { document, is_known: false, groups: HashMap::new(), home: Arc::new(home) }
    }

    /// Listens to what the groups' brains say of themselves.
    pub(crate) fn listen(&self, config: &Config) {
        self.groups.values().for_each(|group| group.listen(config));
    }

    pub(crate) fn document(&self) -> &Document {
        &self.document
    }

    pub(crate) fn id(&self) -> DocumentId {
        self.document.id()
    }

    /// False until there is a placement.
    pub(crate) const fn is_known(&self) -> bool {
        self.is_known
    }

    pub(crate) fn home(&self) -> &Arc<Group> {
        &self.home
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.groups.values()
    }

    pub(crate) fn group(&self, name: &GroupName) -> Option<&Arc<Group>> {
        self.groups.get(name)
    }

    /// The groups that own part of the span, in order of names; home for a span that is empty or nobody's.
    pub(crate) fn owners(&self, span: &Span) -> Vec<Arc<Group>> {
        let found = |name: &GroupName| self.groups.get(name).map(Arc::clone);
        if span.end.is_empty() {
            return vec![
                found(self.document.table().owner(&span.key)).unwrap_or_else(|| Arc::clone(&self.home)),
            ];
        }
        let range = span.range();
        let owners: Vec<_> = match range.is_empty() {
            true => found(self.document.table().owner(&span.key)).into_iter().collect(),
            false => self.document.table().owners(&range).iter().filter_map(found).collect(),
        };
        if owners.is_empty() { vec![Arc::clone(&self.home)] } else { owners }
    }
}
