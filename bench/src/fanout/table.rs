//! What is shown of the lists: a line for each run, a table of their middles.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::cluster::Cpu;
use crate::machine::Machine;
use crate::stats::Spread;

const MIB: f64 = (1 << 20) as f64;

/// How a list is read.
#[derive(Clone, Copy)]
pub(super) struct Case {
    /// From how many brains.
    pub(super) brains: usize,
    /// By RangeStream, not by Range.
    pub(super) streams: bool,
}

impl Case {
    pub(super) const fn of(brains: usize) -> Self {
        Self { brains, streams: false }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = if self.streams { "RangeStream" } else { "Range" };
        match self.brains {
            1 => write!(f, "{method} from one brain"),
            brains => write!(f, "{method} from {brains} brains"),
        }
    }
}

/// Lists, one after the other.
pub(super) struct Listed {
    pub(super) lists: usize,
    pub(super) bytes: usize,
    pub(super) time: Duration,
    pub(super) cpu: Cpu,
    /// Of the client and the cards.
    pub(super) own: Duration,
    /// The proxy's peak above what it had before its first list, bytes.
    pub(super) memory: u64,
    pub(super) parts: u64,
    pub(super) second_tries: u64,
}

impl Listed {
    fn rate(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.time.as_secs_f64()
    }

    /// Milliseconds of a time of each list.
    fn each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e3 / self.lists as f64
    }

    fn cpu(&self) -> f64 {
        self.each(self.cpu.all())
    }
}

/// The rounds of one case.
pub(super) struct Measured {
    pub(super) case: Case,
    pub(super) runs: Vec<Listed>,
}

impl Measured {
    fn spread(&self, figure: impl Fn(&Listed) -> f64) -> Spread {
        Spread::of(self.runs.iter().map(figure))
    }
}

/// One run.
pub(super) fn line(case: Case, run: &Listed) -> String {
    format!(
        "{case}: {:.1} MB/s, {:.0} ms a list; CPU of brains {:.0}, proxies {:.0}, store {:.0}, client and cards {:.0} ms a \
         list; {:.0} MiB above idle, {} parts, {} again",
        run.rate(),
        run.each(run.time),
        run.each(run.cpu.brains),
        run.each(run.cpu.proxies),
        run.each(run.cpu.stores),
        run.each(run.own),
        run.memory as f64 / MIB,
        run.parts,
        run.second_tries,
    )
}

/// All cases; each is compared with the same list from one brain.
pub(super) fn table(machine: &Machine, megabytes_per_second: f64, measured: &[Measured]) -> String {
    let mut text = format!(
        "{}: {}, {} cores, {} GiB, {}; commit {}; cards of {megabytes_per_second} MB/s. Median of {} rounds.\n\n",
        machine.date,
        machine.processor,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        machine.commit,
        measured.first().map_or(0, |measured| measured.runs.len()),
    );
    text.push_str("| list | MB/s | to one brain's | ms | CPU ms | to one brain's | brains, proxy, store | proxy MiB above idle | parts | second tries |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for row in measured {
        let base =
            measured.iter().find(|base| base.case.brains == 1 && base.case.streams == row.case.streams);
        let to_base = |figure: fn(&Listed) -> f64| {
            let pairs = base.into_iter().flat_map(|base| row.runs.iter().zip(&base.runs));
            Spread::of(pairs.map(|(run, base)| figure(run) / figure(base)))
        };
        let (rate, cpu) = (to_base(Listed::rate), to_base(Listed::cpu));
        let _written = writeln!(
            text,
            "| {} | {:.1} | **{:.2}** ({:.2}-{:.2}) | {:.0} | {:.0} | **{:.2}** ({:.2}-{:.2}) | {:.0}, {:.0}, {:.0} | {:.0} | {:.0} | {:.0} |",
            row.case,
            row.spread(Listed::rate).median,
            rate.median,
            rate.min,
            rate.max,
            row.spread(|run| run.each(run.time)).median,
            row.spread(Listed::cpu).median,
            cpu.median,
            cpu.min,
            cpu.max,
            row.spread(|run| run.each(run.cpu.brains)).median,
            row.spread(|run| run.each(run.cpu.proxies)).median,
            row.spread(|run| run.each(run.cpu.stores)).median,
            row.spread(|run| run.memory as f64).max / MIB,
            row.spread(|run| run.parts as f64 / run.lists as f64).median,
            row.spread(|run| run.second_tries as f64 / run.lists as f64).median,
        );
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(brains: usize, milliseconds: [u64; 3]) -> Measured {
        let idle = Cpu { brains: Duration::ZERO, proxies: Duration::ZERO, stores: Duration::ZERO };
        let run = |time| Listed {
            lists: 2,
            bytes: 2_000_000,
            time: Duration::from_millis(time),
            cpu: Cpu { proxies: Duration::from_millis(100), ..idle },
            own: Duration::ZERO,
            memory: 3 << 20,
            parts: 8,
            second_tries: 0,
        };
        Measured { case: Case::of(brains), runs: milliseconds.map(run).into() }
    }

    #[test]
    fn a_list_of_several_is_compared_round_by_round_with_that_of_one() {
        let machine = Machine::here(std::path::Path::new("/"));
        let text = table(&machine, 50.0, &[measured(1, [100, 200, 400]), measured(3, [50, 50, 50])]);
        assert!(text.contains("| Range from one brain | 10.0 | **1.00** (1.00-1.00) | 100 | 50 |"), "{text}");
        assert!(text.contains("| Range from 3 brains | 40.0 | **4.00** (2.00-8.00) | 25 | 50 |"), "{text}");
        assert!(text.ends_with("| 3 | 4 | 0 |"), "{text}");
    }
}
