//! ID tokens: whether one is what it says, for us, now. Bytes and time come in, claims come out.
//!
//! # Invariants
//!
//! * Only signatures by a key of the provider's own set count, by an algorithm that fits the kind
//!   of that key. There is no `none`, and no algorithm with a shared secret: a public key can
//!   never be taken for one.
//! * Nothing of a token is believed before its signature holds.

use aws_lc_rs::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The most that a token has, in bytes.
const LARGEST: usize = 64 << 10;
/// How far the clocks of provider and server may be apart, in seconds.
const SKEW: u64 = 60;
/// A subject has no more bytes, by the standard.
const LONGEST_SUBJECT: usize = 255;

/// Why a token does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flaw {
    /// It is none, or has what we do not understand.
    #[error("it is not an ID token")]
    Shape,
    /// It is signed by an algorithm that is not taken, or not at all.
    #[error("its signature is of a kind that is not taken")]
    Algorithm,
    /// No key of the provider could have signed it.
    #[error("it is signed with a key that the provider does not tell of")]
    UnknownKey,
    /// The signature does not hold.
    #[error("its signature does not hold")]
    Signature,
    /// Somebody else made it.
    #[error("it is from another issuer")]
    Issuer,
    /// It is for somebody else.
    #[error("it is for somebody else")]
    Audience,
    /// It is over.
    #[error("it is over")]
    Expired,
    /// It does not count yet: the clocks are apart.
    #[error("it is from the future: compare the clocks of provider and server")]
    Early,
    /// It answers another login.
    #[error("it belongs to another login")]
    Nonce,
    /// The way to log in was not strong enough.
    #[error("the way to log in was not strong enough")]
    Acr,
}

/// What a token must say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) issuer: &'a str,
    pub(super) client_id: &'a str,
    /// Audiences that may be named beside the client.
    pub(super) audiences: &'a [String],
    /// What was sent along; nothing where the protocol has no place for it.
    pub(super) nonce: Option<&'a str>,
    /// Ways to log in that are strong enough; all when there are none.
    pub(super) acr_values: &'a [String],
    pub(super) now_ms: u64,
}

/// What can have signed a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// A public key of a provider.
#[derive(Debug, Clone)]
pub(super) struct Key {
    id: Option<String>,
    /// The only algorithm it is used with, if it says so.
    algorithm: Option<String>,
    kind: Kind,
    /// Modulus and exponent, or the point as it stands on the wire.
    first: Vec<u8>,
    second: Vec<u8>,
}

/// The keys of a set; those that cannot sign what we take are left out.
pub(super) fn keys(set: &Value) -> Vec<Key> {
    set["keys"].as_array().into_iter().flatten().filter_map(key).collect()
}

fn key(one: &Value) -> Option<Key> {
    let text = |name: &str| one[name].as_str();
    if text("use").is_some_and(|word| word != "sig") {
        return None;
    }
    let bytes = |name: &str| BASE64URL_NOPAD.decode(text(name)?.as_bytes()).ok();
    let (kind, first, second) = match (text("kty")?, text("crv")) {
        ("RSA", _) => (Kind::Rsa, bytes("n")?, bytes("e")?),
        ("EC", Some("P-256")) => (Kind::P256, point(bytes("x")?, bytes("y")?, 32)?, Vec::new()),
        ("EC", Some("P-384")) => (Kind::P384, point(bytes("x")?, bytes("y")?, 48)?, Vec::new()),
        ("OKP", Some("Ed25519")) => (Kind::Ed25519, bytes("x")?, Vec::new()),
        _ => return None,
    };
    let (id, algorithm) = (text("kid").map(str::to_owned), text("alg").map(str::to_owned));
    Some(Key { id, algorithm, kind, first, second })
}

/// A point, uncompressed.
fn point(x: Vec<u8>, y: Vec<u8>, size: usize) -> Option<Vec<u8>> {
    let fits = x.len() == size && y.len() == size;
    fits.then(|| [vec![4], x, y].concat())
}

/// The kind of key that an algorithm takes.
fn kind_of(algorithm: &str) -> Option<Kind> {
    Some(match algorithm {
        "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512" => Kind::Rsa,
        "ES256" => Kind::P256,
        "ES384" => Kind::P384,
        "EdDSA" | "Ed25519" => Kind::Ed25519,
        _ => return None,
    })
}

