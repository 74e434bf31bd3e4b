use super::testing::document;
use super::*;

const OLD: &str = "{home: a, default: a, groups: {a: {}, b: {}}, kinds: [{kind: pods, group: b}]}";
const NEW: &str = "{home: a, default: a, groups: {a: {}, b: {}, c: {}}, kinds: [{kind: pods, group: c}]}";

const GIVES: Gives = Gives { number: 2, revision: Revision::new(90), compacted: 40 };

fn name(text: &str) -> GroupName {
    GroupName::parse(text).expect("a name")
}

fn range(prefix: &'static str) -> [KeyRange; 1] {
    [KeyRange::prefix(prefix.as_bytes().into())]
}

fn adopted(number: u64, text: &str) -> Adopted {
    Adopted { document: document(number, text), revision: Revision::new(90), compacted: 40 }
}

#[test]
fn from_its_adoption_on_a_group_serves_what_is_its_own_by_both() {
    let held = Held::by(document(1, OLD), Revision::new(5)).adopting(adopted(2, NEW));
    let id = |number| Some(DocumentId { lineage: 1, number });
    let (a, b, c) = (name("a"), name("b"), name("c"));
    assert!(matches!(held.check(&b, &range("/registry/pods/"), None), Err(Unserved::Changing(_))));
    assert!(matches!(held.check(&c, &range("/registry/pods/"), None), Err(Unserved::NotOwner(_))));
    assert_eq!(held.check(&a, &range("/registry/nodes/"), None), Ok(()));
    // Parts: by the document that holds, as long as nothing in the range is given away.
    assert!(matches!(held.check(&b, &range("/registry/"), id(1)), Err(Unserved::Changing(_))));
    assert_eq!(held.check(&a, &range("/registry/"), id(1)), Ok(()));
    assert!(matches!(held.check(&a, &range("/registry/"), id(2)), Err(Unserved::NotOwner(_))));
    let elsewhere = Some(DocumentId { lineage: 2, number: 1 });
    assert!(matches!(held.check(&a, &range("/registry/"), elsewhere), Err(Unserved::NotOwner(_))));
    assert_eq!((held.pair(), held.gives()), (Pair { number: 1, adopted: 2 }, Some(GIVES)));
}

#[test]
fn a_row_and_what_is_told_give_back_what_they_were_made_of() {
    let single = Placement::single(name("a"));
    for held in [
        Held::unnumbered(single.clone()),
        Held::by(document(3, OLD), Revision::new(7)),
        Held::by(document(3, OLD), Revision::new(7)).adopting(adopted(4, NEW)),
        Held::unnumbered(single.clone()).adopting(adopted(1, NEW)),
    ] {
        let read = Held::read(&held.to_row(), &single).expect("a row");
        assert_eq!((read.pair(), read.at(), read.gives()), (held.pair(), held.at(), held.gives()));
        let mut told = held.tell(None);
        let heard = Held::unheard(single.clone()).told(&told).expect("whole");
        assert_eq!((heard.pair(), heard.at(), heard.gives()), (held.pair(), held.at(), held.gives()));
        assert!(heard.is_settled());
        // The second time the documents are known.
        told = held.tell(Some((held.document().id().lineage, held.pair())));
        assert!(told.current_document.is_none() && told.adopted_document.is_none());
        assert_eq!(heard.told(&told).map(|held| held.pair()), Ok(held.pair()));
    }
    let unknown = Held::unheard(single).told(&PlacementState { number: 9, ..PlacementState::default() });
    assert!(unknown.is_err_and(|why| why.contains("number 9 was not sent")));
}

#[test]
fn a_slave_on_its_way_serves_what_is_the_groups_before_and_after() {
    let (old, new) =
        (Held::by(document(1, OLD), Revision::new(5)), Held::by(document(2, NEW), Revision::new(95)));
    let (a, b, c) = (name("a"), name("b"), name("c"));
    let between = old.until(&new);
    assert_eq!(between.pair(), Pair { number: 1, adopted: 0 }, "it has not come so far");
    for (group, prefix, serves) in
        [(&a, "/registry/nodes/", true), (&b, "/registry/pods/", false), (&c, "/registry/pods/", false)]
    {
        assert_eq!(between.check(group, &range(prefix), None).is_ok(), serves, "{group} {prefix}");
    }
    assert!(new.check(&c, &range("/registry/pods/"), None).is_ok());
    // What an adoption gives away is known from then on, and after an abort the old content is there at once.
    let adopting = old.adopting(adopted(2, NEW));
    assert_eq!(old.until(&adopting).gives(), Some(GIVES));
    assert!(!adopting.until(&Held::by(document(3, OLD), Revision::new(95))).is_nothing());
    // A number in between may have given a key away and back.
    assert!(old.until(&Held::by(document(3, OLD), Revision::new(95))).is_nothing());
}
