//! Violations that are planted, each found by the check whose matter it is.

use std::collections::BTreeSet;

use crate::checks;
use crate::modules::Crate;
use crate::page::{Known, Page};
use crate::strip;
use crate::tree::Tree;

fn krate(files: &[(&str, &str)]) -> Crate {
    Crate::read(&Tree::of(files), "shared")
}

fn known(rooms: &[&str], reason: &str) -> Vec<Known> {
    let rooms = rooms.iter().map(|room| (*room).to_owned()).collect();
    vec![Known { krate: "shared".to_owned(), rooms, reason: reason.to_owned() }]
}

fn circles(krate: &Crate, known: &[Known]) -> Vec<String> {
    checks::circles(&krate.name, &krate.between_rooms(), known, "the table")
}

/// Exactly one thing is wrong, and it says so.
fn finds(wrong: &[String], text: &str) {
    assert!(wrong.len() == 1 && wrong[0].contains(text), "{wrong:?}");
}

const LIB: (&str, &str) = ("shared/src/lib.rs", "pub mod a;\npub mod b;\nmod c;\npub use c::Thing;\n");

/// `a` uses `b`, which uses the root's name for what `c` defines; `c` is the question.
fn with(c: &str) -> Crate {
    krate(&[
        LIB,
        (
            "shared/src/a.rs",
            "use crate::b::{self, inner::{Deep, Other as Another}};\nfn f() -> b::B { Another::new() }",
        ),
        ("shared/src/b/mod.rs", "mod inner;\nuse crate::Thing;\npub use inner::*;\npub struct B(Thing);"),
        ("shared/src/b/inner.rs", "pub struct Deep;\npub struct Other;"),
        ("shared/src/c.rs", c),
    ])
}

#[test]
fn a_circle_is_found_through_the_names_that_others_pass_on() {
    assert_eq!(circles(&with("pub struct Thing;"), &[]), [""; 0]);
    for c in [
        "use crate::a::f;\npub struct Thing;",
        "pub struct Thing;\nfn g() { super::a::f() }",
        "pub struct Thing;\nimpl Thing { fn g(&self) -> bool { matches!(self.0, crate::a::Kind::One(_)) } }",
        "use crate::{\n    a as other, // all of it\n};\npub struct Thing;",
    ] {
        let wrong = circles(&with(c), &[]);
        finds(&wrong, "a circle that the table does not list");
        assert!(wrong[0].contains("b -> c (shared/src/b/mod.rs)"), "{wrong:?}");
    }
}

#[test]
fn what_is_no_code_of_the_product_draws_no_arrow() {
    for c in [
        "/// See crate::a::f.\npub struct Thing; // crate::a::f() /* \n",
        "pub struct Thing; /* crate::a::f() /* nested */ crate::a::f() */\n",
        "pub struct Thing;\nconst TEXT: &str = \"\\\" crate::a::f()\";",
        "pub struct Thing;\nconst TEXT: &str = r#\"\" crate::a::f()\"#;\nconst BYTES: &[u8] = br\"\\\";",
        "pub struct Thing;\nconst QUOTE: char = '\"'; fn g<'a>(it: &'a str) {} const OTHER: char = '\\'';",
        "pub struct Thing;\n#[cfg(test)]\nmod tests {\n    use crate::a::f;\n}\n",
        "pub struct Thing;\n#[cfg(test)]\nmod missing;\n",
        "#[cfg(any(test, feature = \"faults\"))]\n#[allow(dead_code)]\nuse crate::{a::f, b::B};\npub struct Thing;",
        "pub struct Thing {\n    #[cfg(test)]\n    pub(crate) planted: crate::a::Planted,\n    other: u8,\n}",
        "pub(in crate::a) struct Thing;",
    ] {
        assert_eq!(circles(&with(c), &[]), [""; 0], "{c}");
    }
}

#[test]
fn a_circle_that_is_listed_may_stand_with_a_reason_and_become_smaller() {
    let krate = with("use crate::a::f;\npub struct Thing;");
    assert_eq!(circles(&krate, &known(&["a", "b", "c", "d"], "history")), [""; 0]);
    finds(&circles(&krate, &known(&["a", "b", "c"], "")), "gives no reason");
    assert_eq!(circles(&krate, &known(&["a", "b"], "history")).len(), 2, "larger than it was");
    finds(&circles(&with("pub struct Thing;"), &known(&["a", "b"], "history")), "no circle any more");
}

#[test]
fn a_circle_between_files_of_one_module_is_found() {
    let inner = "pub struct Deep;\nimpl Deep { fn f() { super::other::g() } }";
    let files = |other| {
        krate(&[
            ("shared/src/lib.rs", "mod b;"),
            (
                "shared/src/b.rs",
                "mod inner;\n#[path = \"elsewhere.rs\"]\nmod other;\npub use inner::Deep;\nfn f() { other::g() }",
            ),
            ("shared/src/b/inner.rs", inner),
            ("shared/src/elsewhere.rs", other),
        ])
    };
    // That `b.rs` uses it and it uses `b.rs` is how a folder is put together.
    let found = |other| checks::circles("shared: b", &files(other).within("b"), &[], "exceptions.rs");
    assert_eq!(found("pub(super) fn g() { super::f() }"), [""; 0]);
    finds(&found("pub(super) fn g() { super::Deep::f() }"), "b/inner.rs -> shared/src/elsewhere.rs");
    let between = circles(&files("use super::Deep;"), &[]);
    assert_eq!(between, [""; 0], "it is no matter of other modules");
}

fn order(krate: &Crate, block: &str, known: &[Known]) -> Vec<String> {
    let page = format!("# A page\n\n```order\n{block}\n```\n");
    let orders = Page(&page).order();
    assert_eq!(orders.len(), 1);
    checks::order(krate, &orders[0], known)
}

