//! Healing packs that were compacted, here or at the replica.

use std::sync::Arc;

use sluice_block::BlockRead;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::{ByteRange, Destination, Key, list_all};
use sluice_repository::heal::{HealOptions, HealReport};
use sluice_repository::{Depth, Repository, RestorePoint};

use crate::collect::{assert_sound, blocks, collect, content, save};
use crate::support::*;

const FIRST: [u64; 6] = [1, 2, 3, 4, 5, 6];
/// It needs two blocks of the first one.
const SECOND: [u64; 6] = [1, 12, 13, 14, 15, 6];

struct Two {
    here: Arc<dyn Destination>,
    repository: Repository,
    first: RestorePoint,
    second: RestorePoint,
}

async fn two() -> Two {
    let (here, repository) = new_repository().await;
    let first = save(&repository, "a", &blocks(&FIRST)).await;
    let second = save(&repository, "a", &blocks(&SECOND)).await;
    Two { here, repository, first, second }
}

async fn copy_of(place: &Arc<dyn Destination>) -> Arc<dyn Destination> {
    let copy: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    for object in list_all(&**place, "").await.unwrap() {
        copy.put(&object.key, place.get(&object.key, ByteRange::Full).await.unwrap())
            .await
            .unwrap();
    }
    copy
}

/// Forgets the first point and compacts what it leaves.
async fn compact(repository: &Repository, first: &RestorePoint) {
    repository.forget(first, "test", "test").await.unwrap();
    assert_eq!(collect(repository).await.compacted_packs, 1);
}

/// The data packs, oldest first.
async fn packs(place: &Arc<dyn Destination>) -> Vec<Key> {
    let mut keys: Vec<Key> =
        list_all(&**place, "d/").await.unwrap().into_iter().map(|object| object.key).collect();
    keys.sort_by_key(|key| key.as_str().rsplit('/').next().unwrap().to_owned());
    keys
}

async fn flip(place: &Arc<dyn Destination>, key: &Key, at: usize) {
    let mut bytes = place.get(key, ByteRange::Full).await.unwrap().to_vec();
    bytes[at] ^= 1;
    place.put(key, bytes.into()).await.unwrap();
}

async fn heal(copy: &Arc<dyn Destination>, here: &Arc<dyn Destination>) -> HealReport {
    let options = HealOptions { depth: Depth::Data, dry_run: false, missing_points: false };
    let copy = open(copy.clone()).await;
    copy.heal(here.clone(), &passphrase(), options, Arc::default()).await.unwrap()
}

/// Everything is there, also for who knew the damaged pack, and after the next collection.
async fn assert_healed(two: &Two, report: &HealReport) {
    assert_eq!((&*report.failed, &*report.remaining), (&[][..], &[][..]));
    assert_eq!(report.healed.len(), 1);
    let fresh = open(two.here.clone()).await;
    for repository in [&two.repository, &fresh] {
        assert_sound(repository).await;
        assert!(content(repository, &two.second).await == blocks(&SECOND));
    }
    collect(&fresh).await;
    assert_sound(&open(two.here.clone()).await).await;
    assert!(content(&two.repository, &two.second).await == blocks(&SECOND));
}

#[tokio::test]
async fn a_compacted_pack_is_healed_from_the_whole_one() {
    for at in [100, usize::MAX] {
        let two = two().await;
        let copy = copy_of(&two.here).await;
        compact(&two.repository, &two.first).await;
        let pack = packs(&two.here).await.remove(0);
        assert!(pack.as_str().ends_with(".1"), "{pack}");
        let length = two.here.get(&pack, ByteRange::Full).await.unwrap().len();
        flip(&two.here, &pack, at.min(length - 1)).await;
        let report = heal(&copy, &two.here).await;
        assert_healed(&two, &report).await;
    }
}

#[tokio::test]
async fn a_compacted_pack_is_healed_from_a_compacted_one() {
    for at in [Some(100), Some(usize::MAX), None] {
        let two = two().await;
        compact(&two.repository, &two.first).await;
        let copy = copy_of(&two.here).await;
        let pack = packs(&two.here).await.remove(0);
        let length = two.here.get(&pack, ByteRange::Full).await.unwrap().len();
        match at {
            Some(at) => flip(&two.here, &pack, at.min(length - 1)).await,
            None => two.here.delete(&pack).await.unwrap(),
        }
        let report = heal(&copy, &two.here).await;
        assert_healed(&two, &report).await;
        assert_eq!(packs(&two.here).await.len(), 2, "what was damaged is gone");
    }
}

#[tokio::test]
async fn what_the_replica_has_dropped_is_not_lost_by_healing() {
    let mut healed = 0;
    for slot in 0..FIRST.len() {
        let two = two().await;
        let copy = copy_of(&two.here).await;
        compact(&open(copy.clone()).await, &two.first).await;
        let pack = packs(&two.here).await.remove(0);
        flip(&two.here, &pack, 100 + slot * (BLOCK as usize + 16)).await;
        let report = heal(&copy, &two.here).await;
        let fresh = open(two.here.clone()).await;
        let image = fresh.image(&two.first, None).unwrap();
        let mut unread = 0;
        for (number, block) in FIRST.iter().zip(0u64..) {
            let mut bytes = vec![0; BLOCK as usize];
            match image.read_at(block * BLOCK, &mut bytes).await {
                Ok(()) => assert!(bytes == blocks(&[*number])),
                Err(_) => unread += 1,
            }
        }
        if unread == 0 {
            healed += 1;
            assert_eq!((&*report.failed, &*report.remaining), (&[][..], &[][..]));
            assert_sound(&fresh).await;
        } else {
            assert_eq!((unread, report.failed.len()), (1, 1), "{report:?}");
            assert!(report.failed[0].problem.contains("without what is damaged"), "{report:?}");
        }
        assert!(content(&fresh, &two.second).await == blocks(&SECOND));
    }
    assert_eq!(healed, 2, "the blocks that the replica has kept");
}

#[tokio::test]
async fn a_point_comes_back_whose_blocks_a_compaction_has_dropped() {
    let two = two().await;
    let copy = copy_of(&two.here).await;
    // Its record is lost, and the next collections take the rest.
    let record = list_all(&*two.here, "r/").await.unwrap().remove(0).key;
    assert!(record.as_str().ends_with(&two.first.id.to_string()));
    two.here.delete(&record).await.unwrap();
    assert_eq!(collect(&open(two.here.clone()).await).await.compacted_packs, 1);
    let options = HealOptions { depth: Depth::Data, dry_run: false, missing_points: true };
    let opened = open(copy).await;
    let report = opened.heal(two.here.clone(), &passphrase(), options, Arc::default()).await;
    let report = report.unwrap();
    assert_eq!((&*report.failed, &*report.remaining), (&[][..], &[][..]), "{report:?}");
    let fresh = open(two.here.clone()).await;
    assert_sound(&fresh).await;
    assert!(content(&fresh, &two.first).await == blocks(&FIRST));
    assert!(content(&fresh, &two.second).await == blocks(&SECOND));
    collect(&fresh).await;
    assert!(content(&open(two.here.clone()).await, &two.first).await == blocks(&FIRST));
}
