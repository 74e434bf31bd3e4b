//! One sector: what it says of itself, and what it holds.
//!
//! ```text
//! crc32c of the rest │ part │ segment │ record │ length │ index │ payload, filled up with zeros
//!         4             4       8         8        4        4      480
//! ```
//! Little-endian. `part` is the sector's position in its record, or one of two numbers above all positions; `length`
//! is that of the whole record; `index` is the sector's place in the segment.

/// What a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;
/// What a sector says of itself.
const MARK: usize = 32;
/// Payload of a sector.
pub(super) const ROOM: usize = SECTOR - MARK;

const PART_HEAD: u32 = u32::MAX;
const PART_SEAL: u32 = u32::MAX - 1;

/// What a sector is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The first of a segment.
    Head,
    /// The one behind the last record of a full segment.
    Seal,
    /// One of a record of that length in bytes.
    Record { position: u32, length: u32 },
}

/// What a sector says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) segment: u64,
    pub(super) index: u32,
    pub(super) part: Part,
    /// The record, or the next one after a head or seal.
    pub(super) record: u64,
}

/// A sector as it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sector<'a> {
    /// Written in this life of the segment.
    New(Mark, &'a [u8]),
    /// Written in an earlier one, or never.
    Old,
    /// Neither: somebody else wrote here, or bits have changed.
    Damaged,
}

/// Sectors of a record.
pub(super) fn count(length: u32) -> u32 {
    length.div_ceil(ROOM as u32).max(1)
}

impl Mark {
    /// Adds a sector to a buffer.
    pub(super) fn write(&self, payload: &[u8], buffer: &mut Vec<u8>) {
        debug_assert!(payload.len() <= ROOM);
        let start = buffer.len();
        let (part, length) = match self.part {
            Part::Head => (PART_HEAD, 0),
            Part::Seal => (PART_SEAL, 0),
            Part::Record { position, length } => (position, length),
        };
        buffer.extend_from_slice(&[0; 4]);
        buffer.extend_from_slice(&part.to_le_bytes());
        buffer.extend_from_slice(&self.segment.to_le_bytes());
        buffer.extend_from_slice(&self.record.to_le_bytes());
        buffer.extend_from_slice(&length.to_le_bytes());
        buffer.extend_from_slice(&self.index.to_le_bytes());
        buffer.extend_from_slice(payload);
        buffer.resize(start + SECTOR, 0);
        let crc = crc32c::crc32c(&buffer[start + 4..]);
        buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Reads a sector as any segment's; nothing if it is damaged or zeros.
pub(super) fn read(sector: &[u8]) -> Option<(Mark, &[u8])> {
    let number = |at: usize| u32::from_le_bytes(sector[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_le_bytes(sector[at..at + 8].try_into().expect("eight bytes"));
    // Zeros have no valid checksum: crc32c of zeros is not zero.
    if sector.len() != SECTOR || crc32c::crc32c(&sector[4..]) != number(0) {
        return None;
    }
    let part = match number(4) {
        PART_HEAD => Part::Head,
        PART_SEAL => Part::Seal,
        position => Part::Record { position, length: number(24) },
    };
    let payload = match part {
        Part::Record { position, length } => {
            let before = position as usize * ROOM;
            let rest = (length as usize).checked_sub(before)?;
            &sector[MARK..MARK + rest.min(ROOM)]
        }
        Part::Head | Part::Seal => &sector[MARK..],
    };
    Some((Mark { segment: long(8), index: number(28), part, record: long(16) }, payload))
}

/// Tells what a sector is to the segment in whose file it stands.
pub(super) fn judge(sector: &[u8], segment: u64, index: u32) -> Sector<'_> {
    match read(sector) {
        Some((mark, payload)) if mark.index == index && mark.segment == segment => Sector::New(mark, payload),
        Some((mark, _)) if mark.index == index && mark.segment < segment => Sector::Old,
        None if sector.iter().all(|byte| *byte == 0) => Sector::Old,
        _ => Sector::Damaged,
    }
}
