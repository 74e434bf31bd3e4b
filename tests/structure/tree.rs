//! [`Tree`]: the repository as paths and texts, read from disk or made up by a test.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What is none of ours, or no source.
const LEFT_OUT: [&str; 5] = ["target", ".git", "node_modules", "vendor", "bin"];

/// Every file by its path from the root; the text of what is read here, nothing of the others.
#[derive(Default)]
pub(crate) struct Tree(BTreeMap<String, String>);

impl Tree {
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }

    pub(crate) fn read(root: &Path) -> Self {
        let mut tree = Self::default();
        tree.add(root, "");
        tree
    }

    fn add(&mut self, folder: &Path, prefix: &str) {
        for entry in fs::read_dir(folder).expect("a folder of the repository") {
            let entry = entry.expect("readable");
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            if LEFT_OUT.contains(&name.as_str()) {
                self.0.insert(path, String::new());
            } else if entry.file_type().expect("a kind of file").is_dir() {
                self.add(&entry.path(), &format!("{path}/"));
            } else {
                let is_read = name.ends_with(".rs") || path == "ARCHITECTURE.md";
                let text =
                    if is_read { fs::read_to_string(entry.path()).expect("text") } else { String::new() };
                self.0.insert(path, text);
            }
        }
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// Whether there is such a file, or a folder with something in it.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let folder = format!("{path}/");
        self.0.contains_key(path)
            || self.0.range(folder.clone()..).next().is_some_and(|(found, _)| found.starts_with(&folder))
    }
}
