//! docs/compared-with-etcd.md names what shows each of its rows: a file, and mostly a name in it. Both must be there.

use std::path::Path;

const PAGE: &str = "docs/compared-with-etcd.md";

/// What stands between backticks in the last cell of a table's row.
fn shown_by(row: &str) -> Vec<&str> {
    let cell = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
    cell.split('`').skip(1).step_by(2).collect()
}

/// The first word is a file, and so is each that follows and is one; any other must stand in the file before it.
fn missing(root: &Path, row: &str) -> Vec<String> {
    let mut content = None;
    let mut missing = Vec::new();
    for word in shown_by(row) {
        match std::fs::read_to_string(root.join(word)) {
            Ok(text) => content = Some(text),
            Err(_) if content.as_ref().is_some_and(|text: &String| text.contains(word)) => {}
            Err(_) => missing.push(word.to_owned()),
        }
    }
    if content.is_none() {
        missing.push(format!("a file in: {row}"));
    }
    missing
}

#[test]
fn every_row_of_the_comparison_with_etcd_is_shown_by_something() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join(PAGE)).expect(PAGE);
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| subject");
    let rows: Vec<_> = page.lines().filter(is_row).collect();
    assert!(rows.len() > 20, "{PAGE} has lost its rows");
    let missing: Vec<_> = rows.iter().flat_map(|row| missing(root, row)).collect();
    assert!(missing.is_empty(), "{PAGE} names what is not there: {missing:#?}");
}

#[test]
fn a_row_that_names_nothing_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(missing(root, "| a | b | `README.md` `Try it` |"), Vec::<String>::new());
    assert_eq!(missing(root, "| a | b | `README.md` `not there at all` |"), ["not there at all"]);
    assert_eq!(missing(root, "| a | b | `tests/none.rs` `x` |").len(), 3);
}
