//! The 64 bytes every binary object starts with (`docs/format/`, section 2).

use super::id::RepositoryId;
use super::{FormatError, MAJOR, MINOR, Parsed, take, u16_at, u32_at};

/// Length of a header in bytes.
pub const HEADER_LEN: usize = 64;

const MAGIC: [u8; 8] = *b"SLUICE\r\n";

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Kind {
    /// Chunks.
    DataPack = 1,
    /// Pages.
    MetaPack = 2,
    /// A restore point's manifest.
    Commit = 3,
    /// A fenced session's place.
    Abort = 4,
    /// A pruned point.
    Tombstone = 5,
    /// An open backup.
    Session = 6,
    /// A point being read.
    Pin = 7,
    /// Part of the dedup index.
    Segment = 8,
    /// The beginning of a collection.
    Plan = 9,
    /// The packs a collection condemned.
    Condemned = 10,
    /// The end of a collection.
    Collected = 11,
    /// Damage that was found, or healed.
    Findings = 16,
    /// What scrubs have covered.
    Coverage = 17,
    /// What keeps a point from being pruned, as far as it was said after its commit.
    Protection = 32,
    /// The beginning of a data epoch.
    Epoch = 33,
    /// The wish to destroy the repository.
    Destroy = 34,
    /// How long what is written is locked.
    Lock = 48,
}

impl Kind {
    fn from_u16(value: u16) -> Option<Self> {
        Some(match value {
            1 => Self::DataPack,
            2 => Self::MetaPack,
            3 => Self::Commit,
            4 => Self::Abort,
            5 => Self::Tombstone,
            6 => Self::Session,
            7 => Self::Pin,
            8 => Self::Segment,
            9 => Self::Plan,
            10 => Self::Condemned,
            11 => Self::Collected,
            16 => Self::Findings,
            17 => Self::Coverage,
            32 => Self::Protection,
            33 => Self::Epoch,
            34 => Self::Destroy,
            48 => Self::Lock,
            _ => return None,
        })
    }
}

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the object is.
    pub kind: Kind,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// The object's own id.
    pub object: [u8; 16],
    /// Epoch of the data key.
    pub epoch: u32,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&MAJOR.to_le_bytes());
        bytes[10..12].copy_from_slice(&MINOR.to_le_bytes());
        bytes[12..14].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[16..32].copy_from_slice(&self.repository.0);
        bytes[32..48].copy_from_slice(&self.object);
        bytes[48..52].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[52..56].copy_from_slice(&(HEADER_LEN as u32).to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..56]);
        bytes[56..60].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`FormatError::Newer`] for an unknown major version or feature, else
    /// [`FormatError::Invalid`].
    pub fn decode(bytes: &[u8]) -> Parsed<Self> {
        let bytes: [u8; HEADER_LEN] = take(bytes, 0)?;
        if bytes[..8] != MAGIC {
            return Err(FormatError::Invalid("no sluice header"));
        }
        if u32_at(&bytes, 56)? != crc32c::crc32c(&bytes[..56]) {
            return Err(FormatError::Invalid("header checksum differs"));
        }
        let (major, flags) = (u16_at(&bytes, 8)?, u16_at(&bytes, 14)?);
        if major != MAJOR || flags != 0 {
            let what = format!("format version {major}, feature flags {flags:#x}");
            return Err(FormatError::Newer(what));
        }
        let kind =
            Kind::from_u16(u16_at(&bytes, 12)?).ok_or(FormatError::Invalid("unknown kind"))?;
        if u32_at(&bytes, 52)? as usize != HEADER_LEN {
            return Err(FormatError::Invalid("header length"));
        }
        Ok(Self {
            kind,
            repository: RepositoryId(take(&bytes, 16)?),
            object: take(&bytes, 32)?,
            epoch: u32_at(&bytes, 48)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header { kind: Kind::Commit, repository: RepositoryId([1; 16]), object: [2; 16], epoch: 3 }
    }

    #[test]
    fn header_round_trips_and_every_flip_is_found() {
        let bytes = sample().encode();
        assert_eq!(Header::decode(&bytes).unwrap(), sample());
        for bit in 0..60 * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_major_version_is_told_apart_from_damage() {
        let mut bytes = sample().encode();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..56]).to_le_bytes();
        bytes[56..60].copy_from_slice(&crc);
        assert!(matches!(Header::decode(&bytes), Err(FormatError::Newer(_))));
    }
}
