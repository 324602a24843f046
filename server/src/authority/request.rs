//! Requests for certificates, PKCS #10: of one, only the key is taken, once its signature shows
//! that whoever asks has it.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;

/// A key of P-256 as certificates have it, up to the point itself.
const HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The most bytes of a request.
const LARGEST: usize = 16 << 10;
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;

/// The point of a public key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PublicKey(Vec<u8>);

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// One value: all of it, what is in it, and what follows.
struct Value<'a> {
    whole: &'a [u8],
    inside: &'a [u8],
    rest: &'a [u8],
}

/// Reads a value of this tag. Lengths are those of DER: as short as they can be.
fn value(bytes: &[u8], tag: u8) -> Option<Value<'_>> {
    let (&found, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (&length, rest) = rest.split_first()?;
            (usize::from(length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (inside, rest) = rest.split_at_checked(length)?;
    let whole = bytes.get(..bytes.len() - rest.len())?;
    (found == tag).then_some(Value { whole, inside, rest })
}

/// What is signed, the key in it, and the signature.
fn parts(request: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let outer = value(request, SEQUENCE).filter(|outer| outer.rest.is_empty())?;
    let signed = value(outer.inside, SEQUENCE)?;
    let algorithm = value(signed.rest, SEQUENCE)?;
    let signature = value(algorithm.rest, BITS).filter(|bits| bits.rest.is_empty())?;
    let signature = signature.inside.strip_prefix(&[0])?;
    let version = value(signed.inside, INTEGER)?;
    let name = value(version.rest, SEQUENCE)?;
    let key = value(name.rest, SEQUENCE)?;
    Some((signed.whole, key.whole.strip_prefix(&HEAD)?, signature))
}

/// The key that a request is for.
///
/// # Errors
/// In words, what it is not.
pub(super) fn key_of(pem: &str) -> Result<PublicKey, &'static str> {
    let bad = "this is no request for a certificate of a P-256 key";
    if pem.len() > LARGEST {
        return Err(bad);
    }
    let request = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| bad)?;
    let (signed, point, signature) = parts(&request).ok_or(bad)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(signed, signature)
        .map_err(|_| "the request for a certificate is not signed with its key")?;
    Ok(PublicKey(point.to_vec()))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn the_key_of_a_request_is_found() {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        for names in [vec![], vec!["a.example.org".to_owned(); 40]] {
            let params = CertificateParams::new(names).unwrap();
            let request = params.serialize_request(&pair).unwrap();
            assert_eq!(key_of(&request.pem().unwrap()).unwrap().0, pair.der_bytes());
        }
    }

    #[test]
    fn another_key_or_any_changed_byte_is_refused() {
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let request = CertificateParams::default().serialize_request(&other).unwrap();
        assert!(key_of(&request.pem().unwrap()).is_err());
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let request = CertificateParams::default().serialize_request(&pair).unwrap();
        let good = request.der().to_vec();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            let checked = parts(&bytes).is_some_and(|(signed, point, signature)| {
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
                // What names the algorithm of the signature is not signed, and not believed.
                key.verify(signed, signature).is_ok() && signed != parts(&good).unwrap().0
            });
            assert!(!checked, "byte {at}");
            assert!(parts(&good[..at]).is_none(), "{at} bytes");
        }
        for bad in
            ["", "x", "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----"]
        {
            assert!(key_of(bad).is_err(), "{bad}");
        }
    }
}
