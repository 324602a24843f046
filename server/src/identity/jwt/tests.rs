use aws_lc_rs::encoding::AsBigEndian as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PSS_SHA256, RsaKeyPair,
};
use serde_json::json;

use super::*;

const NOW_MS: u64 = 1_800_000_000_000;
const NOW: u64 = NOW_MS / 1000;

fn wanted<'a>() -> Wanted<'a> {
    Wanted {
        issuer: "https://id.example.org",
        client_id: "sluice",
        audiences: &[],
        nonce: Some("n1"),
        acr_values: &[],
        now_ms: NOW_MS,
    }
}

fn claims() -> Value {
    json!({"iss": "https://id.example.org", "sub": "s1", "aud": "sluice", "exp": NOW + 300,
        "iat": NOW, "nonce": "n1"})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn encoded(value: &Value) -> String {
    BASE64URL_NOPAD.encode(value.to_string().as_bytes())
}

/// A provider with one key on P-256.
struct Signer {
    pair: EcdsaKeyPair,
    keys: Vec<Key>,
}

impl Signer {
    fn new(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref()[1..].to_vec();
        let half = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        let set = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": id, "use": "sig",
            "x": half(&point[..32]), "y": half(&point[32..])}]});
        Self { pair, keys: keys(&set) }
    }

    fn sign(&self, head: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encoded(head), encoded(claims));
        let tag = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64URL_NOPAD.encode(tag.as_ref()))
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": "ES256", "kid": "k1", "typ": "JWT"}), claims)
    }

    fn flaw(&self, claims: &Value) -> Option<Flaw> {
        verify(&self.token(claims), &self.keys, &wanted()).err()
    }
}

#[test]
fn a_token_for_us_counts() {
    let signer = Signer::new("k1");
    let claims = verify(&signer.token(&claims()), &signer.keys, &wanted()).unwrap();
    assert_eq!(claims["sub"], "s1");
    // A list with us alone, and no kid where the provider has one key only.
    let alone = with("aud", json!(["sluice"]));
    let token = signer.sign(&json!({"alg": "ES256"}), &alone);
    assert!(verify(&token, &signer.keys, &wanted()).is_ok());
}

#[test]
fn signatures_by_all_kinds_of_keys_hold() {
    let random = SystemRandom::new();
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let parts: PublicKeyComponents<Vec<u8>> = rsa.public_key().into();
    let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let set = json!({"keys": [{"kty": "RSA", "n": encode(&parts.n), "e": encode(&parts.e)}]});
    for (name, with) in [("RS256", &RSA_PKCS1_SHA256), ("PS256", &RSA_PSS_SHA256)] {
        let signed = format!("{}.{}", encoded(&json!({"alg": name})), encoded(&claims()));
        let mut tag = vec![0; rsa.public_modulus_len()];
        rsa.sign(with, &random, signed.as_bytes(), &mut tag).unwrap();
        let token = format!("{signed}.{}", encode(&tag));
        assert!(verify(&token, &keys(&set), &wanted()).is_ok(), "{name}");
        // The same bytes under another algorithm's name.
        let other = if name == "RS256" { "PS256" } else { "RS256" };
        let head = encoded(&json!({ "alg": other }));
        let forged = format!("{head}.{}.{}", encoded(&claims()), encode(&tag));
        assert_eq!(verify(&forged, &keys(&set), &wanted()), Err(Flaw::Signature));
    }
    let seed: aws_lc_rs::encoding::Curve25519SeedBin<'_> =
        Ed25519KeyPair::generate().unwrap().seed().unwrap().as_be_bytes().unwrap();
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).unwrap();
    let x = encode(pair.public_key().as_ref());
    let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]});
    let signed = format!("{}.{}", encoded(&json!({"alg": "EdDSA"})), encoded(&claims()));
    let token = format!("{signed}.{}", encode(pair.sign(signed.as_bytes()).as_ref()));
    assert!(verify(&token, &keys(&set), &wanted()).is_ok());
}

#[test]
fn what_is_not_signed_by_the_provider_does_not_count() {
    let (signer, other) = (Signer::new("k1"), Signer::new("k1"));
    let token = other.token(&claims());
    assert_eq!(verify(&token, &signer.keys, &wanted()), Err(Flaw::Signature));
    let elsewhere = signer.sign(&json!({"alg": "ES256", "kid": "k2"}), &claims());
    assert_eq!(verify(&elsewhere, &signer.keys, &wanted()), Err(Flaw::UnknownKey));
    assert_eq!(verify(&token, &[], &wanted()), Err(Flaw::UnknownKey));
    let good = signer.token(&claims());
    let (signed, tag) = good.rsplit_once('.').unwrap();
    let (head, _) = signed.split_once('.').unwrap();
    let changed = format!("{head}.{}.{tag}", encoded(&with("sub", json!("admin"))));
    assert_eq!(verify(&changed, &signer.keys, &wanted()), Err(Flaw::Signature));
    assert_eq!(verify(&format!("{signed}."), &signer.keys, &wanted()), Err(Flaw::Signature));
}

