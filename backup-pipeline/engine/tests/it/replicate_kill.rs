//! Replications that are killed: what can be seen at the target is whole, and the next run
//! completes it.

use proptest::prelude::*;
use sluice_destination::wrap::{Effect, Fault, Operation, Rule};
use sluice_repository::replicate::{Filter, Options, Relation, relation};

use crate::replicate::{
    Side, assert_equal, assert_sound, bytes_of, keyed, keyless, listed, memory, names, objects,
    point_of, replicate, replicate_with,
};
use crate::support::*;

#[derive(Debug, Clone)]
enum Step {
    Backup { instance: u8, seed: u64, at: u8 },
    Prune { which: u8 },
    Kill { puts: u64, after: bool, with_key: bool, only: Option<u8> },
    Copy { with_key: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..3, 0u64..5, any::<u8>())
            .prop_map(|(instance, seed, at)| Step::Backup { instance, seed, at }),
        1 => any::<u8>().prop_map(|which| Step::Prune { which }),
        4 => (0u64..25, any::<bool>(), any::<bool>(), proptest::option::of(0u8..3)).prop_map(
            |(puts, after, with_key, only)| Step::Kill { puts, after, with_key, only }
        ),
        1 => any::<bool>().prop_map(|with_key| Step::Copy { with_key }),
    ]
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// What must be at the target after a complete run: what was copied before and not pruned at the
/// target, and all that the source has.
async fn run_steps(steps: Vec<Step>, mirror: bool) {
    let (source, repository) = new_repository().await;
    let target = memory();
    let fault = Fault::new(target.clone());
    let faulty: Side = fault.clone();
    let how = || Options { mirror_prunes: mirror, ..Options::default() };
    let from = |with_key| if with_key { keyed(&source, &repository) } else { keyless(&source) };
    let mut disks = vec![noise(77, 900_000); 3];
    for step in steps {
        match step {
            Step::Backup { instance, seed, at } => {
                let disk = &mut disks[usize::from(instance)];
                let from = disk.len() * usize::from(at) / 256;
                let to = (from + 150_000).min(disk.len());
                disk[from..to].copy_from_slice(&noise(seed, to - from));
                point_of(&repository, &format!("vm-{instance}"), disk).await;
            }
            Step::Prune { which } => {
                let points = listed(&repository).await;
                if let Some(point) = points.get(usize::from(which) % points.len().max(1)) {
                    repository.forget(point, "test", "test").await.unwrap();
                }
            }
            Step::Kill { puts, after, with_key, only } => {
                let effect = if after { Effect::DieAfter } else { Effect::Die };
                fault.inject(Rule::new(effect).on(Operation::PUTS).skip(puts));
                let instances = only.iter().map(|instance| format!("vm-{instance}")).collect();
                let filter = Filter { instances, latest: only.map(|_| 2), since_ms: None };
                let how = Options { filter, ..how() };
                // It may have had fewer puts to make, or be asked for an instance without points.
                let _ = replicate_with(from(with_key || only.is_some()), &faulty, how).await;
                fault.heal();
                // Whatever was cut off: what can be seen is whole.
                match relation(&*source, &*target).await.unwrap() {
                    Relation::Empty => assert_eq!(objects(&target, "r/").await, []),
                    found => {
                        assert_eq!(found, Relation::Replica);
                        assert_sound(&target).await;
                    }
                }
            }
            Step::Copy { with_key } => {
                let report = replicate_with(from(with_key), &faulty, how()).await.unwrap();
                assert_eq!(report.damage, []);
            }
        }
    }
    let report = replicate_with(keyless(&source), &faulty, how()).await.unwrap();
    assert_eq!(report.damage, []);
    let wanted = listed(&repository).await;
    let there = assert_sound(&target).await;
    for point in &wanted {
        assert!(names(&there).contains(&point.to_string()), "{point} is missing");
    }
    if mirror {
        assert_eq!(names(&there), names(&wanted));
    }
    let target = open(target).await;
    for point in &wanted {
        assert!(bytes_of(&target, point).await == bytes_of(&repository, point).await, "{point}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn a_replica_is_valid_at_any_moment_and_complete_in_the_end(
        steps in proptest::collection::vec(step(), 3..14),
        mirror in any::<bool>(),
    ) {
        runtime().block_on(run_steps(steps, mirror));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_killed_at_each_of_its_puts_goes_on_where_it_was() {
    let (source, repository) = new_repository().await;
    for seed in 0..2 {
        point_of(&repository, "a", &noise(seed, 100_000)).await;
    }
    let points = listed(&repository).await;
    for effect in [Effect::Die, Effect::DieAfter] {
        let mut puts = 0;
        loop {
            let target = memory();
            let fault = Fault::new(target.clone());
            fault.inject(Rule::new(effect).on(Operation::PUTS).skip(puts));
            let faulty: Side = fault.clone();
            let killed = replicate_with(keyless(&source), &faulty, Options::default()).await;
            if relation(&*source, &*target).await.unwrap() == Relation::Replica {
                assert_sound(&target).await;
            }
            let before = objects(&target, "d/").await.len();
            let report = replicate(keyless(&source), &target).await;
            let packs = objects(&target, "d/").await.len() + objects(&target, "m/").await.len();
            assert!(before == 0 || report.packs < packs as u64, "all was sent again");
            assert_equal(&repository, &target, &points).await;
            if killed.is_ok() {
                break;
            }
            puts += 1;
        }
        assert!(puts > 15, "{puts} puts are fewer than there are objects");
    }
}
