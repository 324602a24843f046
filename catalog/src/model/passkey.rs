use crate::id::{PasskeyId, UserId};

/// A public key by which a user logs in; the private one never leaves the authenticator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passkey {
    /// Its id.
    pub id: PasskeyId,
    /// Whose it is.
    pub user: UserId,
    /// For people; unique among those of the user.
    pub name: String,
    /// What authenticators call it, as Base64url; unique in the system.
    pub credential: String,
    /// The public key as COSE, as Base64url.
    pub key: String,
    /// What its counter said when it was used last.
    pub counter: u32,
    /// Make and model as the authenticator has told it, as hexadecimal digits; not proved.
    pub model: String,
    /// How browsers reach it, as words of the standard with commas between them.
    pub transports: String,
    /// Whether the authenticator has made sure of its owner in a login or when it was made, so
    /// that it is good for a login without a password.
    pub verified: bool,
    /// Whether it may be copied to other devices.
    pub backup_eligible: bool,
    /// Whether it is.
    pub backed_up: bool,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was used last, in milliseconds since 1970.
    pub used_ms: Option<u64>,
}

/// A passkey that was made just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPasskey {
    /// For people; unique among those of the user.
    pub name: String,
    /// What authenticators call it, as Base64url.
    pub credential: String,
    /// The public key as COSE, as Base64url.
    pub key: String,
    /// What its counter says.
    pub counter: u32,
    /// Make and model as the authenticator tells it, as hexadecimal digits.
    pub model: String,
    /// How browsers reach it, as words of the standard with commas between them.
    pub transports: String,
    /// Whether the authenticator has made sure of its owner.
    pub verified: bool,
    /// Whether it may be copied to other devices.
    pub backup_eligible: bool,
    /// Whether it is.
    pub backed_up: bool,
}

/// How a passkey was used just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasskeyUse {
    /// What its counter says.
    pub counter: u32,
    /// Whether its owner has shown, with the password or before, that it is good for a login
    /// without one.
    pub verified: bool,
    /// Whether it is copied to other devices.
    pub backed_up: bool,
}

/// What a browser is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasskeyPurpose {
    /// A new passkey of who is logged in.
    Register,
    /// A passkey of who is logged in, before something that a session that was left open must not
    /// do.
    Confirm,
    /// A passkey of who has shown the password.
    SecondFactor,
    /// A passkey of anybody, instead of a password.
    Login,
}

impl PasskeyPurpose {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Confirm => "confirm",
            Self::SecondFactor => "second-factor",
            Self::Login => "login",
        }
    }
}

/// A question to a browser.
#[derive(Debug, Clone, Copy)]
pub struct NewChallenge<'a> {
    /// The hash of what names it.
    pub hash: &'a str,
    /// What for.
    pub purpose: PasskeyPurpose,
    /// Who is asked, if that is known.
    pub user: Option<UserId>,
    /// The hash of the session that asks; empty where there is none.
    pub session: &'a str,
    /// What must be signed, as Base64url.
    pub challenge: &'a str,
    /// From where it was asked for.
    pub address: &'a str,
    /// Until when it is good, in milliseconds since 1970.
    pub expires_ms: u64,
}

/// A question to a browser that is answered now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenChallenge {
    /// Who was asked, if that was known.
    pub user: Option<UserId>,
    /// The hash of the session that has asked; empty where there is none.
    pub session: String,
    /// What must be signed, as Base64url.
    pub challenge: String,
}
