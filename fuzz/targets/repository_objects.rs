//! What a repository reads from a destination before it has verified anything: headers, footers,
//! records, pages, and the JSON objects.
//!
//! Checksums guard some of these against accidents. They do not stop an attacker, so they are made
//! right here, and what comes after them gets the fuzzer's bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_repository::doctor::partitions::partitions;
use sluice_repository::format::checked::{Check, check, with_check};
use sluice_repository::format::coverage::{Coverage, PackObject};
use sluice_repository::format::descriptor::Descriptor;
use sluice_repository::format::header::{HEADER_LEN, Header, Kind};
use sluice_repository::format::id::{PackId, PackKind, RepositoryId};
use sluice_repository::format::keyslot::{KeySlot, RecoveryKey};
use sluice_repository::format::pack::{FOOTER_LEN, Footer};
use sluice_repository::format::page::Page;
use sluice_repository::format::protection::ProtectionPlain;
use sluice_repository::format::record::{DestroyPlain, Envelope, from_cbor, to_cbor};

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    match choice % 8 {
        0 => header(bytes),
        1 => footer(bytes),
        2 => record(bytes),
        3 => page(bytes),
        4 => json(bytes),
        5 => recovery_key(bytes),
        6 => coverage(bytes),
        _ => drop(partitions(bytes)),
    }
});

fn header(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    seal_header(&mut bytes);
    let Ok(header) = Header::decode(&bytes) else { return };
    assert_eq!(Header::decode(&header.encode()), Ok(header));
}

fn footer(bytes: &[u8]) {
    let Some(from) = bytes.len().checked_sub(FOOTER_LEN) else { return };
    let mut bytes = bytes.to_vec();
    bytes[from..from + 8].copy_from_slice(b"SLUICEFT");
    let crc = crc32c::crc32c(&bytes[from..from + FOOTER_LEN - 4]);
    bytes[from + FOOTER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    let Ok(footer) = Footer::decode(&bytes) else { return };
    assert_eq!(Footer::decode(&footer.encode()), Ok(footer));
}

fn record(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    seal_header(&mut bytes);
    let Ok(envelope) = Envelope::parse(&bytes) else { return };
    assert!(envelope.plain.len() < bytes.len());
    // Read by workers without a key, so not authenticated.
    if let Ok(found) = from_cbor::<ProtectionPlain>(envelope.plain) {
        assert_eq!(from_cbor(&to_cbor(&found)), Ok(found));
    }
    if let Ok(found) = from_cbor::<DestroyPlain>(envelope.plain) {
        assert_eq!(from_cbor(&to_cbor(&found)), Ok(found));
    }
}

fn page(bytes: &[u8]) {
    let Ok(page) = Page::decode(bytes) else { return };
    assert!(page.iter().all(|(index, entry)| page.get(index) == Some(entry)));
    assert_eq!(Page::decode(&page.encode()), Ok(page));
}

fn json(bytes: &[u8]) {
    if bytes.ends_with(b"\n}") {
        assert_eq!(check(&with_check(bytes.to_vec())), Check::Sound);
    }
    let _ = check(bytes);
    if let Ok(descriptor) = Descriptor::decode(bytes) {
        let again = descriptor.encode();
        assert_eq!(Descriptor::decode(&again).map(|found| found.encode()), Ok(again));
    }
    if let Ok(slot) = KeySlot::decode(bytes) {
        // A passphrase is left out: stretching it is meant to be slow.
        let _ = slot.open_key();
        let _ = slot.recover(RepositoryId([7; 16]), &RecoveryKey::new([1; 32]));
        let again = slot.encode();
        assert_eq!(KeySlot::decode(&again).map(|found| found.encode()), Ok(again));
    }
}

/// What scrubs have covered; its hash is unkeyed, so anybody can make it right.
fn coverage(bytes: &[u8]) {
    let (repository, object) = (RepositoryId([7; 16]), [0; 16]);
    let header = Header { kind: Kind::Coverage, repository, object, epoch: 0 };
    let mut sealed = header.encode().to_vec();
    sealed.extend_from_slice(bytes);
    let hash = blake3::hash(&sealed);
    sealed.extend_from_slice(hash.as_bytes());
    let Ok(mut found) = Coverage::decode(&sealed, repository, 0) else { return };
    let pack = PackId(bytes.first_chunk().copied().unwrap_or_default());
    let pack = PackObject { kind: PackKind::Data, generation: 0, pack };
    let _ = found.day(&pack);
    found.extend(Coverage::default());
    let _ = found.day(&pack);
}

fn recovery_key(bytes: &[u8]) {
    if let Ok(random) = <[u8; 32]>::try_from(bytes) {
        let text = RecoveryKey::new(random).to_text();
        let again = RecoveryKey::from_text(&text).expect("own text");
        assert_eq!(again.to_text(), text);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(key) = RecoveryKey::from_text(text) else { return };
    let again = RecoveryKey::from_text(&key.to_text()).expect("own text");
    assert_eq!(again.to_text(), key.to_text());
}

/// Makes the magic and the checksum of a header right.
fn seal_header(bytes: &mut [u8]) {
    if bytes.len() >= HEADER_LEN {
        bytes[..8].copy_from_slice(b"SLUICE\r\n");
        let crc = crc32c::crc32c(&bytes[..56]);
        bytes[56..60].copy_from_slice(&crc.to_le_bytes());
    }
}
