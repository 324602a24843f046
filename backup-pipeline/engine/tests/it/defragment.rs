//! What many small changes scattered is put together by the next backup that is asked to.

use sluice_engine::{BackupOptions, BackupOutcome, Change, Progress, backup};
use sluice_repository::{Defragment, Depth, Repository};
use tokio_util::sync::CancellationToken;

use crate::support::*;

/// Blocks with data in each of two leaves.
const DATA: u64 = 64;

async fn save(
    repository: &Repository,
    bytes: &[u8],
    change: Change,
    defragment: Option<Defragment>,
) -> BackupOutcome {
    let options = BackupOptions { defragment, ..options() };
    let images = vec![image("disk", bytes, change)];
    let cancel = CancellationToken::new();
    backup(repository, "vm", images, options, Progress::new(), cancel).await.unwrap()
}

async fn put_together(change: Change) {
    let (destination, repository) = new_repository().await;
    let leaf = (256 * BLOCK) as usize;
    let mut bytes = vec![0; 2 * leaf];
    for at in [0, leaf] {
        let data = (DATA * BLOCK) as usize;
        bytes[at..at + data].copy_from_slice(&noise(at as u64, data));
    }
    save(&repository, &bytes, Change::Regions, None).await;
    // Small changes all over the first leaf, each in a pack of its own.
    for day in 0..12_u64 {
        let at = day * 5 * BLOCK..(day * 5 + 1) * BLOCK;
        let (from, to) = (at.start as usize, at.end as usize);
        bytes[from..to].copy_from_slice(&noise(1000 + day, BLOCK as usize));
        save(&repository, &bytes, Change::Changed(vec![at]), None).await;
    }
    let wanted = |limit| Some(Defragment { above: 1500, limit });
    let little = save(&repository, &bytes, change.clone(), wanted(DATA * BLOCK - 1)).await;
    assert_eq!((little.together_bytes, little.point.stats.new_bytes), (0, 0), "{change:?}");
    let done = save(&repository, &bytes, change.clone(), wanted(1 << 30)).await;
    assert_eq!(done.together_bytes, DATA * BLOCK, "{change:?}");
    assert_eq!(done.point.stats.new_bytes, DATA * BLOCK, "the other leaf stays as it is");
    let again = save(&repository, &bytes, change.clone(), wanted(1 << 30)).await;
    assert_eq!((again.together_bytes, again.point.stats.new_bytes), (0, 0), "{change:?}");
    assert_eq!(again.point.images[0].root, little.point.images[0].root, "the content is the same");
    let fresh = open(destination).await;
    assert!(read_all(&fresh.image(&again.point, None).unwrap()).await == bytes);
    let report = fresh.verify(None, Depth::Data, Default::default()).await.unwrap();
    assert_eq!(report.damage, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn scattered_parts_are_put_together_by_every_kind_of_backup() {
    for change in [Change::Rescan, Change::Regions, Change::Changed(Vec::new())] {
        put_together(change).await;
    }
}
