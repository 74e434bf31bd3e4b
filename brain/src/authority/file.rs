//! A file that is watched: each content of it is applied once, so one that is older than what was applied otherwise changes
//! nothing at a restart.

use std::collections::BTreeSet;

use kubebrain_proto::admin::PlacementApply;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Document;
use tokio::sync::watch;
use tonic::Status;

use super::row::Decided;
use super::{Authority, hash_of, refused};
use crate::lead::command::Decision;
use crate::rows::codec::DecidedRow;

/// What became of a file.
#[derive(Clone, Debug)]
pub enum Applied {
    /// It holds, and did before.
    Already(Document),
    /// It was applied before, and something else after it, which holds.
    Stale(Document),
    /// It holds now.
    Now(Document),
}

impl Authority {
    /// Applies a watched file, if its content is another one than was last applied so, and waits for how that ends.
    ///
    /// # Errors
    /// As [`Self::change`]; the outcome, where it was refused or aborted.
    ///
    /// # Cancel safety
    /// A dropped call may have been carried out, and never by half.
    pub async fn apply_file(&self, text: &str) -> Result<Applied, Status> {
        let (decided, file) = (self.decided()?, hash_of(text));
        if let Some(current) = &decided.current {
            if current.text() == text && decided.row.file == file {
                return Ok(Applied::Already(current.clone()));
            }
            if decided.row.file == file && decided.prepared.is_none() {
                return Ok(Applied::Stale(current.clone()));
            }
        }
        let apply = PlacementApply { text: text.to_owned(), ..PlacementApply::default() };
        let report = self.apply(apply, Some(file)).await?;
        match report.prepared {
            Some(prepared) => self.ended(prepared.number).await.map(Applied::Now),
            None => self.current().await.map(Applied::Already),
        }
    }

    /// Waits until there is a placement.
    ///
    /// # Errors
    /// What is decided cannot be read.
    ///
    /// # Cancel safety
    /// Safe: nothing is consumed.
    pub async fn current(&self) -> Result<Document, Status> {
        loop {
            let decided = self.decided()?;
            if let Some(current) = &decided.current {
                return Ok(current.clone());
            }
            self.decided_other_than(&decided).await;
        }
    }

    /// True once there is a placement.
    pub fn has_placement(&self) -> bool {
        self.0.store.state().decided().current.is_some()
    }

    /// Counts what is decided, and what the home group goes by.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.store.state().placed()
    }

    /// Every group that is, or will be, or still has to hear that it is not, in the placement.
    pub fn needed(&self) -> BTreeSet<GroupName> {
        self.decided().map(|decided| decided.parts().into_keys().collect()).unwrap_or_default()
    }

    /// Waits until every group of the document goes by it, or until another one is current. Cancel safe.
    pub async fn taken_up(&self, document: &Document) {
        let mut heard = self.0.groups.heard();
        loop {
            let by = |(group, _)| {
                let seen = self.0.groups.of(group);
                (seen.lineage, seen.number, seen.adopted) == (document.id().lineage, document.number(), 0)
            };
            let is_past = self.decided().is_ok_and(|decided| {
                decided.current.as_ref().is_some_and(|current| current.id() != document.id())
            });
            if is_past || document.table().groups().all(by) || heard.changed().await.is_err() {
                return;
            }
        }
    }

    /// How the change of this number ends.
    async fn ended(&self, number: u64) -> Result<Document, Status> {
        loop {
            let decided = self.decided()?;
            if decided.prepared.as_ref().is_none_or(|prepared| prepared.number() != number) {
                return match &decided.current {
                    Some(current) if current.number() == number => Ok(current.clone()),
                    _ => Err(refused(&decided.row.outcome)),
                };
            }
            self.decided_other_than(&decided).await;
        }
    }

    /// The file says what holds.
    pub(super) async fn read_file(&self, file: u64) -> Result<(), Status> {
        let noted = move |decided: &Decided| {
            let row = DecidedRow { file, ..DecidedRow::clone(&decided.row) };
            Ok((decided.row.file != file).then(|| Decision { row, ..Decision::default() }))
        };
        self.decide(noted).await.map(drop)
    }
}
