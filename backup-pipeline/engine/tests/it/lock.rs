//! Locked restore points: what a store with locks lets nobody remove.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use sluice_destination::memory::MemoryDestination;
use sluice_destination::wrap::{Count, Counters, Effect, Fault, Operation, Rule};
use sluice_destination::{
    ByteRange, Destination, ErrorKind as DestinationKind, Key, LockMode, list_all,
};
use sluice_engine::Change;
use sluice_repository::lock::LockProgress;
use sluice_repository::{
    Clock, ErrorKind, InitOptions, LockRule, PointSelector, PointSpec, Protection, Repository,
};

use crate::support::*;

const DAY: u64 = 86_400_000;
const GOVERNANCE: LockRule = rule(LockMode::Governance, 30);

const fn rule(mode: LockMode, days: u64) -> LockRule {
    LockRule { mode, keep: Duration::from_secs(days * 86_400) }
}

/// A repository on a store with locks, whose clock begins now and is moved by hand.
struct Locked {
    store: Arc<dyn Destination>,
    faults: Arc<Fault>,
    counters: Arc<Counters>,
    repository: Repository,
    hand: Arc<AtomicU64>,
    _cache: tempfile::TempDir,
}

fn locking() -> InitOptions {
    InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP, lock: Some(GOVERNANCE) }
}

impl Locked {
    async fn new() -> Self {
        let (clock, hand) = Clock::manual(Clock::system().now_ms());
        // Its locks end by the same clock.
        let store: Arc<dyn Destination> = Arc::new(MemoryDestination::with_locks_by(hand.clone()));
        let faults = Fault::new(store.clone());
        let counted = Count::new(faults.clone());
        let counters = counted.counters();
        let cache = tempfile::tempdir().unwrap();
        let settings = settings(Some(cache.path()));
        let made = Repository::init(Arc::new(counted), clock, locking(), settings).await;
        let repository = made.unwrap().0;
        Self { store, faults, counters, repository, hand, _cache: cache }
    }

    fn pass(&self, days: u64) {
        self.hand.fetch_add(days * DAY, std::sync::atomic::Ordering::SeqCst);
    }

    fn now(&self) -> u64 {
        self.repository.clock().now_ms()
    }

    async fn keys(&self, prefix: &str) -> Vec<Key> {
        let objects = list_all(&*self.store, prefix).await.unwrap();
        objects.into_iter().map(|object| object.key).collect()
    }

    async fn until(&self, key: &Key) -> Option<u64> {
        let lock = self.store.lock_of(key).await.unwrap()?;
        let since = lock.until.duration_since(std::time::UNIX_EPOCH).unwrap();
        Some(since.as_millis() as u64)
    }

