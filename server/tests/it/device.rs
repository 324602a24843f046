//! A browser and its authenticator in a few lines, which can be made to do wrong.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

pub const PUBLIC: &str = "https://backup.example.org:9390";
const HOST: &str = "backup.example.org";

/// One passkey.
pub struct Device {
    key: EcdsaKeyPair,
    id: [u8; 16],
    /// Where the browser is.
    pub origin: String,
    /// Whether it makes sure of its owner.
    pub verifies: bool,
    /// What its counter says next; without, it does not count.
    pub counter: Option<u32>,
    /// Whose it is, as it was told when it was made.
    pub owner: Option<String>,
}

impl Device {
    pub fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let (id, origin) = (rand::random(), PUBLIC.to_owned());
        Self { key, id, origin, verifies: true, counter: None, owner: None }
    }

    fn client_data(&self, kind: &str, options: &Value) -> Vec<u8> {
        let challenge = options["challenge"].as_str().unwrap();
        let text = json!({"type": format!("webauthn.{kind}"), "challenge": challenge,
            "origin": self.origin, "crossOrigin": false});
        text.to_string().into_bytes()
    }

    fn data(&mut self, flags: u8, more: &[u8]) -> Vec<u8> {
        let flags = flags | 1 | if self.verifies { 4 } else { 0 };
        let counter = self.counter.unwrap_or_default();
        self.counter = self.counter.map(|counter| counter + 1);
        let party = digest(&SHA256, HOST.as_bytes());
        [party.as_ref(), &[flags], &counter.to_be_bytes(), more].concat()
    }

    /// Makes the passkey that is asked for.
    pub fn make(&mut self, options: &Value) -> Value {
        assert_eq!(options["rp"]["id"], HOST);
        assert_eq!(options["attestation"], "none");
        self.owner = Some(options["user"]["id"].as_str().unwrap().to_owned());
        let point = self.key.public_key().as_ref();
        let (x, y) = (&point[1..33], &point[33..]);
        let head = b"\xa5\x01\x02\x03\x26\x20\x01\x21\x58\x20";
        let cose = [&head[..], x, b"\x22\x58\x20", y].concat();
        let made = [&[0; 16][..], &[0, 16], &self.id, &cose].concat();
        let data = self.data(64, &made);
        let length = u16::try_from(data.len()).unwrap().to_be_bytes();
        let head = b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x59";
        let object = [&head[..], &length, &data].concat();
        let client_data = self.client_data("create", options);
        let id = BASE64URL_NOPAD.encode(&self.id);
        let response = json!({
            "clientDataJSON": BASE64URL_NOPAD.encode(&client_data),
            "attestationObject": BASE64URL_NOPAD.encode(&object),
            "transports": ["internal", "No Word"],
        });
        json!({"id": id, "rawId": id, "type": "public-key", "response": response,
            "clientExtensionResults": {}})
    }

    /// Shows it.
    pub fn show(&mut self, options: &Value) -> Value {
        assert_eq!(options["rpId"], HOST);
        let data = self.data(0, &[]);
        let client_data = self.client_data("get", options);
        let signed = [&data[..], digest(&SHA256, &client_data).as_ref()].concat();
        let signature = self.key.sign(&SystemRandom::new(), &signed).unwrap();
        let id = BASE64URL_NOPAD.encode(&self.id);
        let response = json!({
            "clientDataJSON": BASE64URL_NOPAD.encode(&client_data),
            "authenticatorData": BASE64URL_NOPAD.encode(&data),
            "signature": BASE64URL_NOPAD.encode(signature.as_ref()),
            "userHandle": self.owner,
        });
        json!({"id": id, "rawId": id, "type": "public-key", "response": response,
            "clientExtensionResults": {}})
    }

    /// What browsers call it.
    pub fn name(&self) -> String {
        BASE64URL_NOPAD.encode(&self.id)
    }
}