#[test]
fn an_arrow_to_the_right_is_found() {
    let krate = with("pub struct Thing;");
    assert_eq!(order(&krate, "shared: c < b < a", &[]), [""; 0]);
    assert_eq!(order(&krate, "shared: c <\n    b < a", &[]), [""; 0]);
    finds(&order(&krate, "shared: c < a < b", &[]), "a uses b");
    finds(&order(&krate, "shared: b c < a", &[]), "b uses c");
    assert_eq!(order(&krate, "shared: b c < a", &known(&["b", "c"], "history")), [""; 0]);
    finds(&order(&krate, "shared: c < b", &[]), "a stands nowhere");
    finds(&order(&krate, "shared: c < b < a d", &[]), "names d, which is no module");
    finds(&order(&krate, "shared: c < b < a < c", &[]), "a module twice");
}

#[test]
fn what_a_module_takes_from_the_root_is_an_arrow() {
    let files = [
        ("shared/src/lib.rs", "mod a;\nconst MAX: u8 = 1;"),
        ("shared/src/a.rs", "fn f() -> u8 { crate::MAX }"),
    ];
    finds(&order(&krate(&files), "shared: a", &[]), "a uses lib");
    assert_eq!(order(&krate(&files), "shared: lib < a", &[]), [""; 0]);
}

#[test]
fn the_page_lists_circles_in_a_table() {
    let page = "| circle in | modules | why |\n| --- | --- | --- |\n| shared | a b | history |\n\nMore.\n";
    let circles = Page(page).circles();
    assert_eq!(circles.len(), 1);
    assert_eq!((circles[0].krate.as_str(), circles[0].reason.as_str()), ("shared", "history"));
    assert_eq!(circles[0].rooms, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
}

#[test]
fn a_name_in_the_map_without_a_file_is_found() {
    let tree = Tree::of(&[
        ("shared/src/lib.rs", ""),
        ("shared/src/wire.rs", ""),
        ("shared/src/placement/file.rs", ""),
        ("shared/src/placement/ring/hash.rs", ""),
        ("tests/full", ""),
        (".ci/run", ""),
    ]);
    let files = |page: &str| checks::files(&Page(page), &tree);
    assert_eq!(files("| the layout | `shared/src/wire.rs` |, `some::path`, `wires.rs`"), [""; 0]);
    finds(&files("| the layout | `shared/src/wires.rs` |"), "names shared/src/wires.rs");
    let names = |map: &str| checks::names(&Page(&format!("```map\n{map}\n```\n")), &tree);
    let good = "shared/src  what both mean; I/O is no folder\n  wire placement/  the table, ring/: its hashes\n      \
                file, as tests/full reads it; /health\ntests/full .ci/run  all of it";
    assert_eq!(names(good), [""; 0]);
    finds(&names(&good.replace("wire placement", "wires placement")), "names wires");
    finds(&names(&good.replace("ring/:", "rings/:")), "names rings/");
    finds(&names(&good.replace("as tests/full", "as tests/half")), "names tests/half");
    finds(&names(&good.replace(" .ci/run", " .ci/walk")), "names .ci/walk");
}

fn lengths(text: &str, exceptions: &[&str]) -> Vec<String> {
    let tree = Tree::of(&[("shared/src/lib.rs", text)]);
    checks::lengths(&tree, &[Crate::read(&tree, "shared")], exceptions)
}

#[test]
fn a_long_file_without_a_reason_is_found() {
    let long = "const A: u8 = 1;\n".repeat(601);
    finds(&lengths(&long, &[]), "shared/src/lib.rs has 601 lines");
    assert_eq!(lengths(&long, &["shared/src/lib.rs"]), [""; 0]);
    assert_eq!(lengths(&format!("//! What it is.\n// Long: one table.\n\n{long}"), &[]), [""; 0]);
    finds(&lengths(&format!("{long}// Long: too late.\n"), &[]), "602 lines");
    let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(600), "fn f() {}\n".repeat(100));
    assert_eq!(lengths(&tested, &[]), [""; 0], "tests are not counted");
    finds(&lengths("", &["shared/src/lib.rs"]), "no exception any more");
}

#[test]
fn a_long_function_without_a_reason_is_found() {
    let function = |length: usize| {
        format!(
            "pub fn short() {{}}\n/// What it does.\n#[must_use]\npub fn long(it: [u8; 2]) {{\n{}}}\n",
            "    call();\n".repeat(length - 2)
        )
    };
    assert_eq!(lengths(&function(80), &[]), [""; 0]);
    finds(&lengths(&function(81), &[]), "shared/src/lib.rs: long has 81 lines");
    assert_eq!(
        lengths(&function(81).replace("#[must_use]", "// Long: one step after the other.\n#[must_use]"), &[]),
        [""; 0]
    );
    finds(&lengths(&function(81).replace("#[must_use]", "// Long: \n#[must_use]"), &[]), "81 lines");
    assert_eq!(lengths(&function(81), &["shared/src/lib.rs: long"]), [""; 0]);
}

#[test]
fn many_long_files_are_found() {
    let files = |short: usize, long: usize, lines: usize| [vec![100; short], vec![lines; long]].concat();
    assert_eq!(checks::spread(files(95, 5, 600)), [""; 0]);
    finds(&checks::spread(files(80, 20, 401)), "one file in ten");
    finds(&checks::spread(files(40, 60, 131)), "half of the files");
}

#[test]
fn everything_keeps_its_place() {
    let text = "/* ä */ fn f() { \"ö\n\" } // ü\nfn g() {}\n";
    let code = strip::without_comments(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.find("fn g"), text.find("fn g"));
}
