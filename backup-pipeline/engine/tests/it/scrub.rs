//! Scrubs come round to every byte, within their budgets, with and without keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::wrap::{Effect, Fault, Operation, Rule};
use sluice_destination::{ByteRange, Destination, ErrorKind, Key, list_all};
use sluice_engine::Change;
use sluice_repository::scrub::{ScrubOptions, ScrubProgress, ScrubReport, Scrubber};
use sluice_repository::{Clock, InitOptions, Recorded, Repository};

use crate::support::*;

const DAY_MS: u64 = 86_400_000;
const FIRST_DAY: u64 = 20_000;

struct Place {
    destination: Arc<dyn Destination>,
    repository: Repository,
    clock: Clock,
    hand: Arc<AtomicU64>,
}

/// Three data packs and a meta pack.
async fn place() -> Place {
    let destination: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    let (clock, hand) = Clock::manual(FIRST_DAY * DAY_MS);
    let options = InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP };
    let made = Repository::init(destination.clone(), clock.clone(), options, settings(None));
    let repository = made.await.unwrap().0;
    back_up(&repository, &noise(1, 70 << 20), Change::Rescan).await;
    Place { destination, repository, clock, hand }
}

impl Place {
    fn day(&self, day: u64) {
        self.hand.store((FIRST_DAY + day) * DAY_MS, Ordering::SeqCst);
    }

    async fn packs(&self) -> Vec<Key> {
        let mut keys = Vec::new();
        for prefix in ["d/", "m/"] {
            let objects = list_all(&*self.destination, prefix).await.unwrap();
            keys.extend(objects.into_iter().map(|object| object.key));
        }
        keys
    }

    async fn flip(&self, key: &Key, at: usize) -> Bytes {
        let was = self.destination.get(key, ByteRange::Full).await.unwrap();
        let mut bytes = was.to_vec();
        bytes[at] ^= 1;
        self.destination.put(key, bytes.into()).await.unwrap();
        was
    }

    async fn keyless(&self) -> Scrubber {
        Scrubber::keyless(self.destination.clone(), self.clock.clone(), 2).await.unwrap()
    }
}

async fn run(scrubber: &Scrubber, budget: Option<u64>, max_age_days: Option<u16>) -> ScrubReport {
    let options = ScrubOptions { budget, max_age_days };
    scrubber.run(&options, &ScrubProgress::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_come_round_to_every_pack_and_then_to_the_oldest() {
    let place = place().await;
    let packs = place.packs().await.len() as u64;
    assert_eq!(packs, 4);
    // Each day by another scrubber, which knows only what the repository tells it.
    for day in 0..packs {
        place.day(day);
        let status = place.keyless().await.status().await.unwrap();
        assert_eq!(status.proven_since, None);
        let report = match day % 2 {
            0 => run(&place.keyless().await, Some(1), None).await,
            _ => run(&place.repository.scrubber(), Some(1), None).await,
        };
        assert_eq!((report.packs, report.damage.len()), (1, 0));
    }
    let status = place.keyless().await.status().await.unwrap();
    assert_eq!(status.proven_since, Some(FIRST_DAY as u16));
    assert_eq!((status.never_bytes, status.packs), (0, packs));
    place.day(10);
    assert_eq!(run(&place.keyless().await, None, Some(7)).await.packs, 3, "days 0, 1 and 2");
    assert_eq!(run(&place.keyless().await, None, Some(7)).await.packs, 0);
    let status = place.keyless().await.status().await.unwrap();
    assert_eq!(status.proven_since, Some(FIRST_DAY as u16 + 3));
    assert_eq!(run(&place.keyless().await, None, None).await.packs, packs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_in_a_pack_is_found_with_and_without_keys() {
    let place = place().await;
    for key in place.packs().await {
        let length = place.destination.head(&key).await.unwrap().size as usize;
        for at in [0, 40, 62, 70, length / 2, length - 120, length - 50, length - 1] {
            let was = place.flip(&key, at).await;
            let fresh = open(place.destination.clone()).await;
            for scrubber in [place.keyless().await, fresh.scrubber()] {
                let report = run(&scrubber, None, None).await;
                let found: Vec<&str> =
                    report.damage.iter().map(|one| one.object.as_str()).collect();
                assert_eq!(found.len(), 1, "byte {at} of {key}: {found:?}");
                assert!(found[0].starts_with(key.as_str()), "byte {at} of {key}: {found:?}");
                assert_eq!(report.status.proven_since, None, "what is damaged is not proven");
            }
            place.destination.put(&key, was).await.unwrap();
        }
    }
    let report = run(&place.repository.scrubber(), None, None).await;
    assert!(report.damage.is_empty() && report.status.proven_since.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_scrub_finds_is_recorded_until_a_scrub_finds_it_sound() {
    let place = place().await;
    let key = place.packs().await.remove(0);
    let was = place.flip(&key, 70).await;
    let report = run(&place.repository.scrubber(), None, None).await;
    let recorded = place.repository.record_findings(&report.findings()).await.unwrap();
    assert_eq!(recorded, Recorded { bad: 1, healed: 0 });
    place.destination.put(&key, was).await.unwrap();
    let report = run(&place.repository.scrubber(), None, None).await;
    let recorded = place.repository.record_findings(&report.findings()).await.unwrap();
    assert_eq!(recorded, Recorded { bad: 0, healed: 1 });
    assert!(list_all(&*place.destination, "b/").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_coverage_costs_reading_again_and_nothing_else() {
    let place = place().await;
    run(&place.keyless().await, None, None).await;
    let key = list_all(&*place.destination, "c/").await.unwrap().remove(0).key;
    place.flip(&key, 80).await;
    assert_eq!(place.keyless().await.status().await.unwrap().proven_since, None);
    assert_eq!(run(&place.keyless().await, None, Some(90)).await.packs, 4);
    assert!(place.keyless().await.status().await.unwrap().proven_since.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_reads_each_pack_once_and_a_stopped_one_keeps_what_it_proved() {
    let place = place().await;
    let scrubber = place.keyless().await;
    let progress = ScrubProgress::default();
    progress.stop.store(true, Ordering::Relaxed);
    let report = scrubber.run(&ScrubOptions::default(), &progress).await.unwrap();
    assert!(report.stopped && report.packs == 0);
    let report = run(&scrubber, None, None).await;
    assert!(!report.stopped && report.packs == 4);
    let mut size = 0;
    for key in place.packs().await {
        size += place.destination.head(&key).await.unwrap().size;
    }
    assert_eq!(report.bytes, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_cannot_be_written_is_scrubbed_all_the_same() {
    let place = place().await;
    let key = place.packs().await.remove(0);
    place.flip(&key, 70).await;
    let fault = Fault::new(place.destination.clone());
    fault.inject(Rule::new(Effect::Fail(ErrorKind::AccessDenied)).on(Operation::WRITES));
    let repository = open(fault).await;
    let report = run(&repository.scrubber(), None, None).await;
    assert_eq!((report.packs, report.damage.len()), (4, 1));
    let recorded = repository.record_findings(&report.findings()).await.unwrap();
    assert_eq!(recorded, Recorded::default());
    assert!(list_all(&*place.destination, "c/").await.unwrap().is_empty());
}
