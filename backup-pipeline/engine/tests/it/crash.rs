//! A run killed after each of its requests, and destinations that fail: the repository stays
//! valid, earlier points stay whole, and the next run goes on.

use std::sync::Arc;

use proptest::test_runner::TestRng;
use sluice_block::{ErrorKind as BlockKind, FaultyRead, MemoryDisk};
use sluice_destination::memory::MemoryDestination;
use sluice_destination::wrap::{Effect, Fault, Operation, Rule};
use sluice_destination::{Destination, ErrorKind as DestinationKind, list_all};
use sluice_engine::{Change, ErrorKind, Progress, backup};
use sluice_repository::{
    Clock, Depth, ErrorKind as RepositoryKind, InitOptions, Repository, Unlock, VerifyProgress,
};
use tokio_util::sync::CancellationToken;

use crate::support::*;

/// Incompressible data of about three packs, so that a run has many requests to die at.
fn disk() -> Vec<u8> {
    noise(1, 70 << 20)
}

fn changed_disk() -> Vec<u8> {
    let mut disk = disk();
    disk[..40 << 20].copy_from_slice(&noise(2, 40 << 20));
    disk
}

async fn faulty() -> (Arc<dyn Destination>, Arc<Fault>) {
    let (destination, _) = new_repository().await;
    let fault = Fault::new(destination.clone());
    (destination, fault)
}

async fn assert_sound(repository: &Repository) {
    let verified = repository.verify(None, Depth::Data, Arc::<VerifyProgress>::default()).await;
    assert_eq!(verified.unwrap().damage, []);
}

async fn assert_reads(repository: &Repository, number: usize, bytes: &[u8]) {
    let listing = repository.list(Some("vm")).await.unwrap();
    let image = repository.image(&listing.points[number], None).unwrap();
    assert!(read_all(&image).await == bytes, "point {number} differs");
}

async fn dies(effect: Effect) {
    let (first, second) = (disk(), changed_disk());
    let mut survived = 0;
    for step in 0.. {
        let (destination, fault) = faulty().await;
        back_up(&open(destination.clone()).await, &first, Change::Regions).await;
        fault.inject(Rule::new(effect).on(Operation::WRITES).skip(step).once());
        let doomed = open(fault.clone()).await;
        let run = run(&doomed, vec![image("disk", &second, Change::Regions)]).await;
        let after = open(destination.clone()).await;
        assert_sound(&after).await;
        assert_reads(&after, 0, &first).await;
        let points = after.list(Some("vm")).await.unwrap().points.len();
        if run.is_ok() {
            assert_eq!(points, 2);
            assert_reads(&after, 1, &second).await;
            survived += 1;
            if !fault.is_dead() {
                break; // every request has had its turn
            }
            continue;
        }
        // Going on sends nothing again that was durable.
        let durable: u64 = stored_data(&destination).await;
        let again = run_again(&after, &second).await;
        let total: u64 = stored_data(&destination).await;
        assert_eq!(total - durable, again.stats.stored_bytes + overhead(&again, total - durable));
        let points = after.list(Some("vm")).await.unwrap().points.len();
        assert_reads(&after, points - 1, &second).await;
        assert_sound(&after).await;
        assert!(again.stats.new_bytes <= 40 << 20, "step {step}");
    }
    assert!(survived >= 1);
}

async fn run_again(repository: &Repository, bytes: &[u8]) -> sluice_repository::RestorePoint {
    run(repository, vec![image("disk", bytes, Change::Regions)]).await.unwrap().point
}

async fn stored_data(destination: &Arc<dyn Destination>) -> u64 {
    list_all(&**destination, "d/").await.unwrap().iter().map(|object| object.size).sum()
}

