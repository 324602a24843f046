//! What can be told about a repository beside damage to its points.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluice_destination::memory::MemoryDestination;
use sluice_destination::{ByteRange, Destination, Key, list_all};
use sluice_engine::Change;
use sluice_repository::doctor::examine;
use sluice_repository::{Clock, InitOptions, Repository, SessionOptions};

use crate::support::*;

const NOW_MS: u64 = 1_795_230_000_000;
const DAY_MS: u64 = 86_400_000;

async fn flip(destination: &Arc<dyn Destination>, key: &Key, at: usize) {
    let mut bytes = destination.get(key, ByteRange::Full).await.unwrap().to_vec();
    bytes[at] ^= 1;
    destination.put(key, bytes.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_sessions_and_pins_and_damaged_records_are_told() {
    let destination: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    let (clock, hand) = Clock::manual(NOW_MS);
    let options = InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP };
    let made = Repository::init(destination.clone(), clock, options, settings(None));
    let repository = made.await.unwrap().0;
    let point = back_up(&repository, &noise(1, 1 << 20), Change::Regions).await;
    let session = repository.begin("db-1", &SessionOptions::default()).await.unwrap();
    let pin = repository.pin(&point, "mount").await.unwrap();

    let traces = repository.traces().await.unwrap();
    assert_eq!((traces.sessions.len(), traces.sessions[0].dead), (1, false));
    assert_eq!(traces.sessions[0].instance, "db-1");
    assert_eq!((traces.pins.len(), traces.pins[0].silent), (1, false));
    assert_eq!(traces.pins[0].point, point.id.to_string());
    assert_eq!((traces.damaged.len(), traces.unfinished_collection), (0, None));

    hand.fetch_add(2 * DAY_MS, Ordering::SeqCst);
    let traces = repository.traces().await.unwrap();
    assert!(traces.sessions[0].dead && traces.pins[0].silent);

    repository.forget(&point, "test", "test").await.unwrap();
    let mut harmed = Vec::new();
    for prefix in ["s/", "p/", "t/"] {
        let key = list_all(&*destination, prefix).await.unwrap().remove(0).key;
        flip(&destination, &key, 90).await;
        harmed.push(key.to_string());
    }
    let traces = repository.traces().await.unwrap();
    let told: Vec<String> = traces.damaged.into_iter().map(|one| one.object).collect();
    assert_eq!(told, harmed);
    drop((session, pin));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_bit_of_descriptor_and_key_slots_is_told_without_a_key() {
    let (destination, repository) = new_repository().await;
    back_up(&repository, &noise(1, 1 << 20), Change::Regions).await;
    let sound = examine(&*destination).await.unwrap();
    assert_eq!(sound.descriptor_problem, None);
    assert!(sound.key_slots.iter().all(|slot| slot.checked && slot.problem.is_none()));
    for key in ["format", "keys/"] {
        let key = list_all(&*destination, key).await.unwrap().remove(0).key;
        let length = destination.head(&key).await.unwrap().size as usize;
        for at in 0..length {
            flip(&destination, &key, at).await;
            let found = examine(&*destination).await.unwrap();
            let told = match key.as_str() {
                "format" => found.descriptor_problem.is_some(),
                _ => found.key_slots[0].problem.is_some(),
            };
            // In the name of the checksum's field a bit leaves a field that nobody knows.
            assert!(told || at >= length - 49, "byte {at} of {key}");
            flip(&destination, &key, at).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_place_is_not_called_damaged() {
    let found = examine(&MemoryDestination::new()).await.unwrap();
    assert!(found.descriptor.is_none() && found.descriptor_problem.is_none());
}