impl Key {
    fn holds(&self, algorithm: &str, signed: &[u8], tag: &[u8]) -> bool {
        let rsa = |with| {
            let key = RsaPublicKeyComponents { n: &self.first, e: &self.second };
            key.verify(with, signed, tag).is_ok()
        };
        match algorithm {
            "RS256" => rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            "RS384" => rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            "RS512" => rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            "PS256" => rsa(&signature::RSA_PSS_2048_8192_SHA256),
            "PS384" => rsa(&signature::RSA_PSS_2048_8192_SHA384),
            "PS512" => rsa(&signature::RSA_PSS_2048_8192_SHA512),
            "ES256" => self.plain(&signature::ECDSA_P256_SHA256_FIXED, signed, tag),
            "ES384" => self.plain(&signature::ECDSA_P384_SHA384_FIXED, signed, tag),
            "EdDSA" | "Ed25519" => self.plain(&signature::ED25519, signed, tag),
            _ => false,
        }
    }

    fn plain(
        &self,
        with: &'static dyn signature::VerificationAlgorithm,
        signed: &[u8],
        tag: &[u8],
    ) -> bool {
        UnparsedPublicKey::new(with, &self.first).verify(signed, tag).is_ok()
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

fn part<T: DeserializeOwned>(text: &str) -> Result<T, Flaw> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| Flaw::Shape)?;
    serde_json::from_slice(&bytes).map_err(|_| Flaw::Shape)
}

/// The claims of a token that counts.
pub(super) fn verify(
    token: &str,
    keys: &[Key],
    wanted: &Wanted<'_>,
) -> Result<Map<String, Value>, Flaw> {
    if token.len() > LARGEST {
        return Err(Flaw::Shape);
    }
    let (signed, tag) = token.rsplit_once('.').ok_or(Flaw::Shape)?;
    let (head, body) = signed.split_once('.').ok_or(Flaw::Shape)?;
    let head: Header = part(head)?;
    let odd = head.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("jwt"));
    if odd || head.crit.is_some() {
        return Err(Flaw::Shape);
    }
    let kind = kind_of(&head.alg).ok_or(Flaw::Algorithm)?;
    let fits = |key: &&Key| {
        key.kind == kind
            && key.algorithm.as_ref().is_none_or(|own| *own == head.alg)
            && (head.kid.is_none() || key.id == head.kid)
    };
    let mut fitting = keys.iter().filter(fits).peekable();
    fitting.peek().ok_or(Flaw::UnknownKey)?;
    let tag = BASE64URL_NOPAD.decode(tag.as_bytes()).map_err(|_| Flaw::Shape)?;
    if !fitting.any(|key| key.holds(&head.alg, signed.as_bytes(), &tag)) {
        return Err(Flaw::Signature);
    }
    let claims: Map<String, Value> = part(body)?;
    judge(&claims, wanted)?;
    Ok(claims)
}

fn judge(claims: &Map<String, Value>, wanted: &Wanted<'_>) -> Result<(), Flaw> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(wanted.issuer) {
        return Err(Flaw::Issuer);
    }
    if text("sub").is_none_or(|sub| sub.is_empty() || sub.len() > LONGEST_SUBJECT) {
        return Err(Flaw::Shape);
    }
    let audiences = match claims.get("aud") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(all)) => {
            let all: Option<Vec<&str>> = all.iter().map(Value::as_str).collect();
            all.ok_or(Flaw::Shape)?
        }
        _ => return Err(Flaw::Audience),
    };
    let known = |one: &&str| *one == wanted.client_id || wanted.audiences.iter().any(|a| a == *one);
    if !audiences.contains(&wanted.client_id) || !audiences.iter().all(known) {
        return Err(Flaw::Audience);
    }
    let party = claims.get("azp");
    if party.map_or(audiences.len() > 1, |party| party.as_str() != Some(wanted.client_id)) {
        return Err(Flaw::Audience);
    }
    // Some providers write fractions of seconds.
    let seconds = |name: &str| claims.get(name).and_then(Value::as_f64);
    let now = (wanted.now_ms / 1000) as f64;
    let skew = SKEW as f64;
    if seconds("exp").ok_or(Flaw::Shape)? + skew <= now {
        return Err(Flaw::Expired);
    }
    let begins = [seconds("iat").ok_or(Flaw::Shape)?, seconds("nbf").unwrap_or(0.0)];
    if begins.into_iter().any(|begin| begin > now + skew) {
        return Err(Flaw::Early);
    }
    if wanted.nonce.is_some() && text("nonce") != wanted.nonce {
        return Err(Flaw::Nonce);
    }
    let strong = |acr: &str| wanted.acr_values.iter().any(|one| one == acr);
    if !wanted.acr_values.is_empty() && !text("acr").is_some_and(strong) {
        return Err(Flaw::Acr);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
