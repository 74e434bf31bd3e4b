//! What is shown: a line for each run, a table of ratios, JSON of everything.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use crate::machine::Machine;
use crate::server::Kind;
use crate::stats::{Run, Spread};
use crate::work::Plan;

/// Marks in a page, between which the table stands.
const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";

/// Above it a client is the slower side.
const BUSY: f64 = 0.95;

/// A whole comparison.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Comparison {
    pub(crate) machine: Machine,
    pub(crate) versions: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) rows: Vec<Row>,
}

/// One kind of work on all servers.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Row {
    pub(crate) plan: Plan,
    pub(crate) measured: Vec<Measured>,
}

/// One server's rounds.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Measured {
    pub(crate) server: Kind,
    /// What its data took on disk in the end, bytes.
    pub(crate) disk: u64,
    pub(crate) runs: Vec<Run>,
}

impl Comparison {
    pub(crate) const fn new(machine: Machine, versions: Vec<String>, rounds: usize, seconds: f64) -> Self {
        Self { machine, versions, rounds, seconds, rows: Vec::new() }
    }
}

impl Measured {
    fn spread(&self, figure: impl Fn(&Run) -> f64) -> Spread {
        Spread::of(self.runs.iter().map(figure))
    }
}

/// One run.
pub(crate) fn line(run: &Run) -> String {
    let mut line = format!("{:.0}/s  p50 {:.2} ms  p99 {:.2} ms", run.per_second, run.p50_ms, run.p99_ms);
    let mut also = |text: String| line.push_str(&text);
    if run.memory > 0 {
        also(format!("  server {:.1} us CPU each, {} MiB", run.cpu_us, run.memory >> 20));
    }
    also(format!("  client {:.0} % busy", run.client_busy * 100.0));
    if run.conflicts > 0 {
        also(format!("  {} lost a race", run.conflicts));
    }
    line
}

/// The lines of one kind of work, a line for each server. Ratios are taken round by round.
pub(crate) fn table_row(row: &Row) -> String {
    let mut text = String::new();
    let base = row.measured.iter().find(|measured| measured.server == Kind::Etcd);
    for measured in &row.measured {
        let rate = measured.spread(|run| run.per_second);
        let ratio = base.filter(|base| base.server != measured.server).map(|base| {
            let pairs = measured.runs.iter().zip(&base.runs);
            Spread::of(pairs.map(|(ours, theirs)| ours.per_second / theirs.per_second))
        });
        let ratio = ratio.map_or_else(
            || "1".to_owned(),
            |ratio| format!("**{:.2}** ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max),
        );
        let bound = if measured.spread(|run| run.client_busy).median > BUSY { " *" } else { "" };
        let name = serde_json::to_string(&row.plan.work).unwrap_or_default();
        let server = serde_json::to_string(&measured.server).unwrap_or_default();
        let _written = writeln!(
            text,
            "| {} | {} | {:.0} {}{bound} | {ratio} | {:.1} | {:.2} / {:.2} | {:.0} | {:.0} |",
            name.trim_matches('"'),
            server.trim_matches('"'),
            rate.median,
            row.plan.unit(),
            measured.spread(|run| run.cpu_us).median,
            measured.spread(|run| run.p50_ms).median,
            measured.spread(|run| run.p99_ms).median,
            measured.spread(|run| run.memory as f64).max / f64::from(1 << 20),
            measured.disk as f64 / f64::from(1 << 20),
        );
    }
    text.trim_end().to_owned()
}

/// The whole table, with where it comes from.
fn table(comparison: &Comparison) -> String {
    let machine = &comparison.machine;
    let mut text = format!(
        "{}: {}, {} cores, {} GiB, {}, {}; commit {}; {}. Median of {} rounds of {} s; of ratios also the least and \
         the most.\n\n",
        machine.date,
        machine.processor,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        machine.file_system,
        machine.commit,
        comparison.versions.join(", "),
        comparison.rounds,
        comparison.seconds,
    );
    text.push_str("| work | server | rate | to etcd | CPU us each | p50 / p99 ms | peak MiB | disk MiB |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for row in &comparison.rows {
        text.push_str(&table_row(row));
        text.push('\n');
    }
    text.push_str("\n\\* the client's core was busy: the server could have done more.\n");
    text
}

/// A page with the table between its marks.
pub(crate) fn into_page(page: &str, comparison: &Comparison) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("the page lacks {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("the page lacks {END}"))?;
    Ok(format!("{before}{BEGIN}\n{}{END}{after}", table(comparison)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Work;

    fn measured(server: Kind, rates: [f64; 3]) -> Measured {
        let run = |per_second| Run { per_second, client_busy: 0.5, ..Run::default() };
        Measured { server, disk: 3 << 20, runs: rates.map(run).to_vec() }
    }

    #[test]
    fn a_ratio_is_the_middle_of_the_ratios_of_each_round() {
        let row = Row {
            plan: Plan::of(Work::Get),
            measured: vec![
                measured(Kind::Etcd, [100.0, 200.0, 100.0]),
                measured(Kind::Brain, [300.0, 400.0, 400.0]),
            ],
        };
        let text = table_row(&row);
        assert!(text.contains("| get | etcd | 100 requests/s | 1 |"), "{text}");
        assert!(text.contains("| get | brain | 400 requests/s | **3.00** (2.00-4.00) |"), "{text}");
    }

    #[test]
    fn a_page_keeps_what_is_outside_its_marks() {
        let machine = Machine::here(std::path::Path::new("/"));
        let comparison = Comparison::new(machine, Vec::new(), 1, 1.0);
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let page = into_page(&page, &comparison).expect("it has marks");
        assert!(page.starts_with("before\n") && page.ends_with("\nafter\n") && !page.contains("old"));
        assert!(into_page("no marks", &comparison).is_err());
    }
}
