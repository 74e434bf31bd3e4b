//! [`By`]: by what the keys of a write are judged. Requests by what the group goes by; repairs by the document that they
//! come with, since what they put right is that a group has keys which it does not own.

use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, DocumentId};
use kubebrain_shared::range::KeyRange;

use super::held::{Held, Unserved};

/// Whose keys a write may change.
#[derive(Clone, Debug)]
pub(crate) enum By {
    /// The group's; with a document those of its part.
    Held(Option<DocumentId>),
    /// The group's by this document, also before the group goes by it.
    Owner(Document),
    /// Another group's by this document.
    Stray(Document),
}

impl By {
    /// Refuses keys that are not to be changed so.
    ///
    /// # Errors
    /// See [`Unserved`].
    pub(crate) fn check(&self, held: &Held, group: &GroupName, ranges: &[KeyRange]) -> Result<(), Unserved> {
        let (document, is_own) = match self {
            Self::Held(part) => return held.check(group, ranges, *part),
            Self::Owner(document) => (document, true),
            Self::Stray(document) => (document, false),
        };
        may_repair(held, group, document).map_err(Unserved::NotOwner)?;
        for range in ranges {
            let owner = range.as_one().map(|key| document.table().owner(key));
            if owner.is_none_or(|owner| (owner == group) != is_own) {
                return Err(Unserved::NotOwner(format!(
                    "{range:?} is no key that could be repaired in group {group}"
                )));
            }
        }
        Ok(())
    }
}

/// Refuses to judge by a document what is judged by a later one already, or will be at once.
///
/// # Errors
/// A sentence.
pub(crate) fn may_repair(held: &Held, group: &GroupName, document: &Document) -> Result<(), String> {
    let (own, asked) = (held.document(), document.id());
    if asked.number == 0 {
        // The home group's file. Groups may have agreed to it already, and to no other one.
        let agreed = held.adopted().is_none_or(|adopted| adopted.document.text() == document.text());
        return match own.number() {
            0 if agreed => Ok(()),
            0 => Err(format!("group {group} has agreed to another placement meanwhile: try again")),
            number => {
                Err(format!("group {group} goes by placement number {number}, and was asked by a file"))
            }
        };
    }
    let lineage = own.id().lineage;
    if lineage != 0 && !document.continues(lineage) {
        return Err(format!(
            "group {group} goes by placement number {} of another cluster ({lineage:x}, asked by {:x})",
            own.number(),
            asked.lineage
        ));
    }
    let known = held.pair().number.max(held.pair().adopted);
    match known > asked.number {
        true => Err(format!(
            "group {group} has agreed to placement number {known}, and was asked by number {}: try again when the change is over",
            asked.number
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kubebrain_proto::peer::PlacementDocument;
    use kubebrain_shared::placement::Placement;
    use kubebrain_shared::revision::Revision;

    use super::*;
    use crate::decide::held::Adopted;
    use crate::decide::held::testing::document;

    const MINE: &str = "home: a\ndefault: a\ngroups: { a: {}, b: {} }\n";
    const GIVEN: &str = "home: a\ndefault: a\ngroups: { a: {}, b: {} }\nkinds: [{ kind: pods, group: b }]\n";

    fn group(name: &str) -> GroupName {
        GroupName::parse(name).expect("a name")
    }

    fn key(key: &'static str) -> Vec<KeyRange> {
        vec![KeyRange::one(Bytes::from_static(key.as_bytes()))]
    }

    fn file(text: &str) -> Document {
        let wire = PlacementDocument { text: text.to_owned(), ..PlacementDocument::default() };
        Document::from_wire(&wire).expect("a placement")
    }

    #[test]
    fn a_stray_is_a_key_that_the_document_gives_to_another_group() {
        let held = Held::by(document(1, MINE), Revision::ZERO);
        let by = document(2, GIVEN);
        let (a, b) = (group("a"), group("b"));
        for (ranges, stray_in, taken_by) in [
            (key("/registry/pods/x"), &a, &b),
            (key("/registry/secrets/x"), &b, &a),
            (key("compact_rev_key"), &b, &a),
        ] {
            assert_eq!(By::Stray(by.clone()).check(&held, stray_in, &ranges), Ok(()), "{ranges:?}");
            assert_eq!(By::Owner(by.clone()).check(&held, taken_by, &ranges), Ok(()), "{ranges:?}");
            assert!(By::Stray(by.clone()).check(&held, taken_by, &ranges).is_err(), "{ranges:?}: its own");
            assert!(By::Owner(by.clone()).check(&held, stray_in, &ranges).is_err(), "{ranges:?}: another's");
        }
        let all = [KeyRange::prefix(Bytes::from_static(b"/registry/pods/"))];
        assert!(By::Stray(by).check(&held, &a, &all).is_err(), "a repair is of single keys");
        assert!(By::Held(None).check(&held, &a, &key("/registry/pods/x")).is_ok(), "by what it goes by");
    }

    #[test]
    fn nothing_is_repaired_by_what_the_group_has_gone_beyond() {
        let a = group("a");
        let adopting = |number, text: &str, held: Held| {
            held.adopting(Adopted {
                document: document(number, text),
                revision: Revision::ZERO,
                compacted: -1,
            })
        };
        let none = Held::unnumbered(Placement::single(group("a")));
        let by = |number| Held::by(document(number, MINE), Revision::ZERO);
        for (what, held, asked, may) in [
            ("a file, before there is a placement", none.clone(), file(GIVEN), true),
            ("the file that it has agreed to", adopting(1, GIVEN, none.clone()), file(GIVEN), true),
            ("another one", adopting(1, MINE, none.clone()), file(GIVEN), false),
            ("a file, when there is a placement", by(1), file(GIVEN), false),
            ("the number it goes by", by(2), document(2, GIVEN), true),
            ("a later one, which it refuses", by(1), document(2, GIVEN), true),
            ("an older one", by(3), document(2, GIVEN), false),
            ("while a change is under way", adopting(3, MINE, by(2)), document(2, GIVEN), false),
            ("a group that has heard of none", none, document(2, GIVEN), true),
        ] {
            assert_eq!(may_repair(&held, &a, &asked).is_ok(), may, "{what}");
        }
        let wire = PlacementDocument { lineage: 9, ..document(7, GIVEN).to_wire() };
        let other = Document::from_wire(&wire).expect("a placement");
        assert!(may_repair(&by(2), &a, &other).is_err(), "of another cluster");
    }
}
