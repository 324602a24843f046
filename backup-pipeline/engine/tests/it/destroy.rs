//! Destroying a repository: late, never against a hold, and to the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sluice_destination::memory::MemoryDestination;
use sluice_destination::wrap::{Effect, Fault, Operation, Rule};
use sluice_destination::{Destination, Key, list_all};
use sluice_engine::Change;
use sluice_repository::{Clock, ErrorKind, InitOptions, Protection, Repository, SessionOptions};

use crate::support::*;

const WEEK: Duration = Duration::from_secs(7 * 86_400);

async fn filled() -> (Arc<dyn Destination>, Repository, Arc<AtomicU64>) {
    let destination: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    let (clock, hand) = Clock::manual(1_000_000_000_000);
    let options = InitOptions { unlock: passphrase(), recovery: true, kdf: CHEAP };
    let made = Repository::init(destination.clone(), clock, options, settings(None)).await;
    let repository = made.unwrap().0;
    back_up(&repository, &noise(1, 300_000), Change::Rescan).await;
    let strange = Key::new("notes/of-somebody.txt").unwrap();
    destination.put(&strange, "keep me".into()).await.unwrap();
    (destination, repository, hand)
}

fn pass(hand: &AtomicU64, time: Duration) {
    hand.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
}

async fn left(destination: &Arc<dyn Destination>) -> Vec<String> {
    let all = list_all(&**destination, "").await.unwrap();
    all.into_iter().map(|object| object.key.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_goes_after_its_delay_and_only_then() {
    let (destination, repository, hand) = filled().await;
    let silent = |_, _| ();
    let early = repository.destroy("test", silent).await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Invalid, "nobody has asked");
    let asked = repository.request_destroy(WEEK, "test").await.unwrap();
    assert_eq!(asked.effective_ms - asked.requested_ms, WEEK.as_millis() as u64);
    pass(&hand, WEEK / 2);
    // Asking again, even for sooner, changes nothing.
    let again = repository.request_destroy(Duration::ZERO, "test").await.unwrap();
    assert_eq!(again, asked);
    let early = repository.destroy("test", silent).await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Protected);
    assert!(repository.cancel_destroy().await.unwrap());
    assert!(!repository.cancel_destroy().await.unwrap());
    pass(&hand, WEEK);
    assert_eq!(repository.destroy("test", silent).await.unwrap_err().kind(), ErrorKind::Invalid);
    repository.request_destroy(WEEK, "test").await.unwrap();
    pass(&hand, WEEK);
    let before = left(&destination).await.len() as u64;
    let told = AtomicU64::new(0);
    let counted = |done, total| {
        assert_eq!(total, before - 1);
        told.store(done, Ordering::SeqCst);
    };
    let destroyed = repository.destroy("test", counted).await.unwrap();
    assert_eq!((destroyed.objects, destroyed.left), (before - 1, 1));
    assert_eq!(told.load(Ordering::SeqCst), destroyed.objects);
    assert_eq!(left(&destination).await, ["notes/of-somebody.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_a_backup_and_a_reader_forbid_it_when_asked_and_when_done() {
    let (_, repository, hand) = filled().await;
    let point = repository.list(None).await.unwrap().points.remove(0);
    let set = |hold: bool| {
        move |protection: &mut Protection, _| {
            if hold {
                protection.hold(None);
            } else {
                protection.release();
            }
            Ok(())
        }
    };
    let refused = |error: sluice_repository::RepositoryError, what: &str| {
        assert_eq!(error.kind(), ErrorKind::Protected);
        assert!(error.to_string().contains(what), "{error}");
    };
    repository.change_protection(&point, "test", set(true)).await.unwrap();
    let error = repository.request_destroy(WEEK, "test").await.unwrap_err();
    refused(error, "hold");
    repository.change_protection(&point, "test", set(false)).await.unwrap();
    repository.request_destroy(WEEK, "test").await.unwrap();
    pass(&hand, WEEK);
    repository.change_protection(&point, "test", set(true)).await.unwrap();
    refused(repository.destroy("test", |_, _| ()).await.unwrap_err(), "hold");
    repository.change_protection(&point, "test", set(false)).await.unwrap();
    let session = repository.begin("db-1", &SessionOptions::default()).await.unwrap();
    refused(repository.destroy("test", |_, _| ()).await.unwrap_err(), "db-1");
    drop(session);
    let pin = repository.pin(&point, "export").await.unwrap();
    pass(&hand, Duration::from_secs(3600));
    repository.destroy_request().await.unwrap().unwrap();
    pin.release().await;
    let pin = repository.pin(&point, "export").await.unwrap();
    refused(repository.destroy("test", |_, _| ()).await.unwrap_err(), "read");
    pin.release().await;
    repository.destroy("test", |_, _| ()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_destroying_can_be_gone_on_from() {
    for effect in [Effect::Die, Effect::DieAfter] {
        for step in 0.. {
            let (destination, repository, hand) = filled().await;
            repository.request_destroy(WEEK, "test").await.unwrap();
            pass(&hand, WEEK);
            let fault = Fault::new(destination.clone());
            fault.inject(Rule::new(effect).on(Operation::WRITES).skip(step).once());
            let (clock, _) = Clock::manual(hand.load(Ordering::SeqCst));
            let faulty: Arc<dyn Destination> = fault.clone();
            let doomed = Repository::open(faulty, clock, passphrase(), settings(None)).await;
            let done = doomed.unwrap().destroy("test", |_, _| ()).await;
            match Repository::destroy_begun(&*destination).await.unwrap() {
                Some(id) => {
                    assert!(done.is_err());
                    // Whoever still opens it finds no points, rather than damage.
                    if let Ok(listing) = repository.list(None).await {
                        assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
                    }
                    let rest = Repository::resume_destroy(&*destination, id, |_, _| ()).await;
                    assert_eq!(rest.unwrap().left, 1);
                }
                // Before it began, or after its end.
                None if left(&destination).await.len() > 1 => {
                    assert_eq!(repository.list(None).await.unwrap().points.len(), 1);
                    repository.destroy("test", |_, _| ()).await.unwrap();
                }
                None => {}
            }
            assert_eq!(left(&destination).await, ["notes/of-somebody.txt"], "step {step}");
            if done.is_ok() && !fault.is_dead() {
                assert!(step > 3, "nothing was interrupted");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_for_another_repository_at_the_same_place_does_not_count() {
    let (destination, repository, hand) = filled().await;
    repository.request_destroy(Duration::ZERO, "test").await.unwrap();
    let wish = Key::new("destroy").unwrap();
    let bytes = destination.get(&wish, sluice_destination::ByteRange::Full).await.unwrap();
    let (other, new, _) = filled().await;
    other.put(&wish, bytes).await.unwrap();
    pass(&hand, WEEK);
    assert_eq!(new.destroy_request().await.unwrap(), None);
    assert_eq!(new.destroy("test", |_, _| ()).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(Repository::destroy_begun(&*other).await.unwrap(), None);
    // Nor does one that somebody without the key has written.
    let mut forged =
        destination.get(&wish, sluice_destination::ByteRange::Full).await.unwrap().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    destination.put(&wish, forged.into()).await.unwrap();
    let error = repository.destroy("test", |_, _| ()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
}
