//! Copies of points into a repository with other keys.

use std::sync::Arc;

use proptest::prelude::*;
use sluice_destination::wrap::{Count, Effect, Fault, Operation, Rule};
use sluice_destination::{Destination, list_all};
use sluice_engine::replicate::{CopyReport, plan};
use sluice_engine::{Progress, Result};
use sluice_repository::collect::{CollectOptions, CollectProgress};
use sluice_repository::replicate::{Filter, Options};
use sluice_repository::retention::Policy;
use sluice_repository::{Repository, RestorePoint};
use tokio_util::sync::CancellationToken;

use crate::replicate::{Side, assert_sound, bytes_of, flip, listed, objects, point_of};
use crate::support::*;

async fn copy_with(from: &Repository, to: &Repository, how: &Options) -> Result<CopyReport> {
    let planned = plan(from, to, how).await?;
    planned.run(how, 1, Progress::new(), CancellationToken::new()).await
}

async fn copy(from: &Repository, to: &Repository) -> CopyReport {
    copy_with(from, to, &Options::default()).await.unwrap()
}

/// The number of points that were copied, and the bytes read for them.
async fn copy_counted(from: &Repository, to: &Repository) -> (usize, u64) {
    let (how, progress) = (Options::default(), Progress::new());
    let planned = plan(from, to, &how).await.unwrap();
    let report = planned.run(&how, 1, progress.clone(), CancellationToken::new()).await.unwrap();
    (report.points.len(), progress.snapshot().read)
}

