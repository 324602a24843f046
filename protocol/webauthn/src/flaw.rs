/// Why what a browser has brought does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is larger than it may be.
    #[error("it is larger than a passkey needs")]
    TooLarge,
    /// It is no client data, attestation object or authenticator data, or has what we do not
    /// understand.
    #[error("it is not what a browser makes of a passkey")]
    Shape,
    /// A new passkey was asked for and a known one came, or the other way.
    #[error("it answers another question")]
    Type,
    /// It answers another challenge.
    #[error("it belongs to another attempt")]
    Challenge,
    /// It was made for a page elsewhere.
    #[error("it was made for another origin: use the public URL of the server")]
    Origin,
    /// It was made in a frame of another page.
    #[error("it was made inside a page of another origin")]
    CrossOrigin,
    /// It was made for another relying party.
    #[error("it was made for another server")]
    RelyingParty,
    /// Nobody has touched the authenticator.
    #[error("nobody was present")]
    NotPresent,
    /// Nobody has shown a fingerprint, a face or a PIN.
    #[error("the authenticator has not verified who uses it")]
    NotVerified,
    /// The key is of a kind that is not taken, or no key.
    #[error("its key is of a kind that is not taken")]
    Key,
    /// The id is not the one in the signed bytes.
    #[error("its id is another one than the authenticator says")]
    Id,
    /// The signature does not hold.
    #[error("its signature does not hold")]
    Signature,
    /// It was made to stay on one device, and is not, or the other way.
    #[error("it says something else of backups than when it was made")]
    Backup,
    /// The counter did not grow: there are two of them.
    #[error("its counter went back: there is a copy of it, or it was set back")]
    Counter,
}
