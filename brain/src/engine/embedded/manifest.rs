//! The tree's manifest, checked before the tree reads it: the tree notes a checksum of it and does not look at that
//! again. A flipped bit there would drop tables, or let the log's last records pass for written.
//!
//! `current` holds the manifest's number (8 bytes), its XXH3 checksum (16 bytes, all little-endian) and the kind of
//! checksum (0); the manifest is the file `vN`. Without `current` a tree is made anew, as if nothing had been in it.

use std::fs;
use std::io;
use std::path::Path;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

/// Which manifest is the newest.
const NEWEST: &str = "current";

/// Why a manifest is not taken.
#[derive(Debug, Error)]
pub(super) enum ManifestError {
    /// It, or the file that names it, cannot be read, or is not there.
    #[error("{file} cannot be read")]
    Read {
        /// Below the tree's directory.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{file} is not what was written")]
    Damaged {
        /// Below the tree's directory.
        file: String,
    },
}

/// Reads the newest manifest of a tree and holds it against its checksum.
///
/// # Errors
/// See [`ManifestError`].
pub(super) fn check(tree: &Path) -> Result<(), ManifestError> {
    let read = |file: &str| {
        fs::read(tree.join(file)).map_err(|source| ManifestError::Read { file: file.to_owned(), source })
    };
    let damaged = |file: &str| ManifestError::Damaged { file: file.to_owned() };
    let newest = read(NEWEST)?;
    let Some((number, checksum, 0)) = parse(&newest) else { return Err(damaged(NEWEST)) };
    let file = format!("v{number}");
    match xxh3_128(&read(&file)?) {
        found if found == checksum => Ok(()),
        _ => Err(damaged(&file)),
    }
}

/// Which manifest a tree would begin with if it were opened now.
///
/// # Errors
/// What the system said, or that the file is not what was written.
pub(super) fn number(tree: &Path) -> io::Result<u64> {
    let newest = fs::read(tree.join(NEWEST))?;
    parse(&newest).map(|(number, ..)| number).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Number, checksum and kind of checksum.
fn parse(newest: &[u8]) -> Option<(u64, u128, u8)> {
    let (number, rest) = newest.split_first_chunk()?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let [kind] = rest else { return None };
    Some((u64::from_le_bytes(*number), u128::from_le_bytes(*checksum), *kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_and_any_missing_file_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let manifest = b"tables and blobs".repeat(2);
        let mut newest = 7_u64.to_le_bytes().to_vec();
        newest.extend(xxh3_128(&manifest).to_le_bytes());
        newest.push(0);
        for (file, bytes) in [(NEWEST, &newest), ("v7", &manifest)] {
            fs::write(directory.path().join(NEWEST), &newest).expect("a file");
            fs::write(directory.path().join("v7"), &manifest).expect("a file");
            check(directory.path()).expect("what was written");
            for bit in 0..bytes.len() * 8 {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                fs::write(directory.path().join(file), bytes).expect("a file");
                check(directory.path()).expect_err("a flipped bit");
            }
            fs::remove_file(directory.path().join(file)).expect("a file");
            check(directory.path()).expect_err("a missing file");
        }
    }
}
