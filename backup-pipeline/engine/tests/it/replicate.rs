//! Replicas: whatever is killed, damaged, pruned or moved meanwhile, what is at the target is
//! valid, and the next run completes it.

use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::wrap::{Count, Effect, Fault, Operation, Rule};
use sluice_destination::{ByteRange, Destination, ErrorKind as DestinationKind, Key, list_all};
use sluice_engine::{Change, Progress, backup};
use sluice_repository::replicate::{
    self, Filter, Means, Options, Plan, Relation, Report, Source, relation, state,
};
use sluice_repository::retention::Policy;
use sluice_repository::{
    Clock, Depth, ErrorKind, Protection, Repository, RepositoryError, RestorePoint, Unlock,
    VerifyProgress,
};
use tokio_util::sync::CancellationToken;

use crate::support::*;

pub type Side = Arc<dyn Destination>;

/// A backup of `instance`.
pub async fn point_of(repository: &Repository, instance: &str, bytes: &[u8]) -> RestorePoint {
    let images = vec![image("disk", bytes, Change::Rescan)];
    let (progress, cancel) = (Progress::new(), CancellationToken::new());
    backup(repository, instance, images, options(), progress, cancel).await.unwrap().point
}

fn means() -> Means {
    Means { clock: Clock::system(), throttle: None, progress: Arc::default() }
}

pub fn keyless(source: &Side) -> Source {
    Source { destination: source.clone(), key: None }
}

pub fn keyed(source: &Side, repository: &Repository) -> Source {
    Source { destination: source.clone(), key: Some(repository.clone()) }
}

async fn plan(from: Source, to: &Side, how: Options) -> Result<Plan, RepositoryError> {
    replicate::plan(from, to.clone(), how, &means()).await
}

pub async fn replicate_with(
    from: Source,
    to: &Side,
    how: Options,
) -> Result<Report, RepositoryError> {
    let plan = plan(from, to, how).await?;
    plan.run(means()).await
}

pub async fn replicate(from: Source, to: &Side) -> Report {
    replicate_with(from, to, Options::default()).await.unwrap()
}

pub fn memory() -> Side {
    Arc::new(MemoryDestination::new())
}

pub async fn bytes_of(repository: &Repository, point: &RestorePoint) -> Vec<u8> {
    read_all(&repository.image(point, None).unwrap()).await
}

pub async fn listed(repository: &Repository) -> Vec<RestorePoint> {
    let listing = repository.list(None).await.unwrap();
    assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
    listing.points
}

/// Everything at the target is sound, down to the last byte.
pub async fn assert_sound(side: &Side) -> Vec<RestorePoint> {
    let repository = open(side.clone()).await;
    let verified = repository.verify(None, Depth::Data, Arc::<VerifyProgress>::default()).await;
    assert_eq!(verified.unwrap().damage, []);
    listed(&repository).await
}

/// The target has these points of the source, and they read as they do there.
pub async fn assert_equal(source: &Repository, target: &Side, points: &[RestorePoint]) {
    let there = assert_sound(target).await;
    assert_eq!(names(&there), names(points));
    let target = open(target.clone()).await;
    for point in points {
        assert!(bytes_of(&target, point).await == bytes_of(source, point).await, "{point}");
    }
}

pub fn names(points: &[RestorePoint]) -> Vec<String> {
    points.iter().map(ToString::to_string).collect()
}

pub async fn objects(side: &Side, prefix: &str) -> Vec<Key> {
    list_all(&**side, prefix).await.unwrap().into_iter().map(|object| object.key).collect()
}

pub async fn get(side: &Side, key: &Key) -> Bytes {
    side.get(key, ByteRange::Full).await.unwrap()
}

/// Moves an object within a side.
async fn rename(side: &Side, from: &Key, to: &str) {
    side.put(&Key::new(to).unwrap(), get(side, from).await).await.unwrap();
    side.delete(from).await.unwrap();
}

pub async fn flip(side: &Side, key: &Key) -> Bytes {
    let good = get(side, key).await;
    let mut bad = good.to_vec();
    let middle = bad.len() / 2;
    bad[middle] ^= 4;
    side.put(key, bad.into()).await.unwrap();
    good
}

