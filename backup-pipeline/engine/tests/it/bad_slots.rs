//! Damage that was found is healed by the next backup, whatever way it finds changes, as far as
//! the source still has the content.

use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::{ByteRange, Destination, Key, list_all};
use sluice_engine::Change;
use sluice_repository::{Depth, Recorded, Repository, RestorePoint, VerifyReport};

use crate::support::*;

/// What happens to a pack.
#[derive(Debug, Clone, Copy)]
enum Harm {
    /// A bit in the first slot.
    Slot,
    /// A bit in the table.
    Table,
    /// The object is gone.
    Gone,
}

async fn objects(destination: &Arc<dyn Destination>, prefix: &str) -> Vec<Key> {
    let objects = list_all(&**destination, prefix).await.unwrap();
    objects.into_iter().map(|object| object.key).collect()
}

/// Harms an object; returns what it was.
async fn harm(destination: &Arc<dyn Destination>, key: &Key, how: Harm) -> Bytes {
    let was = destination.get(key, ByteRange::Full).await.unwrap();
    let mut bytes = was.to_vec();
    let at = match how {
        Harm::Slot => 70,
        Harm::Table => bytes.len() - 120,
        Harm::Gone => {
            destination.delete(key).await.unwrap();
            return was;
        }
    };
    bytes[at] ^= 4;
    destination.put(key, bytes.into()).await.unwrap();
    was
}

async fn verify(repository: &Repository, points: Option<Vec<RestorePoint>>) -> VerifyReport {
    repository.verify(points, Depth::Data, Arc::default()).await.unwrap()
}

/// Three leaves of 16 MiB; a part of each holds data.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 40 << 20];
    for (number, at) in [0, 17 << 20, 33 << 20].into_iter().enumerate() {
        disk[at..at + (1 << 20)].copy_from_slice(&noise(number as u64, 1 << 20));
    }
    disk
}

async fn the_next_backup_heals(prefix: &str, how: Harm, change: Change) {
    let what = format!("{how:?} of {prefix} with {change:?}");
    let (destination, repository) = new_repository().await;
    let bytes = disk();
    let first = back_up(&repository, &bytes, Change::Rescan).await;
    let key = objects(&destination, prefix).await.remove(0);
    let was = harm(&destination, &key, how).await;

    let found = verify(&open(destination.clone()).await, None).await;
    assert!(!found.damage.is_empty(), "{what}");
    for damage in &found.damage {
        assert!(damage.object.starts_with(key.as_str()), "{what}: {damage:?}");
        assert!(damage.points.contains(&first.to_string()), "{what}: {damage:?}");
    }
    let fresh = open(destination.clone()).await;
    let recorded = fresh.record_findings(&found).await.unwrap();
    assert_eq!(recorded, Recorded { bad: 1, healed: 0 }, "{what}");
    let again = fresh.record_findings(&found).await.unwrap();
    assert_eq!(again, Recorded::default(), "what is known is not recorded twice");

    let second = back_up(&open(destination.clone()).await, &bytes, change.clone()).await;
    let fresh = open(destination.clone()).await;
    let report = verify(&fresh, Some(vec![second.clone()])).await;
    assert_eq!(report.damage, [], "{what}");
    assert!(read_all(&fresh.image(&second, None).unwrap()).await == bytes, "{what}");
    assert_eq!(second.images[0].root, first.images[0].root, "{what}");
    assert_eq!(second.images[0].data_blocks, first.images[0].data_blocks, "{what}");
    if prefix == "d/" {
        // One block, or all of the pack: no more is stored again than was lost.
        let lost = if matches!(how, Harm::Slot) { BLOCK } else { 3 << 20 };
        assert_eq!(second.stats.new_bytes, lost, "{what}");
    } else {
        // Without a local index, chunks below a lost page are not found again.
        assert!(second.stats.new_bytes <= 3 << 20, "{what}");
    }

    // The pack comes back: all is as it was, and no record is left.
    destination.put(&key, was).await.unwrap();
    let fresh = open(destination.clone()).await;
    let report = verify(&fresh, None).await;
    assert_eq!(report.damage, [], "{what}");
    let recorded = fresh.record_findings(&report).await.unwrap();
    assert_eq!(recorded, Recorded { bad: 0, healed: 1 }, "{what}");
    assert!(objects(&destination, "b/").await.is_empty(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_packs_are_healed_by_every_kind_of_backup() {
    for prefix in ["d/", "m/"] {
        for how in [Harm::Slot, Harm::Table, Harm::Gone] {
            for change in [Change::Rescan, Change::Regions, Change::Changed(Vec::new())] {
                the_next_backup_heals(prefix, how, change).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_a_second_look_does_not_find_is_not_recorded() {
    let (destination, repository) = new_repository().await;
    back_up(&repository, &disk(), Change::Rescan).await;
    let key = objects(&destination, "d/").await.remove(0);
    let was = harm(&destination, &key, Harm::Slot).await;
    let found = verify(&open(destination.clone()).await, None).await;
    assert_eq!(found.damage.len(), 1);
    destination.put(&key, was).await.unwrap();
    let recorded = repository.record_findings(&found).await.unwrap();
    assert_eq!(recorded, Recorded::default());
    assert!(objects(&destination, "b/").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_tells_which_bytes_need_what_is_damaged() {
    let (destination, repository) = new_repository().await;
    let mut bytes = disk();
    let first = back_up(&repository, &bytes, Change::Rescan).await;
    let key = objects(&destination, "d/").await.remove(0);
    bytes[..1 << 20].copy_from_slice(&noise(9, 1 << 20));
    let second = back_up(&repository, &bytes, Change::Regions).await;
    harm(&destination, &key, Harm::Gone).await;
    let found = verify(&open(destination).await, None).await;
    let [damage] = &found.damage[..] else { panic!("{:?}", found.damage) };
    let touched = |point: &RestorePoint| {
        let of_point = damage.touched.iter().filter(|one| one.point == point.to_string());
        let one = of_point.collect::<Vec<_>>();
        assert_eq!(one.len(), 1, "{damage:?}");
        (one[0].ranges.clone(), one[0].bytes)
    };
    let mib = |from: u64, to: u64| from << 20..to << 20;
    assert_eq!(touched(&first), (vec![mib(0, 1), mib(17, 18), mib(33, 34)], 3 << 20));
    assert_eq!(touched(&second), (vec![mib(17, 18), mib(33, 34)], 2 << 20));
}
