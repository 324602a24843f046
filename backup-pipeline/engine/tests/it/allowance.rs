//! Backups that may store so much and no more.

use std::sync::Arc;

use sluice_destination::{Destination, list_all};
use sluice_engine::{BackupOptions, BackupOutcome, Change, ErrorKind, Progress, Result, backup};
use sluice_repository::{Allowance, ErrorKind as RepositoryKind, Repository};
use tokio_util::sync::CancellationToken;

use crate::support::*;

/// What packs add to what is in them: headers, tables and footers, for each.
const OVERHEAD: u64 = 64 << 10;

async fn within(repository: &Repository, bytes: &[u8], most: u64) -> (Result<BackupOutcome>, u64) {
    let options = BackupOptions { allowance: Arc::new(Allowance::of(most)), ..options() };
    let progress = Progress::new();
    let images = vec![image("disk", bytes, Change::Regions)];
    let cancel = CancellationToken::new();
    let run = backup(repository, "vm", images, options, progress.clone(), cancel).await;
    (run, progress.snapshot().charged)
}

async fn stored(destination: &Arc<dyn Destination>) -> (u64, u64) {
    let objects = list_all(&**destination, "d/").await.unwrap();
    (objects.iter().map(|object| object.size).sum(), objects.len() as u64)
}

fn assert_refused(run: Result<BackupOutcome>) {
    let error = run.map(|outcome| outcome.point).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Repository(RepositoryKind::Allowance), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_stores_no_more_than_it_may_and_goes_on_once_it_may() {
    let (destination, repository) = new_repository().await;
    let disk = noise(1, 100 << 20);
    let most = 50 << 20;
    let (run, charged) = within(&repository, &disk, most).await;
    assert_refused(run);
    let (bytes, packs) = stored(&destination).await;
    assert!(charged <= most && charged > most - (1 << 20), "{charged}");
    assert!(bytes <= most + packs * OVERHEAD, "{bytes}");
    assert!(bytes > most / 2, "what was stored is kept: {bytes}");
    assert!(repository.list(None).await.unwrap().points.is_empty());

    // What was left counts: running it again does not get further.
    let (run, again) = within(&open(destination.clone()).await, &disk, most).await;
    assert_refused(run);
    assert!(again <= most, "{again}");
    let (more, packs) = stored(&destination).await;
    assert!(more <= most + packs * OVERHEAD, "{more}");

    let (run, charged) = within(&open(destination.clone()).await, &disk, 110 << 20).await;
    let outcome = run.unwrap();
    assert!(outcome.resumed_packs > 0 && outcome.resumed_bytes > most / 2, "{outcome:?}");
    let stats = outcome.point.stats.clone();
    assert_eq!(charged, outcome.resumed_bytes + stats.stored_bytes + stats.meta_bytes);
    let (total, packs) = stored(&destination).await;
    assert!(total <= (101 << 20) + packs * OVERHEAD, "nothing was sent twice: {total}");
    let image = repository.image(&outcome.point, None).unwrap();
    assert!(read_all(&image).await == disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_were_left_count_as_blocks_do() {
    let (destination, repository) = new_repository().await;
    let disk = noise(1, 100 << 20);
    let (run, charged) = within(&repository, &disk, 70 << 20).await;
    assert_refused(run);
    let pages = async || list_all(&*destination, "m/").await.unwrap();
    let left = pages().await;
    assert!(!left.is_empty(), "no page was stored before it was stopped");
    // Nothing more may be stored: not even the same pages once more.
    for _ in 0..2 {
        let (run, again) = within(&open(destination.clone()).await, &disk, charged).await;
        assert_refused(run);
        assert_eq!(again, charged);
        assert_eq!(pages().await.len(), left.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_costs_nothing() {
    let (_, repository) = new_repository().await;
    let disk = noise(1, 20 << 20);
    back_up(&repository, &disk, Change::Regions).await;
    // A new root page, and not one block.
    let (run, charged) = within(&repository, &disk, BLOCK).await;
    assert_eq!(run.unwrap().point.stats.stored_bytes, 0);
    assert!(charged < BLOCK, "{charged}");
}
