//! A placement file as an operator hands it over: from a path or standard input, with the line that says which number it was.

use std::convert::Infallible;
use std::io::Read as _;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow, bail};
use kubebrain_proto::peer::PlacementDocument;
use kubebrain_shared::placement::{Placement, TEXT_BYTES_MAX};

/// What the first line of a file begins with that `show` has made.
const HEAD: &str = "# number:";

/// Where a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Stdin,
    Path(PathBuf),
}

impl FromStr for Source {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "-" => Self::Stdin,
            path => Self::Path(path.into()),
        })
    }
}

/// A file that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct File {
    /// As it is called in sentences.
    pub(super) name: String,
    /// All of it.
    pub(super) text: String,
    /// What its first line says that it is a change of.
    pub(super) head: Option<Head>,
}

/// The number that a file was shown under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) number: u64,
    pub(super) lineage: Option<u64>,
}

impl Source {
    pub(super) fn read(&self) -> Result<File> {
        let name = match self {
            Self::Stdin => "standard input".to_owned(),
            Self::Path(path) => path.display().to_string(),
        };
        let text = match self {
            Self::Stdin => {
                let mut text = String::new();
                // One byte more than is allowed, which `check` and the servers refuse.
                std::io::stdin()
                    .lock()
                    .take(TEXT_BYTES_MAX as u64 + 1)
                    .read_to_string(&mut text)
                    .map(|_| text)
            }
            Self::Path(path) => std::fs::read_to_string(path),
        };
        File::new(name.clone(), text.with_context(|| name)?)
    }
}

impl File {
    pub(super) fn new(name: String, text: String) -> Result<Self> {
        let head = head(&text).with_context(|| format!("{name}, line 1"))?;
        Ok(Self { name, text, head })
    }

    /// # Errors
    /// Everything that is wrong with it, by line.
    pub(super) fn table(&self) -> Result<Placement> {
        if self.text.len() > TEXT_BYTES_MAX {
            bail!("{}: a placement has {TEXT_BYTES_MAX} bytes at most", self.name);
        }
        Placement::parse(&self.text).map_err(|errors| anyhow!("{}:\n{errors}", self.name))
    }

    /// As it goes into the cluster: without the line that would be wrong there.
    pub(super) fn body(&self) -> &str {
        body(&self.text)
    }
}

fn head(text: &str) -> Result<Option<Head>> {
    let Some(rest) = text.lines().next().and_then(|line| line.strip_prefix(HEAD)) else { return Ok(None) };
    let (number, lineage) = match rest.split_once(", lineage:") {
        Some((number, lineage)) => (number, Some(lineage)),
        None => (rest, None),
    };
    let wrong = || format!("`{HEAD}{rest}` names no number; write `{HEAD} N`, or take the line out");
    let number = number.trim().parse().with_context(wrong)?;
    let lineage =
        lineage.map(|lineage| u64::from_str_radix(lineage.trim(), 16)).transpose().with_context(wrong)?;
    Ok(Some(Head { number, lineage }))
}

fn body(text: &str) -> &str {
    match text.starts_with(HEAD) {
        true => text.split_once('\n').map_or("", |(_, body)| body),
        false => text,
    }
}

/// A document as a file, with its number in the first line.
pub(super) fn with_head(document: &PlacementDocument) -> String {
    let PlacementDocument { number, lineage, text, .. } = document;
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{HEAD} {number}, lineage: {lineage:x}\n{}{end}", body(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<File> {
        File::new("f".to_owned(), text.to_owned())
    }

    #[test]
    fn a_file_knows_what_it_is_a_change_of() {
        for (text, head, body) in [
            ("home: a\n", None, "home: a\n"),
            ("# number: 17\nhome: a\n", Some((17, None)), "home: a\n"),
            ("# number: 17, lineage: ab12\nhome: a\n", Some((17, Some(0xab12))), "home: a\n"),
            ("# a comment\n# number: 17\nhome: a\n", None, "# a comment\n# number: 17\nhome: a\n"),
            ("# number: 17", Some((17, None)), ""),
        ] {
            let file = file(text).expect("a good first line");
            assert_eq!(file.head.map(|head| (head.number, head.lineage)), head, "{text}");
            assert_eq!(file.body(), body, "{text}");
        }
        for bad in ["# number:\n", "# number: x\n", "# number: 1, lineage: xyz\n", "# number: -1\n"] {
            let error = format!("{:#}", file(bad).expect_err(bad));
            assert!(error.starts_with("f, line 1: "), "{error}");
        }
    }

    #[test]
    fn what_is_shown_can_be_applied_and_shown_again() {
        let mut document = PlacementDocument {
            number: 17,
            lineage: 0xab12,
            text: "home: a".to_owned(),
            ..Default::default()
        };
        let shown = with_head(&document);
        assert_eq!(shown, "# number: 17, lineage: ab12\nhome: a\n");
        document.text = shown.clone();
        assert_eq!(with_head(&document), shown, "one first line");
        assert_eq!(file(&shown).expect("a file").head, Some(Head { number: 17, lineage: Some(0xab12) }));
    }
}
