//! Collections give back space, and never anything that is still needed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use sluice_block::BlockRead;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::wrap::{Effect, Fault, Rule};
use sluice_destination::{ByteRange, Destination, Key, list_all};
use sluice_engine::{Change, Progress, backup};
use sluice_repository::collect::{CollectOptions, CollectProgress, CollectReport};
use sluice_repository::{
    Base, Clock, CommitInfo, Depth, ErrorKind, InitOptions, Page, Repository, RestorePoint,
    SessionOptions, Settings, VerifyProgress,
};
use tokio_util::sync::CancellationToken;

use crate::support::*;

pub(crate) fn eager() -> CollectOptions {
    CollectOptions { min_saving: BLOCK, wait: Duration::ZERO, ..CollectOptions::default() }
}

pub(crate) async fn collect(repository: &Repository) -> CollectReport {
    repository.collect(&eager(), &CollectProgress::default()).await.unwrap()
}

pub(crate) async fn save(repository: &Repository, instance: &str, bytes: &[u8]) -> RestorePoint {
    let cancel = CancellationToken::new();
    let images = vec![image("disk", bytes, Change::Regions)];
    let done = backup(repository, instance, images, options(), Progress::new(), cancel).await;
    done.unwrap().point
}

pub(crate) async fn content(repository: &Repository, point: &RestorePoint) -> Vec<u8> {
    read_all(&repository.image(point, None).unwrap()).await
}

pub(crate) async fn keys(destination: &dyn Destination, prefix: &str) -> Vec<String> {
    let objects = list_all(destination, prefix).await.unwrap();
    objects.iter().map(|object| object.key.to_string()).collect()
}

pub(crate) async fn assert_sound(repository: &Repository) {
    let report = repository.verify(None, Depth::Data, Arc::new(VerifyProgress::default())).await;
    assert_eq!(report.unwrap().damage, []);
}

/// Blocks of noise; the same number is the same content.
pub(crate) fn blocks(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| noise(*number, BLOCK as usize)).collect()
}

#[tokio::test]
async fn what_nothing_references_goes_and_all_else_stays() {
    let (destination, repository) = new_repository().await;
    let first = save(&repository, "a", &blocks(&[1, 2, 3])).await;
    let second = save(&repository, "a", &blocks(&[4, 5, 6])).await;
    let other = save(&repository, "b", &blocks(&[7])).await;
    let nothing = collect(&repository).await;
    assert_eq!((nothing.removed_packs, nothing.compacted_packs, nothing.freed), (0, 0, 0));
    repository.forget(&first, "test", "test").await.unwrap();
    let before = keys(&*destination, "").await.len();
    let plan = repository.plan_collection(&eager(), &CollectProgress::default()).await.unwrap();
    assert_eq!((plan.dead_packs, plan.compact_packs, plan.gone), (2, 0, 1));
    assert_eq!(keys(&*destination, "").await.len(), before, "a plan changes nothing");
    let report = collect(&repository).await;
    // A data pack and a meta pack.
    assert_eq!((report.removed_packs, report.rescued), (2, 0));
    assert_eq!(report.freed, plan.freed);
    assert!(report.freed > 3 * BLOCK);
    assert_eq!(keys(&*destination, "r/").await.len(), 2);
    assert_eq!(keys(&*destination, "d/").await.len(), 2);
    assert_eq!(content(&repository, &second).await, blocks(&[4, 5, 6]));
    assert_eq!(content(&repository, &other).await, blocks(&[7]));
    assert_sound(&open(destination).await).await;
}

