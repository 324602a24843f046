//! Backups that build on a point they name.

use sluice_engine::{BackupOptions, Change, Progress, backup};
use sluice_repository::{Repository, RestorePoint};
use tokio_util::sync::CancellationToken;

use crate::support::*;

const LENGTH: usize = 20 * BLOCK as usize;

/// Backs up a disk as `instance`, of which only the third block has changed since `parent`.
async fn on(
    repository: &Repository,
    instance: &str,
    parent: &RestorePoint,
    bytes: &[u8],
) -> RestorePoint {
    let block = 2 * BLOCK..3 * BLOCK;
    let changed = Change::Changed(vec![block]);
    // One that is removed takes no pin.
    let pin = repository.pin(parent, "test").await.ok();
    let options = BackupOptions { parent: Some(parent.clone()), ..options() };
    let images = vec![image("disk", bytes, changed)];
    let (progress, cancel) = (Progress::new(), CancellationToken::new());
    let done = backup(repository, instance, images, options, progress, cancel).await.unwrap();
    if let Some(pin) = pin {
        pin.release().await;
    }
    done.point
}

/// The disk of a point, with another third block.
fn changed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let third = 2 * BLOCK as usize..3 * BLOCK as usize;
    bytes[third].copy_from_slice(&noise(77, BLOCK as usize));
    bytes
}

async fn holds(repository: &Repository, point: &RestorePoint, bytes: &[u8]) {
    assert!(read_all(&repository.image(point, None).unwrap()).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_is_not_the_newest_is_built_on_and_only_changes_are_read() {
    let (_, repository) = new_repository().await;
    let (first, second) = (noise(1, LENGTH), noise(2, LENGTH));
    let old = back_up(&repository, &first, Change::Rescan).await;
    let newest = back_up(&repository, &second, Change::Rescan).await;
    let point = on(&repository, "vm", &old, &changed(&first)).await;
    assert_eq!((point.parent, point.stats.read_bytes), (Some(old.id), BLOCK));
    assert!(point.id > newest.id);
    holds(&repository, &point, &changed(&first)).await;
    holds(&repository, &newest, &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_of_another_instance_is_built_on_and_stays_apart() {
    let (destination, repository) = new_repository().await;
    let bytes = noise(1, LENGTH);
    let original = back_up(&repository, &bytes, Change::Rescan).await;
    let point = on(&repository, "clone", &original, &changed(&bytes)).await;
    // The chain begins with it: a parent is always of the same chain.
    assert_eq!((point.parent, point.stats.read_bytes), (None, BLOCK));
    holds(&repository, &point, &changed(&bytes)).await;
    // It needs nothing of the point it was made of.
    repository.forget(&original, "test", "test").await.unwrap();
    let repository = open(destination).await;
    let next = on(&repository, "clone", &point, &changed(&bytes)).await;
    assert_eq!(next.parent, Some(point.id));
    holds(&repository, &next, &changed(&bytes)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_was_removed_is_not_built_on_and_everything_is_read() {
    let (_, repository) = new_repository().await;
    let bytes = noise(1, LENGTH);
    let gone = back_up(&repository, &bytes, Change::Rescan).await;
    let other = back_up(&repository, &noise(2, LENGTH), Change::Rescan).await;
    repository.forget(&gone, "test", "test").await.unwrap();
    for (instance, parent) in [("vm", Some(other.id)), ("clone", None)] {
        let point = on(&repository, instance, &gone, &changed(&bytes)).await;
        assert_eq!(point.parent, parent);
        assert!(point.stats.read_bytes >= LENGTH as u64);
        holds(&repository, &point, &changed(&bytes)).await;
    }
}
