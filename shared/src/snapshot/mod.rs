//! The snapshot file: everything that all groups keep at one revision, in one stream that says itself whether it is
//! whole. `docs/snapshot-format.md` describes it for people.
//!
//! ```text
//! preamble  magic[8] version:u32 crc32c:u32
//! record*   length:u32 kind:u8 payload[length] crc32c:u32          Header (Group Owner* (Put|Tombstone)* Lease* Write* GroupEnd)* End
//! padding   zeros up to a multiple of 512
//! sum       sha256[32] of all before it
//! ```
//!
//! Numbers are big-endian; a checksum covers all of its record before it. That the sum stands where etcd's stands, 32
//! bytes past a multiple of 512, is what `etcdctl snapshot save` looks at.
//!
//! Invariants: a reader takes any bytes for what they are, with an error that names an offset or with records that
//! count up to what the file says of itself; it never allocates more than what it has read.

mod content;
mod record;
mod blobs;
mod messages;
mod reader;
#[cfg(test)]
mod tests;

pub use content::Content;
pub use messages::Messages;
pub use reader::{ReadError, Reader};
pub use record::{
    Change, End, Group, GroupEnd, Header, Lease, Owner, Record, Write, put_preamble, put_record,
};

/// The format that this module reads and writes.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"\x89KBSNAP\n";
const PREAMBLE_BYTES: usize = 16;
/// Length and kind before a payload.
const RECORD_PREFIX_BYTES: usize = 5;
const SUM_BYTES: usize = 32;
const BLOCK_BYTES: u64 = 512;
/// No record is longer: what one revision changed fits an engine's batch, which is smaller than this.
const PAYLOAD_BYTES_MAX: usize = 256 << 20;
