use sluice_block::{BlockWrite as _, MemoryDisk};
use sluice_destination::memory::MemoryDestination;
use sluice_repository::{Clock, InitOptions, KdfCost, Settings, Unlock};

use super::*;

/// A repository with a point of a disk full of ones, and an overlay over it.
async fn sample(folder: &Path) -> (Repository, Arc<PointOverlay>) {
    let options =
        InitOptions { unlock: Unlock::Open, recovery: false, kdf: KdfCost::default(), lock: None };
    let (place, settings) = (Arc::new(MemoryDestination::new()), Settings::default());
    let made = Repository::init(place, Clock::system(), options, settings).await;
    let repository = made.unwrap().0;
    let point = back_up(&repository, 1).await;
    let opened = PointOverlay::over(&repository, folder, &point, &["vda".into()], None).await;
    (repository, opened.unwrap())
}

async fn back_up(repository: &Repository, byte: u8) -> RestorePoint {
    let device = Arc::new(MemoryDisk::from_bytes(&[byte; 1 << 20]));
    let source = Source::Device(device, Change::Rescan);
    let images = vec![SourceImage { name: "vda".into(), description: String::new(), source }];
    let (progress, cancel) = (Progress::new(), CancellationToken::new());
    let options = BackupOptions::default();
    backup(repository, "vm", images, options, progress, cancel).await.unwrap().point
}

async fn first_bytes(repository: &Repository, point: &RestorePoint, at: [u64; 2]) -> [u8; 2] {
    let image = repository.image(point, Some("vda")).unwrap();
    let mut bytes = [0; 2];
    for (byte, at) in bytes.iter_mut().zip(at) {
        image.read_at(at, std::slice::from_mut(byte)).await.unwrap();
    }
    bytes
}

/// What changed since one point is nothing that another one can be made whole with.
#[tokio::test]
async fn a_commit_over_another_point_than_is_below_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (repository, overlay) = sample(folder.path()).await;
    let disk = overlay.overlay.disks().remove(0);
    disk.write_at(0, &[2; 4096]).await.unwrap();
    let other = back_up(&repository, 9).await;
    let right = std::mem::replace(&mut overlay.under.lock().unwrap().point, other.clone());
    let refused = overlay.commit(None, Progress::new()).await.unwrap_err().to_string();
    assert!(refused.contains(&right.to_string()), "{refused}");
    assert!(refused.contains(&other.to_string()), "{refused}");
    assert_eq!(repository.list(Some("vm")).await.unwrap().points.len(), 2);
    assert!(!overlay.overlay.status().frozen);
    overlay.under.lock().unwrap().point = right;
    let made = overlay.commit(None, Progress::new()).await.unwrap();
    assert_eq!(first_bytes(&repository, &made, [0, 4096]).await, [2, 1]);
    overlay.close().await.unwrap();
}

/// Between the moment at which the overlay thaws and the one at which it is known what it lies
/// over, nobody may freeze it.
#[tokio::test]
async fn one_commit_keeps_others_out_until_all_of_it_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let (_repository, overlay) = sample(folder.path()).await;
    let first = overlay.committing.lock().await;
    let refused = overlay.commit(None, Progress::new()).await.unwrap_err();
    assert!(matches!(refused.downcast_ref(), Some(OverlayError::Frozen)));
    drop(first);
    overlay.commit(None, Progress::new()).await.unwrap();
    overlay.close().await.unwrap();
}
