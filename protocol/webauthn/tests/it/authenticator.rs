//! An authenticator in a few lines, of each kind of key, that can be made to do wrong.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use data_encoding::BASE64URL_NOPAD;
use minicbor::Encoder;
use sluice_webauthn::{
    Asserted, Assertion, Credential, Expected, Flaw, Registered, assert, register,
};

use crate::vectors::party;

const CHALLENGE: &[u8] = b"0123456789abcdef0123456789abcdef";
const PRESENT: u8 = 1;
const VERIFIED: u8 = 4;
const ELIGIBLE: u8 = 8;
const BACKED_UP: u8 = 16;
const ATTESTED: u8 = 64;
const EXTENSIONS: u8 = 128;

enum Key {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rs256(Box<RsaKeyPair>),
}

fn keys() -> [Key; 3] {
    [
        Key::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap()),
        Key::EdDsa(Ed25519KeyPair::generate().unwrap()),
        Key::Rs256(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())),
    ]
}

impl Key {
    fn cose(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new());
        match self {
            Self::Es256(pair) => {
                let point = pair.public_key().as_ref();
                let head = encoder.map(5).unwrap().u8(1).unwrap().u8(2).unwrap();
                let head = head.u8(3).unwrap().i8(-7).unwrap().i8(-1).unwrap().u8(1).unwrap();
                head.i8(-2).unwrap().bytes(&point[1..33]).unwrap();
                encoder.i8(-3).unwrap().bytes(&point[33..]).unwrap();
            }
            Self::EdDsa(pair) => {
                let head = encoder.map(4).unwrap().u8(1).unwrap().u8(1).unwrap();
                let head = head.u8(3).unwrap().i8(-8).unwrap().i8(-1).unwrap().u8(6).unwrap();
                head.i8(-2).unwrap().bytes(pair.public_key().as_ref()).unwrap();
            }
            Self::Rs256(pair) => {
                // PKCS #1: a sequence of the modulus, in 257 bytes, and of the exponent.
                let der = pair.public_key().as_ref();
                let n = &der[9..9 + 256];
                let head = encoder.map(4).unwrap().u8(1).unwrap().u8(3).unwrap();
                let head = head.u8(3).unwrap().i16(-257).unwrap().i8(-1).unwrap();
                head.bytes(n).unwrap().i8(-2).unwrap().bytes(&[1, 0, 1]).unwrap();
            }
        }
        encoder.into_writer()
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Es256(pair) => pair.sign(&random, bytes).unwrap().as_ref().to_vec(),
            Self::EdDsa(pair) => pair.sign(bytes).as_ref().to_vec(),
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, bytes, &mut signature).unwrap();
                signature
            }
        }
    }
}

