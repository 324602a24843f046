//! Verification of repositories whose parts are each authentic and do not fit together.

use std::sync::Arc;

use sluice_destination::memory::MemoryDestination;
use sluice_destination::{Destination, list_all};

use super::{Damage, Depth, Place, VerifyReport};
use crate::format::FANOUT;
use crate::format::id::{PackId, PackKind, pack_key};
use crate::format::pack::{Codec, PackBuilder};
use crate::format::page::Page;
use crate::{
    Base, Clock, CommitInfo, InitOptions, KdfCost, Repository, RestorePoint, SessionOptions,
    Settings, Unlock,
};

const BLOCK: usize = 64 << 10;

async fn repository() -> (Arc<dyn Destination>, Repository) {
    let destination: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    let kdf = KdfCost::default();
    let options = InitOptions { unlock: Unlock::Open, recovery: false, kdf, lock: None };
    let settings = Settings { threads: 2, ..Settings::default() };
    let made = Repository::init(destination.clone(), Clock::system(), options, settings);
    (destination, made.await.unwrap().0)
}

/// A point of one image, whose blocks are filled with these bytes.
async fn back_up(repository: &Repository, fill: &[u8]) -> RestorePoint {
    let session = repository.begin("vm", &SessionOptions::default()).await.unwrap();
    let size = (fill.len() * BLOCK) as u64;
    let image = session.image("disk", "", size, BLOCK as u32, Base::Empty, true).unwrap();
    for (leaf, part) in fill.chunks(FANOUT).enumerate() {
        let content: Vec<u8> = part.iter().flat_map(|byte| vec![*byte; BLOCK]).collect();
        let parent = image.parent_leaf(leaf as u64).await.unwrap();
        let writer = image.clone();
        let store = move || writer.store(&content, 0, parent.as_deref(), None);
        let mut page = Page::empty(0);
        for (at, entry) in repository.pool().run(store).await.unwrap().unwrap().iter().enumerate() {
            page.set(at, *entry);
        }
        image.set_leaf(leaf as u64, page).await.unwrap();
    }
    let record = image.finish().await.unwrap();
    drop(image);
    session.commit(vec![record], CommitInfo::default()).await.unwrap()
}

async fn verify(repository: &Repository, depth: Depth) -> VerifyReport {
    let fresh = Repository::open(
        repository.destination().clone(),
        Clock::system(),
        Unlock::Open,
        Settings::default(),
    );
    fresh.await.unwrap().verify(None, depth, Arc::default()).await.unwrap()
}

/// Puts another authentic pack in place of the data pack: these contents, in these slots.
async fn swap(destination: &Arc<dyn Destination>, repository: &Repository, fill: &[u8]) -> PackId {
    let object = list_all(&**destination, "d/").await.unwrap().remove(0);
    let name = object.key.as_str().rsplit('/').next().unwrap().trim_end_matches(".0").to_owned();
    let pack = PackId::parse(&name).unwrap();
    let shared = &repository.shared;
    let mut builder = PackBuilder::new(&shared.keys, shared.id, PackKind::Data, pack);
    for byte in fill {
        let content = vec![*byte; BLOCK];
        let payload = zstd::bulk::compress(&content, 1).unwrap();
        builder.push(shared.keys.chunk_id(&content), Codec::Zstd, BLOCK as u32, &payload);
    }
    let (bytes, _) = builder.finish(&shared.keys, [7; 12]);
    destination.put(&pack_key(PackKind::Data, pack), bytes).await.unwrap();
    pack
}

fn places(damage: &[Damage]) -> Vec<Option<u16>> {
    let slot = |one: &Damage| one.place.and_then(|place: Place| place.slot);
    let mut slots: Vec<Option<u16>> = damage.iter().map(slot).collect();
    slots.sort_unstable();
    slots
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_has_something_else_in_a_slot_is_found_in_every_depth() {
    let (destination, repository) = repository().await;
    let point = back_up(&repository, &[1, 2, 3]).await;
    let report = verify(&repository, Depth::Data).await;
    assert_eq!((report.points, report.chunks, report.chunks_read), (1, 3, 3));
    assert_eq!((report.packs, report.pages, report.damage.len()), (2, 2, 0));
    let pack = swap(&destination, &repository, &[1, 9, 3]).await;
    for depth in [Depth::Structure, Depth::Sample { share: 1.0, seed: 1 }, Depth::Data] {
        let report = verify(&repository, depth).await;
        assert_eq!(places(&report.damage), [Some(1)], "{depth:?}: {report:?}");
        let one = &report.damage[0];
        assert!(one.object.ends_with(" slot 1") && one.points.contains(&point.to_string()));
        let second = BLOCK as u64..2 * BLOCK as u64;
        assert_eq!(one.touched[0].ranges, vec![second]);
        assert_eq!(one.place.map(|place| place.pack), Some(pack));
    }
    // Known, it is stored again although the pack itself is sound.
    let report = verify(&repository, Depth::Structure).await;
    repository.record_findings(&report).await.unwrap();
    let healed = back_up(&repository, &[1, 2, 3]).await;
    assert_eq!(healed.stats.new_bytes, BLOCK as u64);
    let report = verify(&repository, Depth::Data).await;
    let points: Vec<&String> = report.damage.iter().flat_map(|one| &one.points).collect();
    assert_eq!(points, [&point.to_string()], "only the old point is still damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_with_too_few_slots_is_found_and_each_missing_slot_told() {
    let (destination, repository) = repository().await;
    back_up(&repository, &[1, 2, 3, 4]).await;
    swap(&destination, &repository, &[1, 2]).await;
    let report = verify(&repository, Depth::Structure).await;
    assert_eq!(places(&report.damage), [Some(2), Some(3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_chunks_shared_by_points_are_looked_at_once() {
    let (_, repository) = repository().await;
    let mut fill: Vec<u8> = (0..=255).collect();
    fill.extend(1..=255);
    for day in 0..5 {
        fill[300] = day;
        back_up(&repository, &fill).await;
    }
    let report = verify(&repository, Depth::Data).await;
    let points = repository.list(None).await.unwrap().points;
    let ids = points.iter().map(|point| point.id).collect();
    assert_eq!(report.looked, [("vm".to_owned(), ids)].into(), "each point is told");
    // One leaf never changed; the other, and the page above, changed each day but the first.
    assert_eq!((report.points, report.pages), (5, 1 + 5 + 5));
    // 255 contents (zeroes are none), and four that were stored again: without an index, a chunk
    // is found only at its place in the parent.
    assert_eq!((report.chunks, report.chunks_read), (259, 259));
    assert_eq!((report.damage, report.warnings), (vec![], vec![]));
}
