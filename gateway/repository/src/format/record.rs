//! The shared layout of small objects, and the schemas of the smallest (`docs/format/`,
//! section 7).

use minicbor::{Decode, Encode};

use super::header::{HEADER_LEN, Header, Kind};
use super::id::{ChainId, PackId, PointId, RepositoryId, SessionId};
use super::{FormatError, Parsed, u32_at};
use crate::crypto::{KeyRing, NONCE_LEN, TAG_LEN};

/// A record is smaller than this.
pub const MAX_RECORD: usize = 64 << 20;

const LENGTHS: usize = 8;

/// Seals a record. `nonce` must be random.
pub fn seal(
    keys: &KeyRing,
    header: &Header,
    plain: &[u8],
    body: &[u8],
    nonce: [u8; NONCE_LEN],
) -> Vec<u8> {
    let sealed_len = NONCE_LEN + body.len() + TAG_LEN;
    let mut bytes = Vec::with_capacity(HEADER_LEN + LENGTHS + plain.len() + sealed_len);
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(sealed_len as u32).to_le_bytes());
    bytes.extend_from_slice(plain);
    let aad_len = bytes.len();
    bytes.extend_from_slice(&nonce);
    bytes.extend_from_slice(body);
    let (aad, sealed) = bytes.split_at_mut(aad_len);
    let key = keys.record_key(header.kind, &header.object);
    let tag = key.seal(nonce, aad, &mut sealed[NONCE_LEN..]);
    bytes.extend_from_slice(&tag);
    bytes
}

/// A record's parts before it is opened.
#[derive(Debug)]
pub struct Envelope<'b> {
    /// The header.
    pub header: Header,
    /// The part a worker without keys may read; not authenticated until opened.
    pub plain: &'b [u8],
    sealed_at: usize,
    bytes: &'b [u8],
}

impl<'b> Envelope<'b> {
    /// Splits a record into its parts.
    ///
    /// # Errors
    /// When the bytes are no record.
    pub fn parse(bytes: &'b [u8]) -> Parsed<Self> {
        let header = Header::decode(bytes)?;
        let plain_len = u32_at(bytes, HEADER_LEN)? as usize;
        let sealed_len = u32_at(bytes, HEADER_LEN + 4)? as usize;
        let sealed_at = HEADER_LEN + LENGTHS + plain_len;
        let fits = bytes.len() < MAX_RECORD
            && sealed_len >= NONCE_LEN + TAG_LEN
            && bytes.len() == sealed_at + sealed_len;
        if !fits {
            return Err(FormatError::Invalid("record is cut off or has bytes too many"));
        }
        let plain = &bytes[HEADER_LEN + LENGTHS..sealed_at];
        Ok(Self { header, plain, sealed_at, bytes })
    }

    /// Verifies the record and decrypts its body. The record must be of this kind, repository
    /// and object: this is what stops one record from standing in for another.
    ///
    /// # Errors
    /// When it is not.
    pub fn open(
        &self,
        keys: &KeyRing,
        kind: Kind,
        repository: RepositoryId,
        object: &[u8; 16],
    ) -> Parsed<Vec<u8>> {
        let header = &self.header;
        if header.kind != kind || header.repository != repository || header.object != *object {
            return Err(FormatError::Invalid("record belongs to another place"));
        }
        let (aad, sealed) = self.bytes.split_at(self.sealed_at);
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&sealed[..NONCE_LEN]);
        let mut body = sealed[NONCE_LEN..].to_vec();
        let plain = keys
            .record_key(kind, object)
            .open(nonce, aad, &mut body)
            .ok_or(FormatError::Invalid("record fails authentication"))?
            .len();
        body.truncate(plain);
        Ok(body)
    }
}

/// Encodes a CBOR value.
pub fn to_cbor<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("encoding into memory does not fail")
}

/// Decodes a CBOR value.
///
/// # Errors
/// When the bytes are not of the schema.
pub fn from_cbor<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Parsed<T> {
    minicbor::decode(bytes).map_err(|_| FormatError::Invalid("record does not fit its schema"))
}

/// The object id of a session in headers.
pub fn session_object(session: [u8; 12]) -> [u8; 16] {
    let mut object = [0xFF; 16];
    object[..12].copy_from_slice(&session);
    object
}

