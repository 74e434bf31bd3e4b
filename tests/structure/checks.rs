//! The checks: each says what is wrong, and is empty where nothing is.

use std::collections::BTreeSet;

use crate::graph::Graph;
use crate::modules::Crate;
use crate::page::{Known, Order, Page};
use crate::sizes;
use crate::tree::Tree;

/// Circles that no row lists, and rows that list none. A circle may become smaller than its row.
pub(crate) fn circles(krate: &str, graph: &Graph, known: &[Known], table: &str) -> Vec<String> {
    let known: Vec<_> = known.iter().filter(|row| row.krate == krate).collect();
    let found = graph.circles();
    let unlisted = found.iter().filter(|circle| !known.iter().any(|row| circle.is_subset(&row.rooms)));
    let new = unlisted
        .map(|circle| format!("{krate}: a circle that {table} does not list:{}", graph.drawn(circle)));
    let gone = known.iter().filter(|row| !found.iter().any(|circle| circle.is_subset(&row.rooms)));
    let gone =
        gone.map(|row| format!("{krate}: no circle any more, take it out of {table}: {:?}", row.rooms));
    let bare = known.iter().filter(|row| row.reason.is_empty());
    let bare = bare.map(|row| format!("{krate}: {table} gives no reason for {:?}", row.rooms));
    new.chain(gone).chain(bare).collect()
}

/// Arrows that go up, modules that stand in no level, levels that name none.
pub(crate) fn order(krate: &Crate, order: &Order, known: &[Known]) -> Vec<String> {
    let (name, rooms) = (&krate.name, krate.rooms());
    let graph = krate.between_rooms();
    let listed: Vec<_> = order.levels.iter().flatten().cloned().collect();
    let named: BTreeSet<_> = listed.iter().cloned().collect();
    let mut wrong: Vec<_> =
        rooms.difference(&named).map(|room| format!("{name}: {room} stands nowhere in the order")).collect();
    let roots = ["lib", "main"].map(str::to_owned).into();
    let strange = named.difference(&rooms).filter(|room| !BTreeSet::contains(&roots, *room));
    wrong.extend(strange.map(|room| format!("{name}: the order names {room}, which is no module")));
    if listed.len() != named.len() {
        wrong.push(format!("{name}: the order names a module twice"));
    }
    for (from, to, file) in graph.arrows() {
        let is_known =
            known.iter().any(|row| row.krate == *name && row.rooms.contains(from) && row.rooms.contains(to));
        let goes_down = match (order.level(from), order.level(to)) {
            (Some(from), Some(to)) => to < from,
            (_, None) => roots.contains(from) || !roots.contains(to), // a root that is not named stands above all
            (None, Some(_)) => true,                                  // said above
        };
        if !goes_down && !is_known {
            wrong.push(format!("{name}: {from} uses {to}, which does not stand to its left ({file})"));
        }
    }
    wrong
}

/// Names of the map behind which there is nothing.
pub(crate) fn names(page: &Page<'_>, tree: &Tree) -> Vec<String> {
    let missing =
        page.named(tree).into_iter().filter(|(_, places)| !places.iter().any(|place| tree.has(place)));
    missing.map(|(name, _)| format!("the map names {name}, which does not exist")).collect()
}

/// What is long without a reason, and exceptions that are not needed any more.
pub(crate) fn lengths(tree: &Tree, crates: &[Crate], exceptions: &[&str]) -> Vec<String> {
    let modules = crates.iter().flat_map(|krate| &krate.modules);
    let long: Vec<_> = modules
        .flat_map(|module| sizes::too_long(tree.text(&module.file).unwrap_or_default(), module))
        .collect();
    let new = long.iter().filter(|(what, _)| !exceptions.contains(&what.as_str()));
    let new = new.map(|(what, lines)| {
        let (file, function) = (sizes::FILE_MAX, sizes::FUNCTION_MAX);
        format!("{what} has {lines} lines; above {file} for a file, {function} for a function, `// Long: …` says why")
    });
    let gone = exceptions.iter().filter(|exception| !long.iter().any(|(what, _)| what == *exception));
    new.chain(gone.map(|exception| format!("{exception} is no exception any more: take it out"))).collect()
}

/// The sizes of all files together.
pub(crate) fn spread(lines: Vec<usize>) -> Vec<String> {
    let (median, nine_of_ten) = sizes::spread(lines);
    let mut wrong = Vec::new();
    if median > sizes::MEDIAN_MAX {
        wrong.push(format!(
            "half of the files have more than {median} lines; {} are enough",
            sizes::MEDIAN_MAX
        ));
    }
    if nine_of_ten > sizes::NINE_OF_TEN_MAX {
        let max = sizes::NINE_OF_TEN_MAX;
        wrong.push(format!("one file in ten has more than {nine_of_ten} lines; {max} are enough"));
    }
    wrong
}

/// Source files that the page names in backticks, with their folders, and that are not there.
pub(crate) fn files(page: &Page<'_>, tree: &Tree) -> Vec<String> {
    let quoted = page.0.split('`').filter(|word| word.ends_with(".rs") && word.contains('/'));
    let gone = quoted.filter(|file| !file.contains(char::is_whitespace) && tree.text(file).is_none());
    gone.map(|file| format!("the page names {file}, which is not there")).collect()
}
