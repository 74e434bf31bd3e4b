//! [`Fair`]: a queue in which kinds take turns, by deficit round robin: who floods it waits behind himself.
//!
//! Each kind has a line of its own, first in first out. A turn is worth [`QUANTUM`]; a kind whose first item costs more than
//! what it has saved keeps that for its next turn, and loses it when its line is empty. So of kinds that always have something
//! in line each gets the same cost through, whatever their number of items.

use std::collections::{HashMap, VecDeque};

use crate::kinds::KindId;

/// What a turn is worth, in the unit of the items' costs: bytes, where those are bytes. A few small items.
const QUANTUM: u64 = 16 << 10;
/// Empty lines are kept up to here: kinds come again. Each store that opens has kinds of its own.
const LINES_KEPT: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct Fair<T> {
    /// Also empty ones, not too many.
    lines: HashMap<KindId, Line<T>>,
    /// Kinds with something in line, whose turn it is in front.
    turns: VecDeque<KindId>,
    len: usize,
}

#[derive(Debug)]
struct Line<T> {
    items: VecDeque<(u64, T)>,
    /// What it has left of its turns.
    saved: u64,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self { lines: HashMap::new(), turns: VecDeque::new(), len: 0 }
    }
}

impl<T> Fair<T> {
    /// To the end of the line of its kind.
    pub fn push(&mut self, kind: KindId, cost: u64, item: T) {
        if self.lines.len() > LINES_KEPT {
            self.lines.retain(|_, line| !line.items.is_empty());
        }
        let line = self.lines.entry(kind).or_insert_with(|| Line { items: VecDeque::new(), saved: 0 });
        if line.items.is_empty() {
            self.turns.push_back(kind);
        }
        line.items.push_back((cost, item));
        self.len += 1;
    }

    /// Whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        loop {
            let kind = *self.turns.front()?;
            let line = self.lines.get_mut(&kind).expect("who has a turn has a line");
            let cost = line.items.front().map_or(0, |(cost, _)| *cost);
            // Alone there is nobody to take turns with.
            if cost > line.saved && self.turns.len() > 1 {
                line.saved += QUANTUM;
                self.turns.rotate_left(1);
                continue;
            }
            line.saved = line.saved.saturating_sub(cost);
            let (_, item) = line.items.pop_front().expect("an empty line has no turn");
            self.len -= 1;
            if line.items.is_empty() {
                line.saved = 0;
                self.turns.pop_front();
            }
            return Some(item);
        }
    }

    /// True if nothing is in any line.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many are in line.
    pub const fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(number: u64) -> KindId {
        KindId::of_number(number)
    }

    #[test]
    fn who_floods_waits_behind_himself() {
        let mut queue = Fair::default();
        (0..10_000).for_each(|_| queue.push(kind(1), 512, "flood"));
        queue.push(kind(2), 512, "lease");
        let before =
            std::iter::from_fn(|| queue.pop()).position(|found| found == "lease").expect("it is in line");
        assert!(before as u64 <= 2 * QUANTUM / 512, "{before}");
    }

    #[test]
    fn lines_of_kinds_that_are_gone_are_not_kept() {
        let mut queue = Fair::default();
        queue.push(kind(0), 1, 0);
        for number in 1..10 * LINES_KEPT as u64 {
            queue.push(kind(number), 1, number);
            queue.push(kind(0), 1, 0);
            while queue.len() > 1 {
                queue.pop();
            }
        }
        assert!(queue.lines.len() <= LINES_KEPT + 1, "{}", queue.lines.len());
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn a_large_one_is_not_passed_for_ever() {
        let mut queue = Fair::default();
        queue.push(kind(1), 100 * QUANTUM, 0);
        (1..10_000).for_each(|number| queue.push(kind(2), QUANTUM, number));
        let before = std::iter::from_fn(|| queue.pop()).position(|found| found == 0).expect("it is in line");
        assert!((90..=110).contains(&before), "{before}");
    }

    proptest! {
        /// Nothing is lost, each line keeps its order, and of those that always wait each gets its share.
        #[test]
        fn each_gets_its_share(items in prop::collection::vec((0..5_u64, 1..3 * QUANTUM), 1..400)) {
            let mut queue = Fair::default();
            for (number, (of, cost)) in items.iter().enumerate() {
                queue.push(kind(*of), *cost, number);
            }
            let mut left: Vec<usize> = (0..5).map(|of| items.iter().filter(|(kind, _)| *kind == of).count()).collect();
            let mut given = [0_u64; 5];
            let mut last = [None; 5];
            while let Some(number) = queue.pop() {
                let (of, cost) = items[number];
                let of = of as usize;
                prop_assert!(last[of] < Some(number));
                last[of] = Some(number);
                given[of] += cost;
                left[of] -= 1;
                for other in 0..5 {
                    // Since the beginning both had something in line: they differ by what one may have saved, and a turn.
                    if left[of] > 0 && left[other] > 0 {
                        prop_assert!(given[of].abs_diff(given[other]) <= 5 * QUANTUM, "{:?}", given);
                    }
                }
            }
            prop_assert!(left.iter().all(|left| *left == 0) && queue.is_empty());
        }
    }
}