/// Every point has exactly one copy, in the same order, which reads as it does and says the same
/// of itself.
async fn assert_copied(from: &Repository, to: &Side) {
    assert_sound(to).await;
    let to = open(to.clone()).await;
    let (points, copies) = (listed(from).await, listed(&to).await);
    let origins: Vec<_> = copies.iter().map(|copy| copy.origin.unwrap().point).collect();
    assert_eq!(origins, points.iter().map(|point| point.id).collect::<Vec<_>>());
    for (point, copy) in points.iter().zip(&copies) {
        assert!(bytes_of(from, point).await == bytes_of(&to, copy).await, "{point} as {copy}");
        let told = |point: &RestorePoint| RestorePoint {
            id: copy.id,
            chain: copy.chain,
            parent: None,
            origin: None,
            images: Vec::new(),
            ..point.clone()
        };
        assert_eq!(told(point), told(copy));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_point_is_copied_once_and_only_what_changed_is_read() {
    let (_, from) = new_repository().await;
    let mut disk = noise(1, 8 << 20);
    point_of(&from, "a", &disk).await;
    disk[1 << 20..2 << 20].copy_from_slice(&noise(2, 1 << 20));
    point_of(&from, "a", &disk).await;
    point_of(&from, "b", &disk).await;
    let (destination, to) = new_repository().await;
    assert_eq!(copy(&from, &to).await.points.len(), 3);
    assert_copied(&from, &destination).await;
    let there = |prefix| objects(&destination, prefix);
    let (packs, mine) = (there("d/").await, from.destination().clone());
    assert!(!packs.is_empty());
    let ours = objects(&mine, "d/").await;
    assert!(packs.iter().all(|pack| !ours.contains(pack)), "packs are written anew");
    // Once more: nothing to do, and then what a day changed.
    assert_eq!(copy(&from, &to).await.points.len(), 0);
    disk[5 << 20..(5 << 20) + 10].fill(7);
    disk.truncate(7 << 20);
    point_of(&from, "a", &disk).await;
    assert_eq!(copy(&from, &to).await.points.len(), 1);
    assert_copied(&from, &destination).await;
    disk[0..10].fill(8);
    point_of(&from, "a", &disk).await;
    let (copied, read) = copy_counted(&from, &to).await;
    assert_eq!(copied, 1);
    assert_eq!(read, BLOCK);
    assert_copied(&from, &destination).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_in_between_makes_no_copy_wrong() {
    let (_, from) = new_repository().await;
    let first = noise(1, 2 << 20);
    point_of(&from, "a", &first).await;
    let (_, to) = new_repository().await;
    copy(&from, &to).await;
    point_of(&to, "a", &noise(5, 2 << 20)).await;
    let mut second = first;
    second[..10].fill(3);
    let point = point_of(&from, "a", &second).await;
    let report = copy(&from, &to).await;
    let (source, copied) = &report.points[0];
    assert_eq!(source.id, point.id);
    assert!(bytes_of(&to, copied).await == second);
}

#[tokio::test(flavor = "multi_thread")]
async fn wanted_points_only_and_what_the_target_keeps() {
    let (_, from) = new_repository().await;
    for number in 0..4 {
        point_of(&from, "a", &noise(number, 100_000)).await;
        point_of(&from, "b", &noise(number + 10, 100_000)).await;
    }
    let (_, to) = new_repository().await;
    let filter = Filter { instances: vec!["a".into()], latest: Some(1), since_ms: None };
    let how = Options { filter, ..Options::default() };
    assert_eq!(copy_with(&from, &to, &how).await.unwrap().points.len(), 1);
    // What is older than a copy is copied as well, and stands before it.
    let keep = Policy { keep_last: Some(2), ..Policy::default() };
    let how = Options { keep: Some(keep), ..Options::default() };
    let report = copy_with(&from, &to, &how).await.unwrap();
    assert_eq!((report.points.len(), report.pruned.len()), (3, 0));
    point_of(&from, "b", &noise(20, 100_000)).await;
    let report = copy_with(&from, &to, &how).await.unwrap();
    assert_eq!((report.points.len(), report.pruned.len()), (1, 1));
    let left = listed(&to).await.into_iter().map(|copy| copy.origin.unwrap().point);
    let points = listed(&from).await;
    let newest = [2, 3, 7, 8].map(|at: usize| points[at].id);
    assert_eq!(left.collect::<Vec<_>>(), newest);
    let nobody = Filter { instances: vec!["nobody".into()], ..Filter::default() };
    let nobody = Options { filter: nobody, ..Options::default() };
    copy_with(&from, &to, &nobody).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_point_is_told_and_the_others_are_copied() {
    let (source, from) = new_repository().await;
    for number in 0..3 {
        point_of(&from, "a", &noise(number, 400_000)).await;
    }
    let points = listed(&from).await;
    let packs = objects(&source, "d/").await.into_iter();
    let name = |key: &sluice_destination::Key| key.as_str().rsplit('/').next().unwrap().to_owned();
    let mut packs: Vec<_> = packs.collect();
    packs.sort_by_key(name);
    flip(&source, &packs[1]).await;
    let from = open(source).await;
    let (destination, to) = new_repository().await;
    let report = copy(&from, &to).await;
    let copied: Vec<_> = report.points.iter().map(|(point, _)| point.id).collect();
    assert_eq!(copied, [points[0].id, points[2].id]);
    assert_eq!(report.damage.len(), 1);
    assert_eq!(report.damage[0].object, points[1].to_string());
    assert!(report.damage[0].problem.contains(packs[1].as_str()), "{:?}", report.damage);
    assert_sound(&destination).await;
}

/// A backup that has all but committed, and goes on when it is told to.
struct Slow {
    fault: Arc<Fault>,
    backup: tokio::task::JoinHandle<RestorePoint>,
}

impl Slow {
    async fn begin(from: &Repository, instance: &str, disk: &[u8]) -> Self {
        let fault = Fault::new(from.destination().clone());
        fault.inject(Rule::new(Effect::Hold).on(Operation::PUTS).below("r/").once());
        let (slow, instance) = (open(fault.clone()).await, instance.to_owned());
        let disk = disk.to_vec();
        let backup = tokio::spawn(async move { point_of(&slow, &instance, &disk).await });
        while fault.injected() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        Self { fault, backup }
    }

    async fn end(self) -> RestorePoint {
        self.fault.heal();
        self.backup.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_is_committed_late_gets_its_copy_in_its_place() {
    let (_, from) = new_repository().await;
    let mut disk = noise(1, 2 << 20);
    let first = point_of(&from, "a", &disk).await;
    disk[..10].fill(1);
    let slow = Slow::begin(&from, "a", &disk).await;
    let early = Slow::begin(&from, "b", &disk).await;
    let content = disk.clone();
    disk[1 << 20..(1 << 20) + 10].fill(2);
    let last = point_of(&from, "a", &disk).await;
    point_of(&from, "b", &disk).await;
    let (destination, to) = new_repository().await;
    assert_eq!(copy(&from, &to).await.points.len(), 3);
    let (late, _) = (slow.end().await, early.end().await);
    assert!(first.id < late.id && late.id < last.id);
    // Of each only what differs from its neighbour is read, be that older or newer.
    let (copied, read) = copy_counted(&from, &to).await;
    assert_eq!(copied, 2);
    assert_eq!(read, 2 * BLOCK);
    assert_copied(&from, &destination).await;
    let newest = listed(&to).await.into_iter().rfind(|copy| copy.instance == "a").unwrap();
    assert_eq!(newest.origin.unwrap().point, last.id, "the newest is still the newest");
    let copies = listed(&to).await;
    let copy_of = |id| copies.iter().find(|copy| copy.origin.unwrap().point == id).unwrap();
    assert!(bytes_of(&to, copy_of(late.id)).await == content);
    assert_eq!(copy_of(late.id).parent, Some(copy_of(first.id).id));
    assert_eq!(copy(&from, &to).await.points.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_removed_does_not_come_back_even_after_a_collection() {
    let (_, from) = new_repository().await;
    for number in 0..4 {
        point_of(&from, "a", &noise(number, 100_000)).await;
    }
    let (destination, to) = new_repository().await;
    // The third one comes late, behind the one that is removed.
    let slow = Slow::begin(&from, "a", &noise(9, 100_000)).await;
    point_of(&from, "a", &noise(4, 100_000)).await;
    copy(&from, &to).await;
    let copies = listed(&to).await;
    for gone in [0, 3] {
        to.forget(&copies[gone], "test", "test").await.unwrap();
    }
    to.collect(&CollectOptions::default(), &CollectProgress::default()).await.unwrap();
    let records = list_all(&*destination, "r/").await.unwrap();
    assert_eq!(records.len(), 3, "their records are gone as well");
    let to = open(destination.clone()).await;
    assert_eq!(copy(&from, &to).await.points.len(), 0);
    let late = slow.end().await;
    let report = copy(&from, &to).await;
    let copied: Vec<_> = report.points.iter().map(|(point, _)| point.id).collect();
    assert_eq!(copied, [late.id], "next to a tombstone that is another's");
}

/// Finding out what is missing costs requests for points, and none for what is in them.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_found_without_reading_maps() {
    let mut requests = Vec::new();
    for size in [100_000, 18 << 20] {
        let (_, from) = new_repository().await;
        let (destination, to) = new_repository().await;
        for number in 0..3 {
            point_of(&from, "a", &noise(number, size)).await;
        }
        copy(&from, &to).await;
        point_of(&from, "a", &noise(9, size)).await;
        let counts = [from.destination().clone(), destination].map(|one| Arc::new(Count::new(one)));
        let counters = counts.each_ref().map(|count| count.counters());
        let [from, to] = counts.map(|count| count as Side);
        let (from, to) = (open(from).await, open(to).await);
        let before = counters.each_ref().map(|one| one.snapshot().requests());
        let planned = plan(&from, &to, &Options::default()).await.unwrap();
        assert_eq!((planned.points().len(), planned.present()), (1, 3));
        let after = counters.each_ref().map(|one| one.snapshot().requests());
        requests.push([after[0] - before[0], after[1] - before[1]]);
    }
    assert_eq!(requests[0], requests[1]);
    assert!(requests[0].iter().sum::<u64>() < 20, "{requests:?}");
}

#[derive(Debug, Clone)]
enum Step {
    Backup {
        instance: u8,
        seed: u64,
        at: u8,
        shorter: u16,
    },
    /// One of an instance ends after another that began later, and perhaps was copied.
    Late {
        instance: u8,
        seed: u64,
        copied: bool,
    },
    Kill {
        puts: u64,
        after: bool,
    },
    Copy,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..2, 0u64..5, any::<u8>(), prop_oneof![3 => Just(0), 1 => 1u16..3000]).prop_map(
            |(instance, seed, at, shorter)| Step::Backup { instance, seed, at, shorter },
        ),
        1 => (0u8..2, 0u64..5, any::<bool>())
            .prop_map(|(instance, seed, copied)| Step::Late { instance, seed, copied }),
        3 => (0u64..12, any::<bool>()).prop_map(|(puts, after)| Step::Kill { puts, after }),
        1 => Just(Step::Copy),
    ]
}

async fn run_steps(steps: Vec<Step>) {
    let (_, from) = new_repository().await;
    let (destination, _) = new_repository().await;
    let fault = Fault::new(destination.clone());
    let faulty: Arc<dyn Destination> = fault.clone();
    let mut disks = vec![noise(77, 1_500_000); 2];
    for step in steps {
        match step {
            Step::Backup { instance, seed, at, shorter } => {
                let disk = &mut disks[usize::from(instance)];
                let begin = disk.len() * usize::from(at) / 256;
                let end = (begin + 150_000).min(disk.len());
                disk[begin..end].copy_from_slice(&noise(seed, end - begin));
                disk.truncate(disk.len() - usize::from(shorter));
                point_of(&from, &format!("vm-{instance}"), disk).await;
            }
            Step::Late { instance, seed, copied } => {
                let (name, disk) = (format!("vm-{instance}"), &mut disks[usize::from(instance)]);
                let slow = Slow::begin(&from, &name, disk).await;
                disk[..100_000].copy_from_slice(&noise(seed, 100_000));
                point_of(&from, &name, disk).await;
                if copied {
                    copy(&from, &open(faulty.clone()).await).await;
                }
                slow.end().await;
            }
            Step::Kill { puts, after } => {
                let to = open(faulty.clone()).await;
                let effect = if after { Effect::DieAfter } else { Effect::Die };
                fault.inject(Rule::new(effect).on(Operation::PUTS).skip(puts));
                // It may have had fewer puts to make.
                let _ = copy_with(&from, &to, &Options::default()).await;
                fault.heal();
                assert_sound(&destination).await;
            }
            Step::Copy => drop(copy(&from, &open(faulty.clone()).await).await),
        }
    }
    copy(&from, &open(faulty.clone()).await).await;
    assert_copied(&from, &destination).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn each_point_has_one_copy_whatever_was_killed(
        steps in proptest::collection::vec(step(), 3..12),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(run_steps(steps));
    }
}
