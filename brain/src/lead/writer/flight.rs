//! A batch on its way out, and what becomes visible once it is durable.

use std::time::Duration;

use tonic::Code;

use super::batch::{Filling, Flying};
use super::task::Writer;
#[cfg(any(test, feature = "faults"))]
use crate::decide::pending::Pending;

/// etcd's bound on what it calls slow to apply.
const SLOW_BATCH: Duration = Duration::from_millis(100);
/// Changes that go into the index while readers wait: some milliseconds.
const INDEXED_AT_ONCE: usize = 4096;

impl Writer {
    /// Sends what has filled, if nothing flies.
    pub(super) fn launch(&mut self) {
        while self.flying.is_none() && !self.filling.is_empty() {
            let filling = std::mem::replace(&mut self.filling, Filling::new(self.counter, self.state.bounds));
            if filling.needs_no_engine() {
                self.land(filling);
            } else {
                let (state, after_repeats) = (self.state.clone(), std::mem::take(&mut self.after_repeats));
                self.flying = Some(Flying::launch(state, self.number, self.counter, after_repeats, filling));
                self.number = self.number.next();
            }
        }
    }

    /// Planted: a batch that may still be committed is forgotten, and what it was given is given out again.
    #[cfg(any(test, feature = "faults"))]
    pub(super) fn give_up(&mut self) {
        self.number = self.number.before();
        self.counter = self.state.committed().get();
        self.pending = Pending::default();
        self.placing = None;
        self.filling = Filling::new(self.counter, self.state.bounds);
    }

    /// Makes a durable batch visible: index, committed revision, watchers, answers.
    pub(super) fn land(&mut self, mut filling: Filling) {
        filling.spans.drain(..).for_each(|span| span.end(Code::Ok));
        let metrics = &self.state.metrics;
        metrics.all.committed.add(filling.proposals);
        let revisions = std::mem::take(&mut filling.revisions);
        if !revisions.is_empty() {
            metrics.batch_writes.observe(revisions.len() as f64);
            for revision in &revisions {
                // Nobody reads at this revision yet. So readers are let in between, if there is much of it.
                for changes in revision.changes.chunks(INDEXED_AT_ONCE) {
                    let mut index = self.state.index.write();
                    changes.iter().for_each(|change| index.insert(&change.key, change.version));
                }
            }
        }
        for change in revisions.iter().flat_map(|revision| &revision.changes) {
            self.pending.applied(&change.key);
        }
        self.state.show(revisions, filling.closes, filling.compacted);
        // After that: what is read of keys that are given away is of before.
        if let Some(held) = filling.held.take() {
            if self.filling.held.is_none() {
                self.placing = None;
            }
            self.state.hold(held);
        }
        metrics.all.applied.add(filling.proposals);
        if let Some(launch) = filling.launch {
            self.state.fence.settled(launch.number, launch.proof);
            let taken = launch.at.elapsed();
            self.forgive(taken);
            if taken > SLOW_BATCH {
                metrics.all.slow_batches.inc();
            }
        }
        filling.finish();
    }
}
