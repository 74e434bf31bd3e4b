//! The paths that code names: those of its `use` declarations, and those in expressions and types.

use std::collections::{BTreeMap, BTreeSet};

/// What one file says.
#[derive(Default)]
pub(crate) struct Said {
    /// `mod name;` and where in the text.
    pub(crate) children: Vec<(String, usize)>,
    /// What a name that is imported stands for.
    pub(crate) imports: BTreeMap<String, Vec<String>>,
    /// The same with a star at its end.
    pub(crate) stars: Vec<Vec<String>>,
    /// Items that the file defines.
    pub(crate) items: BTreeSet<String>,
    /// All paths that are used: not those that are only passed on by `pub use`.
    pub(crate) used: Vec<Vec<String>>,
}

#[derive(Clone, Copy, PartialEq)]
struct Token<'a> {
    text: &'a str,
    at: usize,
}

fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = code.char_indices().peekable();
    while let Some((at, first)) = rest.next() {
        let mut end = at + first.len_utf8();
        if first.is_alphanumeric() || first == '_' {
            while let Some((place, next)) = rest.next_if(|(_, next)| next.is_alphanumeric() || *next == '_') {
                end = place + next.len_utf8();
            }
        } else if code[at..].starts_with("::") {
            rest.next();
            end = at + 2;
        } else if first.is_whitespace() {
            continue;
        }
        tokens.push(Token { text: &code[at..end], at });
    }
    tokens
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

pub(crate) fn said(code: &str) -> Said {
    const DEFINES: [&str; 9] =
        ["fn", "struct", "enum", "trait", "type", "const", "static", "union", "macro_rules"];
    let tokens = tokens(code);
    let mut said = Said::default();
    let mut passed_on = Vec::new();
    let mut bare = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        let text = |place: usize| tokens.get(place).map_or("", |token| token.text);
        let before = |back: usize| at.checked_sub(back).map_or("", text);
        match text(at) {
            "mod" if is_name(text(at + 1)) && text(at + 2) == ";" => {
                said.children.push((text(at + 1).to_owned(), tokens[at].at));
                at += 3;
            }
            "use" if matches!(before(1), "" | ";" | "}" | "{" | "]" | "pub" | ")") => {
                let is_passed_on = matches!(before(1), "pub" | ")");
                let mut tree = Tree { tokens: &tokens, at: at + 1, leaves: Vec::new() };
                tree.read(&[]);
                at = tree.at;
                for (path, name) in tree.leaves {
                    if name == "*" {
                        said.stars.push(path.clone());
                    } else {
                        said.imports.insert(name.clone(), path.clone());
                    }
                    if is_passed_on { passed_on.push((name, path)) } else { said.used.push(path) }
                }
            }
            word if DEFINES.contains(&word) => {
                let name = if text(at + 1) == "!" { text(at + 2) } else { text(at + 1) };
                said.items.insert(name.to_owned());
                at += 1;
            }
            word if is_name(word) && !matches!(before(1), "::" | ".") => {
                bare.insert(word.to_owned());
                let is_visibility = before(1) == "in" && before(2) == "(" && before(3) == "pub";
                let mut path = vec![word.to_owned()];
                while text(at + 1) == "::" && is_name(text(at + 2)) {
                    path.push(text(at + 2).to_owned());
                    at += 2;
                }
                if path.len() > 1 && !is_visibility {
                    said.used.push(path);
                }
                at += 1;
            }
            _ => at += 1,
        }
    }
    said.used.extend(passed_on.into_iter().filter(|(name, _)| bare.contains(name)).map(|(_, path)| path));
    said
}

/// One `use` declaration on its way to paths, each with the name that it gets.
struct Tree<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    leaves: Vec<(Vec<String>, String)>,
}

impl Tree<'_> {
    fn next(&self) -> &str {
        self.tokens.get(self.at).map_or(";", |token| token.text)
    }

    fn read(&mut self, prefix: &[String]) {
        let mut path = prefix.to_vec();
        loop {
            match self.next() {
                "::" => self.at += 1,
                "{" => {
                    self.at += 1;
                    while !matches!(self.next(), "}" | ";") {
                        self.read(&path);
                        if self.next() == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "*" => {
                    self.at += 1;
                    self.leaves.push((path, "*".to_owned()));
                    return;
                }
                "as" => {
                    self.at += 1;
                    let name = self.next().to_owned();
                    self.at += 1;
                    self.leaves.push((path, name));
                    return;
                }
                "self" if !path.is_empty() => self.at += 1,
                word if is_name(word) => {
                    path.push(word.to_owned());
                    self.at += 1;
                }
                _ => {
                    let name = path.last().cloned().unwrap_or_default();
                    self.leaves.push((path, name));
                    return;
                }
            }
        }
    }
}
