//! Passkeys: what browsers are asked, and whether what they bring is an answer.
//!
//! ```text
//!   begin ──► question kept: purpose, user, session, 32 random bytes ──► options, for the browser
//!   finish ─► question taken, once, whatever comes of it ─► judged ─► passkey made or used
//! ```
//!
//! # Invariants
//!
//! * A question is answered once, for the purpose it was asked for, within [`PATIENCE_MS`]; of
//!   several servers of one database, one takes it.
//! * A login without a password takes an authenticator that has made sure of its owner, now and
//!   once beside a password or when the passkey was made: whoever finds a key that asks for no PIN
//!   and sets one does not come in by that.

pub(crate) mod documents;

use axum::http::StatusCode;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use sluice_catalog::{
    AuditEntry, NewChallenge, Passkey, PasskeyPurpose, PasskeyUse, TakenChallenge, Tx, UserId,
    token_hash,
};
use sluice_webauthn::{Assertion, Credential, Expected, Flaw, RelyingParty, assert};

use crate::api::Hidden;
use crate::problem::{Problem, Result};
use crate::state::{Shared, new_token};
use documents::UsedPasskey;

/// How long somebody may look for the authenticator, in milliseconds: what the standard recommends.
pub(crate) const PATIENCE_MS: u64 = 5 * 60_000;
/// Bytes of what must be signed.
const CHALLENGE: usize = 32;

/// Why there are no passkeys here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPasskeys {
    /// Nobody has said where browsers find this server.
    NoUrl,
    /// They find it by an address, and want a name.
    Address,
}

/// For whom passkeys are made here.
pub(crate) fn party(shared: &Shared) -> Result<&RelyingParty> {
    shared.party.as_ref().map_err(|why| {
        let text = match why {
            NoPasskeys::NoUrl => {
                "passkeys belong to a host name, and this server knows of none: start it with \
                 --public-url https://HOST:PORT, as browsers reach it"
            }
            NoPasskeys::Address => {
                "passkeys belong to a host name, and the public URL of this server has an IP \
                 address: start it with --public-url https://HOST:PORT, with a name"
            }
        };
        Problem::new(StatusCode::CONFLICT, "passkeys-off", text)
    })
}

/// Who is asked, and for what.
pub(crate) struct Asked<'a> {
    pub(crate) purpose: PasskeyPurpose,
    pub(crate) user: Option<UserId>,
    /// The hash of the session that asks; empty where there is none.
    pub(crate) session: &'a str,
    /// From where; empty where a session asks.
    pub(crate) address: &'a str,
}

/// A question that was kept.
pub(crate) struct Question {
    /// To be shown with the answer; for nobody else.
    pub(crate) token: String,
    /// What must be signed, as Base64url.
    pub(crate) challenge: String,
    /// Until when, in milliseconds since 1970.
    pub(crate) expires_ms: u64,
}

/// Keeps a new question.
pub(crate) async fn ask(shared: &Shared, tx: &mut Tx, asked: &Asked<'_>) -> Result<Question> {
    let token = new_token("passkey");
    let challenge = BASE64URL_NOPAD.encode(&rand::random::<[u8; CHALLENGE]>());
    let now = shared.now();
    let expires_ms = now + PATIENCE_MS;
    let new = NewChallenge {
        hash: &token_hash(&token),
        purpose: asked.purpose,
        user: asked.user,
        session: asked.session,
        challenge: &challenge,
        address: asked.address,
        expires_ms,
    };
    tx.begin_challenge(&new, now).await?;
    Ok(Question { token, challenge, expires_ms })
}

/// Takes the question of one of these purposes, in a transaction of its own: it is used up,
/// whatever comes of it.
pub(crate) async fn take(
    shared: &Shared,
    token: &Hidden,
    purposes: &[PasskeyPurpose],
) -> Result<Option<(PasskeyPurpose, TakenChallenge)>> {
    let mut tx = shared.catalog.begin().await?;
    for purpose in purposes {
        let taken = tx.take_challenge(&token_hash(&token.0), *purpose, shared.now()).await?;
        if let Some(taken) = taken {
            tx.commit().await?;
            return Ok(Some((*purpose, taken)));
        }
    }
    Ok(None)
}

/// Nothing that was asked is answered by this.
pub(crate) fn over() -> Problem {
    let text = "it has ended, or has taken too long: begin anew";
    Problem::new(StatusCode::FORBIDDEN, "passkey-over", text)
}

