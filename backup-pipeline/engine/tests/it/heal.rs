//! A repository with bytes flipped at random, healed from a copy made before.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::wrap::{Effect, Fault, Operation, Rule};
use sluice_destination::{ByteRange, Destination, ErrorKind as DestinationKind, Key, list_all};
use sluice_engine::Change;
use sluice_repository::heal::{HealOptions, HealReport};
use sluice_repository::{Depth, ErrorKind, Repository, RestorePoint};

use crate::support::*;

/// A repository, a copy of it, and what its points hold.
struct Patient {
    here: Arc<dyn Destination>,
    copy: Arc<dyn Destination>,
    points: Vec<(RestorePoint, Vec<u8>)>,
}

/// Points of two instances, one of them pruned.
async fn patient() -> Patient {
    let (here, repository) = new_repository().await;
    repository.add_recovery("spare").await.unwrap();
    let mut bytes = vec![0; 24 << 20];
    bytes[..3 << 20].copy_from_slice(&noise(1, 3 << 20));
    let mut points = Vec::new();
    for day in 0..4u64 {
        let at = (day as usize * 5) << 20;
        bytes[at..at + (1 << 20)].copy_from_slice(&noise(10 + day, 1 << 20));
        let way = if day % 2 == 0 { Change::Regions } else { Change::Rescan };
        points.push((back_up(&repository, &bytes, way).await, bytes.clone()));
    }
    let (pruned, _) = points.remove(1);
    repository.forget(&pruned, "test", "test").await.unwrap();
    let copy: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    for key in keys(&here, "").await {
        let body = here.get(&key, ByteRange::Full).await.unwrap();
        copy.put(&key, body).await.unwrap();
    }
    Patient { here, copy, points }
}

async fn keys(destination: &Arc<dyn Destination>, prefix: &str) -> Vec<Key> {
    let objects = list_all(&**destination, prefix).await.unwrap();
    objects.into_iter().map(|object| object.key).collect()
}

impl Patient {
    /// Flips bits of a byte; where it lies, two numbers say.
    async fn flip(&self, prefix: &str, object: usize, at: usize, bits: u8) -> Key {
        let mut all = keys(&self.here, prefix).await;
        // By age: the names of packs begin with the time. The newest, at 0, is in use.
        all.sort_by_key(|key| key.as_str().rsplit('/').next().unwrap_or_default().to_owned());
        all.reverse();
        let key = all[object % all.len()].clone();
        let mut body = self.here.get(&key, ByteRange::Full).await.unwrap().to_vec();
        let at = at % body.len();
        body[at] ^= bits;
        self.here.put(&key, body.into()).await.unwrap();
        key
    }

    async fn heal(&self, options: HealOptions) -> sluice_repository::Result<HealReport> {
        let copy = open(self.copy.clone()).await;
        copy.heal(self.here.clone(), &passphrase(), options, Arc::default()).await
    }

    async fn is_whole(&self) {
        let repository = open(self.here.clone()).await;
        let report = repository.verify(None, Depth::Data, Arc::default()).await.unwrap();
        assert_eq!((report.damage, report.warnings), (vec![], vec![]));
        assert_eq!(report.points, self.points.len() as u64);
        for (point, bytes) in &self.points {
            let image = repository.image(point, None).unwrap();
            assert!(read_all(&image).await == *bytes, "{point} differs");
        }
    }

    async fn is_as_the_copy(&self, prefix: &str) {
        for key in keys(&self.copy, prefix).await {
            let ours = self.here.get(&key, ByteRange::Full).await.unwrap();
            let theirs = self.copy.get(&key, ByteRange::Full).await.unwrap();
            assert!(ours == theirs, "{key} differs from the copy's");
        }
    }
}

fn deep() -> HealOptions {
    HealOptions { depth: Depth::Data, dry_run: false, missing_points: false }
}

