//! [`Document`]: a placement under a number, as a whole cluster goes by it.
//!
//! The placement of a cluster is one document at a time. Each change of it gets the next number, also one that is taken
//! back: then the old content comes under a new number. So two processes that name the same [`DocumentId`] mean the same
//! document, and contents need not be compared.

use std::fmt;
use std::sync::Arc;

use kubebrain_proto::peer::PlacementDocument;

use super::{Placement, PlacementErrors};
use crate::group::GroupName;
use crate::revision::Revision;

/// The largest text of a placement, 1 MiB: a message carries two, and one is a value of the storage.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Which document: of which cluster, and which of its numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentId {
    /// The cluster's; 0 where there is no placement.
    pub lineage: u64,
    /// From 1; 0 where there is no placement.
    pub number: u64,
}

/// What a group goes by: the document that holds, and the number that it has adopted beyond it, 0 for none. It only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// The number of the document that holds.
    pub number: u64,
    /// The number of the next one, from the group's adoption until that one holds or is taken back.
    pub adopted: u64,
}

/// A placement under a number. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Document(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: DocumentId,
    /// The lineage that this one took the place of; 0 for none.
    replaces: u64,
    after: u64,
    revision: Revision,
    compacted: i64,
    cluster: u64,
    text: String,
    table: Placement,
}

/// Why bytes are no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// What it says is no placement.
    #[error("placement number {number} cannot be read: {errors}")]
    Text {
        /// Its number.
        number: u64,
        /// What is wrong with it.
        errors: PlacementErrors,
    },
    /// A number that no document has.
    #[error("a placement has the impossible {what} {value}")]
    Number {
        /// Of what.
        what: &'static str,
        /// The number.
        value: i64,
    },
}

impl Document {
    /// The placement of a process that is part of no cluster: it has no number.
    pub fn unnumbered(table: Placement) -> Self {
        Self(Arc::new(Inner {
            id: DocumentId::default(),
            replaces: 0,
            after: 0,
            revision: Revision::ZERO,
            compacted: -1,
            cluster: 0,
            text: String::new(),
            table,
        }))
    }

    /// Reads one.
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub fn from_wire(wire: &PlacementDocument) -> Result<Self, DocumentError> {
        let PlacementDocument { lineage, number, revision, compacted, cluster_id, text, replaces, after } =
            wire;
        let table =
            Placement::parse(text).map_err(|errors| DocumentError::Text { number: *number, errors })?;
        let known = Revision::checked_from(*revision);
        Ok(Self(Arc::new(Inner {
            id: DocumentId { lineage: *lineage, number: *number },
            replaces: *replaces,
            after: *after,
            revision: known.ok_or(DocumentError::Number { what: "revision", value: *revision })?,
            compacted: *compacted,
            cluster: *cluster_id,
            text: text.clone(),
            table,
        })))
    }

    /// As it is stored and sent.
    pub fn to_wire(&self) -> PlacementDocument {
        let inner = &self.0;
        PlacementDocument {
            lineage: inner.id.lineage,
            number: inner.id.number,
            revision: inner.revision.to_wire(),
            compacted: inner.compacted,
            cluster_id: inner.cluster,
            text: inner.text.clone(),
            replaces: inner.replaces,
            after: inner.after,
        }
    }

    /// Which one it is.
    pub fn id(&self) -> DocumentId {
        self.0.id
    }

    /// Its number; 0 of a process that is part of no cluster.
    pub fn number(&self) -> u64 {
        self.0.id.number
    }

    /// The lineage that its own took the place of; 0 for none.
    pub fn replaces(&self) -> u64 {
        self.0.replaces
    }

    /// The number that was current when it was decided.
    pub fn after(&self) -> u64 {
        self.0.after
    }

    /// True if a group that goes by `lineage` goes on by this one.
    pub fn continues(&self, lineage: u64) -> bool {
        lineage == self.0.id.lineage || (lineage != 0 && lineage == self.0.replaces)
    }

    /// Whoever goes by it has this revision or a higher one.
    pub fn revision(&self) -> Revision {
        self.0.revision
    }

    /// Whoever goes by it has this compacted revision or a higher one; -1 for none.
    pub fn compacted(&self) -> i64 {
        self.0.compacted
    }

    /// The cluster's id in every answer's header; 0 where it says none.
    pub fn cluster(&self) -> u64 {
        self.0.cluster
    }

    /// The placement file that it was made of.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Who owns what.
    pub fn table(&self) -> &Placement {
        &self.0.table
    }

    /// True if it names the group.
    pub fn names(&self, group: &GroupName) -> bool {
        self.0.table.groups().any(|(name, _)| name == group)
    }
}

impl fmt::Display for DocumentId {
    /// As it stands in headers: `lineage.number`, in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.lineage, self.number)
    }
}

impl std::str::FromStr for DocumentId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (lineage, number) = text.split_once('.').unwrap_or((text, ""));
        let read = |digits: &str| u64::from_str_radix(digits, 16);
        Ok(Self { lineage: read(lineage)?, number: read(number)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "home: a\ndefault: a\ngroups: { a: {} }\n";

    #[test]
    fn a_document_is_read_back_as_it_was_sent() {
        let wire = PlacementDocument {
            lineage: 7,
            number: 3,
            revision: 90,
            compacted: -1,
            cluster_id: 5,
            text: TEXT.to_owned(),
            replaces: 6,
            after: 2,
        };
        let document = Document::from_wire(&wire).expect("a document");
        assert_eq!(document.to_wire(), wire);
        assert!(document.continues(7) && document.continues(6) && !document.continues(5));
        assert!(
            !Document::from_wire(&PlacementDocument { replaces: 0, ..wire.clone() })
                .expect("one")
                .continues(0)
        );
        let bad = Document::from_wire(&PlacementDocument { revision: -1, ..wire.clone() });
        assert_eq!(bad.err(), Some(DocumentError::Number { what: "revision", value: -1 }));
        let bad = Document::from_wire(&PlacementDocument { text: "home: a\n".to_owned(), ..wire }).err();
        assert!(bad.is_some_and(|error| error.to_string().contains("number 3 cannot be read")));
    }

    #[test]
    fn an_id_stands_in_a_header_and_pairs_only_grow() {
        let id = DocumentId { lineage: u64::MAX, number: 17 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "1", "1.", ".1", "1.x", "1.2.3"] {
            assert!(bad.parse::<DocumentId>().is_err(), "{bad:?}");
        }
        let life = [(1, 0), (1, 2), (2, 0), (2, 3), (4, 0)];
        assert!(life.map(|(number, adopted)| Pair { number, adopted }).is_sorted());
    }
}