#[test]
fn no_algorithm_is_none_and_a_public_key_is_no_shared_secret() {
    let signer = Signer::new("k1");
    for alg in ["none", "None", "", "HS256", "HS512", "ES256K", "dir"] {
        let head = json!({"alg": alg, "kid": "k1"});
        let signed = format!("{}.{}", encoded(&head), encoded(&claims()));
        let tag = aws_lc_rs::hmac::sign(
            &aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &signer.keys[0].first),
            signed.as_bytes(),
        );
        for tag in [String::new(), BASE64URL_NOPAD.encode(tag.as_ref())] {
            let told = verify(&format!("{signed}.{tag}"), &signer.keys, &wanted());
            assert_eq!(told, Err(Flaw::Algorithm), "{alg}");
        }
    }
    // Of a key that cannot have signed it by this algorithm.
    let head = json!({"alg": "RS256", "kid": "k1"});
    let token = signer.sign(&head, &claims());
    assert_eq!(verify(&token, &signer.keys, &wanted()), Err(Flaw::UnknownKey));
}

#[test]
fn a_key_is_used_for_what_it_is_there_for() {
    let set = |name: &str, value: &str| {
        let mut key = json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"});
        key[name] = value.into();
        keys(&json!({ "keys": [key] })).len()
    };
    assert_eq!((set("use", "sig"), set("use", "enc"), set("crv", "X25519")), (1, 0, 0));
    assert!(keys(&json!({"keys": [{"kty": "oct", "k": "AAAA"}]})).is_empty());
    assert!(keys(&json!([])).is_empty());
    let mut signer = Signer::new("k1");
    signer.keys[0].algorithm = Some("ES384".into());
    assert_eq!(signer.flaw(&claims()), Some(Flaw::UnknownKey));
}

#[test]
fn what_is_for_others_or_by_others_does_not_count() {
    let signer = Signer::new("k1");
    for (claims, flaw) in [
        (with("iss", json!("https://id.example.org/")), Flaw::Issuer),
        (with("iss", json!("https://evil.example.org")), Flaw::Issuer),
        (with("aud", json!("other")), Flaw::Audience),
        (with("aud", json!([])), Flaw::Audience),
        (with("aud", json!(["sluice", "other"])), Flaw::Audience),
        (with("aud", Value::Null), Flaw::Audience),
        (with("azp", json!("other")), Flaw::Audience),
        (with("nonce", json!("n2")), Flaw::Nonce),
        (with("nonce", Value::Null), Flaw::Nonce),
        (with("sub", json!("")), Flaw::Shape),
        (with("sub", json!(7)), Flaw::Shape),
    ] {
        assert_eq!(signer.flaw(&claims), Some(flaw), "{claims}");
    }
    let mut both = with("aud", json!(["sluice", "other"]));
    let audiences = ["other".to_owned()];
    let known = Wanted { audiences: &audiences, ..wanted() };
    let told = verify(&signer.token(&both), &signer.keys, &known);
    assert_eq!(told, Err(Flaw::Audience), "of several, one is named as the client");
    both["azp"] = json!("sluice");
    assert!(verify(&signer.token(&both), &signer.keys, &known).is_ok());
}

#[test]
fn a_token_counts_in_its_time() {
    let signer = Signer::new("k1");
    for (name, seconds, flaw) in [
        ("exp", NOW - SKEW, Some(Flaw::Expired)),
        ("exp", NOW - SKEW + 1, None),
        ("iat", NOW + SKEW, None),
        ("iat", NOW + SKEW + 1, Some(Flaw::Early)),
        ("nbf", NOW + SKEW + 1, Some(Flaw::Early)),
    ] {
        assert_eq!(signer.flaw(&with(name, json!(seconds))), flaw, "{name} {seconds}");
    }
    for name in ["exp", "iat"] {
        assert_eq!(signer.flaw(&with(name, Value::Null)), Some(Flaw::Shape));
        assert_eq!(signer.flaw(&with(name, json!("soon"))), Some(Flaw::Shape));
    }
}

#[test]
fn the_way_to_log_in_can_be_demanded() {
    let signer = Signer::new("k1");
    let strong = ["mfa".to_owned()];
    let demanding = Wanted { acr_values: &strong, ..wanted() };
    let told = |claims: &Value| verify(&signer.token(claims), &signer.keys, &demanding).err();
    assert_eq!(told(&claims()), Some(Flaw::Acr));
    assert_eq!(told(&with("acr", json!("pwd"))), Some(Flaw::Acr));
    assert_eq!(told(&with("acr", json!("mfa"))), None);
}

#[test]
fn what_is_no_token_is_refused() {
    let signer = Signer::new("k1");
    let long = "a".repeat(LARGEST + 1);
    let good = signer.token(&claims());
    let padded = format!("{good}==");
    for bad in ["", ".", "..", "...", "a.b.c", "é.é.é", &long, &padded, &format!("{good}.x")] {
        assert!(verify(bad, &signer.keys, &wanted()).is_err(), "{bad:.20}");
    }
    for head in [
        json!({"alg": "ES256", "typ": "at+jwt"}),
        json!({"alg": "ES256", "typ": "logout+jwt"}),
        json!({"alg": "ES256", "crit": ["b64"], "b64": false}),
    ] {
        let token = signer.sign(&head, &claims());
        assert_eq!(verify(&token, &signer.keys, &wanted()), Err(Flaw::Shape), "{head}");
    }
}
