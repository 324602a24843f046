//! Passkeys as a server judges them: no sockets, no clock, no randomness.
//!
//! The server side ("relying party") of [Web Authentication, level 3][spec]. Section names in the
//! docs are those of the specification.
//!
//! ```text
//!   browser: clientDataJSON ──────────► type, challenge, origin
//!   authenticator: attestationObject ─► authenticator data ─► id and public key    (once)
//!   authenticator: authenticatorData ─► flags, counter ─┐
//!                  signature ───────────────────────────┴► judged with that key    (each time)
//! ```
//!
//! # Invariants
//!
//! * Decoders never panic, whatever the bytes; what is larger than its limit is refused before it
//!   is looked at ([`CLIENT_DATA`], [`ATTESTATION`], [`AUTHENTICATOR_DATA`]).
//! * Nothing that a browser tells counts before the signature over it holds, except in a
//!   registration, where it is the word of somebody who is known by other means.
//! * Which make an authenticator has is not judged: statements about that are taken and not
//!   trusted. One that an authenticator has signed with the new key itself must hold.
//! * There are three kinds of keys, and each fits one algorithm only.
//!
//! [spec]: https://www.w3.org/TR/webauthn-3/

mod attestation;
mod authenticator;
mod ceremony;
mod client_data;
mod cose;
mod flaw;
mod relying_party;

pub use attestation::{ATTESTATION, AttestationObject};
pub use authenticator::{AUTHENTICATOR_DATA, Attested, AuthenticatorData, CREDENTIAL_ID};
pub use ceremony::{Asserted, Assertion, Credential, Expected, Registered, assert, register};
pub use client_data::{CLIENT_DATA, ClientData};
pub use cose::{ALGORITHMS, PublicKey};
pub use flaw::Flaw;
pub use relying_party::{NoRelyingParty, RelyingParty};
