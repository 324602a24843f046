//! Writes the golden repository of this format version into an empty folder.
//!
//! `cargo run -p sluice-engine --example make_golden -- FOLDER`
//!
//! A released version's fixture is never written again: it stands for the bytes people have. The
//! disk's content is made by `golden_disk`, which the test that reads the fixture has as well.

use std::sync::Arc;

use sluice_block::MemoryDisk;
use sluice_destination::filesystem::FilesystemDestination;
use sluice_engine::{BackupOptions, Change, Progress, Source, SourceImage, backup};
use sluice_repository::{Clock, InitOptions, KdfCost, Repository, Settings, Unlock};
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
        lock: None,
    };
    let made = Repository::init(destination, clock, options, Settings::default()).await?;
    let (repository, recovery) = made;
    for generation in 0..2 {
        hand.fetch_add(86_400_000, std::sync::atomic::Ordering::SeqCst);
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