/// What must be signed.
pub(crate) fn signed_of(taken: &TakenChallenge) -> Vec<u8> {
    // It was written by us; what is damaged is signed by nobody.
    BASE64URL_NOPAD.decode(taken.challenge.as_bytes()).unwrap_or_default()
}

/// Why a passkey was refused.
pub(crate) struct Refused {
    /// Which one, if it is known.
    pub(crate) passkey: Option<Passkey>,
    pub(crate) why: String,
    /// Whether there are two of it.
    copied: bool,
}

impl Refused {
    fn new(passkey: Option<Passkey>, why: impl ToString) -> Self {
        Self { passkey, why: why.to_string(), copied: false }
    }

    /// One that is right, of somebody who may not come in.
    pub(crate) fn of(passkey: Passkey, why: String) -> Self {
        Self::new(Some(passkey), why)
    }

    /// As whoever shows it is told.
    pub(crate) fn problem(&self, status: StatusCode) -> Problem {
        Problem::new(status, "wrong-passkey", format!("this passkey is refused: {}", self.why))
    }

    /// What the log is told beside the refusal itself.
    pub(crate) fn alarm(&self, login: &str, from: &str) -> Option<AuditEntry> {
        let passkey = self.passkey.as_ref().filter(|_| self.copied)?;
        Some(AuditEntry {
            actor: login.to_owned(),
            action: "passkey.copied",
            object: passkey.id.to_string(),
            project: None,
            detail: json!({"name": passkey.name, "from": from, "counter": passkey.counter}),
        })
    }

    /// The same for the entry of the refusal.
    pub(crate) fn detail(&self, from: &str) -> Value {
        let name = self.passkey.as_ref().map(|passkey| &passkey.name);
        json!({"from": from, "passkey": name, "why": self.why})
    }
}

/// Whether this is the answer to a question, by a passkey of whom it should be; its use is noted.
pub(crate) async fn judge(
    shared: &Shared,
    tx: &mut Tx,
    (purpose, taken): (PasskeyPurpose, &TakenChallenge),
    brought: &UsedPasskey,
) -> Result<std::result::Result<Passkey, Refused>> {
    let party = party(shared)?;
    let unknown = |why| Ok(Err(Refused::new(None, why)));
    let Some((id, response)) = brought.decode() else { return unknown(Flaw::Shape.to_string()) };
    let known = tx.passkey_by_credential(&BASE64URL_NOPAD.encode(&id)).await?;
    let Some(known) = known else {
        return unknown(
            "this server does not know it: it was removed here, or is another's".into(),
        );
    };
    let instead = purpose == PasskeyPurpose::Login;
    let handle_fits = match &response.user_handle {
        Some(handle) => *handle == known.user.to_string().into_bytes(),
        // Who has not said who they are must be told by the passkey.
        None => !instead,
    };
    if !handle_fits || taken.user.is_some_and(|user| user != known.user) {
        return Ok(Err(Refused::new(Some(known), "it is somebody else's")));
    }
    if instead && !known.verified {
        let why = "without a password it takes one that asks for a PIN, a finger or a face: use \
                   it once beside the password";
        return Ok(Err(Refused::new(Some(known), why)));
    }
    let challenge = signed_of(taken);
    let expected = Expected { party, challenge: &challenge, verified: instead };
    let key = BASE64URL_NOPAD.decode(known.key.as_bytes()).unwrap_or_default();
    let credential =
        Credential { key: &key, counter: known.counter, backup_eligible: known.backup_eligible };
    let assertion = Assertion {
        client_data: &response.client_data,
        authenticator_data: &response.authenticator_data,
        signature: &response.signature,
    };
    let flaw = match assert(&expected, &credential, &assertion) {
        Err(flaw) => flaw,
        Ok(shown) => {
            let (counter, verified, backed_up) = (shown.counter, shown.verified, shown.backed_up);
            let used = PasskeyUse { counter, verified, backed_up };
            if tx.use_passkey(known.id, &used, shared.now()).await? {
                return Ok(Ok(known));
            }
            // Another server was shown the same counter meanwhile.
            Flaw::Counter
        }
    };
    let copied = flaw == Flaw::Counter;
    Ok(Err(Refused { copied, ..Refused::new(Some(known), flaw) }))
}