#[tokio::test]
async fn compacted_packs_are_read_and_referenced_as_before() {
    let (destination, repository) = new_repository().await;
    let first = save(&repository, "a", &blocks(&[1, 2, 3, 4, 5, 6])).await;
    let second = save(&repository, "a", &blocks(&[1, 12, 13, 14, 15, 6])).await;
    // A reader that knows the old places.
    let image = repository.image(&second, None).unwrap();
    let mut start = vec![0; BLOCK as usize];
    image.read_at(0, &mut start).await.unwrap();
    repository.forget(&first, "test", "test").await.unwrap();
    let report = collect(&repository).await;
    assert_eq!(report.compacted_packs, 1, "{report:?}");
    assert!(report.freed > 3 * BLOCK && report.moved < 2 * report.freed, "{report:?}");
    let packs = keys(&*destination, "d/").await;
    assert_eq!(packs.iter().filter(|key| key.ends_with(".1")).count(), 1, "{packs:?}");
    let fresh = open(destination.clone()).await;
    for repository in [&repository, &fresh] {
        assert_eq!(content(repository, &second).await, blocks(&[1, 12, 13, 14, 15, 6]));
        assert_sound(repository).await;
    }
    // The next point inherits from the compacted pack, and the pack shrinks once more.
    let third = save(&fresh, "a", &blocks(&[1, 22, 23, 24, 25, 26])).await;
    fresh.forget(&second, "test", "test").await.unwrap();
    collect(&fresh).await;
    let packs = keys(&*destination, "d/").await;
    assert!(packs.iter().any(|key| key.ends_with(".2")), "{packs:?}");
    assert_eq!(content(&fresh, &third).await, blocks(&[1, 22, 23, 24, 25, 26]));
    assert_sound(&open(destination).await).await;
}

#[tokio::test]
async fn a_pinned_point_stays_until_it_is_released() {
    let (destination, repository) = new_repository().await;
    let first = save(&repository, "a", &blocks(&[1])).await;
    save(&repository, "a", &blocks(&[2])).await;
    let pin = repository.pin(&first, "test").await.unwrap();
    repository.forget(&first, "test", "test").await.unwrap();
    assert_eq!(collect(&repository).await.removed_packs, 0);
    assert_eq!(content(&repository, &first).await, blocks(&[1]));
    pin.release().await;
    assert_eq!(collect(&repository).await.removed_packs, 2);
    assert_sound(&open(destination).await).await;
}

struct Busy {
    cache: tempfile::TempDir,
    destination: Arc<dyn Destination>,
    repository: Repository,
}

/// A repository whose sessions look for collections all the time, with a dedup index.
async fn busy(heartbeat: Duration) -> Busy {
    let cache = tempfile::tempdir().unwrap();
    let destination: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    let settings = Settings { heartbeat, ..settings(Some(cache.path())) };
    let options = InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP, lock: None };
    let made = Repository::init(destination.clone(), Clock::system(), options, settings);
    let repository = made.await.unwrap().0;
    Busy { cache, destination, repository }
}

