//! Damaged records by which programs speak to each other: they stop nobody for ever, and nothing
//! is lost by putting them right.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;
use sluice_destination::filesystem::FilesystemDestination;
use sluice_destination::wrap::{Effect, Fault, Operation, Rule};
use sluice_destination::{ByteRange, Destination, Key, list_all};
use sluice_repository::collect::{CollectOptions, CollectProgress};
use sluice_repository::doctor::repair::{Outcome, RepairOptions};
use sluice_repository::{
    BackupSession, Clock, CommitInfo, ErrorKind, ImageRecord, InitOptions, Repository,
    RestorePoint, SessionOptions, Settings,
};
use tempfile::TempDir;

use crate::collect::{assert_sound, blocks, content, eager, keys, save, under_way};
use crate::support::*;

const HOUR: Duration = Duration::from_secs(3600);
const AT_ONCE: RepairOptions =
    RepairOptions { min_age: Duration::ZERO, dry_run: false, most_named: usize::MAX };

/// A repository in a folder, which tells when objects were written.
struct Place {
    folder: TempDir,
    destination: Arc<dyn Destination>,
    repository: Repository,
}

impl Place {
    async fn new(heartbeat: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = FilesystemDestination::create(folder.path().join("store")).await;
        let destination: Arc<dyn Destination> = Arc::new(made.unwrap());
        let settings = Settings { heartbeat, ..settings(Some(&folder.path().join("cache"))) };
        let options = InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP, lock: None };
        let made = Repository::init(destination.clone(), Clock::system(), options, settings);
        Self { repository: made.await.unwrap().0, folder, destination }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join("store").join(key)
    }

    /// Lets an object look as if it was written long ago.
    fn age(&self, key: &str, by: Duration) {
        let file = fs::File::open(self.path(key)).unwrap();
        let written = file.metadata().unwrap().modified().unwrap();
        file.set_modified(written - by).unwrap();
    }

    async fn only(&self, prefix: &str) -> String {
        let mut found = keys(&*self.destination, prefix).await;
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// Spoils an object for good.
    async fn spoil(&self, key: &str) {
        let length = fs::metadata(self.path(key)).unwrap().len() as usize;
        let bytes = vec![0x55; length / 2];
        self.destination.put(&Key::new(key).unwrap(), bytes.into()).await.unwrap();
    }

    async fn repair(&self, options: RepairOptions) -> BTreeMap<String, Outcome> {
        let repaired = self.repository.repair(&options).await.unwrap();
        repaired.into_iter().map(|one| (one.flaw.object, one.outcome)).collect()
    }

    async fn collected(&self) -> Result<u64, String> {
        let done = self.repository.collect(&eager(), &CollectProgress::default()).await;
        done.map(|report| report.removed_packs).map_err(|error| error.to_string())
    }

    /// A collection that condemned packs, and died right after.
    async fn condemned(&self) -> String {
        let fault = Fault::new(self.destination.clone());
        fault.inject(Rule::new(Effect::Die).on(&[Operation::List]).below("s/").skip(1));
        let faulty: Arc<dyn Destination> = fault;
        let opened = Repository::open(faulty, Clock::system(), passphrase(), settings(None));
        let dying = opened.await.unwrap();
        dying.collect(&eager(), &CollectProgress::default()).await.unwrap_err();
        let found = keys(&*self.destination, "g/").await;
        found.into_iter().find(|key| key.ends_with("condemned")).expect("a condemned list")
    }
}

