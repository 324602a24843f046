//! Identifiers and the keys of objects (`docs/format/`, section 1).

use std::fmt;

use data_encoding::{BASE32HEX_NOPAD, HEXLOWER};
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use sluice_destination::Key;

use super::{FormatError, Parsed};

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The identifier of this text.
            ///
            /// # Errors
            /// When the text is no identifier of this kind.
            pub fn parse(text: &str) -> Parsed<Self> {
                let bytes = BASE32HEX_NOPAD
                    .decode(text.to_ascii_uppercase().as_bytes())
                    .map_err(|_| FormatError::Invalid("not an identifier"))?;
                let bytes = bytes.try_into().map_err(|_| FormatError::Invalid("wrong length"))?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&BASE32HEX_NOPAD.encode(&self.0).to_ascii_lowercase())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                let bytes = d.bytes()?;
                bytes.try_into().map(Self).map_err(|_| decode::Error::message("identifier length"))
            }
        }
    };
}

identifier!(
    /// The session of one backup run: when it began and randomness.
    SessionId,
    12
);
identifier!(
    /// A pack: its session and a serial number in it.
    PackId,
    16
);
identifier!(
    /// A restore point; sorts by time within its chain.
    PointId,
    16
);
identifier!(
    /// A chain, by keyed hash of its instance's name.
    ChainId,
    16
);
identifier!(
    /// A pin on a restore point.
    PinId,
    12
);
identifier!(
    /// An overlay over a restore point, wherever it is: the number that it was given when it was
    /// made.
    OverlayId,
    16
);
identifier!(
    /// A record of findings.
    FindingId,
    12
);
identifier!(
    /// The first 16 bytes of a chunk's id or a page's digest.
    Digest,
    16
);
identifier!(
    /// A repository.
    RepositoryId,
    16
);

fn timed<const N: usize>(ms: u64, random: &[u8]) -> [u8; N] {
    let mut id = [0; N];
    id[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    id[6..].copy_from_slice(&random[..N - 6]);
    id
}

impl SessionId {
    /// A session begun at `ms` with the given randomness.
    pub fn new(ms: u64, random: [u8; 6]) -> Self {
        Self(timed(ms, &random))
    }

    /// When it began, in ms since 1970.
    pub fn begun_ms(&self) -> u64 {
        self.0[..6].iter().fold(0, |ms, byte| ms << 8 | u64::from(*byte))
    }
}

impl PinId {
    /// A pin made at `ms` with the given randomness.
    pub fn new(ms: u64, random: [u8; 6]) -> Self {
        Self(timed(ms, &random))
    }
}

impl FindingId {
    /// A record written at `ms` with the given randomness.
    pub fn new(ms: u64, random: [u8; 6]) -> Self {
        Self(timed(ms, &random))
    }
}

impl PointId {
    /// A point begun at `ms` with the given randomness.
    pub fn new(ms: u64, random: [u8; 10]) -> Self {
        Self(timed(ms, &random))
    }

    /// The time in the identifier, in milliseconds since 1970.
    pub fn ms(&self) -> u64 {
        let mut ms = [0; 8];
        ms[2..].copy_from_slice(&self.0[..6]);
        u64::from_be_bytes(ms)
    }
}

impl PackId {
    /// The pack with number `serial` of `session`.
    pub fn new(session: SessionId, serial: u32) -> Self {
        let mut id = [0; 16];
        id[..12].copy_from_slice(&session.0);
        id[12..].copy_from_slice(&serial.to_be_bytes());
        Self(id)
    }

    /// The session that wrote the pack.
    pub fn session(&self) -> SessionId {
        let mut id = [0; 12];
        id.copy_from_slice(&self.0[..12]);
        SessionId(id)
    }
}

impl RepositoryId {
    /// The identifier in hex, as the descriptor writes it.
    pub fn hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// The identifier of this hex text.
    ///
    /// # Errors
    /// When it is not 32 hex digits.
    pub fn from_hex(text: &str) -> Parsed<Self> {
        let bytes = HEXLOWER
            .decode(text.as_bytes())
            .map_err(|_| FormatError::Invalid("repository id is not hex"))?;
        bytes.try_into().map(Self).map_err(|_| FormatError::Invalid("repository id length"))
    }
}

/// Kinds of packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PackKind {
    /// Chunks.
    Data,
    /// Pages.
    Meta,
}

