//! Backups that build on a point they name.

use sluice_destination::{ByteRange, Key};
use sluice_engine::{BackupOptions, Change, Progress, backup};
use sluice_repository::{Clock, Repository, RestorePoint, SessionOptions};
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

/// A backup with a list of what changed since the newest point there was: the third block.
async fn listed(repository: &Repository, bytes: &[u8]) -> RestorePoint {
    let third = 2 * BLOCK..3 * BLOCK;
    back_up(repository, bytes, Change::Changed(vec![third])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_changes_since_a_removed_point_is_not_trusted() {
    let (destination, repository) = new_repository().await;
    let (first, second) = (noise(1, LENGTH), noise(2, LENGTH));
    let old = back_up(&repository, &first, Change::Rescan).await;
    let newest = back_up(&repository, &second, Change::Rescan).await;
    repository.forget(&newest, "test", "test").await.unwrap();
    let point = listed(&repository, &changed(&second)).await;
    assert_eq!((point.parent, point.method.as_str()), (Some(old.id), "regions"));
    holds(&repository, &point, &changed(&second)).await;
    // From then on lists speak of that point. Older ones that are removed do not matter.
    repository.forget(&old, "test", "test").await.unwrap();
    let repository = open(destination).await;
    let next = listed(&repository, &changed(&second)).await;
    assert_eq!((next.parent, next.stats.read_bytes), (Some(point.id), BLOCK));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_changes_since_a_damaged_point_is_not_trusted() {
    let (destination, repository) = new_repository().await;
    let (first, second) = (noise(1, LENGTH), noise(2, LENGTH));
    let old = back_up(&repository, &first, Change::Rescan).await;
    let newest = back_up(&repository, &second, Change::Rescan).await;
    let key = Key::new(format!("r/default/{}/{}", newest.chain, newest.id)).unwrap();
    let mut bytes = destination.get(&key, ByteRange::Full).await.unwrap().to_vec();
    bytes[100] ^= 1;
    destination.put(&key, bytes.into()).await.unwrap();
    let repository = open(destination).await;
    let point = listed(&repository, &changed(&second)).await;
    assert_eq!((point.parent, point.method.as_str()), (Some(old.id), "regions"));
    holds(&repository, &point, &changed(&second)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_changes_is_not_trusted_beside_another_backup() {
    let (destination, repository) = new_repository().await;
    let (first, second) = (noise(1, LENGTH), noise(2, LENGTH));
    back_up(&repository, &first, Change::Rescan).await;
    // It may have begun the list that the next one has, and is no point yet.
    let other = open(destination.clone()).await;
    let session = other.begin("vm", &SessionOptions::default()).await.unwrap();
    let point = listed(&repository, &changed(&second)).await;
    holds(&repository, &point, &changed(&second)).await;
    drop(session);
    let next = listed(&open(destination).await, &changed(&second)).await;
    assert_eq!((next.parent, next.stats.read_bytes), (Some(point.id), BLOCK));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_changes_is_not_trusted_once_a_point_was_made_meanwhile() {
    let (destination, repository) = new_repository().await;
    back_up(&repository, &noise(1, LENGTH), Change::Rescan).await;
    let session = open(destination.clone()).await;
    let session = session.begin("vm", &SessionOptions::default()).await.unwrap();
    assert!(session.continues_the_last().await.unwrap());
    let other = back_up(&repository, &noise(2, LENGTH), Change::Rescan).await;
    assert!(!session.continues_the_last().await.unwrap());
    // It has begun a list of its own, also when it is gone again, to its last trace.
    repository.forget(&other, "test", "test").await.unwrap();
    assert!(!session.continues_the_last().await.unwrap());
    let commit = Key::new(format!("r/default/{}/{}", other.chain, other.id)).unwrap();
    destination.delete(&commit).await.unwrap();
    assert!(!session.continues_the_last().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn points_stay_in_order_behind_one_of_the_future_that_was_removed() {
    const DAY: u64 = 24 * 3_600_000;
    let (destination, _) = new_repository().await;
    let at = async |days: u64| {
        let clock = Clock::manual(days * DAY).0;
        Repository::open(destination.clone(), clock, passphrase(), settings(None)).await.unwrap()
    };
    back_up(&at(20_000).await, &noise(1, LENGTH), Change::Rescan).await;
    let future = back_up(&at(50_000).await, &noise(2, LENGTH), Change::Rescan).await;
    let now = at(20_001).await;
    now.forget(&future, "test", "test").await.unwrap();
    let bytes = noise(3, LENGTH);
    let point = back_up(&now, &bytes, Change::Rescan).await;
    assert!(point.id > future.id && point.created_ms == 20_001 * DAY);
    // So a list is trusted again.
    let next = listed(&at(20_002).await, &changed(&bytes)).await;
    assert_eq!((next.parent, next.stats.read_bytes), (Some(point.id), BLOCK));
}

#[tokio::test]
async fn a_name_of_the_last_time_there_is_puts_no_point_before_others() {
    let (destination, repository) = new_repository().await;
    let first = back_up(&repository, &noise(1, LENGTH), Change::Rescan).await;
    let listed = sluice_destination::list_all(&*destination, "r/").await.unwrap();
    let (folder, name) = listed[0].key.as_str().rsplit_once('/').unwrap();
    // An id is a time and then chance, in hexadecimal digits.
    let last = format!("{folder}/{}", "f".repeat(name.len()));
    destination.put(&Key::new(last).unwrap(), "planted".into()).await.unwrap();
    let second = back_up(&repository, &noise(2, LENGTH), Change::Rescan).await;
    assert!(second.id > first.id, "{:?} {:?}", first.id, second.id);
}
