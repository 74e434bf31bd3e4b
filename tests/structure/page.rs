//! What ARCHITECTURE.md says of the structure: its map, its order of modules, its circles.

use std::collections::BTreeSet;

use crate::tree::Tree;

/// The page.
pub(crate) struct Page<'a>(pub(crate) &'a str);

/// A circle that is known, and why it stands.
pub(crate) struct Known {
    pub(crate) krate: String,
    pub(crate) rooms: BTreeSet<String>,
    pub(crate) reason: String,
}

/// One line of the order: a crate, and its modules in levels. Who stands further left may not use who stands further
/// right; modules of one level do not use each other.
pub(crate) struct Order {
    pub(crate) krate: String,
    pub(crate) levels: Vec<Vec<String>>,
}

impl Order {
    pub(crate) fn level(&self, room: &str) -> Option<usize> {
        self.levels.iter().position(|level| level.iter().any(|name| name == room))
    }
}

impl<'a> Page<'a> {
    /// The lines between the fences of each block; with the word behind the opening fence.
    fn blocks(&self) -> Vec<(&'a str, Vec<&'a str>)> {
        let mut blocks = Vec::new();
        let mut open: Option<(&str, Vec<&str>)> = None;
        for line in self.0.lines() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(word), None) => open = Some((word.trim(), Vec::new())),
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some((_, lines))) => lines.push(line),
                (None, None) => {}
            }
        }
        blocks
    }

    fn block(&self, word: &str) -> Vec<&'a str> {
        let found = self.blocks().into_iter().find(|(name, _)| *name == word);
        found.unwrap_or_else(|| panic!("ARCHITECTURE.md has no block ```{word}")).1
    }

    /// ```` ```order ````: `crate: a < b c < d`, and lines that go on are indented.
    pub(crate) fn order(&self) -> Vec<Order> {
        let mut lines: Vec<String> = Vec::new();
        for line in self.block("order") {
            match lines.last_mut() {
                Some(last) if line.starts_with(' ') => last.push_str(line),
                _ => lines.push(line.to_owned()),
            }
        }
        let whole = lines.iter().filter(|line| !line.trim().is_empty()).map(|line| {
            let (krate, rooms) =
                line.split_once(':').unwrap_or_else(|| panic!("no crate in front of {line:?}"));
            let levels = rooms.split('<').map(|level| level.split_whitespace().map(str::to_owned).collect());
            Order { krate: krate.trim().to_owned(), levels: levels.collect() }
        });
        whole.collect()
    }

    /// Rows of the table whose first column is called `circle in`.
    pub(crate) fn circles(&self) -> Vec<Known> {
        let rows = self.0.lines().skip_while(|line| !line.starts_with("| circle in |")).skip(2);
        let rows = rows.take_while(|line| line.starts_with('|')).map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [krate, rooms, reason] = cells[..] else { panic!("three columns, not {line:?}") };
            let rooms = rooms.split_whitespace().map(str::to_owned).collect();
            Known { krate: krate.to_owned(), rooms, reason: reason.to_owned() }
        });
        rows.collect()
    }

    /// Names of the map, each with the places one of which has to be there. The first column of a line that is not
    /// indented names from the root, that of a line indented by two below the last of those; so do words that end with a slash or begin with a folder.
    pub(crate) fn named(&self, tree: &Tree) -> Vec<(String, Vec<String>)> {
        let mut named = Vec::new();
        let (mut base, mut entry) = (String::new(), String::new());
        for line in self.block("map") {
            let indent = line.len() - line.trim_start().len();
            let (column, text) = match indent {
                0 | 2 => line.trim_start().split_once("  ").unwrap_or((line.trim_start(), "")),
                _ => ("", line),
            };
            let names: Vec<_> = column.split_whitespace().collect();
            if let (0, Some(last)) = (indent, names.last()) {
                let folder = last.trim_end_matches('/');
                let source = format!("{folder}/src");
                base = if tree.has(&source) { source } else { folder.to_owned() };
            }
            for name in names {
                let place = name.trim_end_matches('/');
                entry = if indent == 0 { place.to_owned() } else { format!("{base}/{place}") };
                named.push((name.to_owned(), vec![entry.clone(), format!("{entry}.rs")]));
            }
            for word in text.split_whitespace() {
                let word = word.trim_matches(|c: char| !c.is_alphanumeric() && !"/_.".contains(c));
                let word =
                    word.trim_end_matches(['.', '/']).to_owned() + if word.ends_with('/') { "/" } else { "" };
                let folders = [String::new(), format!("{base}/"), format!("{entry}/")];
                let Some((first, _)) = word.split_once('/').filter(|(first, _)| !first.is_empty()) else {
                    continue;
                };
                if word.ends_with('/') || folders.iter().any(|folder| tree.has(&format!("{folder}{first}/")))
                {
                    let places = folders.iter().map(|folder| format!("{folder}{word}")).collect();
                    named.push((word, places));
                }
            }
        }
        named
    }
}