/// Body of a session record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SessionRecord {
    /// The session.
    #[n(0)]
    pub session: SessionId,
    /// The chain it backs up.
    #[n(1)]
    pub chain: ChainId,
    /// The instance's name.
    #[n(2)]
    pub instance: String,
    /// The point it will commit.
    #[n(3)]
    pub point: PointId,
    /// The point it builds on, pinned by this record.
    #[n(4)]
    pub parent: Option<PointId>,
    /// The host that runs it.
    #[n(5)]
    pub host: String,
    /// Its process number there.
    #[n(6)]
    pub process: u32,
    /// When it began, in ms since 1970.
    #[n(7)]
    pub started_ms: u64,
    /// Its last sign of life, in ms since 1970.
    #[n(8)]
    pub heartbeat_ms: u64,
    /// The greatest collection generation it has seen.
    #[n(9)]
    pub seen_gen: u64,
    /// When its process started, as the host counts; tells a reused process number apart.
    #[n(10)]
    pub process_start: u64,
    /// Packs that a collection condemned and this session had referenced before it knew; nothing
    /// in records of before there were collections.
    #[n(11)]
    pub needs: Option<Vec<PackId>>,
}

/// Body of a pin.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PinRecord {
    /// The chain of the pinned point.
    #[n(0)]
    pub chain: ChainId,
    /// The pinned point.
    #[n(1)]
    pub point: PointId,
    /// The host that reads it.
    #[n(2)]
    pub host: String,
    /// What for: mount, export, restore, verify.
    #[n(3)]
    pub purpose: String,
    /// Its last sign of life, in ms since 1970.
    #[n(4)]
    pub heartbeat_ms: u64,
}

/// Body of a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TombstoneRecord {
    /// The chain of the pruned point.
    #[n(0)]
    pub chain: ChainId,
    /// The pruned point.
    #[n(1)]
    pub point: PointId,
    /// When it was pruned, in ms since 1970.
    #[n(2)]
    pub pruned_ms: u64,
    /// Who pruned it.
    #[n(3)]
    pub by: String,
    /// Why: the policy or "forget".
    #[n(4)]
    pub reason: String,
}

/// Body of an epoch's record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EpochRecord {
    /// Checks of the secrets of epochs 1 up to this one, 16 bytes each.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub checks: Vec<u8>,
    /// When it began, in ms since 1970.
    #[n(1)]
    pub begun_ms: u64,
    /// The host that began it.
    #[n(2)]
    pub host: String,
}

impl EpochRecord {
    /// The checks one by one.
    pub fn checks(&self) -> &[[u8; 16]] {
        self.checks.as_chunks().0
    }
}

/// The object id of an epoch's record.
pub fn epoch_object(epoch: u32) -> [u8; 16] {
    let mut object = [0; 16];
    object[12..].copy_from_slice(&epoch.to_be_bytes());
    object
}

/// The part of a wish to destroy the repository that needs no key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DestroyPlain {
    /// When it was said, in ms since 1970.
    #[n(0)]
    pub requested_ms: u64,
    /// Not to be done before, in ms since 1970.
    #[n(1)]
    pub effective_ms: u64,
    /// Whether it has begun: from then on there is no way back.
    #[n(2)]
    pub begun: bool,
    /// Who else has agreed. Nothing asks for it yet.
    #[n(3)]
    pub approved_by: Vec<String>,
}

/// Body of an index segment.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SegmentBody {
    /// Packs the entries name by index.
    #[n(0)]
    pub packs: Vec<PackId>,
    /// Entries of 32 bytes, ascending by id.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub entries: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::MasterKey;

    fn keys() -> KeyRing {
        KeyRing::new(&MasterKey([1; 32]))
    }

    fn header() -> Header {
        Header { kind: Kind::Pin, repository: RepositoryId([2; 16]), object: [3; 16], epoch: 0 }
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_found() {
        let bytes = seal(&keys(), &header(), b"plain", b"the body", [4; 12]);
        let open = |bytes: &[u8]| {
            Envelope::parse(bytes)?.open(&keys(), Kind::Pin, RepositoryId([2; 16]), &[3; 16])
        };
        assert_eq!(open(&bytes).unwrap(), b"the body");
        // Bytes 60..64 of the header are reserved, but authenticated.
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&bad).is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(open(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_record_cannot_stand_in_for_another() {
        let bytes = seal(&keys(), &header(), b"", b"x", [4; 12]);
        let envelope = Envelope::parse(&bytes).unwrap();
        let other = RepositoryId([9; 16]);
        assert!(envelope.open(&keys(), Kind::Session, RepositoryId([2; 16]), &[3; 16]).is_err());
        assert!(envelope.open(&keys(), Kind::Pin, other, &[3; 16]).is_err());
        assert!(envelope.open(&keys(), Kind::Pin, RepositoryId([2; 16]), &[4; 16]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn hostile_cbor_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = from_cbor::<SessionRecord>(&bytes);
            let _ = from_cbor::<SegmentBody>(&bytes);
            let _ = from_cbor::<EpochRecord>(&bytes).map(|record| record.checks().len());
            let _ = from_cbor::<DestroyPlain>(&bytes);
            let _ = from_cbor::<crate::format::protection::ProtectionPlain>(&bytes);
        }
    }
}