fn outcomes(pairs: &[(&str, Outcome)]) -> BTreeMap<String, Outcome> {
    pairs.iter().map(|(key, outcome)| ((*key).to_owned(), *outcome)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_flipped_bit_of_any_record_is_put_back_at_once() {
    let place = Place::new(HOUR).await;
    let first = save(&place.repository, "a", &blocks(&[1, 2])).await;
    let second = save(&place.repository, "a", &blocks(&[3])).await;
    let hold = |protection: &mut sluice_repository::Protection, _| {
        protection.hold(None);
        Ok(())
    };
    place.repository.change_protection(&second, "test", hold).await.unwrap();
    let pin = place.repository.pin(&second, "test").await.unwrap();
    place.repository.forget(&first, "test", "test").await.unwrap();
    place.condemned().await;
    let session = place.repository.begin("b", &SessionOptions::default()).await.unwrap();
    let mut seen = Vec::new();
    for object in list_all(&*place.destination, "").await.unwrap() {
        let (key, room) = (&object.key, object.key.as_str().split('/').next().unwrap().to_owned());
        if !["s", "p", "t", "h", "g"].contains(&room.as_str()) {
            continue;
        }
        seen.push(room);
        let sound = place.destination.get(key, ByteRange::Full).await.unwrap();
        for at in [0, 20, sound.len() / 2, sound.len() - 1] {
            let mut bytes = sound.to_vec();
            bytes[at] ^= 0x10;
            place.destination.put(key, bytes.clone().into()).await.unwrap();
            let wanted = outcomes(&[(key.as_str(), Outcome::Restored)]);
            let dry = RepairOptions { dry_run: true, ..RepairOptions::default() };
            assert_eq!(place.repair(dry).await, wanted);
            let there = place.destination.get(key, ByteRange::Full).await.unwrap();
            assert_eq!(there, bytes, "nothing is changed by a rehearsal");
            assert_eq!(place.repair(RepairOptions::default()).await, wanted);
            let there = place.destination.get(key, ByteRange::Full).await.unwrap();
            assert_eq!(there, sound, "byte {at} of {key}");
        }
    }
    seen.dedup();
    assert_eq!(seen, ["g", "h", "p", "s", "t"]);
    drop((session, pin));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_session_is_a_living_one_until_it_is_old_and_can_never_commit_then() {
    let place = Place::new(HOUR).await;
    let first = save(&place.repository, "a", &blocks(&[1])).await;
    let (session, records) = under_way(&place.repository, &blocks(&[1, 9])).await;
    place.repository.forget(&first, "test", "test").await.unwrap();
    let record = place.only("s/").await;
    place.spoil(&record).await;
    let refused = place.collected().await.unwrap_err();
    assert!(refused.contains("sluice doctor --repair") && refused.contains(&record), "{refused}");

    place.age(&record, HOUR * 23);
    let waits = place.repair(RepairOptions::default()).await;
    let Some(Outcome::Waits(left)) = waits.get(&record) else { panic!("{waits:?}") };
    assert!(*left <= HOUR && *left > HOUR / 2, "{left:?}");
    place.collected().await.unwrap_err();

    place.age(&record, HOUR);
    let wanted = outcomes(&[(&record, Outcome::Forgotten)]);
    let dry = RepairOptions { dry_run: true, ..RepairOptions::default() };
    assert_eq!(place.repair(dry).await, wanted);
    assert_eq!(place.only("s/").await, record);
    assert_eq!(place.repair(RepairOptions::default()).await, wanted);
    assert_eq!(
        keys(&*place.destination, "").await.iter().filter(|k| k.starts_with("probe")).count(),
        0
    );
    assert!(place.collected().await.unwrap() > 0);
    // It was only asleep: what it found is gone, and so is its right to commit.
    let error = session.commit(records, CommitInfo::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(place.repository.list(None).await.unwrap().points.len(), 0);
    assert_eq!(place.repair(AT_ONCE).await, BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_session_writes_its_damaged_record_again() {
    let place = Place::new(Duration::from_millis(20)).await;
    let (session, records) = under_way(&place.repository, &blocks(&[1])).await;
    let record = place.only("s/").await;
    place.spoil(&record).await;
    while !place.repository.traces().await.unwrap().damaged.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let point = session.commit(records, CommitInfo::default()).await.unwrap();
    assert_eq!(content(&place.repository, &point).await, blocks(&[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pin_protects_its_point_until_it_is_old() {
    let place = Place::new(HOUR).await;
    let first = save(&place.repository, "a", &blocks(&[1])).await;
    let pin = place.repository.pin(&first, "test").await.unwrap();
    place.repository.forget(&first, "test", "test").await.unwrap();
    let record = place.only("p/").await;
    place.spoil(&record).await;
    place.collected().await.unwrap_err();
    let waits = place.repair(RepairOptions::default()).await;
    assert!(matches!(waits.get(&record), Some(Outcome::Waits(_))), "{waits:?}");
    assert_eq!(content(&place.repository, &first).await, blocks(&[1]));
    place.age(&record, HOUR * 25);
    let wanted = outcomes(&[(&record, Outcome::Forgotten)]);
    assert_eq!(place.repair(RepairOptions::default()).await, wanted);
    assert_eq!(place.collected().await.unwrap(), 2);
    pin.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_condemned_list_removes_nothing_and_nothing_refers_to_what_it_may_name() {
    end_a_damaged_list(RepairOptions::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_refers_to_what_a_damaged_list_may_name_where_no_list_could_name_it_all() {
    end_a_damaged_list(RepairOptions { most_named: 2, ..RepairOptions::default() }).await;
}

async fn end_a_damaged_list(options: RepairOptions) {
    let place = Place::new(HOUR).await;
    let first = save(&place.repository, "a", &blocks(&[1, 2])).await;
    let second = save(&place.repository, "c", &blocks(&[3])).await;
    // It found block 1 before there was a list.
    let (session, records) = under_way(&place.repository, &blocks(&[1, 9])).await;
    place.repository.forget(&first, "test", "test").await.unwrap();
    let list = place.condemned().await;
    place.spoil(&list).await;
    for told in [
        place.collected().await.unwrap_err(),
        place.repository.begin("d", &SessionOptions::default()).await.unwrap_err().to_string(),
    ] {
        assert!(told.contains("sluice doctor --repair") && told.contains(&list), "{told}");
    }
    let packs = keys(&*place.destination, "d/").await;
    let waits = place.repair(options).await;
    assert!(matches!(waits.get(&list), Some(Outcome::Waits(_))), "{waits:?}");
    for key in keys(&*place.destination, "g/").await {
        place.age(&key, HOUR * 25);
    }
    let wanted = outcomes(&[(&list, Outcome::Ended)]);
    assert_eq!(place.repair(options).await, wanted);
    assert_eq!(keys(&*place.destination, "d/").await, packs, "a repair removes no pack");
    assert_eq!(place.repository.traces().await.unwrap().unfinished_collection, None);

    // Anything may have been condemned, and a collector may be asleep over it.
    let again = save(&place.repository, "e", &blocks(&[2, 3])).await;
    assert_eq!(again.stats.new_bytes, 2 * BLOCK);
    // What was referred to before stays, as far as the session says so.
    let point = session.commit(records, CommitInfo::default()).await.unwrap();
    for at in 0..2 {
        let removed = place.collected().await.unwrap();
        assert_eq!(removed > 0, at == 0 && !keys(&*place.destination, "t/").await.is_empty());
    }
    for (point, numbers) in [(&point, &[1, 9][..]), (&again, &[2, 3]), (&second, &[3])] {
        assert_eq!(content(&place.repository, point).await, blocks(numbers));
    }
    assert_sound(&open(place.destination.clone()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_that_a_repair_named_and_that_stay_leave_room_for_others() {
    let place = Place::new(HOUR).await;
    let mut points = Vec::new();
    for number in 0..8 {
        points.push(save(&place.repository, &format!("vm{number}"), &blocks(&[number])).await);
    }
    place.repository.forget(&points[0], "test", "test").await.unwrap();
    let list = place.condemned().await;
    place.spoil(&list).await;
    assert_eq!(place.repair(AT_ONCE).await, outcomes(&[(&list, Outcome::Ended)]));
    let month = 31 * 24 * HOUR.as_millis() as u64;
    let (clock, hand) = Clock::manual(Clock::system().now_ms() + month);
    let later = Repository::open(place.destination.clone(), clock, passphrase(), settings(None));
    let later = later.await.unwrap();
    for point in &points[1..4] {
        later.forget(point, "test", "test").await.unwrap();
    }
    // Fewer than the repair named; a data pack and a meta pack of each.
    let options = CollectOptions { most_named: 6, ..eager() };
    let mut removed = 0;
    for _ in 0..6 {
        let report = later.collect(&options, &CollectProgress::default()).await.unwrap();
        removed += report.removed_packs;
        hand.fetch_add(month, Ordering::SeqCst);
    }
    assert_eq!(removed, 8);
    for (number, point) in (4..).zip(&points[4..]) {
        assert_eq!(content(&later, point).await, blocks(&[number]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_of_collections_that_nothing_makes_good_are_ended_anew() {
    let place = Place::new(HOUR).await;
    for number in 0..2 {
        let point = save(&place.repository, "a", &blocks(&[number])).await;
        place.repository.forget(&point, "test", "test").await.unwrap();
        place.collected().await.unwrap();
    }
    let ends: Vec<_> = keys(&*place.destination, "g/").await;
    let ends: Vec<_> = ends.into_iter().filter(|key| key.ends_with("/done")).collect();
    assert_eq!(ends.len(), 2);
    let kept = save(&place.repository, "b", &blocks(&[7])).await;
    for end in &ends {
        place.spoil(end).await;
    }
    place.collected().await.unwrap_err();
    let wanted: Vec<_> = ends.iter().map(|end| (end.as_str(), Outcome::Ended)).collect();
    assert_eq!(place.repair(AT_ONCE).await, outcomes(&wanted));
    let again = save(&place.repository, "c", &blocks(&[7])).await;
    assert_eq!(again.stats.new_bytes, BLOCK);
    assert_eq!(place.collected().await.unwrap(), 0);
    assert_eq!(content(&place.repository, &kept).await, blocks(&[7]));
    assert_eq!(place.repository.traces().await.unwrap().damaged, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_time_is_told_what_may_live_stays() {
    let (destination, repository) = new_repository().await;
    let session = repository.begin("b", &SessionOptions::default()).await.unwrap();
    let record = list_all(&*destination, "s/").await.unwrap().remove(0).key;
    destination.put(&record, b"nothing"[..].into()).await.unwrap();
    let repaired = repository.repair(&AT_ONCE).await.unwrap();
    assert_eq!(repaired[0].outcome, Outcome::NoClock);
    assert_eq!(list_all(&*destination, "s/").await.unwrap().len(), 1);
    drop(session);
}

#[derive(Debug, Clone)]
enum Step {
    Save {
        instance: u8,
        numbers: Vec<u64>,
    },
    Begin {
        numbers: Vec<u64>,
    },
    Commit,
    Forget {
        which: usize,
    },
    Collect,
    /// A collection that dies at one of its requests.
    Die {
        at: u64,
    },
    Harm {
        which: usize,
        bits: u8,
    },
    Repair,
}

fn step() -> impl Strategy<Value = Step> {
    let numbers = || proptest::collection::vec(0u64..8, 1..5);
    prop_oneof![
        3 => (0u8..2, numbers()).prop_map(|(instance, numbers)| Step::Save { instance, numbers }),
        2 => numbers().prop_map(|numbers| Step::Begin { numbers }),
        2 => Just(Step::Commit),
        2 => (0usize..8).prop_map(|which| Step::Forget { which }),
        2 => Just(Step::Collect),
        2 => (4u64..40).prop_map(|at| Step::Die { at }),
        3 => (0usize..8, 1u8..4).prop_map(|(which, bits)| Step::Harm { which, bits }),
        3 => Just(Step::Repair),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn whatever_is_harmed_and_repaired_every_point_reads_and_collections_go_on(
        steps in proptest::collection::vec(step(), 4..24),
    ) {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2).enable_all().build().unwrap().block_on(play(steps));
    }
}

type Model = BTreeMap<String, (RestorePoint, Vec<u64>)>;

async fn play(steps: Vec<Step>) {
    let place = Place::new(HOUR).await;
    let mut model = Model::new();
    let mut open_one: Option<(BackupSession, Vec<ImageRecord>, Vec<u64>)> = None;
    for step in steps {
        match step {
            Step::Save { instance, numbers } => {
                if place.repository.begin("look", &SessionOptions::default()).await.is_err() {
                    continue; // A damaged list stops backups; the end of the test has none.
                }
                let instance = format!("vm{instance}");
                let point = save(&place.repository, &instance, &blocks(&numbers)).await;
                model.insert(point.to_string(), (point, numbers));
            }
            Step::Begin { numbers } => {
                if open_one.is_none()
                    && place.repository.begin("look", &SessionOptions::default()).await.is_ok()
                {
                    let (session, records) = under_way(&place.repository, &blocks(&numbers)).await;
                    open_one = Some((session, records, numbers));
                }
            }
            Step::Commit => {
                let Some((session, records, numbers)) = open_one.take() else { continue };
                if let Ok(point) = session.commit(records, CommitInfo::default()).await {
                    model.insert(point.to_string(), (point, numbers));
                }
            }
            Step::Forget { which } => {
                let Some(name) = model.keys().nth(which).cloned() else { continue };
                let (point, _) = model.remove(&name).unwrap();
                place.repository.forget(&point, "test", "test").await.unwrap();
            }
            Step::Collect => drop(place.collected().await),
            Step::Die { at } => {
                let fault = Fault::new(place.destination.clone());
                let faulty: Arc<dyn Destination> = fault.clone();
                let opened =
                    Repository::open(faulty, Clock::system(), passphrase(), settings(None));
                let dying = opened.await.unwrap();
                fault.inject(Rule::new(Effect::Die).skip(at));
                let options = CollectOptions { wait: Duration::ZERO, ..eager() };
                drop(dying.collect(&options, &CollectProgress::default()).await);
            }
            Step::Harm { which, bits } => harm(&place, which, bits).await,
            Step::Repair => drop(place.repair(AT_ONCE).await),
        }
        check(&place, &model).await;
    }
    drop(open_one);
    place.repair(AT_ONCE).await;
    place.collected().await.expect("nothing stops a collection after a repair");
    place.collected().await.unwrap();
    let after = save(&place.repository, "last", &blocks(&[1, 2, 3])).await;
    model.insert(after.to_string(), (after, vec![1, 2, 3]));
    check(&place, &model).await;
    assert_sound(&open(place.destination.clone()).await).await;
}

/// Flips as many bits of one of the records that stop collections when they cannot be read.
async fn harm(place: &Place, which: usize, bits: u8) {
    let mut found = Vec::new();
    for prefix in ["s/", "p/", "g/"] {
        found.extend(keys(&*place.destination, prefix).await);
    }
    let Some(key) = found.get(which % found.len().max(1)) else { return };
    let key = Key::new(key.clone()).unwrap();
    let mut bytes = place.destination.get(&key, ByteRange::Full).await.unwrap().to_vec();
    for bit in 0..usize::from(bits) {
        let at = (70 + bit * 5) % bytes.len();
        bytes[at] ^= 4;
    }
    place.destination.put(&key, bytes.into()).await.unwrap();
}

async fn check(place: &Place, model: &Model) {
    for (point, numbers) in model.values() {
        assert_eq!(content(&place.repository, point).await, blocks(numbers), "{point}");
    }
}