    /// Packs and manifests, each with the end of its lock.
    async fn locks(&self) -> Vec<(Key, u64)> {
        let mut locks = Vec::new();
        for prefix in ["d/", "m/", "r/"] {
            for key in self.keys(prefix).await {
                let until = self.until(&key).await.unwrap_or(0);
                locks.push((key, until));
            }
        }
        locks
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_point_needs_can_not_be_removed_or_replaced() {
    let locked = Locked::new().await;
    back_up(&locked.repository, &noise(1, 1 << 20), Change::Rescan).await;
    let locks = locked.locks().await;
    assert!(locks.len() >= 3, "{locks:?}");
    for (key, until) in &locks {
        let days = (until - locked.now()).div_ceil(DAY);
        assert!((60..=61).contains(&days) && until % DAY == 0, "{key}: {days}");
        let refused = locked.store.delete(key).await.unwrap_err();
        assert_eq!(refused.kind(), DestinationKind::AccessDenied, "{key}");
        assert!(locked.store.put(key, bytes::Bytes::new()).await.is_err(), "{key}");
    }
    // Without these nothing could be read; index segments can be made again.
    for key in [locked.keys("format").await, locked.keys("keys/").await].concat() {
        assert!(locked.until(&key).await.is_some(), "{key}");
    }
    for key in locked.keys("x/").await {
        assert_eq!(locked.until(&key).await, None, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_are_locked_for_longer_when_their_slack_is_used_up_and_not_before() {
    let locked = Locked::new().await;
    let disk = noise(2, 1 << 20);
    back_up(&locked.repository, &disk, Change::Rescan).await;
    let first: Vec<(Key, u64)> = locked.locks().await;
    locked.pass(20);
    back_up(&locked.repository, &disk, Change::Rescan).await;
    for (key, until) in &first {
        assert_eq!(locked.until(key).await, Some(*until), "{key}: extended too early");
    }
    locked.pass(20);
    let point = back_up(&locked.repository, &disk, Change::Rescan).await;
    let old_manifest = first.iter().filter(|(key, _)| key.as_str().starts_with("r/")).count();
    assert_eq!(old_manifest, 1);
    for (key, until) in first.iter().filter(|(key, _)| !key.as_str().starts_with("r/")) {
        assert!(locked.until(key).await.unwrap() >= until + 40 * DAY, "{key} was not extended");
    }
    let status = locked.repository.lock_status(true, &LockProgress::default()).await.unwrap();
    let newest = status.points.iter().find(|one| one.point.id == point.id).unwrap();
    assert!(newest.until_ms(locked.now()).unwrap() >= locked.now() + 30 * DAY);
    assert_eq!((newest.unlocked, status.next_backup), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn extending_reaches_all_points_but_not_what_was_removed() {
    let locked = Locked::new().await;
    let old = back_up(&locked.repository, &noise(3, 1 << 20), Change::Rescan).await;
    let before = locked.locks().await;
    let kept = back_up(&locked.repository, &noise(4, 1 << 20), Change::Rescan).await;
    locked.repository.forget(&old, "a", "test").await.unwrap();
    locked.pass(50);
    let progress = LockProgress::default();
    let status = locked.repository.lock_status(false, &progress).await.unwrap();
    assert_eq!(status.points.len(), 1);
    assert!(status.next_extend > 0 && status.next_backup == status.next_extend);
    let report = locked.repository.extend_locks(false, &progress).await.unwrap();
    assert_eq!((report.points, report.packs), (1, status.next_extend));
    for (key, until) in locked.locks().await {
        match before.iter().find(|(known, _)| *known == key) {
            Some((_, then)) => assert_eq!(until, *then, "{key} is of the removed point"),
            None => assert!(until >= locked.now() + 60 * DAY, "{key} of {kept}"),
        }
    }
    let again = locked.repository.extend_locks(true, &LockProgress::default()).await.unwrap();
    assert_eq!(again.counts.extended, 0);
    assert!(again.counts.asked >= again.packs);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_setting_grows_at_once_and_shrinks_after_a_week() {
    let locked = Locked::new().await;
    let compliance = rule(LockMode::Compliance, 90);
    let setting = locked.repository.set_lock(Some(compliance)).await.unwrap();
    assert_eq!((setting.now, setting.later), (Some(compliance), None));
    let disk = noise(5, 1 << 19);
    back_up(&locked.repository, &disk, Change::Rescan).await;
    for (key, until) in locked.locks().await {
        assert!(until >= locked.now() + 120 * DAY, "{key}");
        let lock = locked.store.lock_of(&key).await.unwrap().unwrap();
        assert_eq!(lock.mode, LockMode::Compliance, "{key}");
    }
    let setting = locked.repository.set_lock(None).await.unwrap();
    assert_eq!(
        (setting.now, setting.later),
        (Some(compliance), Some((locked.now() + 7 * DAY, None)))
    );
    locked.pass(7);
    assert_eq!(locked.repository.lock_setting().await.unwrap().now, None);
    let known = locked.locks().await.len();
    back_up(&locked.repository, &noise(6, 1 << 19), Change::Rescan).await;
    let locks = locked.locks().await;
    assert!(locks.len() > known && locks.iter().any(|(_, until)| *until == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_locks_is_refused_and_nothing_is_left() {
    let store = Arc::new(MemoryDestination::new());
    let made = Repository::init(store.clone(), Clock::system(), locking(), settings(None)).await;
    let error = made.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Destination(DestinationKind::Unsupported));
    assert!(error.to_string().contains("cannot lock") && store.is_empty(), "{error}");
    let (_, repository) = new_repository().await;
    assert!(repository.set_lock(Some(GOVERNANCE)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_vanished_stops_backups() {
    let locked = Locked::new().await;
    let disk = noise(7, 1 << 18);
    back_up(&locked.repository, &disk, Change::Rescan).await;
    locked.store.delete(&Key::new("lock").unwrap()).await.unwrap();
    let refused = run(&locked.repository, vec![image("disk", &disk, Change::Rescan)]).await;
    assert!(refused.is_err());
    locked.repository.set_lock(Some(GOVERNANCE)).await.unwrap();
    back_up(&locked.repository, &disk, Change::Rescan).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_leave_what_is_locked_and_go_on() {
    let locked = Locked::new().await;
    let old = back_up(&locked.repository, &noise(8, 1 << 20), Change::Rescan).await;
    back_up(&locked.repository, &noise(9, 1 << 20), Change::Rescan).await;
    locked.repository.forget(&old, "a", "test").await.unwrap();
    let before = locked.locks().await;
    let report = (locked.repository).collect(&Default::default(), &Default::default()).await;
    let report = report.unwrap();
    assert_eq!((report.removed_packs, report.plan.locked_packs), (0, 2));
    let (first, last) = report.plan.locked_until.unwrap();
    let end = locked.repository.locked_until(&[&old]).await.unwrap();
    assert_eq!((Some(first), Some(last)), (end, end));
    assert_eq!(locked.locks().await, before);
    // A removed tombstone brings the point back whole: what a thief with the keys removed.
    let tombstone = locked.keys("t/").await.remove(0);
    locked.store.delete(&tombstone).await.unwrap();
    let selector = PointSelector::Id(old.id.to_string());
    let spec = PointSpec { instance: "vm".into(), selector, image: None };
    let point = locked.repository.resolve(&spec).await.unwrap();
    let image = locked.repository.image(&point, None).unwrap();
    assert_eq!(read_all(&image).await, noise(8, 1 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn space_comes_back_when_the_locks_have_run_out() {
    let locked = Locked::new().await;
    let old = back_up(&locked.repository, &noise(10, 1 << 20), Change::Rescan).await;
    let disk = noise(11, 1 << 20);
    back_up(&locked.repository, &disk, Change::Rescan).await;
    locked.repository.forget(&old, "a", "test").await.unwrap();
    locked.pass(62);
    let report = (locked.repository).collect(&Default::default(), &Default::default()).await;
    let report = report.unwrap();
    assert_eq!((report.removed_packs, report.plan.locked_packs), (2, 0));
    assert_eq!(report.plan.locked_until, None);
    assert_eq!(locked.keys("r/").await.len(), 1);
    let next = back_up(&locked.repository, &disk, Change::Rescan).await;
    assert_eq!(read_all(&locked.repository.image(&next, None).unwrap()).await, disk);
    for (key, until) in locked.locks().await {
        let newest = key.as_str().ends_with(&next.id.to_string());
        assert!(until > locked.now() || (key.as_str().starts_with("r/") && !newest), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_not_destroyed_before_its_locks_end() {
    let locked = Locked::new().await;
    back_up(&locked.repository, &noise(12, 1 << 18), Change::Rescan).await;
    let day = Duration::from_secs(86_400);
    let request = locked.repository.request_destroy(day, "test").await.unwrap();
    let days = (request.effective_ms - locked.now()).div_ceil(DAY);
    assert!((60..=61).contains(&days), "{days}");
    // Locked for longer since it was asked for.
    locked.pass(45);
    locked.repository.extend_locks(false, &LockProgress::default()).await.unwrap();
    locked.pass(days - 45);
    let refused = locked.repository.destroy("test", |_, _| ()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Protected);
    assert!(refused.to_string().contains("keeps objects of this repository until"), "{refused}");
    assert!(!locked.keys("r/").await.is_empty());
    locked.pass(61);
    let done = locked.repository.destroy("test", |_, _| ()).await.unwrap();
    assert_eq!((done.left, locked.keys("").await), (0, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_retained_for_longer_is_locked_as_long() {
    let locked = Locked::new().await;
    let point = back_up(&locked.repository, &noise(13, 1 << 18), Change::Rescan).await;
    let until = locked.now() + 400 * DAY;
    let change = |protection: &mut Protection, now| protection.retain(until, now);
    let kept = locked.repository.change_protection(&point, "test", change).await.unwrap();
    let counts = locked.repository.extend_locks_of(vec![kept]).await.unwrap();
    // Both packs, the manifest, the descriptor, the key slot.
    assert_eq!(counts.extended, 5);
    for (key, end) in locked.locks().await {
        assert!(end >= until, "{key}");
    }
    let status = locked.repository.lock_status(true, &LockProgress::default()).await.unwrap();
    assert_eq!((status.points[0].short, status.supported, status.lost), (0, true, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_asks_for_locks_it_does_not_know_and_lists_no_packs() {
    let locked = Locked::new().await;
    // A point that references packs of eight backups.
    let mut disk = noise(20, 8 << 18);
    for part in 0..8 {
        disk[part << 18..(part + 1) << 18].copy_from_slice(&noise(21 + part as u64, 1 << 18));
        back_up(&locked.repository, &disk, Change::Rescan).await;
    }
    let status = locked.repository.lock_status(false, &LockProgress::default()).await.unwrap();
    assert!(status.points.iter().any(|one| one.packs >= 9), "{status:?}");
    locked
        .faults
        .inject(Rule::new(Effect::Fail(DestinationKind::Other)).below("d/").on(&[Operation::List]));
    let before = locked.counters.snapshot();
    back_up(&locked.repository, &disk, Change::Rescan).await;
    let spent = locked.counters.snapshot() - before;
    // The clock, the descriptor, the key slot, its own session, and what every backup asks; not one
    // of the packs.
    assert!(spent.head.requests <= 7, "{spent:?}");
    // Forty days later all of them are due.
    locked.pass(40);
    let before = locked.counters.snapshot();
    back_up(&locked.repository, &disk, Change::Rescan).await;
    let spent = locked.counters.snapshot() - before;
    assert!(spent.head.requests > 9, "{spent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_without_its_lock_is_told_by_scrubs_and_by_the_status() {
    let locked = Locked::new().await;
    let point = back_up(&locked.repository, &noise(14, 1 << 18), Change::Rescan).await;
    let scrub = async |repository: &Repository| {
        let done = repository.scrubber().run(&Default::default(), &Default::default()).await;
        done.unwrap().unlocked
    };
    assert_eq!(scrub(&locked.repository).await, []);
    // The same objects at a place that keeps none of them: as if somebody had replaced them.
    let (clock, hand) = Clock::manual(locked.now());
    let store: Arc<dyn Destination> = Arc::new(MemoryDestination::with_locks_by(hand.clone()));
    for key in locked.keys("").await {
        let body = locked.store.get(&key, ByteRange::Full).await.unwrap();
        store.put(&key, body).await.unwrap();
    }
    let opened = Repository::open(store.clone(), clock, passphrase(), settings(None)).await;
    let bare = opened.unwrap();
    assert_eq!(scrub(&bare).await.len(), 2);
    let status = bare.lock_status(true, &LockProgress::default()).await.unwrap();
    assert_eq!((status.points[0].point.id, status.points[0].short), (point.id, 3));
    bare.extend_locks(true, &LockProgress::default()).await.unwrap();
    assert_eq!(scrub(&bare).await, []);
    let status = bare.lock_status(true, &LockProgress::default()).await.unwrap();
    assert_eq!(status.points[0].short, 0);
    // Removed as well: the setting.
    store.delete(&Key::new("lock").unwrap()).await.unwrap();
    assert!(bare.lock_status(true, &LockProgress::default()).await.unwrap().lost);
    // What was to be locked for thirty days is owed nothing after them.
    hand.fetch_add(100 * DAY, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(scrub(&bare).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_on_a_store_without_locks_works_and_says_so() {
    let locked = Locked::new().await;
    let old = back_up(&locked.repository, &noise(15, 1 << 18), Change::Rescan).await;
    back_up(&locked.repository, &noise(16, 1 << 18), Change::Rescan).await;
    let plain: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    for key in locked.keys("").await.into_iter().filter(|key| key.as_str() != "lock") {
        let body = locked.store.get(&key, ByteRange::Full).await.unwrap();
        plain.put(&key, body).await.unwrap();
    }
    let copy = open(plain).await;
    let status = copy.lock_status(true, &LockProgress::default()).await.unwrap();
    assert!(!status.supported && status.points.is_empty());
    assert!(copy.set_lock(Some(GOVERNANCE)).await.is_err());
    copy.forget(&old, "a", "test").await.unwrap();
    let report = copy.collect(&Default::default(), &Default::default()).await.unwrap();
    assert_eq!(report.removed_packs, 2);
}
