//! Holds and retention set after the commit: what they keep, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluice_destination::memory::MemoryDestination;
use sluice_destination::wrap::{Effect, Fault, Operation, Retry, RetryPolicy, Rule};
use sluice_destination::{ByteRange, Destination, list_all};
use sluice_engine::Change;
use sluice_repository::retention::{Keeper, Refused};
use sluice_repository::{
    Clock, ErrorKind, InitOptions, Protection, Repository, RestorePoint, rfc3339,
};

use crate::support::*;

const DAY: u64 = 86_400_000;

/// A repository whose clock the test moves, with two points.
async fn two_points() -> (Arc<dyn Destination>, Repository, Arc<AtomicU64>) {
    let destination: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    let options = InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP, lock: None };
    let (clock, hand) = Clock::manual(1000 * DAY);
    let made = Repository::init(destination.clone(), clock, options, settings(None)).await;
    let repository = made.unwrap().0;
    for seed in 0..2 {
        back_up(&repository, &noise(seed, 100_000), Change::Rescan).await;
        hand.fetch_add(DAY, Ordering::SeqCst);
    }
    (destination, repository, hand)
}

async fn points(repository: &Repository) -> Vec<RestorePoint> {
    repository.list(Some("vm")).await.unwrap().points
}

async fn hold(repository: &Repository, point: &RestorePoint) -> RestorePoint {
    let change = |protection: &mut Protection, _| {
        protection.hold(Some("case 7".into()));
        Ok(())
    };
    repository.change_protection(point, "test", change).await.unwrap()
}