const KINDS: [&str; 7] = ["format", "keys/", "r/", "d/", "m/", "x/", "t/"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_hundred_flipped_bytes_are_healed_from_a_copy(
        flips in proptest::collection::vec(
            (0..KINDS.len(), any::<usize>(), any::<usize>(), 1u8..), 100),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let patient = patient().await;
            let mut harmed = BTreeSet::new();
            for (kind, object, at, bits) in flips {
                harmed.insert(patient.flip(KINDS[kind], object, at, bits).await);
            }
            let report = patient.heal(deep()).await.unwrap();
            assert_eq!((report.failed, report.remaining), (vec![], vec![]));
            for one in &report.healed {
                let key = Key::new(one.object.clone()).unwrap();
                assert!(harmed.contains(&key), "{one:?} was not harmed");
            }
            patient.is_whole().await;
            for kind in ["format", "keys/", "r/", "x/", "t/"] {
                patient.is_as_the_copy(kind).await;
            }
            // There is nothing left to do.
            let again = patient.heal(deep()).await.unwrap();
            assert_eq!((again.healed, again.failed), (vec![], vec![]));
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_cut_off_objects_come_back() {
    let patient = patient().await;
    for (number, key) in keys(&patient.here, "d/").await.iter().enumerate() {
        match number % 3 {
            0 => patient.here.delete(key).await.unwrap(),
            1 => patient.here.put(key, bytes::Bytes::new()).await.unwrap(),
            _ => {
                let body = patient.here.get(key, ByteRange::Full).await.unwrap();
                patient.here.put(key, body.slice(..body.len() / 2)).await.unwrap();
            }
        }
    }
    for key in keys(&patient.here, "m/").await.iter().chain(&keys(&patient.here, "keys/").await) {
        patient.here.delete(key).await.unwrap();
    }
    let format = Key::new("format").unwrap();
    patient.here.delete(&format).await.unwrap();
    // What can be told without reading every byte is told so.
    let shallow = HealOptions { depth: Depth::Structure, ..deep() };
    let report = patient.heal(shallow).await.unwrap();
    assert_eq!((report.failed, report.remaining), (vec![], vec![]));
    patient.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_slot_of_a_stranger_does_not_keep_the_copy_s_away() {
    let patient = patient().await;
    for key in keys(&patient.here, "keys/").await {
        patient.here.delete(&key).await.unwrap();
    }
    let (strange, _) = new_repository().await;
    let slot = keys(&strange, "keys/").await.remove(0);
    let bytes = strange.get(&slot, ByteRange::Full).await.unwrap();
    patient.here.put(&slot, bytes).await.unwrap();
    let report = patient.heal(deep()).await.unwrap();
    assert_eq!((report.healed.len(), report.failed), (2, vec![]));
    patient.is_as_the_copy("keys/").await;
    patient.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_and_changes_nothing() {
    let patient = patient().await;
    let harmed = [patient.flip("d/", 0, 100, 1).await, patient.flip("t/", 0, 100, 1).await];
    let before = patient.here.get(&harmed[0], ByteRange::Full).await.unwrap();
    let report = patient.heal(HealOptions { dry_run: true, ..deep() }).await.unwrap();
    let told: BTreeSet<&str> = report.healed.iter().map(|one| one.object.as_str()).collect();
    assert_eq!(told, harmed.iter().map(Key::as_str).collect());
    assert_eq!(patient.here.get(&harmed[0], ByteRange::Full).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_copy_has_damaged_as_well_is_left_alone_and_told() {
    let patient = patient().await;
    let key = patient.flip("d/", 0, 100, 1).await;
    let body = patient.here.get(&key, ByteRange::Full).await.unwrap();
    patient.copy.put(&key, body.clone()).await.unwrap();
    let other = patient.flip("m/", 0, 100, 1).await;
    let report = patient.heal(deep()).await.unwrap();
    assert_eq!(report.failed.len(), 1, "{:?}", report.failed);
    assert_eq!(report.failed[0].object, key.as_str());
    assert_eq!(report.healed.len(), 1);
    assert_eq!(report.healed[0].object, other.as_str());
    assert!(report.remaining.iter().all(|one| one.object.starts_with(key.as_str())));
    assert_eq!(report.remaining.len(), 1, "{:?}", report.remaining);
    assert_eq!(patient.here.get(&key, ByteRange::Full).await.unwrap(), body);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_repository_is_never_written_into() {
    let patient = patient().await;
    let (stranger, repository) = new_repository().await;
    back_up(&repository, &noise(5, 1 << 20), Change::Regions).await;
    let before = keys(&stranger, "").await;
    let empty: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    let copy = open(patient.copy.clone()).await;
    for place in [stranger.clone(), empty.clone()] {
        let healed = copy.heal(place, &passphrase(), deep(), Arc::default()).await;
        assert_eq!(healed.unwrap_err().kind(), ErrorKind::Conflict);
    }
    // Also when its descriptor is lost: its objects tell.
    stranger.delete(&Key::new("format").unwrap()).await.unwrap();
    let healed = copy.heal(stranger.clone(), &passphrase(), deep(), Arc::default()).await;
    assert_eq!(healed.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(keys(&stranger, "").await.len(), before.len() - 1);
    assert!(keys(&empty, "").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn points_only_the_copy_has_come_back_when_asked_and_pruned_ones_never() {
    let patient = patient().await;
    let lost = patient.points[0].0.clone();
    let key = keys(&patient.here, "r/").await.remove(0);
    assert!(key.as_str().ends_with(&lost.id.to_string()));
    patient.here.delete(&key).await.unwrap();
    let report = patient.heal(deep()).await.unwrap();
    assert_eq!((report.only_there, report.healed), (vec![key.to_string()], vec![]));
    let report = patient.heal(HealOptions { missing_points: true, ..deep() }).await.unwrap();
    assert_eq!(report.healed.len(), 1);
    patient.is_whole().await;
}

/// Removes the record of the newest point, and the data that only it needs.
async fn lose_newest(side: &Arc<dyn Destination>, lost: &RestorePoint) {
    for prefix in ["r/", "d/"] {
        let mut all = keys(side, prefix).await;
        all.sort_by_key(|key| key.as_str().rsplit('/').next().unwrap_or_default().to_owned());
        let newest = all.pop().unwrap();
        assert!(prefix == "d/" || newest.as_str().ends_with(&lost.id.to_string()));
        side.delete(&newest).await.unwrap();
    }
}

async fn ids(side: &Arc<dyn Destination>) -> Vec<String> {
    let listing = open(side.clone()).await.list(None).await.unwrap();
    listing.points.iter().map(|point| point.id.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_comes_back_is_there_only_once_all_that_it_needs_is() {
    let mut patient = patient().await;
    let (lost, bytes) = patient.points.last().unwrap().clone();
    lose_newest(&patient.here, &lost).await;
    let all = HealOptions { missing_points: true, ..deep() };
    // The disk is full, or the replica goes away.
    let fault = Fault::new(patient.here.clone());
    let full = Effect::Fail(DestinationKind::NoSpace);
    fault.inject(Rule::new(full).on(Operation::PUTS).below("d/"));
    let copy = open(patient.copy.clone()).await;
    let healed = copy.heal(fault, &passphrase(), all.clone(), Arc::default()).await;
    healed.unwrap_err();
    assert!(!ids(&patient.here).await.contains(&lost.id.to_string()));
    assert_eq!(keys(&patient.here, "o/").await, []);
    // What is backed up now builds on nothing that is not there.
    let here = open(patient.here.clone()).await;
    let point = back_up(&here, &bytes, Change::Rescan).await;
    let found = here.verify(None, Depth::Data, Arc::default()).await.unwrap();
    assert_eq!(found.damage, []);
    patient.points.push((point, bytes));
    let report = patient.heal(all).await.unwrap();
    assert_eq!((report.failed, report.remaining), (vec![], vec![]));
    patient.is_whole().await;
    assert_eq!(keys(&patient.here, "o/").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_whose_data_the_copy_has_lost_as_well_does_not_come_back() {
    let mut patient = patient().await;
    let (lost, _) = patient.points.pop().unwrap();
    lose_newest(&patient.here, &lost).await;
    let record = keys(&patient.copy, "r/").await.pop().unwrap();
    let body = patient.copy.get(&record, ByteRange::Full).await.unwrap();
    lose_newest(&patient.copy, &lost).await;
    patient.copy.put(&record, body).await.unwrap();
    let report = patient.heal(HealOptions { missing_points: true, ..deep() }).await.unwrap();
    let failed: Vec<&str> = report.failed.iter().map(|one| one.object.as_str()).collect();
    assert!(failed.contains(&record.as_str()), "{failed:?}");
    patient.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_do_not_come_back_beside_a_collection_and_the_rest_is_healed() {
    let patient = patient().await;
    let lost = patient.points.last().unwrap().0.clone();
    let record = keys(&patient.here, "r/").await.pop().unwrap();
    assert!(record.as_str().ends_with(&lost.id.to_string()));
    patient.here.delete(&record).await.unwrap();
    let harmed = patient.flip("m/", 0, 100, 1).await;
    let plan = Key::new("g/0000000001/plan").unwrap();
    patient.here.put(&plan, bytes::Bytes::from_static(b"x")).await.unwrap();
    let all = HealOptions { missing_points: true, ..deep() };
    let report = patient.heal(all.clone()).await.unwrap();
    assert_eq!(report.only_there, [record.to_string()]);
    assert!(report.notes[0].contains("collection"), "{:?}", report.notes);
    patient.here.delete(&plan).await.unwrap();
    let report = patient.heal(all).await.unwrap();
    let healed: Vec<&str> = report.healed.iter().map(|one| one.object.as_str()).collect();
    assert!(healed.contains(&record.as_str()), "{healed:?} {harmed}");
    patient.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_as_damaged_is_healed_without_reading_everything() {
    let patient = patient().await;
    patient.flip("d/", 0, 100, 1).await;
    let here: Repository = open(patient.here.clone()).await;
    let found = here.verify(None, Depth::Data, Arc::default()).await.unwrap();
    here.record_findings(&found).await.unwrap();
    let shallow = HealOptions { depth: Depth::Structure, ..deep() };
    let report = patient.heal(shallow).await.unwrap();
    assert_eq!(report.healed.len(), 1);
    patient.is_whole().await;
    assert!(keys(&patient.here, "b/").await.is_empty(), "the record says it is healed");
}
