//! How long files and functions are.

use crate::modules::Module;
use crate::strip;

pub(crate) const FILE_MAX: usize = 600;
pub(crate) const FUNCTION_MAX: usize = 80;
pub(crate) const MEDIAN_MAX: usize = 130;
pub(crate) const NINE_OF_TEN_MAX: usize = 400;

/// What is longer than it should be: a file, or `file: function`; and its lines.
pub(crate) fn too_long(text: &str, module: &Module) -> Vec<(String, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    let head =
        lines.iter().take_while(|line| line.is_empty() || line.starts_with("//") || line.starts_with("#!["));
    if module.lines > FILE_MAX && !head.copied().any(says_why) {
        found.push((module.file.clone(), module.lines));
    }
    for (name, first, last) in functions(&module.code) {
        let length = last - first + 1;
        let above = lines[..first].iter().rev().map(|line| line.trim_start());
        let explained =
            above.take_while(|line| line.starts_with("//") || line.starts_with('#')).any(says_why);
        if length > FUNCTION_MAX && !explained {
            found.push((format!("{}: {name}", module.file), length));
        }
    }
    found
}

fn says_why(line: &str) -> bool {
    line.strip_prefix("// Long: ").is_some_and(|reason| !reason.trim().is_empty())
}

/// Each function with a body: its name, its first line from 0, and its last.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let bytes = code.as_bytes();
    let line = |at: usize| code[..at].matches('\n').count();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let in_word = at
            .checked_sub(1)
            .is_some_and(|place| bytes[place].is_ascii_alphanumeric() || bytes[place] == b'_');
        let name = code[at + 3..].trim_start();
        let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if in_word || name.is_empty() {
            continue;
        }
        let mut here = at;
        while here < bytes.len() {
            match bytes[here] {
                b'(' | b'[' => here = strip::closing(bytes, here),
                b';' => break,
                b'{' => {
                    found.push((name, line(at), line(strip::closing(bytes, here) - 1)));
                    break;
                }
                _ => here += 1,
            }
        }
    }
    found
}

/// `(median, what nine of ten do not exceed)`.
pub(crate) fn spread(mut lines: Vec<usize>) -> (usize, usize) {
    lines.sort_unstable();
    let at = |part: usize| lines.get((lines.len() * part / 100).min(lines.len().saturating_sub(1)));
    (at(50).copied().unwrap_or(0), at(90).copied().unwrap_or(0))
}