async fn refused(repository: &Repository, point: &RestorePoint) -> String {
    let error = repository.forget(point, "test", "test").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protected);
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_point_stays_until_it_is_released_whoever_asks() {
    let (destination, repository, hand) = two_points().await;
    let old = points(&repository).await.remove(0);
    assert!(hold(&repository, &old).await.hold);
    // Also one who looked at it before it was held.
    assert!(refused(&repository, &old).await.contains("case 7"));
    let (clock, _) = Clock::manual(hand.load(Ordering::SeqCst));
    let opened = Repository::open(destination.clone(), clock, passphrase(), settings(None)).await;
    let other = opened.unwrap();
    let listed = points(&other).await.remove(0);
    assert_eq!(listed.protection.reason.as_deref(), Some("case 7"));
    assert_eq!((listed.hold, points(&other).await[1].hold), (true, false));
    assert!(other.with_protection(old.clone()).await.unwrap().hold);
    let release = |protection: &mut Protection, _| {
        protection.release();
        Ok(())
    };
    other.change_protection(&old, "test", release).await.unwrap();
    repository.forget(&old, "test", "test").await.unwrap();
    assert_eq!(points(&repository).await.len(), 1);
    let gone = repository.change_protection(&old, "test", release).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_ends_at_its_time_and_is_shortened_with_a_delay() {
    let (_, repository, hand) = two_points().await;
    let old = points(&repository).await.remove(0);
    let now = hand.load(Ordering::SeqCst);
    let retain = |until| move |p: &mut Protection, now| p.retain(until, now);
    let kept = repository.change_protection(&old, "test", retain(now + 100 * DAY)).await.unwrap();
    assert_eq!(kept.retain_until_ms, Some(now + 100 * DAY));
    let error = repository.change_protection(&old, "test", retain(now + DAY)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protected);
    let until = format!("until {}", rfc3339(now + 100 * DAY));
    assert!(refused(&repository, &old).await.contains(&until));
    let shorten = |p: &mut Protection, now| p.shorten(None, now + 7 * DAY, now);
    let kept = repository.change_protection(&old, "test", shorten).await.unwrap();
    assert_eq!(kept.protection.keeper(now), Some(Keeper::Until(now + 100 * DAY)));
    hand.fetch_add(7 * DAY - 1, Ordering::SeqCst);
    refused(&repository, &old).await;
    assert!(points(&repository).await[0].protection.shorten.is_some());
    hand.fetch_add(1, Ordering::SeqCst);
    assert_eq!(points(&repository).await[0].retain_until_ms, None);
    let again = |p: &mut Protection, now| p.shorten(None, now, now);
    let error = repository.change_protection(&old, "test", again).await.unwrap_err();
    assert!(format!("{error:?}").contains(&format!("{:?}", Refused::NotShorter)));
    repository.forget(&old, "test", "test").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_keeps_its_point() {
    let (destination, repository, _) = two_points().await;
    let all = points(&repository).await;
    hold(&repository, &all[0]).await;
    let record = list_all(&*destination, "h/").await.unwrap().remove(0).key;
    let sealed = destination.get(&record, ByteRange::Full).await.unwrap();
    for at in 0..sealed.len() {
        let mut bad = sealed.to_vec();
        bad[at] ^= 1;
        destination.put(&record, bad.into()).await.unwrap();
        refused(&repository, &all[0]).await;
    }
    assert!(points(&repository).await[0].hold, "a listing still works");
    // The record of one point does not do for another.
    let other = record.as_str().replace(&all[0].id.to_string(), &all[1].id.to_string());
    let other = sluice_destination::Key::new(other).unwrap();
    destination.put(&other, sealed).await.unwrap();
    assert!(points(&repository).await[1].protection.reason.as_ref().unwrap().contains("read"));
}

/// A destination on which a hold is placed right before the tombstone is.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_hold_and_a_removal_at_the_same_moment_the_hold_wins() {
    let (destination, repository, _) = two_points().await;
    let old = points(&repository).await.remove(0);
    let fault = Fault::new(destination.clone());
    // The first look for the record comes before it is there.
    let nothing_yet = Effect::Fail(sluice_destination::ErrorKind::NotFound);
    fault.inject(Rule::new(nothing_yet).on(&[Operation::Get]).below("h/").once());
    hold(&repository, &old).await;
    let racing: Arc<dyn Destination> = fault;
    let opened = Repository::open(racing, Clock::system(), passphrase(), settings(None)).await;
    let racing = opened.unwrap();
    refused(&racing, &old).await;
    assert_eq!(list_all(&*destination, "t/").await.unwrap().len(), 0);
    assert_eq!(points(&repository).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_wins_also_when_the_answer_to_the_removal_is_lost() {
    let (destination, repository, _) = two_points().await;
    let old = points(&repository).await.remove(0);
    let fault = Fault::new(destination.clone());
    let nothing_yet = Effect::Fail(sluice_destination::ErrorKind::NotFound);
    fault.inject(Rule::new(nothing_yet).on(&[Operation::Get]).below("h/").once());
    // The tombstone arrives, and is put once more: it is there already.
    let lost = Effect::FailAfter(sluice_destination::ErrorKind::Unavailable);
    fault.inject(Rule::new(lost).on(&[Operation::PutNew]).below("t/").once());
    hold(&repository, &old).await;
    let again: Arc<dyn Destination> = Arc::new(Retry::new(fault, RetryPolicy::default()));
    let opened = Repository::open(again, Clock::system(), passphrase(), settings(None)).await;
    refused(&opened.unwrap(), &old).await;
    assert_eq!(list_all(&*destination, "t/").await.unwrap().len(), 0);
    assert_eq!(points(&repository).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_whose_look_fails_is_taken_back_and_another_s_is_not() {
    let (destination, repository, _) = two_points().await;
    let old = points(&repository).await.remove(0);
    let fault = Fault::new(destination.clone());
    let failing: Arc<dyn Destination> = fault.clone();
    let opened = Repository::open(failing, Clock::system(), passphrase(), settings(None)).await;
    let failing = opened.unwrap();
    for left in [0, 1] {
        let away = Effect::Fail(sluice_destination::ErrorKind::Unavailable);
        fault.inject(Rule::new(away).on(&[Operation::Get]).below("h/").skip(1).once());
        failing.forget(&old, "test", "test").await.unwrap_err();
        assert_eq!(list_all(&*destination, "t/").await.unwrap().len(), left);
        if left == 0 {
            repository.forget(&old, "test", "test").await.unwrap();
        }
    }
    // Asking again does nothing.
    failing.forget(&old, "test", "test").await.unwrap();
    assert_eq!(points(&repository).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_part_says_what_keeps_a_point_without_a_key() {
    use sluice_repository::format::protection::ProtectionPlain;
    use sluice_repository::format::record::{Envelope, from_cbor};
    let (destination, repository, _) = two_points().await;
    let old = points(&repository).await.remove(0);
    hold(&repository, &old).await;
    let record = list_all(&*destination, "h/").await.unwrap().remove(0).key;
    let bytes = destination.get(&record, ByteRange::Full).await.unwrap();
    let plain: ProtectionPlain = from_cbor(Envelope::parse(&bytes).unwrap().plain).unwrap();
    assert_eq!((plain.chain, plain.point, plain.protection.hold), (old.chain, old.id, true));
    assert_eq!(plain.protection.reason.as_deref(), Some("case 7"));
}