/// Two instances, two points each; nothing of one is in another.
async fn four_points() -> (Side, Repository, Vec<RestorePoint>) {
    let (source, repository) = new_repository().await;
    for number in 0..4 {
        let name = if number % 2 == 0 { "a" } else { "b" };
        point_of(&repository, name, &noise(number, 300_000)).await;
    }
    let points = listed(&repository).await;
    (source, repository, points)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_the_same_and_no_key_is_needed() {
    let (source, repository, points) = four_points().await;
    let target = memory();
    let report = replicate(keyless(&source), &target).await;
    assert_eq!(report.points.len(), 4);
    for prefix in ["format", "keys/", "d/", "m/", "r/", "x/"] {
        let keys = objects(&source, prefix).await;
        assert_eq!(keys, objects(&target, prefix).await, "{prefix}");
        for key in keys {
            assert!(get(&source, &key).await == get(&target, &key).await, "{key}");
        }
    }
    assert_equal(&repository, &target, &points).await;
    let mark = state::mark(&*target).await.unwrap().unwrap();
    assert_eq!((mark.state, mark.points), (state::RunState::Done, 4));
    assert_eq!(mark.bytes, report.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_repository_costs_listings_however_many_blocks_it_has() {
    let mut requests = Vec::new();
    for size in [1 << 20, 24 << 20] {
        let (source, repository) = new_repository().await;
        point_of(&repository, "a", &noise(1, size)).await;
        point_of(&repository, "a", &noise(2, size)).await;
        let target = memory();
        replicate(keyless(&source), &target).await;
        let (here, there) = (Count::new(source), Count::new(target));
        let counters = (here.counters(), there.counters());
        let (here, there): (Side, Side) = (Arc::new(here), Arc::new(there));
        let report = replicate(keyless(&here), &there).await;
        assert_eq!((report.packs, report.points.len()), (0, 0));
        let (here, there) = (counters.0.snapshot(), counters.1.snapshot());
        assert!(here.get.bytes + there.get.bytes < 10_000, "{here:?} {there:?}");
        requests.push((here.requests(), there.requests()));
    }
    assert_eq!(requests[0], requests[1], "requests depend on the number of blocks");
    assert!(requests[0].0 + requests[0].1 < 40, "{requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_wanted_points_are_copied_with_the_packs_they_need() {
    let (source, repository, points) = four_points().await;
    let target = memory();
    let filter = Filter { instances: vec!["b".into()], latest: Some(1), since_ms: None };
    let how = Options { filter, ..Options::default() };
    let refused = plan(keyless(&source), &target, how.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WrongKey);
    let from = || keyed(&source, &repository);
    let report = replicate_with(from(), &target, how.clone()).await.unwrap();
    assert_eq!(report.points, [points[3].to_string()]);
    assert_equal(&repository, &target, &points[3..]).await;
    assert_eq!(objects(&target, "d/").await.len(), 1);
    // The same again, and then all the others.
    assert_eq!(replicate_with(from(), &target, how).await.unwrap().points.len(), 0);
    let since = Filter { since_ms: Some(points[0].created_ms), ..Filter::default() };
    let since = Options { filter: since, ..Options::default() };
    assert_eq!(replicate_with(from(), &target, since).await.unwrap().points.len(), 3);
    assert_equal(&repository, &target, &points).await;
    assert_eq!(objects(&source, "p/").await, [], "pins are given back");
    let nobody = Filter { instances: vec!["nobody".into()], ..Filter::default() };
    let nobody = Options { filter: nobody, ..Options::default() };
    let missing = plan(from(), &target, nobody).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_carried_there_seeds_the_far_store() {
    let (source, repository, _) = four_points().await;
    let (disk, far) = (memory(), memory());
    replicate(keyless(&source), &disk).await;
    let seeded = replicate(keyless(&disk), &far).await;
    assert_eq!(seeded.points.len(), 4);
    // From now on by network, directly.
    assert_eq!(replicate(keyless(&source), &far).await.bytes, 0);
    let newest = point_of(&repository, "a", &noise(9, 300_000)).await;
    let report = replicate(keyless(&source), &far).await;
    assert_eq!(report.points.len(), 1);
    assert!(report.bytes < 400_000, "{} bytes are more than is new", report.bytes);
    let points = listed(&repository).await;
    assert!(points.contains(&newest));
    assert_equal(&repository, &far, &points).await;
    let mark = state::mark(&*far).await.unwrap().unwrap();
    assert_eq!(mark.source, source.location());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_is_not_copied_and_keeps_back_only_who_needs_it() {
    let (source, repository, points) = four_points().await;
    // The oldest data pack is of the first point of `a`.
    let pack = objects(&source, "d/").await.into_iter();
    let name = |key: &Key| key.as_str().rsplit('/').next().unwrap().to_owned();
    let pack = pack.min_by_key(|key| name(key)).unwrap();
    let good = flip(&source, &pack).await;
    let target = memory();
    let report = replicate(keyless(&source), &target).await;
    assert_eq!(report.points.len(), 0, "nobody knows who needs it without the key");
    assert_eq!(report.damage.len(), 1);
    assert_eq!(report.damage[0].object, pack.as_str());
    assert_eq!(report.damage[0].points.len(), 4);
    assert!(!objects(&target, "d/").await.contains(&pack));
    let fresh = open(source.clone()).await;
    let report = replicate(keyed(&source, &fresh), &target).await;
    assert_eq!(report.points.len(), 3);
    let hit: Vec<String> = report.damage[0].points.iter().cloned().collect();
    assert_eq!(hit, [points[0].to_string()]);
    assert_equal(&repository, &target, &points[1..]).await;
    let mark = state::mark(&*target).await.unwrap().unwrap();
    assert_eq!(mark.state, state::RunState::Incomplete);
    source.put(&pack, good).await.unwrap();
    assert_eq!(
        replicate(keyless(&source), &target).await.points,
        [format!("{}@{}", points[0].chain, points[0].id)]
    );
    assert_equal(&repository, &target, &points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_and_missing_packs_are_told() {
    let (source, _, points) = four_points().await;
    let record = objects(&source, "r/").await.into_iter();
    let mut record = record.filter(|key| key.as_str().ends_with(&points[1].id.to_string()));
    let record = record.next().unwrap();
    source.put(&record, get(&source, &record).await.slice(..100)).await.unwrap();
    let packs = objects(&source, "d/").await;
    let name = |key: &Key| key.as_str().rsplit('/').next().unwrap().to_owned();
    let newest = packs.iter().max_by_key(|key| name(key)).unwrap();
    source.delete(newest).await.unwrap();
    let repository = open(source.clone()).await;
    let target = memory();
    let filter = Filter { latest: Some(9), ..Filter::default() };
    let how = Options { filter, ..Options::default() };
    let report = replicate_with(keyed(&source, &repository), &target, how).await.unwrap();
    assert_eq!(report.points, [points[0].to_string(), points[2].to_string()].map(String::from));
    let damaged: Vec<&str> = report.damage.iter().map(|one| one.object.as_str()).collect();
    assert_eq!(damaged, [record.as_str(), newest.as_str()]);
    assert_sound(&target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_at_the_target_is_put_right() {
    let (source, repository, points) = four_points().await;
    let target = memory();
    replicate(keyless(&source), &target).await;
    let pack = objects(&target, "d/").await.remove(0);
    let cut = get(&target, &pack).await.slice(..200);
    target.put(&pack, cut).await.unwrap();
    let other = objects(&target, "m/").await.remove(0);
    target.delete(&other).await.unwrap();
    let report = replicate(keyless(&source), &target).await;
    assert_eq!((report.repaired, report.packs), (1, 2));
    assert_equal(&repository, &target, &points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_that_move_or_go_away_meanwhile_are_followed() {
    let (source, repository, points) = four_points().await;
    let target = memory();
    let planned = plan(keyless(&source), &target, Options::default()).await.unwrap();
    // What a collection does between the listing and the copy: one pack is compacted, and one
    // is gone with the point that needed it.
    let mut packs = objects(&source, "d/").await;
    let name = |key: &Key| key.as_str().rsplit('/').next().unwrap().to_owned();
    packs.sort_by_key(|key| name(key));
    repository.forget(&points[0], "test", "test").await.unwrap();
    source.delete(&packs[0]).await.unwrap();
    let moved = packs[3].as_str().replace(".0", ".1");
    rename(&source, &packs[3], &moved).await;
    let report = planned.run(means()).await.unwrap();
    assert_eq!((report.points.len(), report.gone.len()), (3, 1));
    assert_eq!(report.damage, []);
    let there = objects(&target, "d/").await;
    assert!(there.iter().any(|key| key.as_str() == moved) && there.len() == 3, "{there:?}");
    // A pack complete under an older generation is not copied again.
    assert_eq!(replicate(keyless(&source), &target).await.packs, 0);
    rename(&source, &Key::new(moved.as_str()).unwrap(), &moved.replace(".1", ".4")).await;
    assert_eq!(replicate(keyless(&source), &target).await.packs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_keeps_by_a_policy_of_its_own() {
    let (source, repository) = new_repository().await;
    for number in 0..5 {
        point_of(&repository, "a", &noise(number, 200_000)).await;
    }
    let points = listed(&repository).await;
    let target = memory();
    let keep = |last| Policy { keep_last: Some(last), ..Policy::default() };
    let how = |last| Options { keep: Some(keep(last)), ..Options::default() };
    let from = || keyed(&source, &repository);
    let report = replicate_with(from(), &target, how(3)).await.unwrap();
    assert_eq!((report.points.len(), report.pruned.len()), (3, 0), "only what is kept is copied");
    assert_equal(&repository, &target, &points[2..]).await;
    let report = replicate_with(from(), &target, how(2)).await.unwrap();
    assert_eq!(report.pruned, [points[2].to_string()]);
    assert_equal(&repository, &target, &points[3..]).await;
    assert_eq!(listed(&repository).await.len(), 5, "the source keeps its own");
    // What was pruned there does not come back, though nothing tells so any longer but its
    // tombstone; and to tell which packs are not needed again takes the key.
    let refused = plan(keyless(&source), &target, Options::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WrongKey);
    let all = replicate_with(from(), &target, Options::default()).await.unwrap();
    assert_eq!(all.points, names(&points[..2]));
    let again = replicate_with(from(), &target, Options::default()).await.unwrap();
    assert_eq!((again.points.len(), again.packs), (0, 0));
    // What it lost is brought back when it is asked for.
    for prefix in ["d/", "m/"] {
        for pack in objects(&target, prefix).await {
            target.delete(&pack).await.unwrap();
        }
    }
    let again = replicate_with(from(), &target, Options::default()).await.unwrap();
    assert_eq!(again.packs, 0);
    let repair = || Options { repair: true, ..Options::default() };
    let again = replicate_with(from(), &target, repair()).await.unwrap();
    assert_eq!(again.packs, 2 * 4, "{again:?}");
    assert_sound(&target).await;
    let again = replicate_with(from(), &target, repair()).await.unwrap();
    assert_eq!((again.points.len(), again.packs), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn prunes_are_copied_when_that_is_asked_for() {
    let (source, repository, points) = four_points().await;
    let target = memory();
    replicate(keyless(&source), &target).await;
    repository.forget(&points[2], "test", "test").await.unwrap();
    let report = replicate(keyless(&source), &target).await;
    assert_eq!(report.pruned.len(), 0);
    assert_equal(&repository, &target, &points).await;
    let how = || Options { mirror_prunes: true, ..Options::default() };
    let report = replicate_with(keyless(&source), &target, how()).await.unwrap();
    assert_eq!(report.pruned.len(), 1);
    let left = listed(&repository).await;
    assert_eq!(left.len(), 3);
    assert_equal(&repository, &target, &left).await;
    assert_eq!(replicate_with(keyless(&source), &target, how()).await.unwrap().pruned.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_switched_and_points_flow_back() {
    let (source, _, _) = four_points().await;
    let target = memory();
    replicate(keyless(&source), &target).await;
    let replica = open(target.clone()).await;
    let refused = replica.begin("a", &Default::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Role);
    let clock = Clock::system();
    state::promote(&*target, &clock, false).await.unwrap();
    let newest = point_of(&replica, "a", &noise(50, 200_000)).await;
    // Two that take backups: neither is overwritten.
    for (from, to) in [(&source, &target), (&target, &source)] {
        assert_eq!(relation(&**from, &**to).await.unwrap(), Relation::Twin);
        let refused = plan(keyless(from), to, Options::default()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Role);
    }
    let id = replica.descriptor().id.clone();
    state::demote(&*source, &id, &target.location(), &clock).await.unwrap();
    let report = replicate(keyless(&target), &source).await;
    assert_eq!(report.points.len(), 1);
    let points = assert_sound(&source).await;
    assert!(points.contains(&newest) && points.len() == 5);
    assert_equal(&replica, &source, &points).await;
    let other = new_repository().await.0;
    assert_eq!(relation(&*source, &*other).await.unwrap(), Relation::Other);
    let refused = plan(keyless(&source), &other, Options::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Role);
}

#[tokio::test(flavor = "multi_thread")]
async fn key_slots_follow_the_source() {
    let (source, repository, _) = four_points().await;
    let target = memory();
    replicate(keyless(&source), &target).await;
    let old = objects(&source, "keys/").await.remove(0);
    repository.add_passphrase("new", "other horse", CHEAP).await.unwrap();
    repository.remove_key_slot(old.as_str().trim_start_matches("keys/")).await.unwrap();
    // Without the key nobody can tell that the new one opens anything.
    let report = replicate(keyless(&source), &target).await;
    assert_eq!(report.kept_slots, [old.as_str().trim_start_matches("keys/")]);
    assert_eq!(objects(&target, "keys/").await.len(), 2);
    let with = || Unlock::Passphrase("other horse".to_owned().into());
    let opened = Repository::open(source.clone(), Clock::system(), with(), settings(None)).await;
    let report = replicate(keyed(&source, &opened.unwrap()), &target).await;
    assert_eq!(report.kept_slots, [""; 0]);
    assert_eq!(objects(&target, "keys/").await, objects(&source, "keys/").await);
    // But not those of a disk that was copied before the old passphrase was withdrawn.
    let disk = memory();
    replicate(keyless(&source), &disk).await;
    let (id, _) = repository.add_recovery("later").await.unwrap();
    replicate(keyless(&source), &target).await;
    replicate(keyless(&disk), &target).await;
    let slots = objects(&target, "keys/").await;
    assert!(slots.iter().any(|key| key.as_str().ends_with(&id)), "{slots:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_that_is_stopped_ends_and_goes_on_later() {
    let (source, repository, points) = four_points().await;
    let target = memory();
    let planned = plan(keyless(&source), &target, Options::default()).await.unwrap();
    let stopped = means();
    stopped.progress.stop();
    let error = planned.run(stopped).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(objects(&target, "o/").await.len(), 0);
    assert_eq!(objects(&target, "r/").await.len(), 0);
    replicate(keyless(&source), &target).await;
    assert_equal(&repository, &target, &points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_pinned_while_they_are_copied_where_pins_can_be_put() {
    let (source, _, points) = four_points().await;
    let fault = Fault::new(source);
    let faulty: Side = fault.clone();
    let repository = open(faulty.clone()).await;
    let target = memory();
    let pins = |kind| Rule::new(Effect::Fail(kind)).on(Operation::PUTS).below("p/");
    fault.inject(pins(DestinationKind::Unavailable));
    let how = Options::default();
    replicate_with(keyed(&faulty, &repository), &target, how.clone()).await.unwrap_err();
    assert_eq!(objects(&target, "r/").await, []);
    assert!(fault.injected() > 0);
    fault.heal();
    // Who may only read cannot pin, and need not; nor where there is no room for a pin.
    fault.inject(pins(DestinationKind::AccessDenied));
    replicate_with(keyed(&faulty, &repository), &target, how).await.unwrap();
    assert_eq!(names(&assert_sound(&target).await), names(&points));
}

pub async fn hold(repository: &Repository, point: &RestorePoint, hold: bool) {
    let change = |protection: &mut Protection, _| {
        protection.hold = hold;
        Ok(())
    };
    repository.change_protection(point, "test", change).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_point_keeps_its_copy_too() {
    let (source, repository) = new_repository().await;
    let point = point_of(&repository, "a", &noise(1, 200_000)).await;
    let target = memory();
    replicate(keyless(&source), &target).await;
    let there = open(target.clone()).await;
    assert!(there.may_forget(&point).await.is_ok());
    // Said after the point was copied.
    hold(&repository, &point, true).await;
    replicate(keyless(&source), &target).await;
    assert!(there.may_forget(&point).await.is_err());
    // What the target says later counts there, until the source says something newer.
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    hold(&there, &point, false).await;
    replicate(keyless(&source), &target).await;
    assert!(there.may_forget(&point).await.is_ok());
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    hold(&repository, &point, true).await;
    replicate(keyless(&source), &target).await;
    assert!(there.may_forget(&point).await.is_err());
}
