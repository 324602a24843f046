//! Bytes of somebody who wants no good.

use proptest::prelude::*;
use sluice_webauthn::{
    ATTESTATION, AUTHENTICATOR_DATA, AttestationObject, AuthenticatorData, ClientData, Flaw,
    PublicKey,
};

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = ClientData::decode(&bytes);
        let _ = AttestationObject::decode(&bytes);
        let _ = AuthenticatorData::decode(&bytes);
        let _ = PublicKey::decode(&bytes);
    }
}

#[test]
fn what_is_too_large_is_not_looked_at() {
    let many = vec![0xa3; ATTESTATION + 1];
    assert_eq!(AttestationObject::decode(&many), Err(Flaw::TooLarge));
    let many = vec![0; AUTHENTICATOR_DATA + 1];
    assert_eq!(AuthenticatorData::decode(&many), Err(Flaw::TooLarge));
}

#[test]
fn deep_nesting_and_long_lengths_are_refused() {
    let mut deep = b"\xa3\x67attStmt".to_vec();
    deep.resize(ATTESTATION, 0x81);
    assert_eq!(AttestationObject::decode(&deep), Err(Flaw::Shape));
    let long = b"\xa3\x68authData\x5b\xff\xff\xff\xff\xff\xff\xff\xff";
    assert_eq!(AttestationObject::decode(long), Err(Flaw::Shape));
    assert_eq!(PublicKey::decode(b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff"), Err(Flaw::Shape));
    let indefinite = b"\xbf\x63fmt\x64none\xff";
    assert_eq!(AttestationObject::decode(indefinite), Err(Flaw::Shape));
}
