//! Public keys as COSE has them (RFC 9053), and signatures by them.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RsaPublicKeyComponents,
};
use minicbor::Decoder;
use minicbor::data::Type;

use crate::flaw::Flaw;

/// The algorithms that are taken, by their numbers in COSE, the best first: Ed25519, ECDSA on
/// P-256, and RSA with PKCS #1, which some TPMs have alone.
pub const ALGORITHMS: [i64; 3] = [ED_DSA, ES256, RS256];
const ED_DSA: i64 = -8;
const ES256: i64 = -7;
const RS256: i64 = -257;

/// The most members of a key. Those of RSA have four, of curves five.
const MEMBERS: u64 = 8;

/// A public key that fits one algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicKey<'b> {
    /// ECDSA with SHA-256 on P-256.
    Es256 {
        /// The first coordinate of the point.
        x: [u8; 32],
        /// The second one.
        y: [u8; 32],
    },
    /// Ed25519.
    EdDsa {
        /// The point.
        x: [u8; 32],
    },
    /// RSA with PKCS #1 and SHA-256.
    Rs256 {
        /// The modulus, big-endian: 256 to 1024 bytes.
        n: &'b [u8],
        /// The exponent, big-endian: 1 to 8 bytes.
        e: &'b [u8],
    },
}

/// The members that keys have, as they came.
#[derive(Default)]
struct Members<'b> {
    kind: Option<i64>,
    algorithm: Option<i64>,
    curve: Option<i64>,
    /// Those of labels -1 to -3 that are bytes.
    first: Option<&'b [u8]>,
    second: Option<&'b [u8]>,
    third: Option<&'b [u8]>,
}

impl<'b> PublicKey<'b> {
    /// Reads a key, and nothing behind it.
    ///
    /// # Errors
    /// [`Flaw::Shape`] when it is none, [`Flaw::Key`] when it is of another kind.
    pub fn decode(bytes: &'b [u8]) -> Result<Self, Flaw> {
        let mut decoder = Decoder::new(bytes);
        let key = Self::read(&mut decoder)?;
        if decoder.position() == bytes.len() { Ok(key) } else { Err(Flaw::Shape) }
    }

    pub(crate) fn read(decoder: &mut Decoder<'b>) -> Result<Self, Flaw> {
        let members = members(decoder)?;
        let curve = || members.curve.ok_or(Flaw::Key);
        match (members.kind, members.algorithm) {
            (Some(2), Some(ES256)) if curve()? == 1 => {
                Ok(Self::Es256 { x: coordinate(members.second)?, y: coordinate(members.third)? })
            }
            (Some(1), Some(ED_DSA)) if curve()? == 6 => {
                Ok(Self::EdDsa { x: coordinate(members.second)? })
            }
            (Some(3), Some(RS256)) => {
                let (n, e) = (members.first.ok_or(Flaw::Key)?, members.second.ok_or(Flaw::Key)?);
                let fits = (256..=1024).contains(&n.len()) && (1..=8).contains(&e.len());
                if fits { Ok(Self::Rs256 { n, e }) } else { Err(Flaw::Key) }
            }
            _ => Err(Flaw::Key),
        }
    }

    /// Its algorithm, by the number in COSE.
    pub fn algorithm(&self) -> i64 {
        match self {
            Self::Es256 { .. } => ES256,
            Self::EdDsa { .. } => ED_DSA,
            Self::Rs256 { .. } => RS256,
        }
    }

    /// Whether there can be signatures by it: a point lies on its curve.
    pub(crate) fn is_sound(&self) -> bool {
        match self {
            Self::Es256 { x, y } => {
                ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point(x, y)).is_ok()
            }
            Self::EdDsa { x } => ParsedPublicKey::new(&ED25519, x).is_ok(),
            // What is too small or no modulus is refused with each signature.
            Self::Rs256 { n, e } => odd(n) && odd(e) && e != &[1],
        }
    }

    /// Whether a signature is by this key, over these bytes.
    pub(crate) fn holds(&self, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Es256 { x, y } => ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point(x, y))
                .is_ok_and(|key| key.verify_sig(signed, signature).is_ok()),
            Self::EdDsa { x } => ParsedPublicKey::new(&ED25519, x)
                .is_ok_and(|key| key.verify_sig(signed, signature).is_ok()),
            Self::Rs256 { n, e } => RsaPublicKeyComponents { n, e }
                .verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature)
                .is_ok(),
        }
    }
}

fn odd(number: &[u8]) -> bool {
    number.last().is_some_and(|last| last & 1 == 1) && number.first() != Some(&0)
}

/// A point, uncompressed.
fn point(x: &[u8; 32], y: &[u8; 32]) -> [u8; 65] {
    let mut point = [4; 65];
    point[1..33].copy_from_slice(x);
    point[33..].copy_from_slice(y);
    point
}

fn coordinate(bytes: Option<&[u8]>) -> Result<[u8; 32], Flaw> {
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(Flaw::Key)
}

/// Reads the map of a key; labels that we do not know are passed over.
fn members<'b>(decoder: &mut Decoder<'b>) -> Result<Members<'b>, Flaw> {
    let shape = |_| Flaw::Shape;
    let count = decoder.map().map_err(shape)?.filter(|count| *count <= MEMBERS);
    let mut members = Members::default();
    for _ in 0..count.ok_or(Flaw::Shape)? {
        let label = decoder.i64().map_err(shape)?;
        let is_bytes = decoder.datatype().map_err(shape)? == Type::Bytes;
        let twice = match label {
            1 => members.kind.replace(decoder.i64().map_err(shape)?).is_some(),
            3 => members.algorithm.replace(decoder.i64().map_err(shape)?).is_some(),
            -1 if !is_bytes => members.curve.replace(decoder.i64().map_err(shape)?).is_some(),
            -1 => members.first.replace(decoder.bytes().map_err(shape)?).is_some(),
            -2 if is_bytes => members.second.replace(decoder.bytes().map_err(shape)?).is_some(),
            -3 if is_bytes => members.third.replace(decoder.bytes().map_err(shape)?).is_some(),
            _ => decoder.skip().map_err(shape).map(|()| false)?,
        };
        if twice {
            return Err(Flaw::Shape);
        }
    }
    Ok(members)
}