/// The domain of all objects of this version.
pub const DOMAIN: &str = "default";

/// Builds a key of parts that are valid by construction.
fn key(text: String) -> Key {
    Key::new(text).expect("identifiers and fixed words form valid keys")
}

/// Key of the descriptor.
pub fn descriptor_key() -> Key {
    key("format".into())
}

/// Key of the room that is kept for removing things.
pub fn ballast_key() -> Key {
    key("ballast".into())
}

/// Key of generation 0 of a pack.
pub fn pack_key(kind: PackKind, pack: PackId) -> Key {
    generation_key(kind, pack, 0)
}

/// Key of a generation of a pack.
pub fn generation_key(kind: PackKind, pack: PackId, generation: u32) -> Key {
    key(format!("{}{generation}", generations_prefix(kind, pack)))
}

/// Prefix of all generations of a pack.
pub fn generations_prefix(kind: PackKind, pack: PackId) -> String {
    let room = match kind {
        PackKind::Data => "d",
        PackKind::Meta => "m",
    };
    let spread = blake3::hash(&pack.0).as_bytes()[0];
    format!("{room}/{spread:02x}/{pack}.")
}

/// The last generation that a pack can have. None is compacted so often; what has a greater number
/// was put there by somebody else, so that there is no next one.
pub const LAST_GENERATION: u32 = (1 << 20) - 1;

/// The generation that comes after one; none after the last.
pub fn next_generation(generation: u32) -> Option<u32> {
    generation.checked_add(1).filter(|next| *next <= LAST_GENERATION)
}

/// The pack and generation an object's key names.
pub fn parse_pack_key(key: &Key) -> Option<((PackKind, PackId), u32)> {
    let mut parts = key.as_str().split('/');
    let kind = match parts.next()? {
        "d" => PackKind::Data,
        "m" => PackKind::Meta,
        _ => return None,
    };
    let (pack, generation) = parts.nth(1)?.split_once('.')?;
    if parts.next().is_some() {
        return None;
    }
    let name = (kind, PackId::parse(pack).ok()?);
    let generation = generation.parse().ok().filter(|number| *number <= LAST_GENERATION)?;
    // Any other way to write it, such as with a sign, is another object.
    (generation_key(name.0, name.1, generation) == *key).then_some((name, generation))
}

/// Prefix of all collections.
pub const COLLECTIONS_PREFIX: &str = "g/";

/// Parts of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CollectionPart {
    /// It has begun.
    Plan,
    /// A collector is at work on it.
    Alive,
    /// The packs to remove or to compact.
    Condemned,
    /// It is over.
    Done,
}

impl CollectionPart {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Plan, "plan"),
        (Self::Alive, "alive"),
        (Self::Condemned, "condemned"),
        (Self::Done, "done"),
    ];
}

/// Key of a part of a collection.
pub fn collection_key(number: u64, part: CollectionPart) -> Key {
    let (_, name) = CollectionPart::ALL
        .into_iter()
        .find(|(one, _)| *one == part)
        .expect("every part has a name");
    key(format!("{COLLECTIONS_PREFIX}{number:010}/{name}"))
}

/// The collection and part named by a key.
pub fn parse_collection_key(key: &Key) -> Option<(u64, CollectionPart)> {
    let (number, name) = key.as_str().strip_prefix(COLLECTIONS_PREFIX)?.split_once('/')?;
    let (part, _) = CollectionPart::ALL.into_iter().find(|(_, text)| *text == name)?;
    let number = number.parse().ok().filter(|number| *number < u64::MAX)?;
    (collection_key(number, part) == *key).then_some((number, part))
}

/// Prefix of the commit records of a chain.
pub fn chain_prefix(chain: ChainId) -> String {
    format!("r/{DOMAIN}/{chain}/")
}

/// Prefix of all commit records.
pub fn commits_prefix() -> String {
    format!("r/{DOMAIN}/")
}

/// Prefix of all tombstones.
pub fn tombstones_prefix() -> String {
    format!("t/{DOMAIN}/")
}

/// Prefix of the tombstones of a chain.
pub fn chain_tombstones_prefix(chain: ChainId) -> String {
    format!("t/{DOMAIN}/{chain}/")
}

