//! Full destinations can be emptied, however they came to be full.

use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::{Destination, ErrorKind as DestinationKind, Key};
use sluice_repository::collect::{CollectOptions, CollectProgress};
use sluice_repository::{Clock, ErrorKind, InitOptions, Repository, RestorePoint};

use crate::collect::{assert_sound, blocks, content, keys, save};
use crate::support::*;

const FULL: ErrorKind = ErrorKind::Destination(DestinationKind::NoSpace);

/// A repository with so many points of one block each, and no room left.
async fn full(points: u64) -> (Arc<dyn Destination>, Repository, Vec<RestorePoint>) {
    // A point takes a commit record, a data pack of 64 KiB and a meta pack.
    let room = points as usize * 22 + 800;
    let destination: Arc<dyn Destination> = Arc::new(MemoryDestination::with_room(room));
    let options = InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP, lock: None };
    let made = Repository::init(destination.clone(), Clock::system(), options, settings(None));
    let repository = made.await.unwrap().0;
    let mut all = Vec::new();
    for number in 0..points {
        all.push(save(&repository, "vm", &blocks(&[number])).await);
    }
    fill(&*destination).await;
    (destination, repository, all)
}

async fn fill(destination: &dyn Destination) {
    for number in 0.. {
        let key = Key::new(format!("y/fill{number}")).unwrap();
        if destination.put(&key, Bytes::from(vec![0; 4096])).await.is_err() {
            return;
        }
    }
}

async fn collect(repository: &Repository) -> Result<u64, sluice_repository::RepositoryError> {
    let options = CollectOptions::default();
    let report = repository.collect(&options, &CollectProgress::default()).await?;
    Ok(report.removed_packs)
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_leaves_the_room_that_a_collection_needs() {
    let (destination, repository, points) = full(500).await;
    let (mut removed, mut refused) = (0, 0);
    let (last, old) = points.split_last().unwrap();
    for point in old {
        if let Err(error) = repository.forget(point, "test", "test").await {
            assert_eq!(error.kind(), FULL);
            assert!(format!("{error:?}").contains("sluice collect"), "{error:?}");
            refused += 1;
            // Whatever becomes free is taken by somebody else.
            removed += collect(&repository).await.unwrap();
            repository.forget(point, "test", "test").await.unwrap();
            fill(&*destination).await;
        }
    }
    assert!(refused > 0, "it was never full");
    removed += collect(&repository).await.unwrap();
    assert_eq!(removed, 2 * old.len() as u64);
    assert_eq!(content(&repository, last).await, blocks(&[499]));
    assert_sound(&open(destination).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_has_no_room_names_what_there_is_room_for() {
    let (destination, repository, points) = full(100).await;
    for point in &points {
        repository.forget(point, "test", "test").await.unwrap();
    }
    // Nothing is left but three blocks: two for the beginning of a collection, one for its list.
    let _ = destination.delete(&Key::new("ballast").unwrap()).await;
    fill(&*destination).await;
    for key in keys(&*destination, "y/fill").await.iter().take(3) {
        destination.delete(&Key::new(key.as_str()).unwrap()).await.unwrap();
    }
    assert_eq!(collect(&repository).await.unwrap(), 100);
    assert_eq!(collect(&repository).await.unwrap(), 100);
    assert_eq!(keys(&*destination, "d/").await.len(), 0);
}
