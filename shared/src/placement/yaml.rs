//! A YAML document as a tree that knows its lines, so that every complaint can name one.

use saphyr_parser::{Event, Parser, Span};

use super::PlacementError;

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    /// From 1.
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    Scalar(String),
    Sequence(Vec<Node>),
    /// As written, keys twice included.
    Mapping(Vec<(Node, Node)>),
}

/// Reads the one document of `text`.
///
/// # Errors
/// The first fault of syntax. References (`*name`) are refused: what they stand for has no line of its own.
pub(super) fn read(text: &str) -> Result<Node, PlacementError> {
    let mut reader = Reader { parser: Parser::new_from_str(text) };
    let mut document = None;
    loop {
        let (event, line) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            _ if document.is_some() => {
                return Err(PlacementError { line, reason: "a second document begins".into() });
            }
            event => document = Some(reader.node(event, line)?),
        }
    }
    Ok(document.unwrap_or(Node { line: 1, kind: Kind::Null }))
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), PlacementError> {
        match self.parser.next_event() {
            Some(Ok((event, Span { start, .. }))) => Ok((event, start.line().max(1))),
            Some(Err(error)) => Err(PlacementError {
                line: error.marker().line().max(1),
                reason: format!("not YAML: {}", error.info()),
            }),
            None => Ok((Event::StreamEnd, 1)),
        }
    }

    fn node(&mut self, event: Event<'a>, line: usize) -> Result<Node, PlacementError> {
        let kind = match event {
            Event::Scalar(text, style, ..) => match (&text[..], style) {
                ("" | "~" | "null", saphyr_parser::ScalarStyle::Plain) => Kind::Null,
                _ => Kind::Scalar(text.into_owned()),
            },
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Kind::Sequence(items),
                        (event, line) => items.push(self.node(event, line)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut fields = Vec::new();
                loop {
                    match self.next()? {
                        (Event::MappingEnd, _) => break Kind::Mapping(fields),
                        (event, line) => {
                            let key = self.node(event, line)?;
                            let (event, line) = self.next()?;
                            fields.push((key, self.node(event, line)?));
                        }
                    }
                }
            }
            Event::Alias(_) => {
                return Err(PlacementError { line, reason: "references (*name) are not read here".into() });
            }
            other => {
                return Err(PlacementError { line, reason: format!("not YAML: {other:?} inside a value") });
            }
        };
        Ok(Node { line, kind })
    }
}