/// Prefix of all index segments.
pub fn segments_prefix() -> String {
    format!("x/{DOMAIN}/")
}

/// Key of a commit record.
pub fn commit_key(chain: ChainId, point: PointId) -> Key {
    key(format!("r/{DOMAIN}/{chain}/{point}"))
}

/// Key of a tombstone.
pub fn tombstone_key(chain: ChainId, point: PointId) -> Key {
    key(format!("t/{DOMAIN}/{chain}/{point}"))
}

/// Key of a session.
pub fn session_key(session: SessionId) -> Key {
    key(format!("s/{session}"))
}

/// Key of a pin.
pub fn pin_key(pin: PinId) -> Key {
    key(format!("p/{pin}"))
}

/// Key of an index segment.
pub fn segment_key(session: SessionId, number: u32) -> Key {
    key(format!("x/{DOMAIN}/{session}-{number:08}"))
}

/// Prefix of all findings.
pub const FINDINGS_PREFIX: &str = "b/";

/// Key of a record of findings.
pub fn finding_key(finding: FindingId) -> Key {
    key(format!("{FINDINGS_PREFIX}{finding}"))
}

/// Prefix of what scrubs have covered.
pub const COVERAGE_PREFIX: &str = "c/";

/// Key of a part of what scrubs have covered.
pub fn coverage_key(number: u32) -> Key {
    key(format!("{COVERAGE_PREFIX}{number:08}"))
}

/// Prefix of all protection records.
pub fn protections_prefix() -> String {
    format!("h/{DOMAIN}/")
}

/// Prefix of the protection records of a chain.
pub fn chain_protections_prefix(chain: ChainId) -> String {
    format!("h/{DOMAIN}/{chain}/")
}

/// Key of a point's protection record.
pub fn protection_key(chain: ChainId, point: PointId) -> Key {
    key(format!("h/{DOMAIN}/{chain}/{point}"))
}

/// Prefix of the records of data epochs.
pub const EPOCHS_PREFIX: &str = "e/";

/// Key of the record of a data epoch.
pub fn epoch_key(epoch: u32) -> Key {
    key(format!("{EPOCHS_PREFIX}{epoch:08}"))
}

/// The number of a data epoch, from the key of its record.
pub fn epoch_number(key: &Key) -> Option<u32> {
    let number = key.as_str().strip_prefix(EPOCHS_PREFIX)?.parse().ok()?;
    (number > 0 && epoch_key(number) == *key).then_some(number)
}

/// Key of the lock record.
pub fn lock_key() -> Key {
    key("lock".into())
}

/// Key of the wish to destroy the repository.
pub fn destroy_key() -> Key {
    key("destroy".into())
}

/// The chain and point named by the key of a commit record, tombstone or
/// protection record.
pub fn parse_point_key(key: &Key) -> Option<(ChainId, PointId)> {
    let mut parts = key.as_str().split('/');
    let (_, domain, chain, point) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if domain != DOMAIN || parts.next().is_some() {
        return None;
    }
    Some((ChainId::parse(chain).ok()?, PointId::parse(point).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_sorts_as_time_does() {
        let points: Vec<PointId> =
            [1u64, 255, 256, 1 << 40].iter().map(|ms| PointId::new(*ms, [0xAB; 10])).collect();
        let texts: Vec<String> = points.iter().map(ToString::to_string).collect();
        assert!(texts.is_sorted() && points.is_sorted());
        for (point, text) in points.iter().zip(&texts) {
            assert_eq!(PointId::parse(text).unwrap(), *point);
        }
        assert_eq!(points[3].ms(), 1 << 40);
    }

    #[test]
    fn keys_name_their_objects() {
        let (chain, point) = (ChainId([7; 16]), PointId::new(5, [9; 10]));
        let key = commit_key(chain, point);
        assert_eq!(parse_point_key(&key), Some((chain, point)));
        assert_eq!(parse_point_key(&descriptor_key()), None);
        let pack = PackId::new(SessionId::new(1, [2; 6]), 300);
        assert_eq!(pack.session(), SessionId::new(1, [2; 6]));
        let late = SessionId::new(0x0102_0304_0506, [9; 6]);
        assert_eq!(late.begun_ms(), 0x0102_0304_0506);
        assert!(pack_key(PackKind::Data, pack).as_str().ends_with(".0"));
    }
}
