//! [`Held`]: by what a group judges whose keys are whose, and the judgement. Enforced here, not trusted to proxies.
//!
//! A group serves what is its own by its document *and* by the one that it has adopted, if there is one. The two are loaded
//! as one, after the revision of an answer is fixed: then the answer is of before whatever took the keys away.

use kubebrain_proto::peer::{PlacementDocument, PlacementState};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, DocumentError, DocumentId, Pair, Placement};
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;

use crate::request::Op;
use crate::rows::codec::PlacementRow;

/// What a group goes by.
#[derive(Clone, Debug)]
pub struct Held {
    document: Document,
    adopted: Option<Adopted>,
    /// The group's revision when this was recorded.
    at: Revision,
    /// Others that have to give a key to the group too: of a slave that has not come as far as the record.
    besides: Vec<Document>,
    /// Nothing is the group's at the moment.
    nothing: bool,
    gives: Option<Gives>,
}

/// Of what a document gives away all was answered up to a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gives {
    /// The document's number.
    pub number: u64,
    /// The revision.
    pub revision: Revision,
    /// The compacted revision of that moment; -1 where nothing was compacted.
    pub compacted: i64,
}

/// A document that a group has agreed to and that does not hold yet.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// The document.
    pub document: Document,
    /// What this group gives away it has answered for up to here, and will not beyond.
    pub revision: Revision,
    /// Its compacted revision then; -1 where nothing was compacted.
    pub compacted: i64,
}

/// Why keys are not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// They are another group's, or the question was put by another document.
    NotOwner(String),
    /// They are about to be another group's.
    Changing(String),
}

impl std::fmt::Display for Unserved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotOwner(why) | Self::Changing(why) => f.write_str(why),
        }
    }
}

impl Held {
    /// By a document alone.
    pub fn by(document: Document, at: Revision) -> Self {
        Self { document, adopted: None, at, besides: Vec::new(), nothing: false, gives: None }
    }

    /// By a table without a number: of a process that is part of no cluster.
    pub fn unnumbered(table: Placement) -> Self {
        Self::by(Document::unnumbered(table), Revision::ZERO)
    }

    /// Of a slave that has not heard yet by what its group goes.
    pub fn unheard(table: Placement) -> Self {
        Self { nothing: true, ..Self::unnumbered(table) }
    }

    /// With an adoption, recorded at its revision.
    #[must_use]
    pub fn adopting(&self, adopted: Adopted) -> Self {
        let Adopted { document, revision, compacted } = &adopted;
        let gives = Gives { number: document.number(), revision: *revision, compacted: *compacted };
        Self { at: *revision, gives: Some(gives), adopted: Some(adopted), ..self.clone() }
    }

    /// From its row.
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub fn read(row: &PlacementRow, unnumbered: &Placement) -> Result<Self, DocumentError> {
        let document = match &row.current {
            Some(wire) => Document::from_wire(wire)?,
            None => Document::unnumbered(unnumbered.clone()),
        };
        let adopted = row.adopted.as_ref().map(|wire| {
            let revision = revision(row.adopted_revision.cast_signed())?;
            Ok(Adopted { document: Document::from_wire(wire)?, revision, compacted: row.adopted_compacted })
        });
        let held = Self::by(document, revision(row.at.cast_signed())?);
        Ok(match adopted.transpose()? {
            Some(adopted) => Self { at: held.at, ..held.adopting(adopted) },
            None => held,
        })
    }

    /// As it is stored.
    pub fn to_row(&self) -> PlacementRow {
        let adopted = self.adopted.as_ref();
        PlacementRow {
            current: (self.document.number() > 0).then(|| self.document.to_wire()),
            adopted: adopted.map(|adopted| adopted.document.to_wire()),
            adopted_revision: adopted.map_or(0, |adopted| adopted.revision.get()),
            adopted_compacted: adopted.map_or(-1, |adopted| adopted.compacted),
            at: self.at.get(),
        }
    }

