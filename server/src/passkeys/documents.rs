//! What browsers are told and bring, as the standard has it in JSON (Web Authentication, "Parse
//! Registration Options" and `toJSON`): pages hand it on as it is.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use sluice_catalog::{Passkey, User};
use sluice_webauthn::{ALGORITHMS, RelyingParty};
use utoipa::ToSchema;

use super::{PATIENCE_MS, Question};

/// What pages show as the one who asks.
const NAME: &str = "Sluice";
/// Ways to reach an authenticator that are kept of a passkey; the standard knows six.
const TRANSPORTS: usize = 8;
/// Kinds that the standard knows of, of one kind.
const KIND: &str = "public-key";

/// For `navigator.credentials.create`, by `PublicKeyCredential.parseCreationOptionsFromJSON`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreationOptions {
    rp: Party,
    user: Owner,
    /// 32 random bytes, as Base64url.
    challenge: String,
    pub_key_cred_params: Vec<Algorithm>,
    /// In milliseconds.
    timeout: u64,
    /// Passkeys that the user has already.
    exclude_credentials: Vec<Descriptor>,
    authenticator_selection: Selection,
    /// Always `none`: makes of authenticators are not judged.
    attestation: &'static str,
}

/// Who asks for a passkey.
#[derive(Serialize, ToSchema)]
struct Party {
    /// The host of the public URL.
    id: String,
    name: &'static str,
}

/// For whom a passkey is made.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Owner {
    /// The id of the user, as Base64url.
    id: String,
    name: String,
    display_name: String,
}

/// A kind of key that is taken.
#[derive(Serialize, ToSchema)]
struct Algorithm {
    r#type: &'static str,
    /// Its number in COSE.
    alg: i64,
}

/// A passkey that is known.
#[derive(Serialize, ToSchema)]
struct Descriptor {
    r#type: &'static str,
    /// What authenticators call it, as Base64url.
    id: String,
    transports: Vec<String>,
}

/// What an authenticator should be able to do.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Selection {
    resident_key: &'static str,
    user_verification: &'static str,
}

/// For `navigator.credentials.get`, by `PublicKeyCredential.parseRequestOptionsFromJSON`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestOptions {
    /// 32 random bytes, as Base64url.
    challenge: String,
    /// In milliseconds.
    timeout: u64,
    /// The host of the public URL.
    rp_id: String,
    /// The passkeys that will do; none for any of this host.
    allow_credentials: Vec<Descriptor>,
    user_verification: &'static str,
}

fn described(passkeys: &[Passkey]) -> Vec<Descriptor> {
    let one = |passkey: &Passkey| Descriptor {
        r#type: KIND,
        id: passkey.credential.clone(),
        transports: words(&passkey.transports),
    };
    passkeys.iter().map(one).collect()
}

/// The words of a list with commas.
pub(crate) fn words(list: &str) -> Vec<String> {
    list.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

impl CreationOptions {
    pub(crate) fn new(
        party: &RelyingParty,
        user: &User,
        known: &[Passkey],
        question: &Question,
    ) -> Self {
        let algorithm = |alg| Algorithm { r#type: KIND, alg };
        Self {
            rp: Party { id: party.id().to_owned(), name: NAME },
            user: Owner {
                id: BASE64URL_NOPAD.encode(user.id.to_string().as_bytes()),
                name: user.login.clone(),
                display_name: user.login.clone(),
            },
            challenge: question.challenge.clone(),
            pub_key_cred_params: ALGORITHMS.into_iter().map(algorithm).collect(),
            timeout: PATIENCE_MS,
            exclude_credentials: described(known),
            // What cannot be found without a name is good as a second factor still.
            authenticator_selection: Selection {
                resident_key: "preferred",
                user_verification: "preferred",
            },
            attestation: "none",
        }
    }
}

impl RequestOptions {
    /// One of these passkeys, beside something else.
    pub(crate) fn beside(party: &RelyingParty, known: &[Passkey], question: &Question) -> Self {
        Self::new(party, described(known), "preferred", question)
    }

    /// Any passkey of this host, instead of a password.
    pub(crate) fn instead(party: &RelyingParty, question: &Question) -> Self {
        Self::new(party, Vec::new(), "required", question)
    }

    fn new(
        party: &RelyingParty,
        allow_credentials: Vec<Descriptor>,
        user_verification: &'static str,
        question: &Question,
    ) -> Self {
        Self {
            challenge: question.challenge.clone(),
            timeout: PATIENCE_MS,
            rp_id: party.id().to_owned(),
            allow_credentials,
            user_verification,
        }
    }
}

/// A passkey that a browser has made: `toJSON()` of what `navigator.credentials.create` returns.
#[derive(Deserialize, ToSchema)]
pub(crate) struct NewlyMade {
    /// What authenticators call it, as Base64url.
    id: String,
    response: MadeResponse,
}

/// Its parts; there are more, which say the same in other words.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct MadeResponse {
    /// As Base64url.
    #[serde(rename = "clientDataJSON")]
    client_data: String,
    /// As Base64url.
    attestation_object: String,
    /// How browsers reach it.
    #[serde(default)]
    transports: Vec<String>,
}

/// A passkey that a browser has used: `toJSON()` of what `navigator.credentials.get` returns.
#[derive(Deserialize, ToSchema)]
pub(crate) struct UsedPasskey {
    /// What authenticators call it, as Base64url.
    id: String,
    response: UsedResponse,
}

/// Its parts.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UsedResponse {
    /// As Base64url.
    #[serde(rename = "clientDataJSON")]
    client_data: String,
    /// As Base64url.
    authenticator_data: String,
    /// As Base64url.
    signature: String,
    /// Whose it is, as Base64url.
    #[serde(default)]
    user_handle: Option<String>,
}

/// The bytes of a new passkey.
pub(crate) struct Made {
    pub(crate) id: Vec<u8>,
    pub(crate) client_data: Vec<u8>,
    pub(crate) attestation: Vec<u8>,
    /// Words that the standard may have, with commas.
    pub(crate) transports: String,
}

/// The bytes of a passkey that was used.
pub(crate) struct Used {
    pub(crate) client_data: Vec<u8>,
    pub(crate) authenticator_data: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) user_handle: Option<Vec<u8>>,
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()
}

impl NewlyMade {
    /// Its bytes; nothing when it is no Base64url. How long they are is judged with them.
    pub(crate) fn decode(&self) -> Option<Made> {
        let is_word = |word: &&String| {
            let letters = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            (1..=16).contains(&word.len()) && word.bytes().all(letters)
        };
        let transports = self.response.transports.iter().filter(is_word).take(TRANSPORTS);
        Some(Made {
            id: bytes(&self.id)?,
            client_data: bytes(&self.response.client_data)?,
            attestation: bytes(&self.response.attestation_object)?,
            transports: transports.cloned().collect::<Vec<_>>().join(","),
        })
    }
}

impl UsedPasskey {
    /// Its id and its bytes; nothing when it is no Base64url.
    pub(crate) fn decode(&self) -> Option<(Vec<u8>, Used)> {
        let response = &self.response;
        let user_handle = match response.user_handle.as_deref() {
            Some(handle) if !handle.is_empty() => Some(bytes(handle)?),
            _ => None,
        };
        let used = Used {
            client_data: bytes(&response.client_data)?,
            authenticator_data: bytes(&response.authenticator_data)?,
            signature: bytes(&response.signature)?,
            user_handle,
        };
        Some((bytes(&self.id)?, used))
    }
}
