//! What is kept of a run that broke a promise.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::arena::Arena;
use kit::judge::check::Violation;

/// Of what happened before and after, so many lines are shown.
const AROUND: usize = 12;
const SHOWN: usize = 3;
const LINE_CHARS_MAX: usize = 400;

/// Where this run's things are kept.
fn directory(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target directory");
    target.join("groups").join(format!("{name}-{}", std::process::id()))
}

/// Keeps the logs of all processes and everything that clients noted; gives what is to be said of it.
pub(crate) fn keep(
    name: &str,
    violations: &[Violation],
    notes: &[(u64, String)],
    troubles: &[String],
    arena: &Arena,
) -> String {
    let directory = directory(name);
    std::fs::create_dir_all(&directory).expect("the target directory can be written");
    let keep = |name: &str, text: &str| {
        std::fs::write(directory.join(name), text).expect("the target directory can be written");
    };
    for node in arena.nodes() {
        keep(&format!("{}.log", node.name), &node.log());
    }
    let mut notes: Vec<&(u64, String)> = notes.iter().collect();
    notes.sort_by_key(|(tick, _)| *tick);
    keep("notes.txt", &notes.iter().map(|(tick, note)| format!("{tick:>7} {note}\n")).collect::<String>());
    let all: String =
        violations.iter().map(|violation| format!("at {}: {}\n\n", violation.tick, violation.what)).collect();
    keep("violations.txt", &all);
    keep("troubles.txt", &troubles.join("\n"));

    let mut text = format!("{} broken promises; see {}\n", violations.len(), directory.display());
    for violation in violations.iter().take(SHOWN) {
        let _ = writeln!(text, "at {}: {}", violation.tick, violation.what);
    }
    if let Some(first) = violations.first() {
        let at = notes.partition_point(|(tick, _)| *tick <= first.tick);
        for (tick, note) in &notes[at.saturating_sub(AROUND)..notes.len().min(at + AROUND / 3)] {
            let short: String = note.chars().take(LINE_CHARS_MAX).collect();
            let _ = writeln!(text, "  {tick:>7} {short}");
        }
    }
    text
}
