//! The structure of the product's source, held against ARCHITECTURE.md: which module uses which, in what order, what
//! the map names, and how long files and functions are.
//!
//! `cargo test --test structure`. It reads the source and no compiler's output: comments, strings and tests are taken
//! out, paths are followed through imports to the module that defines what they name. An arrow that no path draws, as
//! by a call of a method, is not seen.

mod checks;
mod exceptions;
mod graph;
mod modules;
mod page;
mod paths;
mod planted;
mod sizes;
mod strip;
mod tree;

use std::path::Path;
use std::sync::LazyLock;

use modules::Crate;
use page::{Known, Page};
use tree::Tree;

const CRATES: [&str; 8] =
    ["shared", "shared/net", "brain", "brain/tikv", "brain/kubernetes", "proxy", "src", "bench"];

/// A product file lies in a crate; what is generated is none.
static TREE: LazyLock<Tree> = LazyLock::new(|| Tree::read(Path::new(env!("CARGO_MANIFEST_DIR"))));
static READ: LazyLock<Vec<Crate>> =
    LazyLock::new(|| CRATES.iter().map(|name| Crate::read(&TREE, name)).collect());

fn page() -> Page<'static> {
    Page(TREE.text("ARCHITECTURE.md").expect("the page is there"))
}

/// Fails with all of it.
fn nothing(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn circles_between_modules_are_listed_with_their_reason() {
    let known = page().circles();
    let table = "ARCHITECTURE.md's table of circles";
    let wrong = READ.iter().map(|krate| checks::circles(&krate.name, &krate.between_rooms(), &known, table));
    let mut wrong: Vec<_> = wrong.flatten().collect();
    let strange = known.iter().filter(|row| !CRATES.contains(&row.krate.as_str()));
    wrong.extend(strange.map(|row| format!("{table} names {}, which is no crate", row.krate)));
    nothing(&wrong);
}

#[test]
fn circles_between_files_of_a_module_are_listed_with_their_reason() {
    let known = exceptions::CIRCLES.iter().map(|(room, files, reason)| Known {
        krate: (*room).to_owned(),
        rooms: files.iter().map(|file| (*file).to_owned()).collect(),
        reason: (*reason).to_owned(),
    });
    let known: Vec<_> = known.collect();
    let mut wrong = Vec::new();
    let mut seen = Vec::new();
    for krate in READ.iter() {
        for room in krate.rooms() {
            let name = format!("{}: {room}", krate.name);
            wrong.extend(checks::circles(&name, &krate.within(&room), &known, "exceptions.rs"));
            seen.push(name);
        }
    }
    let strange = known.iter().filter(|row| !seen.contains(&row.krate));
    wrong.extend(strange.map(|row| format!("exceptions.rs names {}, which is no module", row.krate)));
    nothing(&wrong);
}

#[test]
fn modules_use_only_what_stands_to_their_left() {
    let (orders, known) = (page().order(), page().circles());
    let mut wrong = Vec::new();
    for order in &orders {
        match READ.iter().find(|krate| krate.name == order.krate) {
            Some(krate) => wrong.extend(checks::order(krate, order, &known)),
            None => wrong.push(format!("the order names {}, which is no crate", order.krate)),
        }
    }
    nothing(&wrong);
}

#[test]
fn the_map_names_what_is_there() {
    nothing(&checks::names(&page(), &TREE));
    nothing(&checks::files(&page(), &TREE));
}

#[test]
fn long_files_and_functions_say_why() {
    nothing(&checks::lengths(&TREE, &READ, exceptions::LONG));
}

#[test]
fn files_are_short() {
    nothing(&checks::spread(
        READ.iter().flat_map(|krate| &krate.modules).map(|module| module.lines).collect(),
    ));
}
