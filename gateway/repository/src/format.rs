//! The bytes of the repository format, version 1 (`docs/format/`).
//!
//! Nothing here does I/O or keeps state: every function turns bytes into values or back, checks
//! limits before it allocates, and never panics on hostile input. The fuzz targets call these
//! functions directly.

pub mod checked;
pub mod collection;
pub mod coverage;
pub mod descriptor;
pub mod findings;
pub mod flipped;
pub mod header;
pub mod id;
pub mod keyslot;
pub mod lock;
pub mod manifest;
pub mod pack;
pub mod page;
pub mod protection;
pub mod record;
pub mod segment;

use std::fmt;

/// Major version this code writes and reads.
pub const MAJOR: u16 = 1;
/// Minor version of a new repository.
pub const MINOR: u16 = 0;
/// Minor version of a repository that has more than one data epoch, or is about to.
pub const MINOR_EPOCHS: u16 = 1;
/// What this code can read, as descriptors count it: 1 is the first release, 2 knows data epochs.
pub const READER: u16 = 2;
/// The reader a repository with more than one data epoch needs.
pub const READER_EPOCHS: u16 = 2;
/// Entries in a page.
pub const FANOUT: usize = 256;
/// Smallest block size in bytes.
pub const MIN_BLOCK: u32 = 16 << 10;
/// Largest block size in bytes.
pub const MAX_BLOCK: u32 = 1 << 20;
/// Default block size in bytes.
pub const DEFAULT_BLOCK: u32 = 128 << 10;
/// Largest image in bytes (1 EiB): keeps every later sum inside 64 bits.
pub const MAX_IMAGE: u64 = 1 << 60;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormatError {
    /// Written by a newer program.
    Newer(String),
    /// Sealed under a data epoch whose secret was not known when the repository was opened.
    LaterEpoch(u32),
    /// Not of the format.
    Invalid(&'static str),
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newer(what) => write!(f, "{what}: written by a newer program; upgrade sluice"),
            Self::LaterEpoch(epoch) => write!(
                f,
                "it belongs to data epoch {epoch}, begun after this program opened the \
                 repository; run it again"
            ),
            Self::Invalid(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for FormatError {}

/// A result of reading bytes.
pub type Parsed<T> = Result<T, FormatError>;

/// Takes `N` bytes at `at`.
pub(crate) fn take<const N: usize>(bytes: &[u8], at: usize) -> Parsed<[u8; N]> {
    bytes
        .get(at..at.saturating_add(N))
        .and_then(|part| part.try_into().ok())
        .ok_or(FormatError::Invalid("too short"))
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Parsed<u16> {
    take(bytes, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Parsed<u32> {
    take(bytes, at).map(u32::from_le_bytes)
}

/// Whether `size` is a block size of the format.
pub fn is_block_size(size: u32) -> bool {
    size.is_power_of_two() && (MIN_BLOCK..=MAX_BLOCK).contains(&size)
}