    /// As a master tells it; the documents too if they are others than `told`.
    pub fn tell(&self, told: Option<(u64, Pair)>) -> PlacementState {
        let id = self.document.id();
        let anew = told != Some((id.lineage, self.pair()));
        let adopted = self.adopted.as_ref();
        let numbered = |document: &Document| (document.number() > 0 && anew).then(|| document.to_wire());
        PlacementState {
            lineage: id.lineage,
            number: id.number,
            adopted: self.pair().adopted,
            at: self.at.to_wire(),
            adopted_revision: adopted.map_or(0, |adopted| adopted.revision.to_wire()),
            adopted_compacted: adopted.map_or(-1, |adopted| adopted.compacted),
            current_document: numbered(&self.document),
            adopted_document: adopted.and_then(|adopted| numbered(&adopted.document)),
        }
    }

    /// What a slave goes by once it has come as far as `told`, which its master goes by; documents that were not sent are
    /// those that it has.
    ///
    /// # Errors
    /// A sentence about what is missing.
    pub fn told(&self, told: &PlacementState) -> Result<Self, String> {
        let find = |number: u64, sent: &Option<PlacementDocument>| match sent {
            Some(wire) => Document::from_wire(wire).map_err(|error| error.to_string()),
            None => self
                .documents()
                .find(|known| known.number() == number)
                .cloned()
                .ok_or_else(|| format!("placement number {number} was not sent")),
        };
        let at = revision(told.at).map_err(|error| error.to_string())?;
        let held = Self::by(find(told.number, &told.current_document)?, at);
        if told.adopted == 0 {
            return Ok(held);
        }
        let adopted = Adopted {
            document: find(told.adopted, &told.adopted_document)?,
            revision: revision(told.adopted_revision).map_err(|error| error.to_string())?,
            compacted: told.adopted_compacted,
        };
        Ok(Self { at, ..held.adopting(adopted) })
    }

    /// Until a slave has come as far as `next` holds: what is the group's by both. Where a number between them is not known,
    /// nothing: a key may have been another group's meanwhile.
    #[must_use]
    pub fn until(&self, next: &Self) -> Self {
        let follows = self.is_followed_by(next);
        Self {
            besides: next.documents().chain(&self.besides).cloned().collect(),
            nothing: self.nothing || !follows || next.nothing,
            gives: next.gives.or(self.gives),
            ..self.clone()
        }
    }

    fn documents(&self) -> impl Iterator<Item = &Document> {
        std::iter::once(&self.document).chain(self.adopted.iter().map(|adopted| &adopted.document))
    }

    /// The one that holds.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Who owns what, by the one that holds.
    pub fn table(&self) -> &Placement {
        self.document.table()
    }

    /// What is agreed to and does not hold yet.
    pub fn adopted(&self) -> Option<&Adopted> {
        self.adopted.as_ref()
    }

    /// False where no key can be the group's by what holds: the document does not name it; or there is none, and nothing is
    /// recorded as the group's.
    pub fn names(&self, group: &GroupName) -> bool {
        match self.document.number() {
            0 => self.table().owners(&KeyRange::ALL).contains(group),
            _ => self.document.names(group),
        }
    }

    /// Both numbers.
    pub fn pair(&self) -> Pair {
        let adopted = self.adopted.as_ref().map_or(0, |adopted| adopted.document.number());
        Pair { number: self.document.number(), adopted }
    }

    /// The group's revision when it was recorded.
    pub fn at(&self) -> Revision {
        self.at
    }

    /// False on a slave that has not come as far as this was recorded.
    pub fn is_settled(&self) -> bool {
        !self.nothing && self.besides.is_empty()
    }

    /// Up to where all was answered of what is given away; `None` where that is not known.
    pub fn gives(&self) -> Option<Gives> {
        self.gives
    }

    /// The document that gives keys of the range away which were the group's by `before`, the first of them.
    pub fn loses(&self, before: &Self, group: &GroupName, range: &KeyRange) -> Option<&Document> {
        let lost = |next: &&Document| before.table().loses(next.table(), group, range);
        self.documents().chain(&self.besides).filter(lost).min_by_key(|document| document.number())
    }

