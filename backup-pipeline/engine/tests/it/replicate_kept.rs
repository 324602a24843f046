//! What a replication never takes from a replica: the last way in, and points that are kept.

use bytes::Bytes;
use sluice_destination::wrap::{Effect, Fault, Operation, Rule};
use sluice_destination::{ErrorKind as DestinationKind, Key};
use sluice_engine::{BackupOptions, Change, Progress, backup};
use sluice_repository::replicate::{Options, Report, Source};
use sluice_repository::retention::Policy;
use sluice_repository::{Repository, RestorePoint};
use tokio_util::sync::CancellationToken;

use crate::replicate::*;
use crate::support::*;

/// Puts something that looks like a slot in place of all of them.
async fn replace_slots(source: &Side) {
    for key in objects(source, "keys/").await {
        source.delete(&key).await.unwrap();
    }
    let (strange, _) = new_repository().await;
    let slot = objects(&strange, "keys/").await.remove(0);
    for (name, body) in [
        (slot.as_str(), get(&strange, &slot).await),
        ("keys/junk", Bytes::from_static(b"no slot at all")),
    ] {
        source.put(&Key::new(name).unwrap(), body).await.unwrap();
    }
}

async fn replica_of_one() -> (Side, Repository, RestorePoint, Side) {
    let (source, repository) = new_repository().await;
    let point = point_of(&repository, "a", &noise(1, 100_000)).await;
    let target = memory();
    replicate(keyless(&source), &target).await;
    (source, repository, point, target)
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_are_gone_at_the_source_stay_at_a_replica_without_the_key() {
    let (source, _, point, target) = replica_of_one().await;
    let known = objects(&target, "keys/").await;
    replace_slots(&source).await;
    // Also in the second night, when what looks like slots is on both sides.
    for _night in 0..2 {
        let report = replicate(keyless(&source), &target).await;
        assert_eq!(report.kept_slots.len(), known.len());
        let there = open(target.clone()).await;
        assert_eq!(listed(&there).await, std::slice::from_ref(&point));
    }
    let left = objects(&target, "keys/").await;
    assert!(known.iter().all(|key| left.contains(key)), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_key_a_slot_goes_only_while_a_known_one_is_left() {
    let (source, repository, _, target) = replica_of_one().await;
    // Opened before the slots are replaced: the key is right, and no slot there is.
    let slots = objects(&source, "keys/").await;
    let bodies = [get(&source, &slots[0]).await];
    replace_slots(&source).await;
    let report = replicate(keyed(&source, &repository), &target).await;
    assert_eq!(report.kept_slots.len(), 1);
    open(target.clone()).await;
    // One that was removed as it should be does go, and strange ones with the source's.
    for (key, body) in slots.iter().zip(bodies) {
        source.put(key, body).await.unwrap();
    }
    source.delete(&Key::new("keys/junk").unwrap()).await.unwrap();
    let (name, _) = repository.add_recovery("spare").await.unwrap();
    replicate(keyless(&source), &target).await;
    repository.remove_key_slot(&name).await.unwrap();
    let report = replicate(keyed(&source, &repository), &target).await;
    assert_eq!(report.kept_slots, [""; 0]);
    assert_eq!(objects(&target, "keys/").await, objects(&source, "keys/").await);
    open(target.clone()).await;
}

/// How a replication prunes at the target.
#[derive(Debug, Clone, Copy)]
enum Way {
    Mirror,
    MirrorWithKey,
    Policy,
}

const WAYS: [Way; 3] = [Way::Mirror, Way::MirrorWithKey, Way::Policy];

/// Two points at both sides, of which the older one is to be pruned at the target.
struct Two {
    source: Side,
    repository: Repository,
    target: Side,
    old: RestorePoint,
}

impl Two {
    async fn new(way: Way, options: BackupOptions) -> Self {
        let (source, repository) = new_repository().await;
        let mut points = Vec::new();
        for seed in 0..2 {
            let images = vec![image("disk", &noise(seed, 100_000), Change::Rescan)];
            let (progress, cancel) = (Progress::new(), CancellationToken::new());
            let made = backup(&repository, "a", images, options.clone(), progress, cancel).await;
            points.push(made.unwrap().point);
        }
        let target = memory();
        replicate(keyless(&source), &target).await;
        let old = points.remove(0);
        if matches!(way, Way::Mirror | Way::MirrorWithKey) && options.retain_until_ms.is_none() {
            repository.forget(&old, "test", "test").await.unwrap();
        }
        Self { source, repository, target, old }
    }

    async fn prune(&self, way: Way, target: &Side) -> Report {
        let keep = Policy { keep_last: Some(1), ..Policy::default() };
        let mirror = Options { mirror_prunes: true, ..Options::default() };
        let with_key = || keyed(&self.source, &self.repository);
        let (from, how): (Source, Options) = match way {
            Way::Mirror => (keyless(&self.source), mirror),
            Way::MirrorWithKey => (with_key(), mirror),
            Way::Policy => (with_key(), Options { keep: Some(keep), ..Options::default() }),
        };
        replicate_with(from, target, how).await.unwrap()
    }

    async fn stays(&self, report: &Report, way: Way) {
        assert_eq!((report.pruned.len(), report.kept.len()), (0, 1), "{way:?}");
        assert_eq!(objects(&self.target, "t/").await, [], "{way:?}");
        let there = open(self.target.clone()).await;
        assert!(listed(&there).await.iter().any(|point| point.id == self.old.id), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_on_hold_at_the_replica_stays_there_until_it_is_released() {
    for way in WAYS {
        let two = Two::new(way, options()).await;
        let there = open(two.target.clone()).await;
        hold(&there, &two.old, true).await;
        let report = two.prune(way, &two.target).await;
        two.stays(&report, way).await;
        hold(&there, &two.old, false).await;
        let report = two.prune(way, &two.target).await;
        assert_eq!((report.pruned.len(), report.kept.len()), (1, 0), "{way:?}");
        assert_eq!(listed(&there).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hold_and_a_tombstone_at_the_replica_at_the_same_moment_the_hold_wins() {
    for way in WAYS {
        let two = Two::new(way, options()).await;
        hold(&open(two.target.clone()).await, &two.old, true).await;
        let fault = Fault::new(two.target.clone());
        // The first look comes before the hold.
        let nothing_yet = Effect::Fail(DestinationKind::NotFound);
        fault.inject(Rule::new(nothing_yet).on(&[Operation::Get]).below("h/").once());
        let racing: Side = fault.clone();
        let report = two.prune(way, &racing).await;
        assert_eq!(fault.injected(), 1, "{way:?}");
        two.stays(&report, way).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_at_the_replica_that_cannot_be_read_keeps_its_point() {
    for way in WAYS {
        let two = Two::new(way, options()).await;
        let (chain, point) = (two.old.chain, two.old.id);
        let key = Key::new(format!("h/default/{chain}/{point}")).unwrap();
        two.target.put(&key, Bytes::from_static(b"nothing")).await.unwrap();
        let report = two.prune(way, &two.target).await;
        two.stays(&report, way).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_that_somebody_put_at_the_source_does_not_end_a_retention_at_the_replica() {
    for way in [Way::Mirror, Way::MirrorWithKey] {
        let options = BackupOptions { retain_until_ms: Some(u64::MAX / 2), ..options() };
        let two = Two::new(way, options).await;
        // Whoever can write to the source puts a tombstone of another point in its place.
        let other = point_of(&two.repository, "b", &noise(9, 1000)).await;
        two.repository.forget(&other, "test", "test").await.unwrap();
        let tombstone = objects(&two.source, "t/").await.remove(0);
        let (chain, point) = (two.old.chain, two.old.id);
        let forged = Key::new(format!("t/default/{chain}/{point}")).unwrap();
        two.source.put(&forged, get(&two.source, &tombstone).await).await.unwrap();
        let report = two.prune(way, &two.target).await;
        two.stays(&report, way).await;
    }
}
