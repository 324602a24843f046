//! A service account's key, and what it signs to be given a token (RFC 7523).

use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use data_encoding::BASE64URL_NOPAD;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::json;

use super::config::check_private;
use crate::web::{Secret, check_http};
use crate::{DestinationError, ErrorKind, Result};

/// What a token is asked for: reading and writing objects.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";

/// How long a token holds at most, in seconds.
const LIFE: i64 = 3600;

/// Where tokens are given, when the key does not say.
const TOKENS: &str = "https://oauth2.googleapis.com/token";

/// The key of a service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceKey {
    /// The account's name.
    email: String,
    /// Which of the account's keys it is.
    id: Option<String>,
    /// PEM of PKCS #8.
    key: Secret,
    /// Where tokens are given.
    pub(super) place: String,
}

impl ServiceKey {
    /// The key in a file that the service has made. Nothing of the text is repeated in errors.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct File {
            r#type: String,
            client_email: Option<String>,
            private_key_id: Option<String>,
            private_key: Option<String>,
            token_uri: Option<String>,
        }
        let bad = |what: &str| {
            let context = format!("{}: {what}", path.display());
            DestinationError::new(ErrorKind::AccessDenied, context)
        };
        let file: File = serde_json::from_str(text)
            .map_err(|_| bad("this is no key of a service account, in JSON"))?;
        if file.r#type != "service_account" {
            return Err(bad("only keys of service accounts are understood"));
        }
        let (Some(email), Some(key)) = (file.client_email, file.private_key) else {
            return Err(bad("client_email or private_key is missing"));
        };
        let place = file.token_uri.unwrap_or_else(|| TOKENS.into());
        check_http("token_uri", &place)?;
        check_private("token_uri", &place)?;
        let found = Self { email, id: file.private_key_id, key: Secret::new(key), place };
        found.pair().ok_or_else(|| bad("private_key is no RSA key in PEM"))?;
        Ok(found)
    }

    fn pair(&self) -> Option<KeyPair> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(self.key.reveal().as_bytes()).ok()?;
        KeyPair::from_pkcs8(der.secret_pkcs8_der()).ok()
    }

    /// What is exchanged for a token: who asks for what, signed. `now` in seconds since 1970.
    pub(super) fn assertion(&self, now: i64) -> Result<Secret> {
        let header = json!({ "alg": "RS256", "typ": "JWT", "kid": self.id });
        let claims = json!({
            "iss": self.email,
            "scope": SCOPE,
            "aud": self.place,
            "iat": now,
            "exp": now + LIFE,
        });
        let encode = |text: &[u8]| BASE64URL_NOPAD.encode(text);
        let signed = [header, claims].map(|part| encode(part.to_string().as_bytes())).join(".");
        let sign = |pair: KeyPair| {
            let mut signature = vec![0; pair.public_modulus_len()];
            let random = SystemRandom::new();
            pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).ok()?;
            Some(signature)
        };
        let signature = self.pair().and_then(sign).ok_or_else(|| {
            let context = "the service account's key does not sign";
            DestinationError::new(ErrorKind::AccessDenied, context)
        })?;
        Ok(Secret::new(format!("{signed}.{}", encode(&signature))))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use data_encoding::BASE64;
    use serde_json::Value;

    use super::*;

    /// A new key, and the file it comes in.
    fn key(place: &str) -> (KeyPair, Value) {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der = pair.as_der().unwrap();
        let frame = |word: &str| format!("-----{word} PRIVATE KEY-----\n");
        let body = BASE64.encode(der.as_ref());
        let pem = format!("{}{body}\n{}", frame("BEGIN"), frame("END"));
        let file = json!({
            "type": "service_account",
            "project_id": "site-1",
            "private_key_id": "k1",
            "private_key": pem,
            "client_email": "backup@site-1.example",
            "token_uri": place,
        });
        (pair, file)
    }

    fn parse(file: &Value) -> Result<ServiceKey> {
        ServiceKey::parse(Path::new("key.json"), &file.to_string())
    }

    #[test]
    fn an_assertion_is_signed_and_ends() {
        let (pair, file) = key("https://tokens.example/give");
        let assertion = parse(&file).unwrap().assertion(1_700_000_000).unwrap();
        let parts: Vec<_> = assertion.reveal().split('.').collect();
        let [header, claims, signature] = parts[..] else { panic!("{} parts", parts.len()) };
        let decode = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).unwrap();
        let read = |part| serde_json::from_slice::<Value>(&decode(part)).unwrap();
        assert_eq!(read(header), json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" }));
        let claims_wanted = json!({
            "iss": "backup@site-1.example",
            "scope": SCOPE,
            "aud": "https://tokens.example/give",
            "iat": 1_700_000_000,
            "exp": 1_700_003_600,
        });
        assert_eq!(read(claims), claims_wanted);
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key());
        let signed = format!("{header}.{claims}");
        public.verify(signed.as_bytes(), &decode(signature)).unwrap();
        public.verify(format!("{signed}x").as_bytes(), &decode(signature)).unwrap_err();
    }

    #[test]
    fn keys_that_cannot_be_used_are_told_and_never_shown() {
        let (_, good) = key("https://tokens.example/give");
        parse(&good).unwrap();
        for (name, value, kind) in [
            ("type", json!("authorized_user"), ErrorKind::AccessDenied),
            ("client_email", Value::Null, ErrorKind::AccessDenied),
            ("private_key", Value::Null, ErrorKind::AccessDenied),
            ("private_key", json!("hunter2"), ErrorKind::AccessDenied),
            ("private_key", json!(7), ErrorKind::AccessDenied),
            ("token_uri", json!("tokens.example"), ErrorKind::InvalidConfig),
            ("token_uri", json!("http://tokens.example"), ErrorKind::InvalidConfig),
        ] {
            let mut file = good.clone();
            file[name] = value;
            let error = parse(&file).unwrap_err();
            assert_eq!(error.kind(), kind, "{name}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let shown = format!("{:?}", parse(&good).unwrap());
        assert!(!shown.contains("BEGIN"), "{shown}");
    }
}
