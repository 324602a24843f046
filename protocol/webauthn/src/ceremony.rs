use aws_lc_rs::digest::{SHA256, digest};

use crate::attestation::AttestationObject;
use crate::authenticator::AuthenticatorData;
use crate::client_data::ClientData;
use crate::cose::PublicKey;
use crate::flaw::Flaw;
use crate::relying_party::RelyingParty;

/// What an answer must be.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// For whom.
    pub party: &'a RelyingParty,
    /// What was sent along: random, and good for one answer.
    pub challenge: &'a [u8],
    /// Whether the authenticator must have made sure who uses it.
    pub verified: bool,
}

/// A passkey that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its id, 1 to [`crate::CREDENTIAL_ID`] bytes.
    pub id: Vec<u8>,
    /// Its public key, as COSE.
    pub key: Vec<u8>,
    /// What its counter says now.
    pub counter: u32,
    /// Make and model as the authenticator says; not trusted.
    pub model: [u8; 16],
    /// Whether the authenticator has made sure who uses it.
    pub verified: bool,
    /// Whether it may be copied to other devices.
    pub backup_eligible: bool,
    /// Whether it is.
    pub backed_up: bool,
}

/// What is known of a passkey from before.
#[derive(Debug, Clone, Copy)]
pub struct Credential<'a> {
    /// Its public key, as COSE.
    pub key: &'a [u8],
    /// What its counter said when it was used last.
    pub counter: u32,
    /// Whether it may be copied to other devices; it stays what it was made as.
    pub backup_eligible: bool,
}

/// What a browser brings of a passkey that is used.
#[derive(Debug, Clone, Copy)]
pub struct Assertion<'a> {
    /// What the browser says.
    pub client_data: &'a [u8],
    /// What the authenticator says.
    pub authenticator_data: &'a [u8],
    /// By the passkey's key, over both.
    pub signature: &'a [u8],
}

/// A passkey that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asserted {
    /// What its counter says now.
    pub counter: u32,
    /// Whether the authenticator has made sure who uses it.
    pub verified: bool,
    /// Whether it is copied to other devices now.
    pub backed_up: bool,
}

impl Expected<'_> {
    fn check(&self, data: &AuthenticatorData<'_>) -> Result<(), Flaw> {
        if !self.party.is(&data.party) {
            Err(Flaw::RelyingParty)
        } else if !data.present {
            Err(Flaw::NotPresent)
        } else if self.verified && !data.verified {
            Err(Flaw::NotVerified)
        } else {
            Ok(())
        }
    }
}

/// What is signed: the authenticator's words, and a digest of the browser's.
fn signed(authenticator_data: &[u8], client_data: &[u8]) -> Vec<u8> {
    [authenticator_data, digest(&SHA256, client_data).as_ref()].concat()
}

/// Judges a new passkey (§7.1). `id` is what the browser says it is called.
///
/// # Errors
/// [`Flaw`].
pub fn register(
    expected: &Expected<'_>,
    id: &[u8],
    client_data: &[u8],
    attestation: &[u8],
) -> Result<Registered, Flaw> {
    let client = ClientData::decode(client_data)?;
    client.check("webauthn.create", expected.challenge, expected.party)?;
    let object = AttestationObject::decode(attestation)?;
    let data = AuthenticatorData::decode(object.authenticator_data)?;
    expected.check(&data)?;
    let made = data.attested.ok_or(Flaw::Shape)?;
    if made.id != id {
        return Err(Flaw::Id);
    }
    if !made.key.is_sound() {
        return Err(Flaw::Key);
    }
    if let Some((algorithm, signature)) = object.own {
        let holds = algorithm == made.key.algorithm()
            && made.key.holds(&signed(object.authenticator_data, client_data), signature);
        if !holds {
            return Err(Flaw::Signature);
        }
    }
    Ok(Registered {
        id: made.id.to_vec(),
        key: made.key_bytes.to_vec(),
        counter: data.counter,
        model: made.model,
        verified: data.verified,
        backup_eligible: data.backup_eligible,
        backed_up: data.backed_up,
    })
}

/// Judges the use of a passkey (§7.2). That it is the passkey of whom it should be, whoever calls
/// has seen to.
///
/// # Errors
/// [`Flaw`]; [`Flaw::Counter`] only for what is right otherwise.
pub fn assert(
    expected: &Expected<'_>,
    known: &Credential<'_>,
    brought: &Assertion<'_>,
) -> Result<Asserted, Flaw> {
    let client = ClientData::decode(brought.client_data)?;
    client.check("webauthn.get", expected.challenge, expected.party)?;
    let data = AuthenticatorData::decode(brought.authenticator_data)?;
    expected.check(&data)?;
    let key = PublicKey::decode(known.key)?;
    if !key.holds(&signed(brought.authenticator_data, brought.client_data), brought.signature) {
        return Err(Flaw::Signature);
    }
    if data.backup_eligible != known.backup_eligible {
        return Err(Flaw::Backup);
    }
    // Passkeys that are on several devices do not count.
    let counts = data.counter != 0 || known.counter != 0;
    if counts && data.counter <= known.counter {
        return Err(Flaw::Counter);
    }
    Ok(Asserted { counter: data.counter, verified: data.verified, backed_up: data.backed_up })
}
