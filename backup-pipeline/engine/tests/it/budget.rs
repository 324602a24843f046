//! Collections whose lists could not name all that is to go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluice_destination::Destination;
use sluice_destination::memory::MemoryDestination;
use sluice_repository::collect::{CollectOptions, CollectProgress, CollectReport};
use sluice_repository::{Clock, InitOptions, Repository, SessionOptions};

use crate::collect::{assert_sound, blocks, content, eager, keys, save};
use crate::support::*;

const DAY_MS: u64 = 24 * 3600 * 1000;

async fn collect(repository: &Repository) -> CollectReport {
    let options = CollectOptions { most_named: 4, ..eager() };
    repository.collect(&options, &CollectProgress::default()).await.unwrap()
}

#[tokio::test]
async fn what_one_list_does_not_name_goes_with_later_ones_and_nothing_ever_stops() {
    let destination: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    let (clock, hand) = Clock::manual(1_800_000_000_000);
    let options = InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP, lock: None };
    let made = Repository::init(destination.clone(), clock, options, settings(None)).await;
    let repository = made.unwrap().0;
    let kept = save(&repository, "kept", &blocks(&[99])).await;
    for number in 0..7 {
        let point = save(&repository, "vm", &blocks(&[number])).await;
        repository.forget(&point, "test", "test").await.unwrap();
    }
    let first = collect(&repository).await;
    assert_eq!((first.removed_packs, first.plan.dead_packs, first.plan.later_packs), (4, 4, 10));
    // What is gone is named for a month, and leaves no room to name others.
    let second = collect(&repository).await;
    assert_eq!((second.removed_packs, second.plan.later_packs), (0, 10));
    let mut removed = 4;
    for _ in 0..8 {
        hand.fetch_add(31 * DAY_MS, Ordering::SeqCst);
        removed += collect(&repository).await.removed_packs;
        drop(repository.begin("other", &SessionOptions::default()).await.unwrap());
        for record in keys(&*destination, "s/").await {
            destination.delete(&sluice_destination::Key::new(record).unwrap()).await.unwrap();
        }
    }
    assert_eq!(removed, 14);
    assert_eq!(content(&repository, &kept).await, blocks(&[99]));
    assert_sound(&open(destination).await).await;
}