    /// False where a document that is not known may have been in force between the two: it may have given a key away, and the
    /// next one have given it back.
    pub fn is_followed_by(&self, next: &Self) -> bool {
        let (before, number) = (self.pair(), next.document.number());
        number <= before.number + 1 || (before.adopted > 0 && number <= before.adopted + 1)
    }

    /// True where nothing is served, since it is not known what is the group's.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The tables that all have to give a key to the group before it is served.
    pub fn tables(&self) -> impl Iterator<Item = &Placement> {
        self.documents().chain(&self.besides).map(Document::table)
    }

    /// True if the group serves the key.
    pub fn serves(&self, group: &GroupName, key: &[u8]) -> bool {
        !self.nothing && self.tables().all(|table| table.owner(key) == group)
    }

    /// Refuses ranges that are not wholly this group's. With `part`, the document by which the group is asked for its part
    /// of a range, the rest may be others'; the document must be the same one, and nothing in the range be given away.
    ///
    /// # Errors
    /// See [`Unserved`].
    pub fn check(
        &self,
        group: &GroupName,
        ranges: &[KeyRange],
        part: Option<DocumentId>,
    ) -> Result<(), Unserved> {
        if self.nothing {
            let why = format!("group {group} does not know yet by which placement it goes");
            return Err(Unserved::Changing(why));
        }
        let others = || self.adopted.iter().map(|adopted| &adopted.document).chain(&self.besides);
        if let Some(id) = part {
            if id != self.document.id() {
                return Err(Unserved::NotOwner(format!(
                    "group {group} goes by placement number {}, and was asked by number {}",
                    self.document.number(),
                    id.number
                )));
            }
            for (range, next) in ranges.iter().flat_map(|range| others().map(move |next| (range, next))) {
                if self.table().loses(next.table(), group, range) {
                    return Err(changing(group, range, next.number()));
                }
            }
            return Ok(());
        }
        for range in ranges {
            if let Some(owner) = strange(self.table(), group, range) {
                let why = format!("group {group} does not own {range:?}, group {owner} does");
                return Err(Unserved::NotOwner(why));
            }
            if let Some(next) = others().find(|next| strange(next.table(), group, range).is_some()) {
                return Err(changing(group, range, next.number()));
            }
        }
        Ok(())
    }
}

fn strange(table: &Placement, group: &GroupName, range: &KeyRange) -> Option<GroupName> {
    match range.as_one() {
        Some(key) => Some(table.owner(key)).filter(|owner| *owner != group).cloned(),
        None => table.owners(range).into_iter().find(|owner| owner != group),
    }
}

fn changing(group: &GroupName, range: &KeyRange, number: u64) -> Unserved {
    Unserved::Changing(format!(
        "group {group} gives {range:?} away: placement number {number} is being taken"
    ))
}

fn revision(value: i64) -> Result<Revision, DocumentError> {
    Revision::checked_from(value).ok_or(DocumentError::Number { what: "revision", value })
}

impl Op {
    /// All ranges that it reads or changes.
    pub(crate) fn ranges(&self) -> Vec<KeyRange> {
        match self {
            Self::Range(range) => vec![range.keys.clone()],
            Self::Put(put) => vec![KeyRange::one(put.key.clone())],
            Self::Delete(delete) => vec![delete.keys.clone()],
            Self::Txn(txn) => txn.ranges(),
        }
    }
}

/// Documents for tests of this crate.
#[cfg(test)]
pub(crate) mod testing {
    use kubebrain_proto::peer::PlacementDocument;
    use kubebrain_shared::placement::Document;

    /// Of lineage 1, with nothing to be raised to.
    pub(crate) fn document(number: u64, text: &str) -> Document {
        raising(number, 0, -1, text)
    }

    /// Of lineage 1.
    pub(crate) fn raising(number: u64, revision: i64, compacted: i64, text: &str) -> Document {
        let wire = PlacementDocument {
            lineage: 1,
            number,
            revision,
            compacted,
            cluster_id: 7,
            text: text.to_owned(),
            replaces: 0,
            after: number.saturating_sub(1),
        };
        Document::from_wire(&wire).expect("a placement")
    }
}

#[cfg(test)]
mod tests;
