//! What a repository reads after a seal has held: tables and CBOR bodies.
//!
//! A seal proves that whoever wrote it had the key, not that it wrote sense: a defective writer, or
//! someone with the key of one machine, must not take down every reader. The fuzzer's bytes are
//! sealed here as a writer would, so they get through.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sluice_repository::crypto::{KeyRing, MasterKey, TAG_LEN};
use sluice_repository::format::findings::FindingsBody;
use sluice_repository::format::header::{HEADER_LEN, Header, Kind};
use sluice_repository::format::id::{PackId, PackKind, RepositoryId};
use sluice_repository::format::manifest::{CommitPlain, ManifestBody};
use sluice_repository::format::pack::{ENTRY_LEN, Footer, open_table};
use sluice_repository::format::record::{
    Envelope, PinRecord, SegmentBody, SessionRecord, TombstoneRecord, from_cbor, seal, to_cbor,
};
use sluice_repository::format::segment;

static KEYS: LazyLock<KeyRing> =
    LazyLock::new(|| KeyRing::new(&MasterKey::generate().expect("random bytes")));
const REPOSITORY: RepositoryId = RepositoryId([7; 16]);
const OBJECT: [u8; 16] = [9; 16];

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    match choice % 8 {
        0 => table(bytes),
        1 => manifest(bytes),
        2 => check::<CommitPlain>(bytes),
        3 => check::<SessionRecord>(bytes),
        4 => check::<PinRecord>(bytes),
        5 => check::<TombstoneRecord>(bytes),
        6 => index_segment(bytes),
        _ => check::<FindingsBody>(bytes),
    }
});

/// A pack's table with any entries.
fn table(bytes: &[u8]) {
    let pack = PackId(OBJECT);
    let header = Header { kind: Kind::DataPack, repository: REPOSITORY, object: OBJECT, epoch: 0 };
    let mut tail = bytes.to_vec();
    let tag = KEYS.table_key(Kind::DataPack, pack).seal([1; 12], &header.encode(), &mut tail);
    tail.extend_from_slice(&tag);
    let footer = Footer {
        table_offset: HEADER_LEN as u32,
        table_len: (bytes.len() + TAG_LEN) as u32,
        nonce: [1; 12],
        slots: (bytes.len() / ENTRY_LEN) as u32,
        live: 0,
        hash: [0; 32],
        origin: 0,
    };
    tail.extend_from_slice(&footer.encode());
    let Ok((found, entries)) = open_table(&KEYS, REPOSITORY, PackKind::Data, pack, &tail) else {
        return;
    };
    assert_eq!(found, footer);
    assert_eq!(entries.len() * ENTRY_LEN, bytes.len());
}

/// A manifest, through the record around it, and on to the directories of its images.
fn manifest(bytes: &[u8]) {
    let header = Header { kind: Kind::Commit, repository: REPOSITORY, object: OBJECT, epoch: 0 };
    let record = seal(&KEYS, &header, b"plain", bytes, [2; 12]);
    let envelope = Envelope::parse(&record).expect("own record");
    let body = envelope.open(&KEYS, Kind::Commit, REPOSITORY, &OBJECT).expect("own seal");
    assert_eq!(body, bytes);
    check::<ManifestBody>(&body);
    let Ok(manifest) = from_cbor::<ManifestBody>(&body) else { return };
    for image in &manifest.images {
        if let Ok(entries) = image.open_directory(&KEYS) {
            assert!(entries.is_sorted_by(|a, b| a.index < b.index));
        }
    }
}

fn index_segment(bytes: &[u8]) {
    let Ok(body) = from_cbor::<SegmentBody>(bytes) else { return };
    for entry in body.entries.chunks(segment::ENTRY_LEN) {
        if let Ok((_, location)) = segment::decode(entry, &body.packs) {
            assert!(body.packs.contains(&location.pack));
        }
    }
}

/// What decodes is the same after another way through bytes.
fn check<T>(bytes: &[u8])
where
    T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()> + PartialEq + std::fmt::Debug,
{
    let Ok(value) = from_cbor::<T>(bytes) else { return };
    assert_eq!(from_cbor::<T>(&to_cbor(&value)), Ok(value));
}
