//! Writes the golden repository of a format version into an empty folder.
//!
//! `cargo run -p sluice-engine --example make_golden -- FOLDER [1.1]`
//!
//! Without a version that is what a new repository is written as. In that of 1.1 a data epoch
//! begins between its points, and the first of them is kept by all there is.
//!
//! A released version's fixture is never written again: it stands for the bytes people have. The
//! disk's content is made by `golden_disk`, which the test that reads the fixture has as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluice_block::MemoryDisk;
use sluice_destination::filesystem::FilesystemDestination;
use sluice_engine::{BackupOptions, Change, Progress, Source, SourceImage, backup};
use sluice_repository::{
    Clock, InitOptions, KdfCost, Protection, Repository, RotateData, Settings, Unlock,
};
use tokio_util::sync::CancellationToken;

#[path = "../tests/it/golden_disk.rs"]
mod golden_disk;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("name an empty folder")?;
    std::fs::create_dir_all(&folder)?;
    let destination = Arc::new(FilesystemDestination::create(&folder).await?);
    let (clock, hand) = Clock::manual(1_767_225_600_000);
    let options = InitOptions {
        unlock: Unlock::Passphrase("golden".to_owned().into()),
        recovery: true,
        kdf: KdfCost { memory_kib: 64, passes: 1, lanes: 1 },
    };
    let made = Repository::init(destination, clock, options, Settings::default()).await?;
    let (mut repository, recovery) = made;
    let version = std::env::args().nth(2);
    for generation in 0..2 {
        if generation == 1 && version.as_deref() == Some("1.1") {
            repository = later(&repository, &hand).await?;
        }
        hand.fetch_add(86_400_000, Ordering::SeqCst);
        let disk = Arc::new(MemoryDisk::from_bytes(&golden_disk::bytes(generation)));
        let images = vec![SourceImage {
            name: "vda".into(),
            description: "golden".into(),
            source: Source::Device(disk, Change::Regions),
        }];
        let options = BackupOptions {
            block_size: Some(64 << 10),
            metadata: Some(format!("{{\"generation\":{generation}}}")),
            ..BackupOptions::default()
        };
        let cancel = CancellationToken::new();
        backup(&repository, "golden", images, options, Progress::new(), cancel).await?;
    }
    let recovery = recovery.ok_or("no recovery key was made")?;
    std::fs::write(format!("{folder}/RECOVERY"), format!("{}\n", *recovery.to_text()))?;
    Ok(())
}

/// Protects the first point, begins a data epoch, and opens the repository under it.
async fn later(
    repository: &Repository,
    hand: &Arc<AtomicU64>,
) -> Result<Repository, Box<dyn std::error::Error>> {
    let passphrase = || "golden".to_owned().into();
    let point = repository.list(None).await?.points.remove(0);
    let protect = |protection: &mut Protection, now: u64| {
        protection.hold(Some("golden hold".into()));
        protection.retain(now + 1_000, now)?;
        protection.retain_after("golden event", 2_000, now)?;
        protection.shorten(Some(now + 500), now + 100, now)
    };
    repository.change_protection(&point, "golden", protect).await?;
    let kdf = KdfCost { memory_kib: 64, passes: 1, lanes: 1 };
    let options = RotateData { passphrases: vec![passphrase()], kdf, ..RotateData::default() };
    repository.rotate_data(&options).await?;
    let (clock, unlock) = (repository.clock().clone(), Unlock::Passphrase(passphrase()));
    hand.fetch_add(50, Ordering::SeqCst);
    let destination = repository.destination().clone();
    Ok(Repository::open(destination, clock, unlock, Settings::default()).await?)
}
