//! A crate's modules as the compiler finds them, and who uses whom.

use std::collections::BTreeSet;

use crate::graph::Graph;
use crate::paths::{self, Said};
use crate::strip;
use crate::tree::Tree;

/// A way from name to name ends here at the latest.
const HOPS_MAX: usize = 16;

/// A crate of the product, without what it has for tests only.
pub(crate) struct Crate {
    /// Its folder, `brain/tikv`; the root package is `src`.
    pub(crate) name: String,
    pub(crate) modules: Vec<Module>,
}

pub(crate) struct Module {
    /// `["mvcc", "writer"]`; none for the root.
    pub(crate) path: Vec<String>,
    /// From the root of the repository.
    pub(crate) file: String,
    pub(crate) code: String,
    /// Without lines of tests.
    pub(crate) lines: usize,
    said: Said,
}

impl Crate {
    pub(crate) fn read(tree: &Tree, name: &str) -> Self {
        let source = if name == "src" { name.to_owned() } else { format!("{name}/src") };
        let root = ["lib.rs", "main.rs"].map(|file| format!("{source}/{file}"));
        let root = root.into_iter().find(|file| tree.has(file)).unwrap_or_else(|| panic!("no crate {name}"));
        let mut found = Self { name: name.to_owned(), modules: Vec::new() };
        found.add(tree, Vec::new(), root);
        found
    }

    fn add(&mut self, tree: &Tree, path: Vec<String>, file: String) {
        let text = tree.text(&file).unwrap_or_else(|| panic!("{file} is a module and is missing"));
        let (code, of_tests) = strip::without_tests(&strip::without_comments(text));
        let said = paths::said(&code);
        let (folder, own) = file.rsplit_once('/').expect("it lies in a folder");
        let below = match own.trim_end_matches(".rs") {
            "lib" | "main" | "mod" => folder.to_owned(),
            name => format!("{folder}/{name}"),
        };
        let mut children = Vec::new();
        for (name, at) in &said.children {
            let places = match named_path(text, *at) {
                Some(named) => vec![format!("{folder}/{named}")],
                None => vec![format!("{below}/{name}.rs"), format!("{below}/{name}/mod.rs")],
            };
            let place = places.into_iter().find(|place| tree.has(place));
            let place = place.unwrap_or_else(|| panic!("{file}: the module {name} is missing"));
            children.push(([path.clone(), vec![name.clone()]].concat(), place));
        }
        let lines = text.lines().count().saturating_sub(of_tests);
        self.modules.push(Module { path, file, code, lines, said });
        for (path, file) in children {
            self.add(tree, path, file);
        }
    }

    fn at(&self, path: &[String]) -> Option<usize> {
        self.modules.iter().position(|module| module.path == path)
    }

    /// The module that defines what `path` means in `from`; none if another crate does.
    fn find(&self, from: usize, path: &[String], hops: usize) -> Option<usize> {
        if hops > HOPS_MAX {
            return None;
        }
        let mut rest = path;
        let mut here = match path.first()?.as_str() {
            "crate" => self.at(&[])?,
            "self" => from,
            "super" => from, // the loop below goes up
            first => return self.step(from, first, &path[1..], hops),
        };
        if path[0] != "super" {
            rest = &path[1..];
        }
        while let Some(("super", left)) = rest.split_first().map(|(first, left)| (first.as_str(), left)) {
            let own = &self.modules[here].path;
            here = self.at(own.get(..own.len().checked_sub(1)?)?)?;
            rest = left;
        }
        match rest.split_first() {
            None => Some(here),
            Some((name, left)) => self.step(here, name, left, hops).or(Some(here)),
        }
    }

    /// What `name`, and `rest` behind it, means in the module `here`.
    fn step(&self, here: usize, name: &str, rest: &[String], hops: usize) -> Option<usize> {
        let module = &self.modules[here];
        let child = [module.path.clone(), vec![name.to_owned()]].concat();
        if let Some(child) = self.at(&child) {
            return match rest.split_first() {
                None => Some(child),
                Some((next, left)) => self.step(child, next, left, hops).or(Some(child)),
            };
        }
        if module.said.items.contains(name) {
            return Some(here);
        }
        if let Some(import) = module.said.imports.get(name) {
            let whole = [import.clone(), rest.to_vec()].concat();
            return self.find(here, &whole, hops + 1);
        }
        module.said.stars.iter().find_map(|star| {
            let target = self.find(here, star, hops + 1).filter(|target| *target != here)?;
            let has = &self.modules[target].said;
            let known = has.items.contains(name) || has.imports.contains_key(name);
            known.then(|| self.step(target, name, rest, hops + 1)).flatten()
        })
    }

    /// The folder or file directly below the root that a module belongs to.
    fn room(&self, module: usize) -> &str {
        let module = &self.modules[module];
        module.path.first().map_or_else(
            || module.file.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs"),
            String::as_str,
        )
    }

    pub(crate) fn rooms(&self) -> BTreeSet<String> {
        let inner = self.modules.iter().filter(|module| !module.path.is_empty());
        inner.map(|module| module.path[0].clone()).collect()
    }

    /// Who uses whom, as pairs of modules.
    fn arrows(&self) -> Vec<(usize, usize)> {
        let mut arrows = BTreeSet::new();
        for (from, module) in self.modules.iter().enumerate() {
            for path in &module.said.used {
                if let Some(to) = self.find(from, path, 0).filter(|to| *to != from) {
                    arrows.insert((from, to));
                }
            }
        }
        arrows.into_iter().collect()
    }

    /// Arrows between rooms: to where a thing is defined, and to the room by whose name it is called. The root puts all
    /// of them together: only what they take from it counts.
    pub(crate) fn between_rooms(&self) -> Graph {
        let called = self.modules.iter().enumerate().flat_map(|(from, module)| {
            let rooms = module.said.used.iter().filter_map(|path| match path.as_slice() {
                [first, room, ..] if first == "crate" => self.at(std::slice::from_ref(room)),
                _ => None,
            });
            rooms.map(move |room| (from, room))
        });
        let mut graph = Graph::default();
        for (from, to) in self.arrows().into_iter().chain(called) {
            if self.room(from) != self.room(to) && !self.modules[from].path.is_empty() {
                graph.add(self.room(from), self.room(to), &self.modules[from].file);
            }
        }
        graph
    }

    /// Arrows between the files of one room. A file may use the head of a folder that it lies in, `mod.rs`, which puts the
    /// folder together and has what its files share: that is no arrow.
    pub(crate) fn within(&self, room: &str) -> Graph {
        let mut graph = Graph::default();
        for (from, to) in self.arrows() {
            let is_head = self.modules[from].path.starts_with(&self.modules[to].path);
            if self.room(from) == room && self.room(to) == room && !is_head {
                let (from, to) = (&self.modules[from].file, &self.modules[to].file);
                graph.add(from, to, from);
            }
        }
        graph
    }
}

/// `#[path = "…"]` right before a `mod`.
fn named_path(text: &str, at: usize) -> Option<String> {
    let before = text[..at].trim_end();
    let before = before.rsplit_once("pub").map_or(before, |(left, right)| {
        if right.is_empty() || right.starts_with('(') { left.trim_end() } else { before }
    });
    let before = before.strip_suffix("\"]")?;
    let (attribute, path) = before.rsplit_once('"')?;
    attribute.ends_with("#[path = ").then(|| path.to_owned())
}