fn client_data(kind: &str) -> Vec<u8> {
    let challenge = BASE64URL_NOPAD.encode(CHALLENGE);
    let text = r#""origin":"https://example.org","crossOrigin":false"#;
    format!(r#"{{"type":"webauthn.{kind}","challenge":"{challenge}",{text}}}"#).into_bytes()
}

fn data(flags: u8, counter: u32, more: &[u8]) -> Vec<u8> {
    let party = digest(&SHA256, b"example.org");
    [party.as_ref(), &[flags], &counter.to_be_bytes(), more].concat()
}

/// What says of a new passkey what it is.
fn attested(id: &[u8], key: &[u8]) -> Vec<u8> {
    let length = u16::try_from(id.len()).unwrap().to_be_bytes();
    [&[7; 16][..], &length, id, key].concat()
}

fn object(data: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    let head = encoder.map(3).unwrap().str("fmt").unwrap().str("none").unwrap();
    let head = head.str("attStmt").unwrap().map(0).unwrap();
    head.str("authData").unwrap().bytes(data).unwrap();
    encoder.into_writer()
}

fn made(id: &[u8], data: &[u8], verified: bool) -> Result<Registered, Flaw> {
    let party = party();
    let expected = Expected { party: &party, challenge: CHALLENGE, verified };
    register(&expected, id, &client_data("create"), &object(data))
}

/// What becomes of a passkey that is used like this.
fn used(key: &Key, known: (u32, bool), (flags, counter): (u8, u32)) -> Result<Asserted, Flaw> {
    let (party, cose) = (party(), key.cose());
    let expected = Expected { party: &party, challenge: CHALLENGE, verified: false };
    let (data, client_data) = (data(flags, counter, &[]), client_data("get"));
    let signed = [&data[..], digest(&SHA256, &client_data).as_ref()].concat();
    let (client_data, signature) = (&client_data[..], &key.sign(&signed)[..]);
    let known = Credential { key: &cose, counter: known.0, backup_eligible: known.1 };
    let brought = Assertion { client_data, authenticator_data: &data, signature };
    if let Ok(shown) = assert(&expected, &known, &brought) {
        // The same, where it must have been verified.
        let strict = assert(&Expected { verified: true, ..expected }, &known, &brought);
        let wanted = if shown.verified { Ok(shown) } else { Err(Flaw::NotVerified) };
        assert_eq!(strict, wanted);
    }
    assert(&expected, &known, &brought)
}

#[test]
fn keys_of_each_kind_are_made_and_used() {
    for key in keys() {
        let data = data(PRESENT | ATTESTED, 3, &attested(b"id", &key.cose()));
        let new = made(b"id", &data, false).unwrap();
        assert_eq!((new.key, new.counter, new.model), (key.cose(), 3, [7; 16]));
        assert_eq!(made(b"id", &data, true), Err(Flaw::NotVerified));
        assert_eq!(made(b"ie", &data, false), Err(Flaw::Id));
        let shown = used(&key, (3, false), (PRESENT | VERIFIED, 4)).unwrap();
        assert_eq!(shown, Asserted { counter: 4, verified: true, backed_up: false });
    }
}

#[test]
fn a_counter_grows_or_is_always_zero() {
    let [key, ..] = keys();
    let told = |known, now| used(&key, (known, false), (PRESENT, now)).map(|used| used.counter);
    assert_eq!(told(0, 0), Ok(0));
    assert_eq!(told(0, 9), Ok(9));
    assert_eq!(told(9, 10), Ok(10));
    for (known, now) in [(9, 9), (9, 8), (9, 0), (u32::MAX, 0)] {
        assert_eq!(told(known, now), Err(Flaw::Counter), "{known} {now}");
    }
}

#[test]
fn flags_must_make_sense() {
    let [key, ..] = keys();
    let told = |eligible, flags| used(&key, (0, eligible), (flags, 0)).err();
    assert_eq!(told(false, 0), Some(Flaw::NotPresent));
    assert_eq!(told(false, VERIFIED), Some(Flaw::NotPresent));
    assert_eq!(told(true, PRESENT | ELIGIBLE | BACKED_UP), None);
    assert_eq!(told(false, PRESENT | ELIGIBLE), Some(Flaw::Backup));
    assert_eq!(told(true, PRESENT), Some(Flaw::Backup));
    assert_eq!(told(true, PRESENT | BACKED_UP), Some(Flaw::Shape));
    assert_eq!(told(false, PRESENT | ATTESTED), Some(Flaw::Shape), "there is none in it");
    assert_eq!(told(false, PRESENT | EXTENSIONS), Some(Flaw::Shape), "there are none in it");
    let cose = key.cose();
    let extended = [attested(b"id", &cose), b"\xa1\x61x\x01".to_vec()].concat();
    let flags = PRESENT | ATTESTED | EXTENSIONS;
    assert!(made(b"id", &data(flags, 0, &extended), false).is_ok());
    let without = data(PRESENT | ATTESTED, 0, &extended);
    assert_eq!(made(b"id", &without, false), Err(Flaw::Shape));
    assert_eq!(made(b"id", &data(PRESENT, 0, &[]), false), Err(Flaw::Shape), "none was made");
}

#[test]
fn ids_and_keys_have_limits() {
    let [key, ..] = keys();
    let told = |id: &[u8], key: &[u8]| {
        made(id, &data(PRESENT | ATTESTED, 0, &attested(id, key)), false).err()
    };
    assert_eq!(told(&[1; 1023], &key.cose()), None);
    assert_eq!(told(&[1; 1024], &key.cose()), Some(Flaw::Shape));
    assert_eq!(told(&[], &key.cose()), Some(Flaw::Shape));
    let changed = |at: usize, byte: u8| {
        let mut cose = key.cose();
        cose[at] = byte;
        cose
    };
    // The curve's number, the algorithm, the kind; then a point that is not on the curve.
    for (at, byte) in [(6, 2), (4, 0x27), (2, 1)] {
        assert_eq!(told(b"id", &changed(at, byte)), Some(Flaw::Key), "{at}");
    }
    let last = key.cose().len() - 1;
    assert_eq!(told(b"id", &changed(last, key.cose()[last] ^ 1)), Some(Flaw::Key));
    // The algorithm is said twice.
    assert_eq!(told(b"id", &changed(3, 1)), Some(Flaw::Shape));
    assert_eq!(told(b"id", &changed(0, 0xbf)), Some(Flaw::Shape), "of no known length");
    assert_eq!(told(b"id", &changed(0, 0xa9)), Some(Flaw::Shape), "too many members");
}

#[test]
fn what_another_server_has_asked_for_is_refused() {
    let [key, ..] = keys();
    let mut data = data(PRESENT | ATTESTED, 0, &attested(b"id", &key.cose()));
    data[0] ^= 1;
    assert_eq!(made(b"id", &data, false), Err(Flaw::RelyingParty));
    let (party, client_data) = (party(), client_data("get"));
    let expected = Expected { party: &party, challenge: CHALLENGE, verified: false };
    data[0] ^= 1;
    let told = register(&expected, b"id", &client_data, &object(&data));
    assert_eq!(told, Err(Flaw::Type), "a use is no new passkey");
}
