//! Who proves itself, and who guesses.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use md5::{Digest, Md5};
use sluice_block::MemoryDisk;
use sluice_iscsi::{Chap, Credentials, Identity, Limits, Lun, Target};
use sluice_iscsi_wire::{
    LoginResponse, LoginStatus, Request, Response, Stage, decode_binary, encode_binary, text,
};

use crate::support::{DISCOVERY, Fixture, ISID, NAME, Raw};

const SECRET: &str = "a secret of 20 bytes";

async fn fixture() -> Fixture {
    let disk = Arc::new(MemoryDisk::new(1 << 20));
    let mut target = Target::new(NAME, vec![Lun::read_only(disk, Identity::from_digest([1; 32]))]);
    let initiator = Credentials::new("user", SECRET);
    target.access.chap = Some(Chap { initiator, target: None });
    Fixture::target(target, Limits::default()).await
}

/// One step of the security stage, and what was said to it.
async fn step(
    raw: &mut Raw,
    transit: bool,
    keys: &[(&str, &str)],
) -> (LoginResponse, Vec<(String, String)>) {
    let Request::Login(mut request) = Raw::first(ISID) else { unreachable!() };
    (request.stage, request.transit) = (Stage::Security, transit);
    let mut said = Vec::new();
    keys.iter().for_each(|(key, value)| text::encode(&mut said, key, value));
    raw.send(&Request::Login(request), &said).await;
    let (response, _, data) = raw.receive().await;
    let Response::Login(login) = response else { panic!("{response:?}") };
    let told = text::decode(&data).unwrap();
    (login, told.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect())
}

/// What an initiator with this secret is told.
async fn prove(address: SocketAddr, secret: &str) -> (LoginStatus, Raw) {
    let mut raw = Raw::connect(address).await;
    let keys = [
        ("InitiatorName", "iqn.2026-01.test:raw"),
        ("TargetName", NAME),
        ("AuthMethod", "CHAP"),
        ("CHAP_A", "5"),
    ];
    let (_, told) = step(&mut raw, false, &keys).await;
    let find = |name| &told.iter().find(|(key, _)| key == name).unwrap().1;
    let identifier: u8 = find("CHAP_I").parse().unwrap();
    let challenge = decode_binary(find("CHAP_C")).unwrap();
    let hash = Md5::new().chain_update([identifier]).chain_update(secret);
    let response = encode_binary(&hash.chain_update(challenge).finalize());
    let keys = [("CHAP_N", "user"), ("CHAP_R", response.as_str())];
    (step(&mut raw, true, &keys).await.0.status, raw)
}

#[tokio::test]
async fn who_guesses_has_to_wait_and_who_waits_gets_in() {
    let fixture = fixture().await;
    let address = fixture.addresses[0];
    let (status, mut good) = prove(address, SECRET).await;
    assert_eq!(status, LoginStatus::Success);
    assert_eq!(prove(address, "another secret").await.0, LoginStatus::AuthenticationFailure);
    let mut guesses = 1;
    // Until not even the right one is looked at.
    while prove(address, SECRET).await.0 == LoginStatus::Success {
        prove(address, "another secret").await;
        guesses += 1;
        assert!(guesses < 100, "nobody is slowed down");
    }
    assert!(guesses > 5, "somebody who mistypes is not shut out");
    // Names are told without a proof, and are no guesses.
    let mut asking = Raw::connect(fixture.addresses[1]).await;
    assert_eq!(asking.log_in(ISID, &DISCOVERY).await.status, LoginStatus::Success);
    loop {
        match prove(address, SECRET).await.0 {
            LoginStatus::Unavailable => tokio::time::sleep(Duration::from_millis(100)).await,
            status => break assert_eq!(status, LoginStatus::Success),
        }
    }
    // The session that was there was replaced by the others of its port.
    good.closed().await;
}
