//! What browsers bring of passkeys: anybody who reaches the server can send it.
//!
//! What is read holds what it says, and all of it: no byte is left over.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_webauthn::{AttestationObject, AuthenticatorData, CREDENTIAL_ID, ClientData, PublicKey};

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    match choice % 4 {
        0 => attestation(bytes),
        1 => authenticator(bytes),
        2 => key(bytes),
        _ => drop(ClientData::decode(bytes)),
    }
});

fn attestation(bytes: &[u8]) {
    let Ok(object) = AttestationObject::decode(bytes) else { return };
    assert!(object.own.is_none() || object.format == "packed");
    authenticator(object.authenticator_data);
}

fn authenticator(bytes: &[u8]) {
    let Ok(data) = AuthenticatorData::decode(bytes) else { return };
    assert!(data.backup_eligible || !data.backed_up);
    assert_eq!(data.party, bytes[..32]);
    let Some(made) = data.attested else { return };
    assert!((1..=CREDENTIAL_ID).contains(&made.id.len()));
    assert_eq!(PublicKey::decode(made.key_bytes), Ok(made.key));
    let longer = [bytes, &[0]].concat();
    assert!(AuthenticatorData::decode(&longer).is_err());
}

fn key(bytes: &[u8]) {
    let Ok(key) = PublicKey::decode(bytes) else { return };
    assert!(sluice_webauthn::ALGORITHMS.contains(&key.algorithm()));
    let longer = [bytes, &[0]].concat();
    assert!(PublicKey::decode(&longer).is_err());
}
