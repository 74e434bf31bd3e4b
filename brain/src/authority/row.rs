//! [`Decided`]: what the home group's log says of the placement, with its documents read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, DocumentError};
use kubebrain_shared::range::KeyRange;

use crate::rows::codec::DecidedRow;

/// What is decided.
#[derive(Debug)]
pub(super) struct Decided {
    /// As it is stored.
    pub row: Arc<DecidedRow>,
    /// The one that holds.
    pub current: Option<Document>,
    /// The change that is under way.
    pub prepared: Option<Document>,
}

/// Where a group stands in what is decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// Peer URLs of its brains; none where nobody has named any.
    pub brains: Vec<String>,
    pub in_current: bool,
    pub in_prepared: bool,
}

impl Decided {
    /// # Errors
    /// See [`DocumentError`]: a later version has written it.
    pub(super) fn read(row: Arc<DecidedRow>) -> Result<Self, DocumentError> {
        let read = |wire: &Option<_>| wire.as_ref().map(Document::from_wire).transpose();
        let (current, prepared) = (read(&row.current)?, read(&row.prepared)?);
        Ok(Self { row, current, prepared })
    }

    /// The number that the next document gets.
    pub(super) fn next_number(&self) -> u64 {
        let given = [&self.current, &self.prepared].into_iter().flatten().map(Document::number);
        given.fold(self.row.last, u64::max) + 1
    }

    /// Groups that the change under way does without.
    pub(super) fn without(&self) -> BTreeSet<GroupName> {
        names(&self.row.without)
    }

    /// Groups that are in no document any more and have not heard so.
    pub(super) fn removed(&self) -> BTreeSet<GroupName> {
        names(&self.row.removed)
    }

    /// True if the group has gone by a placement of this cluster.
    pub(super) fn is_member(&self, group: &GroupName) -> bool {
        self.row.members.iter().any(|member| member == group.as_str())
    }

    /// True if one of the two documents names the group.
    pub(super) fn names(&self, group: &GroupName) -> bool {
        [&self.current, &self.prepared].into_iter().flatten().any(|document| document.names(group))
    }

    /// The groups of both documents, and those that are in none any more, by name.
    pub(super) fn parts(&self) -> BTreeMap<GroupName, Part> {
        let mut parts = parts(self.current.as_ref(), self.prepared.as_ref());
        for group in self.removed() {
            parts.entry(group).or_default();
        }
        parts
    }
}

/// The groups of two documents; addresses are those of the later one where it has some.
pub(super) fn parts(current: Option<&Document>, prepared: Option<&Document>) -> BTreeMap<GroupName, Part> {
    let mut parts: BTreeMap<GroupName, Part> = BTreeMap::new();
    for (document, is_next) in [(current, false), (prepared, true)] {
        for (group, brains) in document.iter().flat_map(|document| document.table().groups()) {
            let part = parts.entry(group.clone()).or_default();
            match is_next {
                true => part.in_prepared = true,
                false => part.in_current = true,
            }
            if !brains.is_empty() {
                part.brains = brains.to_vec();
            }
        }
    }
    parts
}

/// True if some key is the group's by this document.
pub(super) fn owns_something(document: &Document, group: &GroupName) -> bool {
    document.table().owners(&KeyRange::ALL).contains(group)
}

fn names(names: &[String]) -> BTreeSet<GroupName> {
    names.iter().filter_map(|name| GroupName::parse(name)).collect()
}
