//! What is shown: a line for each run, a table of their middles.

use std::fmt::Write as _;

use super::load::{Flood, Ran};
use crate::machine::Machine;
use crate::stats::Spread;

/// The same server under the same flood, round by round.
pub(super) struct Measured {
    pub(super) server: String,
    pub(super) flood: &'static str,
    pub(super) runs: Vec<Ran>,
}

pub(super) fn line(server: &str, flood: Flood, ran: &Ran) -> String {
    let Ran { p50, p99, flood: written, refused } = ran;
    format!(
        "{server}, flood {}: leases p50 {p50:.2} ms, p99 {p99:.2} ms; events {written:.0}/s, refused {refused:.0}/s",
        flood.name()
    )
}

/// With each round's p99 held against the same server's quiet p99 of the same round.
pub(super) fn table(machine: &Machine, measured: &[Measured]) -> String {
    let mut text = format!(
        "{machine}\n\n| server | flood | events/s | refused/s | leases p50 ms | p99 ms | p99 : quiet |\n|---|---|---|---|---|---|---|\n"
    );
    for row in measured {
        let spread = |of: &dyn Fn(&Ran) -> f64| Spread::of(row.runs.iter().map(of));
        let quiet =
            measured.iter().find(|other| other.server == row.server && other.flood == Flood::None.name());
        let quiet = quiet.map_or(&[][..], |quiet| &quiet.runs);
        let ratio = Spread::of(row.runs.iter().zip(quiet).map(|(ran, quiet)| ran.p99 / quiet.p99));
        let p99 = spread(&|ran| ran.p99);
        let _infallible = writeln!(
            text,
            "| {} | {} | {:.0} | {:.0} | {:.2} | {:.2} ({:.2}-{:.2}) | {:.2} ({:.2}-{:.2}) |",
            row.server,
            row.flood,
            spread(&|ran| ran.flood).median,
            spread(&|ran| ran.refused).median,
            spread(&|ran| ran.p50).median,
            p99.median,
            p99.min,
            p99.max,
            ratio.median,
            ratio.min,
            ratio.max
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_is_held_against_its_own_quiet() {
        let ran = |p99| Ran { p50: 1.0, p99, flood: 10.0, refused: 0.0 };
        let row = |flood: Flood, p99: [f64; 2]| Measured {
            server: "one".to_owned(),
            flood: flood.name(),
            runs: p99.map(ran).into(),
        };
        let rows = [row(Flood::None, [2.0, 4.0]), row(Flood::Full, [4.0, 6.0])];
        let machine = Machine::here(&std::env::temp_dir());
        let text = table(&machine, &rows);
        assert!(
            text.contains("| one | at full speed | 10 | 0 | 1.00 | 5.00 (4.00-6.00) | 1.75 (1.50-2.00) |"),
            "{text}"
        );
    }
}
