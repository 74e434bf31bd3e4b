//! [`Export`]: a group's section of a snapshot.
//!
//! Invariant: everything in it is as of one revision. Rows and log are pinned; leases are read when it begins, and one
//! that a key still names although it has ended since is exported with no time left, so that it ends again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::snapshot::{self as file, Content, GroupEnd, put_record};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::kept::Kept;
use crate::fence::wait;
use crate::read::fault::read_fault;
use crate::rows::codec::{self, LeaseRow};
use crate::rows::log::{self, LogError};
use crate::rows::ownership;
use crate::state::group::GroupState;
use crate::state::values::ValueError;

/// Records are handed on when they have grown to this.
const PART_BYTES: usize = 128 << 10;
/// Parts that wait for whoever takes them.
const PARTS_MAX: usize = 2;
/// Records of the log read at once.
const LOG_RECORDS: usize = 256;

/// A section on its way. Dropping it ends the work and lets the sweep go on.
#[derive(Debug)]
pub struct Export {
    /// The revision that it is as of.
    pub revision: Revision,
    /// History below it is not in it; -1 where nothing was compacted.
    pub compacted: i64,
    /// The group's revision when it began.
    pub header: Revision,
    /// About how many rows are to come.
    pub rows: u64,
    parts: mpsc::Receiver<Result<ExportPart, Fault>>,
}

/// A piece of a section.
#[derive(Debug)]
pub enum ExportPart {
    /// Whole records, and how many of them are rows.
    Records(Bytes, u64),
    /// There are no more; what there was.
    End(GroupEnd),
}

impl Export {
    pub(crate) async fn begin(
        state: Arc<GroupState>,
        at: Revision,
        compacted: i64,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, Fault> {
        let (sender, parts) = mpsc::channel(PARTS_MAX);
        let (begun, begins) = oneshot::channel();
        // What is pinned borrows the store, so both live in a task.
        tokio::spawn(async move {
            let _permit = permit;
            let kept = match Kept::begin(&state, at, compacted) {
                Ok(kept) => kept,
                Err(fault) => {
                    let _gone = begun.send(Err(fault));
                    return;
                }
            };
            let leases = state.leases.lock().all();
            let rows = state.index.read().versions() as u64;
            let start = (kept.at(), kept.compacted(), kept.header(), rows);
            if begun.send(Ok(start)).is_err() {
                return;
            }
            let mut section = Section {
                state: &state,
                kept: &kept,
                parts: &sender,
                buffer: BytesMut::new(),
                rows: 0,
                found: GroupEnd::default(),
            };
            let ended = tokio::select! {
                ended = section.write(leases) => ended,
                () = sender.closed() => return,
                _ = state.ended() => Err(Fault::Stopped),
            };
            // Nobody else has swept what was read.
            let ended = match ended {
                Ok(()) => wait::fence(&state, wait::ticket(&state)).await,
                ended => ended,
            };
            let last = ended.map(|()| ExportPart::End(section.found));
            let _gone = sender.send(last).await;
        });
        let (revision, compacted, header, rows) = begins.await.unwrap_or(Err(Fault::Stopped))?;
        Ok(Self { revision, compacted, header, rows, parts })
    }

    /// The next piece; `None` after the end.
    ///
    /// # Errors
    /// Why the rest does not come. Then the section is not whole.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn next(&mut self) -> Option<Result<ExportPart, Fault>> {
        self.parts.recv().await
    }
}

/// What is written, and where to.
struct Section<'a> {
    state: &'a GroupState,
    kept: &'a Kept<'a>,
    parts: &'a mpsc::Sender<Result<ExportPart, Fault>>,
    buffer: BytesMut,
    /// How many rows are in the buffer.
    rows: u64,
    found: GroupEnd,
}

