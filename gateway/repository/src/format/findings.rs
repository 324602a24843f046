//! Findings: what was found damaged, and what was healed since (`docs/format/`, section 9).

use minicbor::{Decode, Encode};

use super::id::{FindingId, PackId, PackKind};

/// Packs in one record; a record of these, each with all its slots, is far below its limit.
pub const MAX_PACKS: usize = 4096;

/// Body of a findings record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FindingsBody {
    /// When it was written, in ms since 1970.
    #[n(0)]
    pub found_ms: u64,
    /// The host that wrote it.
    #[n(1)]
    pub host: String,
    /// Packs found damaged.
    #[n(2)]
    pub bad: Vec<BadPack>,
    /// Packs found sound again: what the records named in `answers` say of them is over.
    #[n(3)]
    pub healed: Vec<PackRef>,
    /// The records that `healed` speaks of.
    #[n(4)]
    pub answers: Vec<FindingId>,
}

/// A pack by kind and id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PackRef {
    /// 0 data, 1 meta.
    #[n(0)]
    pub kind: u8,
    /// The pack.
    #[n(1)]
    pub pack: PackId,
}

impl PackRef {
    /// The reference to a pack.
    pub fn new(kind: PackKind, pack: PackId) -> Self {
        Self { kind: u8::from(kind == PackKind::Meta), pack }
    }

    /// The pack's kind; nothing for one of a newer program.
    pub fn kind(&self) -> Option<PackKind> {
        match self.kind {
            0 => Some(PackKind::Data),
            1 => Some(PackKind::Meta),
            _ => None,
        }
    }
}

/// A damaged pack.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BadPack {
    /// The pack.
    #[n(0)]
    pub pack: PackRef,
    /// The damaged slots; none when the pack as a whole is damaged.
    #[n(1)]
    pub slots: Vec<u16>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::record::{from_cbor, to_cbor};

    #[test]
    fn the_fullest_record_is_within_its_limit() {
        let pack = PackRef::new(PackKind::Meta, PackId([0xFF; 16]));
        let bad = BadPack { pack, slots: (0..crate::format::pack::MAX_SLOTS as u16).collect() };
        let one = to_cbor(&bad).len();
        assert!(one * MAX_PACKS < crate::format::record::MAX_RECORD, "{one} bytes for a pack");
    }

    proptest! {
        #[test]
        fn findings_round_trip_and_hostile_ones_never_panic(
            slots in proptest::collection::vec(any::<u16>(), 0..50),
            junk in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let pack = PackRef::new(PackKind::Data, PackId([3; 16]));
            let body = FindingsBody {
                found_ms: 7,
                host: "one".into(),
                bad: vec![BadPack { pack, slots }],
                healed: vec![pack],
                answers: vec![FindingId([1; 12])],
            };
            prop_assert_eq!(from_cbor::<FindingsBody>(&to_cbor(&body)).unwrap(), body);
            let _ = from_cbor::<FindingsBody>(&junk);
        }
    }
}
