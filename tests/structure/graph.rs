//! Who uses whom, and where that runs in a circle.

use std::collections::{BTreeMap, BTreeSet};

/// Arrows by name; each knows one file that draws it.
#[derive(Default)]
pub(crate) struct Graph(BTreeMap<String, BTreeMap<String, String>>);

impl Graph {
    pub(crate) fn add(&mut self, from: &str, to: &str, file: &str) {
        let targets = self.0.entry(from.to_owned()).or_default();
        targets.entry(to.to_owned()).or_insert_with(|| file.to_owned());
    }

    /// `(from, to, a file)`.
    pub(crate) fn arrows(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.0.iter().flat_map(|(from, targets)| {
            targets.iter().map(move |(to, file)| (from.as_str(), to.as_str(), file.as_str()))
        })
    }

    fn reached(&self, from: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut left = vec![from];
        while let Some(here) = left.pop() {
            for to in self.0.get(here).into_iter().flat_map(BTreeMap::keys) {
                if reached.insert(to.as_str()) {
                    left.push(to);
                }
            }
        }
        reached
    }

    /// Sets of names that all reach each other, each as large as it can be.
    pub(crate) fn circles(&self) -> Vec<BTreeSet<String>> {
        let reached: BTreeMap<_, _> = self.0.keys().map(|name| (name.as_str(), self.reached(name))).collect();
        let mut circles = BTreeSet::new();
        for (name, targets) in &reached {
            let back = |other: &&&str| reached.get(**other).is_some_and(|targets| targets.contains(name));
            let circle: BTreeSet<_> = targets.iter().filter(back).map(|other| (*other).to_owned()).collect();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }

    /// The arrows inside one circle, as a text.
    pub(crate) fn drawn(&self, circle: &BTreeSet<String>) -> String {
        let inside = self.arrows().filter(|(from, to, _)| circle.contains(*from) && circle.contains(*to));
        inside.map(|(from, to, file)| format!("\n    {from} -> {to} ({file})")).collect()
    }
}