impl Section<'_> {
    async fn write(&mut self, leases: Vec<(i64, LeaseRow, Duration)>) -> Result<(), Fault> {
        let name = self.state.group.as_str().to_owned();
        self.put(&file::Record::Group(file::Group { name }));
        self.owners().await?;
        let leases = leases.into_iter().map(|(id, row, left)| {
            let remaining_ms = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
            (id, file::Lease { id, ttl: row.ttl, remaining_ms, holders: row.holders })
        });
        let mut leases: BTreeMap<i64, file::Lease> = leases.collect();
        self.data(&mut leases).await?;
        for lease in leases.into_values() {
            self.found.leases += 1;
            self.put(&file::Record::Lease(lease));
            self.flush(PART_BYTES).await?;
        }
        self.log().await?;
        let end = file::Record::GroupEnd(self.found);
        self.put(&end);
        self.flush(0).await
    }

    async fn owners(&mut self) -> Result<(), Fault> {
        let fault = |error: ValueError| read_fault(self.state, &error);
        let snapshot = self.state.engine.snapshot().await.map_err(|error| fault(error.into()))?;
        let owners = ownership::load(&*snapshot, &self.state.layout).await.map_err(|error| match error {
            LogError::Read(error) => fault(error.into()),
            LogError::Damaged(error) => fault(error.into()),
        })?;
        let own = owners.into_iter().filter(|(_, owner)| *owner == self.state.group);
        let mut units: Vec<_> = own.map(|(unit, _)| unit).collect();
        units.sort();
        for unit in units {
            self.found.owners += 1;
            self.put(&file::Record::Owner(file::Owner { unit }));
        }
        Ok(())
    }

    async fn data(&mut self, leases: &mut BTreeMap<i64, file::Lease>) -> Result<(), Fault> {
        let (mut cursor, mut content) = (self.kept.cursor(), Content::default());
        while let Some(rows) = self.kept.page(&mut cursor).await? {
            for row in rows {
                let message = row.message();
                content.add(row.kv.is_none(), &message);
                if row.newest && row.kv.is_some() {
                    let kv = KeyValue::decode(message.clone()).map_err(|_| Fault::Corrupt)?;
                    if kv.lease != 0 {
                        let ended =
                            || file::Lease { id: kv.lease, ttl: 1, remaining_ms: 0, holders: Vec::new() };
                        leases.entry(kv.lease).or_insert_with(ended);
                    }
                }
                self.rows += 1;
                match row.kv {
                    Some(_) => {
                        self.found.puts += 1;
                        self.put(&file::Record::Put(message));
                    }
                    None => {
                        self.found.tombstones += 1;
                        self.put(&file::Record::Tombstone(message));
                    }
                }
                self.flush(PART_BYTES).await?;
            }
        }
        self.found.hash = content.hash();
        Ok(())
    }

    /// The changes of all revisions from the compacted one on.
    async fn log(&mut self) -> Result<(), Fault> {
        let fault = |error: LogError| match error {
            LogError::Read(error) => read_fault(self.state, &error.into()),
            LogError::Damaged(error) => read_fault(self.state, &error.into()),
        };
        let from = u64::try_from(self.kept.compacted()).unwrap_or(0);
        let layout = &self.state.layout;
        let snapshot = self.state.engine.snapshot().await.map_err(|error| fault(error.into()))?;
        let number = log::batch_of(&*snapshot, layout, from).await.map_err(fault)?;
        let mut span = layout.log_span(number);
        drop(snapshot);
        loop {
            let snapshot = self.state.engine.snapshot().await.map_err(|error| fault(error.into()))?;
            let page = snapshot.scan(span.clone(), LOG_RECORDS).await.map_err(|error| fault(error.into()))?;
            drop(snapshot);
            for (row, value) in page.rows {
                let record: codec::Record =
                    codec::read_message(&row, value).map_err(|error| fault(error.into()))?;
                for write in record.writes {
                    if write.revision > self.kept.at().get() {
                        return Ok(());
                    }
                    if write.revision >= from {
                        let change =
                            |change: codec::Change| file::Change { key: change.key, deleted: change.deleted };
                        let changes = write.changes.into_iter().map(change).collect();
                        self.found.writes += 1;
                        self.put(&file::Record::Write(file::Write { revision: write.revision, changes }));
                        self.flush(PART_BYTES).await?;
                    }
                }
            }
            match page.next {
                Some(next) => span.start = next,
                None => return Ok(()),
            }
        }
    }

    fn put(&mut self, record: &file::Record) {
        put_record(&mut self.buffer, record);
    }

    /// Hands on what has grown to `bytes`. Nobody who listens is no error here: the task ends by itself.
    async fn flush(&mut self, bytes: usize) -> Result<(), Fault> {
        if self.buffer.len() > bytes {
            let records = self.buffer.split().freeze();
            let part = ExportPart::Records(records, std::mem::take(&mut self.rows));
            self.parts.send(Ok(part)).await.map_err(|_| Fault::Stopped)?;
        }
        Ok(())
    }
}
