//! Columns for people.

/// Rows under a head, each column as wide as it must be.
///
/// # Errors
/// See [`crate::print::print`].
pub(super) fn print(head: &[&str], rows: &[Vec<String>]) -> anyhow::Result<()> {
    crate::print::print(&render(head, rows))
}

pub(super) fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|name| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["core".to_owned(), "7".to_owned()], vec!["x".to_owned(), "12345".to_owned()]];
        let text = super::render(&["GROUP", "REV"], &rows);
        assert_eq!(text, "GROUP  REV\ncore   7\nx      12345\n");
    }
}
