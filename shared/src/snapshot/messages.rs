//! [`Messages`]: groups' sections in, the answers of `Maintenance.Snapshot` out.

use bytes::BytesMut;
use kubebrain_proto::etcdserverpb::{ResponseHeader, SnapshotResponse};

use super::blobs::Blobs;
use super::record::{End, Header, Record, put_preamble, put_record};
use super::{BLOCK_BYTES, SUM_BYTES};

/// A row's size before the first one is known; only for the estimate of what remains.
const ROW_BYTES: u64 = 1 << 10;

/// Makes one snapshot's messages. It holds no more than what it was given last.
///
/// `remaining_bytes` is an estimate until the last two messages, since nobody has counted the bytes before they are
/// read. It is 0 in the very last message and nowhere else.
#[derive(Debug)]
pub struct Messages {
    blobs: Blobs,
    header: ResponseHeader,
    version: String,
    rows: u64,
    rows_expected: u64,
    end: End,
}

impl Messages {
    /// Begins. `header` and `version` stand in each message.
    pub fn new(file: Header, header: ResponseHeader, version: String, rows_expected: u64) -> Self {
        let mut buffer = BytesMut::new();
        put_preamble(&mut buffer);
        put_record(&mut buffer, &Record::Header(file));
        let mut blobs = Blobs::default();
        blobs.push(&buffer);
        Self { blobs, header, version, rows: 0, rows_expected, end: End::default() }
    }

    /// Adds records of a section, of which `rows` are rows.
    #[must_use = "these are to be sent"]
    pub fn records(&mut self, records: &[u8], rows: u64) -> Vec<SnapshotResponse> {
        self.blobs.push(records);
        self.rows += rows;
        let mut messages = Vec::with_capacity(records.len() / (32 << 10) + 1);
        while let Some(blob) = self.blobs.next_full() {
            let remaining = self.blobs.waiting() as u64 + self.estimate();
            messages.push(self.message(blob, remaining));
        }
        messages
    }

    /// Ends a section that had so many rows with this hash.
    pub const fn end_group(&mut self, rows: u64, hash: u32) {
        self.end.groups += 1;
        self.end.rows += rows;
        self.end.hash = self.end.hash.wrapping_add(hash);
    }

    /// The last messages.
    #[must_use = "these are to be sent"]
    pub fn finish(mut self) -> Vec<SnapshotResponse> {
        let mut buffer = BytesMut::new();
        put_record(&mut buffer, &Record::End(self.end));
        self.rows_expected = self.rows;
        let mut messages = self.records(&buffer, 0);
        let [rest, sum] = std::mem::take(&mut self.blobs).finish();
        if !rest.is_empty() {
            messages.push(self.message(rest, SUM_BYTES as u64));
        }
        messages.push(self.message(sum, 0));
        messages
    }

    fn estimate(&self) -> u64 {
        let row_bytes = self.blobs.bytes().checked_div(self.rows).unwrap_or(ROW_BYTES);
        self.rows_expected.saturating_sub(self.rows).saturating_mul(row_bytes) + BLOCK_BYTES
    }

    fn message(&self, blob: bytes::Bytes, remaining_bytes: u64) -> SnapshotResponse {
        let header = Some(self.header);
        SnapshotResponse { header, remaining_bytes, blob, version: self.version.clone() }
    }
}
