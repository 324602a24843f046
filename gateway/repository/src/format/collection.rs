//! Records of a collection (`docs/format/`, section 7).

use minicbor::{Decode, Encode};

use super::id::{PackId, PackKind};
use super::{FormatError, Parsed, take, u32_at};

/// Length of an encoded generation of a pack in bytes.
const ENTRY_LEN: usize = 24;

/// The most verdicts one record takes: 66 MB, below the limit of a record.
pub const MAX_VERDICTS: usize = 2_750_000;

/// What is to become of a pack, or what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sentence {
    /// Nothing in it is referenced: it is removed.
    Dead,
    /// Little in it is referenced: what is goes into its next generation.
    Compact,
    /// It was condemned by an earlier collection: nothing new may reference it, whether it is there
    /// or comes back.
    Tainted,
    /// The same of all packs of its kind up to and with this one, in every generation.
    TaintedUpTo,
}

/// A generation of a pack, and what is to become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Verdict {
    /// Kind of the pack.
    pub kind: PackKind,
    /// The pack.
    pub pack: PackId,
    /// The generation; another one is not meant.
    pub generation: u32,
    /// What is to become of it.
    pub sentence: Sentence,
    /// When it was tainted, in days since 1970; 0 when it is not.
    pub day: u16,
}

/// The beginning of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PlanRecord {
    /// Number of the collection; they ascend by one.
    #[n(0)]
    pub number: u64,
    /// When it began, in ms since 1970.
    #[n(1)]
    pub started_ms: u64,
    /// The host that began it.
    #[n(2)]
    pub host: String,
}

/// The packs a collection condemned, or the end of a collection with all that are tainted.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct VerdictsRecord {
    /// Number of the collection.
    #[n(0)]
    pub number: u64,
    /// When it was written, in ms since 1970.
    #[n(1)]
    pub written_ms: u64,
    /// Encoded [`Verdict`]s.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub verdicts: Vec<u8>,
}

/// Encodes verdicts.
pub fn encode(verdicts: &[Verdict]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(verdicts.len() * ENTRY_LEN);
    for one in verdicts {
        bytes.extend_from_slice(&one.pack.0);
        bytes.extend_from_slice(&one.generation.to_le_bytes());
        let kind = match one.kind {
            PackKind::Data => 1,
            PackKind::Meta => 2,
        };
        let sentence = match one.sentence {
            Sentence::Dead => 0,
            Sentence::Compact => 1,
            Sentence::Tainted => 2,
            Sentence::TaintedUpTo => 3,
        };
        bytes.extend_from_slice(&[kind, sentence]);
        bytes.extend_from_slice(&one.day.to_le_bytes());
    }
    bytes
}

/// Decodes verdicts.
///
/// # Errors
/// When the bytes are none.
pub fn decode(bytes: &[u8]) -> Parsed<Vec<Verdict>> {
    if !bytes.len().is_multiple_of(ENTRY_LEN) {
        return Err(FormatError::Invalid("verdicts are cut off"));
    }
    let entries = bytes.chunks_exact(ENTRY_LEN);
    entries
        .map(|entry| {
            let kind = match entry[20] {
                1 => PackKind::Data,
                2 => PackKind::Meta,
                other => return Err(FormatError::Newer(format!("pack kind {other}"))),
            };
            let sentence = match entry[21] {
                0 => Sentence::Dead,
                1 => Sentence::Compact,
                2 => Sentence::Tainted,
                3 => Sentence::TaintedUpTo,
                other => return Err(FormatError::Newer(format!("sentence {other}"))),
            };
            let pack = PackId(take(entry, 0)?);
            let day = u16::from_le_bytes(take(entry, 22)?);
            Ok(Verdict { kind, pack, generation: u32_at(entry, 16)?, sentence, day })
        })
        .collect()
}

/// The object id of a collection in headers.
pub fn collection_object(number: u64) -> [u8; 16] {
    u128::from(number).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn verdicts_come_back_as_they_were() {
        let sentences =
            [Sentence::Dead, Sentence::Compact, Sentence::Tainted, Sentence::TaintedUpTo];
        let verdicts: Vec<Verdict> = (0..8)
            .map(|n| Verdict {
                kind: if n % 2 == 0 { PackKind::Data } else { PackKind::Meta },
                pack: PackId([n; 16]),
                generation: u32::from(n),
                sentence: sentences[usize::from(n) % 4],
                day: u16::from(n) << 8,
            })
            .collect();
        assert_eq!(decode(&encode(&verdicts)).unwrap(), verdicts);
        assert!(decode(&encode(&verdicts)[1..]).is_err());
    }

    proptest! {
        #[test]
        fn hostile_verdicts_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(verdicts) = decode(&bytes) {
                prop_assert_eq!(verdicts.len() * ENTRY_LEN, bytes.len());
            }
        }
    }
}