/// Headers, tables and footers of the packs that were added.
fn overhead(point: &sluice_repository::RestorePoint, added: u64) -> u64 {
    added.checked_sub(point.stats.stored_bytes).expect("packs hold what the statistics say")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_killed_before_any_request_leaves_a_sound_repository_and_goes_on() {
    dies(Effect::Die).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_killed_after_any_request_leaves_a_sound_repository_and_goes_on() {
    dies(Effect::DieAfter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn going_on_after_a_crash_reuses_what_was_durable() {
    let (destination, fault) = faulty().await;
    // The third pack and all that follows are lost.
    fault.inject(Rule::new(Effect::Die).on(Operation::PUTS).below("d/").skip(2).once());
    let doomed = open(fault.clone()).await;
    run(&doomed, vec![image("disk", &disk(), Change::Regions)]).await.unwrap_err();
    drop(doomed);
    let again = open(destination.clone()).await;
    let outcome = run(&again, vec![image("disk", &disk(), Change::Regions)]).await.unwrap();
    assert_eq!(outcome.resumed_packs, 2);
    assert!(outcome.point.stats.new_bytes < 10 << 20, "{:?}", outcome.point.stats);
    assert!(list_all(&*destination, "s/").await.unwrap().is_empty(), "the dead session is gone");
    assert_reads(&again, 0, &disk()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_the_commit_is_not_a_failure() {
    let (destination, fault) = faulty().await;
    let lost = Effect::FailAfter(DestinationKind::Unavailable);
    fault.inject(Rule::new(lost).on(&[Operation::PutNew]).below("r/").once());
    let repository = open(fault).await;
    run(&repository, vec![image("disk", &disk(), Change::Regions)]).await.unwrap();
    assert_eq!(open(destination).await.list(None).await.unwrap().points.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_destination_is_named_and_nothing_earlier_is_lost() {
    let (destination, fault) = faulty().await;
    back_up(&open(destination.clone()).await, &disk(), Change::Regions).await;
    fault.inject(Rule::new(Effect::Fail(DestinationKind::NoSpace)).on(Operation::PUTS).below("d/"));
    let repository = open(fault).await;
    let failed = run(&repository, vec![image("disk", &changed_disk(), Change::Regions)]).await;
    let no_space = RepositoryKind::Destination(DestinationKind::NoSpace);
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Repository(no_space));
    let after = open(destination).await;
    assert_sound(&after).await;
    assert_reads(&after, 0, &disk()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_in_the_middle_leaves_no_point() {
    let (destination, repository) = new_repository().await;
    let source = FaultyRead::new(MemoryDisk::from_bytes(&disk()), 50 << 20, BlockKind::Io);
    let source = Arc::new(source);
    let failed =
        run(&repository, vec![device_image("disk", source.clone(), Change::Regions)]).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Source);
    assert!(repository.list(None).await.unwrap().points.is_empty());
    source.set_fail_from(u64::MAX);
    let again = run(&repository, vec![device_image("disk", source, Change::Regions)]).await;
    assert!(again.unwrap().point.stats.new_bytes < 40 << 20, "the first 50 MiB were kept");
    assert_reads(&open(destination).await, 0, &disk()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_keeps_what_it_stored() {
    let (_, repository) = new_repository().await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let images = vec![image("disk", &disk(), Change::Regions)];
    let stopped = backup(&repository, "vm", images, options(), Progress::new(), cancel).await;
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(repository.list(None).await.unwrap().points.is_empty());
    back_up(&repository, &disk(), Change::Regions).await;
    assert_sound(&repository).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_backups_of_one_chain_at_once_both_become_points() {
    let (destination, one) = new_repository().await;
    let two = open(destination.clone()).await;
    let (first, second) = (disk(), changed_disk());
    let (a, b) = tokio::join!(
        run(&one, vec![image("disk", &first, Change::Regions)]),
        run(&two, vec![image("disk", &second, Change::Regions)]),
    );
    let (a, b) = (a.unwrap().point, b.unwrap().point);
    let after = open(destination).await;
    assert_eq!(after.list(Some("vm")).await.unwrap().points.len(), 2);
    assert!(read_all(&after.image(&a, None).unwrap()).await == first);
    assert!(read_all(&after.image(&b, None).unwrap()).await == second);
    assert_sound(&after).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_a_day_behind_keeps_the_order_of_points() {
    let destination: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    let day = 24 * 3600 * 1000;
    let (clock, hand) = Clock::manual(10 * day);
    let options = InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP };
    let made = Repository::init(destination, clock, options, settings(None)).await.unwrap();
    let repository = made.0;
    let first = back_up(&repository, &noise(1, 1 << 20), Change::Regions).await;
    hand.store(9 * day, std::sync::atomic::Ordering::SeqCst);
    let second = back_up(&repository, &noise(2, 1 << 20), Change::Regions).await;
    assert!(second.id > first.id);
    assert_eq!(second.created_ms, 9 * day, "the time told is the clock's");
    let zone = jiff::tz::TimeZone::UTC;
    let latest = sluice_repository::PointSpec::parse("vm@latest", &zone).unwrap();
    assert_eq!(repository.resolve(&latest).await.unwrap().id, second.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_passphrase_and_strange_places_are_told_apart() {
    let (destination, repository) = new_repository().await;
    let open = async |destination, unlock| {
        Repository::open(destination, Clock::system(), unlock, settings(None)).await
    };
    let wrong = Unlock::Passphrase("wrong".to_owned().into());
    let error = open(destination.clone(), wrong).await.unwrap_err();
    assert_eq!(error.kind(), RepositoryKind::WrongKey);
    let error = open(destination.clone(), Unlock::Open).await.unwrap_err();
    assert_eq!(error.kind(), RepositoryKind::WrongKey);
    let empty = Arc::new(MemoryDestination::new());
    let error = open(empty, passphrase()).await.unwrap_err();
    assert_eq!(error.kind(), RepositoryKind::NotARepository);
    let (_, recovery) = repository.add_recovery("safe").await.unwrap();
    open(destination.clone(), Unlock::Recovery(recovery)).await.unwrap();
    let newer = Arc::new(MemoryDestination::new());
    let key = sluice_destination::Key::new("format").unwrap();
    let body = br#"{"magic":"sluice repository","min_reader":3}"#;
    newer.put(&key, body.as_slice().into()).await.unwrap();
    let error = open(newer, passphrase()).await.unwrap_err();
    assert_eq!(error.kind(), RepositoryKind::NewerFormat);
    let options = InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP };
    let again = Repository::init(destination, Clock::system(), options, settings(None)).await;
    assert_eq!(again.unwrap_err().kind(), RepositoryKind::AlreadyARepository);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_conditions_is_refused() {
    let fault = Fault::new(Arc::new(MemoryDestination::new()));
    fault.inject(Rule::new(Effect::IgnoreCondition));
    let options = InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP };
    let refused = Repository::init(fault, Clock::system(), options, settings(None)).await;
    let unfit = RepositoryKind::Destination(DestinationKind::Unfit);
    assert_eq!(refused.unwrap_err().kind(), unfit);
}

/// Flips bits and cuts ends in every object, one at a time: reading gives the right bytes or an
/// error that names the object, and verifying names it too.
#[tokio::test(flavor = "multi_thread")]
async fn damage_anywhere_is_found_and_named_and_never_read() {
    let (destination, repository) = new_repository().await;
    let bytes = noise(1, 3 << 20);
    let point = back_up(&repository, &bytes, Change::Regions).await;
    let mut random = TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    let objects = list_all(&*destination, "").await.unwrap();
    for object in objects.iter().filter(|object| !object.key.as_str().starts_with("x/")) {
        let range = sluice_destination::ByteRange::Full;
        let good = destination.get(&object.key, range).await.unwrap();
        for round in 0..12 {
            let mut bad = good.to_vec();
            let at = (next(&mut random) % good.len() as u64) as usize;
            if round % 4 == 3 {
                bad.truncate(at);
            } else {
                bad[at] ^= 1 << (round % 8);
            }
            destination.put(&object.key, bad.into()).await.unwrap();
            let fresh = Repository::open(
                destination.clone(),
                Clock::system(),
                passphrase(),
                settings(None),
            );
            // A descriptor or key slot that is damaged opens nothing, or is harmlessly so.
            if let Ok(fresh) = fresh.await {
                let report = fresh.verify(None, Depth::Data, Arc::default()).await.unwrap();
                let key = object.key.as_str();
                let named = report.damage.iter().any(|damage| damage.object.starts_with(key));
                let optional = key == "format" || key.starts_with("keys/");
                assert!(named || optional, "{key} byte {at} round {round}: {report:?}");
                if let Ok(image) = fresh.image(&point, None) {
                    let mut read = vec![0; bytes.len()];
                    let result = sluice_block::BlockRead::read_at(&image, 0, &mut read).await;
                    assert!(result.is_err() || read == bytes, "wrong bytes from {key}");
                }
            }
        }
        destination.put(&object.key, good).await.unwrap();
    }
    assert_sound(&open(destination).await).await;
}

fn next(random: &mut TestRng) -> u64 {
    use proptest::prelude::Rng;
    random.next_u64()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescan_stores_again_what_the_repository_has_lost() {
    for lost in ["d/", "m/"] {
        let (destination, repository) = new_repository().await;
        let bytes = disk();
        let first = back_up(&repository, &bytes, Change::Regions).await;
        let packs = list_all(&*destination, lost).await.unwrap();
        destination.delete(&packs[0].key).await.unwrap();
        let fresh = open(destination.clone()).await;
        let healed = back_up(&fresh, &bytes, Change::Rescan).await;
        assert_eq!(healed.images[0].root, first.images[0].root, "the content is the same");
        let again = open(destination).await;
        let image = again.image(&healed, None).unwrap();
        assert!(read_all(&image).await == bytes, "without the pack in {lost}");
        let report = again.verify(Some(vec![healed]), Depth::Data, Arc::default()).await.unwrap();
        assert_eq!(report.damage, []);
        let report = again.verify(Some(vec![first]), Depth::Data, Arc::default()).await.unwrap();
        assert!(!report.damage.is_empty(), "the old point stays damaged, and says so");
    }
}