/// A session of instance `b` that has stored one image of the given content but not committed.
pub(crate) async fn under_way(
    repository: &Repository,
    bytes: &[u8],
) -> (sluice_repository::BackupSession, Vec<sluice_repository::ImageRecord>) {
    let session = repository.begin("b", &SessionOptions::default()).await.unwrap();
    let size = bytes.len() as u64;
    let image = session.image("disk", "test", size, BLOCK as u32, Base::Empty, true).unwrap();
    let (writer, bytes) = (image.clone(), bytes.to_vec());
    let store = move || writer.store(&bytes, 0, None, None);
    let entries = repository.pool().run(store).await.unwrap().unwrap();
    let mut page = Page::empty(0);
    for (at, entry) in entries.into_iter().enumerate() {
        page.set(at, entry);
    }
    image.set_leaf(0, page).await.unwrap();
    let record = image.finish().await.unwrap();
    (session, vec![record])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_open_session_found_in_a_condemned_pack_is_rescued() {
    let busy = busy(Duration::from_millis(20)).await;
    let Busy { destination, repository, .. } = &busy;
    let first = save(repository, "a", &blocks(&[1, 2])).await;
    let (session, records) = under_way(repository, &blocks(&[1, 9])).await;
    assert_eq!(session.counters().dedup.load(std::sync::atomic::Ordering::Relaxed), BLOCK);
    repository.forget(&first, "test", "test").await.unwrap();
    // The session's chunks are referenced by nothing yet but the session itself.
    let options = CollectOptions { wait: Duration::from_secs(60), ..eager() };
    let report = repository.collect(&options, &CollectProgress::default()).await.unwrap();
    assert_eq!((report.waiting.len(), report.rescued), (0, 1), "{report:?}");
    let point = session.commit(records, CommitInfo::default()).await.unwrap();
    assert_eq!(content(repository, &point).await, blocks(&[1, 9]));
    // A rescued pack is never referenced anew: the same content is stored again.
    let again = save(repository, "c", &blocks(&[1, 2])).await;
    assert_eq!(again.stats.new_bytes, 2 * BLOCK);
    repository.forget(&point, "test", "test").await.unwrap();
    collect(repository).await;
    assert_eq!(content(repository, &again).await, blocks(&[1, 2]));
    assert_sound(&open(destination.clone()).await).await;
    drop(busy.cache);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_before_every_session_knows() {
    let busy = busy(Duration::from_secs(3600)).await;
    let Busy { destination, repository, .. } = &busy;
    let first = save(repository, "a", &blocks(&[1, 2])).await;
    let (session, records) = under_way(repository, &blocks(&[1, 9])).await;
    repository.forget(&first, "test", "test").await.unwrap();
    let packs = keys(&**destination, "d/").await;
    for _ in 0..2 {
        let report = collect(repository).await;
        assert_eq!(report.waiting.len(), 1, "{report:?}");
        assert_eq!(report.waiting[0].instance, "b");
        assert_eq!((report.removed_packs, report.compacted_packs), (0, 0));
        assert_eq!(keys(&**destination, "d/").await, packs);
    }
    // It learns right before it commits.
    let point = session.commit(records, CommitInfo::default()).await.unwrap();
    let report = collect(repository).await;
    assert!(report.plan.resumes && report.rescued == 1, "{report:?}");
    assert_eq!(content(repository, &point).await, blocks(&[1, 9]));
    assert_sound(&open(destination.clone()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_taken_for_dead_can_never_commit() {
    let busy = busy(Duration::from_secs(3600)).await;
    let Busy { destination, repository, .. } = &busy;
    let first = save(repository, "a", &blocks(&[1])).await;
    let (session, records) = under_way(repository, &blocks(&[1, 9])).await;
    repository.forget(&first, "test", "test").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let options = CollectOptions { silent: Duration::from_millis(1), ..eager() };
    let report = repository.collect(&options, &CollectProgress::default()).await.unwrap();
    assert_eq!(report.fenced, 1, "{report:?}");
    let error = session.commit(records, CommitInfo::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(repository.list(None).await.unwrap().points.len(), 0);
    // What it left behind goes with the next collection.
    collect(repository).await;
    assert_eq!(keys(&**destination, "d/").await, [""; 0]);
    let again = save(repository, "b", &blocks(&[1, 9])).await;
    assert_eq!(content(repository, &again).await, blocks(&[1, 9]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_session_is_fenced_at_once_and_its_packs_are_gone_on_with() {
    let busy = busy(Duration::from_secs(3600)).await;
    let Busy { destination, repository, .. } = &busy;
    let first = save(repository, "a", &blocks(&[1])).await;
    let (session, _) = under_way(repository, &blocks(&[1, 9])).await;
    let place = session.point().to_string();
    session.suspend().await.unwrap();
    repository.forget(&first, "test", "test").await.unwrap();
    let report = collect(repository).await;
    assert_eq!((report.waiting.len(), report.fenced, report.removed_packs), (0, 1, 2));
    let taken = keys(&**destination, "r/").await;
    assert!(taken.iter().any(|key| key.ends_with(&place)), "{taken:?}: its commit would come late");
    // What it stored itself was not condemned, and is not stored again.
    let next = save(repository, "b", &blocks(&[1, 9])).await;
    assert_eq!(next.stats.new_bytes, BLOCK);
    assert_eq!(keys(&**destination, "s/").await, [""; 0]);
    collect(repository).await;
    assert_eq!(content(repository, &next).await, blocks(&[1, 9]));
    assert_sound(&open(destination.clone()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_pack_that_comes_back_late_is_not_referenced() {
    let busy = busy(Duration::from_secs(3600)).await;
    let Busy { destination, repository, .. } = &busy;
    let first = save(repository, "a", &blocks(&[1, 2])).await;
    let key = list_all(&**destination, "d/").await.unwrap().remove(0).key;
    let bytes = destination.get(&key, ByteRange::Full).await.unwrap();
    repository.forget(&first, "test", "test").await.unwrap();
    assert_eq!(collect(repository).await.removed_packs, 2);
    collect(repository).await;
    // A request of its writer that was thought lost.
    destination.put(&key, bytes).await.unwrap();
    let again = save(repository, "b", &blocks(&[1, 2])).await;
    assert_eq!(again.stats.new_bytes, 2 * BLOCK);
    // And one of a collector.
    destination.delete(&key).await.unwrap();
    assert_eq!(content(repository, &again).await, blocks(&[1, 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_point_that_lost_parts_takes_nothing_with_it() {
    let (destination, repository) = new_repository().await;
    // Two leaves; the second one is shared by all points.
    let mut numbers: Vec<u64> = (1..=300).collect();
    let base = save(&repository, "a", &blocks(&numbers)).await;
    let known = keys(&*destination, "m/").await;
    numbers[..256].iter_mut().for_each(|number| *number += 1000);
    let first = save(&repository, "a", &blocks(&numbers)).await;
    let lost = keys(&*destination, "m/").await.into_iter().find(|key| !known.contains(key));
    numbers[..256].iter_mut().for_each(|number| *number += 1000);
    let second = save(&repository, "a", &blocks(&numbers)).await;
    let pin = repository.pin(&first, "test").await.unwrap();
    for point in [&base, &first] {
        repository.forget(point, "test", "test").await.unwrap();
    }
    // Its own leaf, the first slot of the pack; the page above it is sound and names both leaves.
    let lost = Key::new(lost.unwrap()).unwrap();
    let mut bytes = destination.get(&lost, ByteRange::Full).await.unwrap().to_vec();
    bytes[200] ^= 1;
    destination.put(&lost, bytes.into()).await.unwrap();
    let fresh = open(destination.clone()).await;
    let report = collect(&fresh).await;
    assert!(report.waiting.is_empty(), "{report:?}");
    let fresh = open(destination).await;
    assert!(content(&fresh, &second).await == blocks(&numbers));
    assert_sound(&fresh).await;
    pin.release().await;
}

#[tokio::test]
async fn damage_in_a_block_map_stops_a_collection() {
    let (destination, repository) = new_repository().await;
    let first = save(&repository, "a", &blocks(&[1])).await;
    save(&repository, "a", &blocks(&[2])).await;
    repository.forget(&first, "test", "test").await.unwrap();
    let packs = list_all(&*destination, "").await.unwrap();
    for pack in packs.iter().filter(|object| object.key.as_str().starts_with("m/")) {
        destination.delete(&pack.key).await.unwrap();
    }
    let repository = open(destination.clone()).await;
    let error = repository.collect(&eager(), &CollectProgress::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert_eq!(keys(&*destination, "d/").await.len(), 2);
}

/// Whoever may add objects and remove none must not have them removed.
#[tokio::test]
async fn what_is_put_beside_a_pack_does_not_take_it_away() {
    let (destination, repository) = new_repository().await;
    let bytes = blocks(&[1, 2, 3, 4]);
    let point = save(&repository, "a", &bytes).await;
    let packs = [keys(&*destination, "d/").await, keys(&*destination, "m/").await].concat();
    for pack in &packs {
        let sound = destination.get(&Key::new(pack).unwrap(), ByteRange::Full).await.unwrap();
        let mut changed = sound.to_vec();
        changed[200] ^= 1;
        let stem = pack.strip_suffix(".0").unwrap();
        for (name, body) in [
            ("3", sound.slice(..100)),
            ("4", changed.into()),
            ("07", sound),
            ("1048576", "rubbish".into()),
            ("4294967295", "rubbish".into()),
        ] {
            destination.put(&Key::new(format!("{stem}.{name}")).unwrap(), body).await.unwrap();
        }
    }
    for _ in 0..2 {
        collect(&open(destination.clone()).await).await;
        let left = [keys(&*destination, "d/").await, keys(&*destination, "m/").await].concat();
        assert!(packs.iter().all(|pack| left.contains(pack)), "{left:?}");
    }
    assert_eq!(content(&open(destination).await, &point).await, bytes);
}

/// Nor can a pack be moved to a name after which there is none: a copy of it is authentic.
#[tokio::test]
async fn a_pack_under_the_last_of_all_names_is_not_lost() {
    for number in [u32::MAX, u32::MAX - 1, 1 << 20, (1 << 20) - 1, (1 << 20) - 2] {
        let (destination, repository) = new_repository().await;
        let first = save(&repository, "a", &blocks(&[1, 2, 3, 4, 5, 6])).await;
        let kept = save(&repository, "a", &blocks(&[1, 7, 8, 9, 10, 11])).await;
        repository.forget(&first, "test", "test").await.unwrap();
        for pack in [keys(&*destination, "d/").await, keys(&*destination, "m/").await].concat() {
            let bytes = destination.get(&Key::new(&pack).unwrap(), ByteRange::Full).await.unwrap();
            let copy = format!("{}.{number}", pack.strip_suffix(".0").unwrap());
            destination.put(&Key::new(copy).unwrap(), bytes).await.unwrap();
        }
        for _ in 0..3 {
            collect(&open(destination.clone()).await).await;
            let repository = open(destination.clone()).await;
            assert_eq!(
                content(&repository, &kept).await,
                blocks(&[1, 7, 8, 9, 10, 11]),
                "{number}"
            );
            assert_sound(&repository).await;
        }
    }
}

#[tokio::test]
async fn a_number_that_no_collection_has_come_to_is_named() {
    let (destination, repository) = new_repository().await;
    let bytes = blocks(&[1, 2]);
    save(&repository, "a", &bytes).await;
    for ignored in ["g/18446744073709551615/done", "g/9/done", "g/007/condemned"] {
        destination.put(&Key::new(ignored).unwrap(), "rubbish".into()).await.unwrap();
    }
    save(&open(destination.clone()).await, "a", &bytes).await;
    collect(&repository).await;
    for part in ["condemned", "plan"] {
        let key = Key::new(format!("g/18446744073709551614/{part}")).unwrap();
        destination.put(&key, "rubbish".into()).await.unwrap();
        let repository = open(destination.clone()).await;
        let refused = repository.collect(&eager(), &CollectProgress::default()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Damaged);
        assert!(refused.to_string().contains(key.as_str()), "{refused}");
        // Backups have to know what is condemned.
        let begun = repository.begin("a", &SessionOptions::default()).await.map(drop);
        assert_eq!(begun.is_ok(), part == "plan", "{begun:?}");
        destination.delete(&key).await.unwrap();
    }
    save(&open(destination.clone()).await, "a", &bytes).await;
}

/// Kills a collection before or after its `n`th request, for every n, and lets the next finish.
#[tokio::test]
async fn a_collection_may_die_anywhere() {
    for effect in [Effect::Die, Effect::DieAfter] {
        die_everywhere(effect).await;
    }
}

async fn die_everywhere(effect: Effect) {
    let mut at = 0;
    loop {
        let memory: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
        let options = InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP, lock: None };
        let made = Repository::init(memory.clone(), Clock::system(), options, settings(None));
        let repository = made.await.unwrap().0;
        let first = save(&repository, "a", &blocks(&[1, 2, 3, 4, 5])).await;
        let second = save(&repository, "a", &blocks(&[1, 12, 13, 14, 15])).await;
        repository.forget(&first, "test", "test").await.unwrap();
        let fault = Fault::new(memory.clone());
        fault.inject(Rule::new(effect).skip(at));
        let faulty: Arc<dyn Destination> = fault;
        let dying = async {
            let repository =
                Repository::open(faulty.clone(), Clock::system(), passphrase(), settings(None));
            repository.await?.collect(&eager(), &CollectProgress::default()).await
        };
        let died = dying.await.is_err();
        let repository = open(memory.clone()).await;
        assert_eq!(content(&repository, &second).await, blocks(&[1, 12, 13, 14, 15]), "at {at}");
        let report = collect(&repository).await;
        assert!(report.waiting.is_empty() && report.failed.is_empty(), "at {at}: {report:?}");
        collect(&repository).await;
        let packs = keys(&*memory, "d/").await;
        assert_eq!(packs.len(), 2, "at {at}: {packs:?}");
        assert_eq!(packs.iter().filter(|key| key.ends_with(".1")).count(), 1, "at {at}");
        assert_eq!(content(&repository, &second).await, blocks(&[1, 12, 13, 14, 15]), "at {at}");
        assert_sound(&open(memory).await).await;
        if !died {
            assert!(at > 10);
            break;
        }
        at += 1;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Save { instance: u8, numbers: Vec<u64> },
    Forget { which: usize },
    Collect,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..2, proptest::collection::vec(0u64..12, 1..9))
            .prop_map(|(instance, numbers)| Step::Save { instance, numbers }),
        2 => (0usize..8).prop_map(|which| Step::Forget { which }),
        2 => Just(Step::Collect),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_point_reads_back_whatever_was_saved_pruned_and_collected(
        steps in proptest::collection::vec(step(), 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(play(steps));
    }
}

async fn play(steps: Vec<Step>) {
    let busy = busy(Duration::from_secs(60)).await;
    let mut repository = busy.repository.clone();
    let mut model: BTreeMap<String, (RestorePoint, Vec<u64>)> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Save { instance, numbers } => {
                let instance = format!("vm{instance}");
                let point = save(&repository, &instance, &blocks(&numbers)).await;
                model.insert(point.to_string(), (point, numbers));
            }
            Step::Forget { which } => {
                let Some(name) = model.keys().nth(which).cloned() else { continue };
                let (point, _) = model.remove(&name).unwrap();
                repository.forget(&point, "test", "test").await.unwrap();
            }
            Step::Collect => {
                let report = collect(&repository).await;
                assert!(report.waiting.is_empty() && report.failed.is_empty(), "{report:?}");
            }
            Step::Reopen => {
                let settings = settings(Some(busy.cache.path()));
                let destination = busy.destination.clone();
                let opened = Repository::open(destination, Clock::system(), passphrase(), settings);
                repository = opened.await.unwrap();
            }
        }
        for (point, numbers) in model.values() {
            assert_eq!(content(&repository, point).await, blocks(numbers), "{point}");
        }
    }
    assert_sound(&open(busy.destination.clone()).await).await;
}

#[tokio::test]
async fn a_damaged_end_of_a_collection_stops_nobody_and_taints_no_less() {
    for rounds in [1, 2, 3] {
        let busy = busy(Duration::from_secs(3600)).await;
        let Busy { destination, repository, .. } = &busy;
        let mut removed = Vec::new();
        for round in 0..rounds {
            let numbers = [round * 2 + 1, round * 2 + 2];
            let point = save(repository, "a", &blocks(&numbers)).await;
            let key = list_all(&**destination, "d/").await.unwrap().remove(0).key;
            let bytes = destination.get(&key, ByteRange::Full).await.unwrap();
            removed.push((numbers, key, bytes));
            repository.forget(&point, "test", "test").await.unwrap();
            assert_eq!(collect(repository).await.removed_packs, 2, "{rounds}");
        }
        let done = Key::new(format!("g/{rounds:010}/done")).unwrap();
        let mut bytes = destination.get(&done, ByteRange::Full).await.unwrap().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        destination.put(&done, bytes.into()).await.unwrap();
        let traces = repository.traces().await.unwrap();
        assert_eq!(traces.damaged.len(), 1, "{:?}", traces.damaged);
        assert_eq!(traces.damaged[0].object, done.as_str());
        // Late requests bring all of it back, and take it away again.
        for (_, key, bytes) in &removed {
            destination.put(key, bytes.clone()).await.unwrap();
        }
        let all: Vec<u64> = removed.iter().flat_map(|(numbers, ..)| *numbers).collect();
        let again = save(repository, "b", &blocks(&all)).await;
        assert_eq!(again.stats.new_bytes, all.len() as u64 * BLOCK, "{rounds}");
        for (_, key, _) in &removed {
            destination.delete(key).await.unwrap();
        }
        assert_eq!(content(repository, &again).await, blocks(&all));
        // The next collection replaces it, and forgets nothing either.
        collect(repository).await;
        for (_, key, bytes) in &removed {
            destination.put(key, bytes.clone()).await.unwrap();
        }
        let fresh = open(destination.clone()).await;
        assert_eq!(fresh.traces().await.unwrap().damaged, []);
        let verdicts = save(&fresh, "c", &blocks(&all[..1])).await;
        for (_, key, _) in &removed {
            destination.delete(key).await.unwrap();
        }
        assert_eq!(content(&fresh, &verdicts).await, blocks(&all[..1]));
    }
}
