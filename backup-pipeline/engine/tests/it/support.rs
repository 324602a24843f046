//! What the engine's tests share: repositories in memory and disks to fill them.

use std::sync::Arc;

use sluice_block::{BlockRead, MemoryDisk};
use sluice_destination::Destination;
use sluice_destination::memory::MemoryDestination;
use sluice_engine::{
    BackupOptions, BackupOutcome, Change, Progress, Result, Source, SourceImage, backup,
};
use sluice_repository::{
    Clock, ImageReader, InitOptions, KdfCost, Repository, RestorePoint, Settings, Unlock,
};
use tokio_util::sync::CancellationToken;

pub const CHEAP: KdfCost = KdfCost { memory_kib: 64, passes: 1, lanes: 1 };
pub const BLOCK: u64 = 64 << 10;

pub fn passphrase() -> Unlock {
    Unlock::Passphrase("correct horse".to_owned().into())
}

pub fn settings(cache: Option<&std::path::Path>) -> Settings {
    Settings { cache_dir: cache.map(Into::into), ..Settings::default() }
}

pub async fn new_repository() -> (Arc<dyn Destination>, Repository) {
    let destination: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
    let options = InitOptions { unlock: passphrase(), recovery: false, kdf: CHEAP, lock: None };
    let made = Repository::init(destination.clone(), Clock::system(), options, settings(None));
    (destination, made.await.unwrap().0)
}

pub async fn open(destination: Arc<dyn Destination>) -> Repository {
    Repository::open(destination, Clock::system(), passphrase(), settings(None)).await.unwrap()
}

pub fn options() -> BackupOptions {
    BackupOptions { block_size: Some(BLOCK as u32), ..BackupOptions::default() }
}

pub fn image(name: &str, bytes: &[u8], change: Change) -> SourceImage {
    let device: Arc<dyn BlockRead> = Arc::new(MemoryDisk::from_bytes(bytes));
    device_image(name, device, change)
}

pub fn device_image(name: &str, device: Arc<dyn BlockRead>, change: Change) -> SourceImage {
    let source = Source::Device(device, change);
    SourceImage { name: name.into(), description: "test".into(), source }
}

pub async fn run(repository: &Repository, images: Vec<SourceImage>) -> Result<BackupOutcome> {
    let cancel = CancellationToken::new();
    backup(repository, "vm", images, options(), Progress::new(), cancel).await
}

pub async fn back_up(repository: &Repository, bytes: &[u8], change: Change) -> RestorePoint {
    run(repository, vec![image("disk", bytes, change)]).await.unwrap().point
}

/// The same in blocks of a size of its own.
pub async fn back_up_in_blocks(
    repository: &Repository,
    block: u32,
    bytes: &[u8],
    change: Change,
) -> RestorePoint {
    let options = BackupOptions { block_size: Some(block), ..BackupOptions::default() };
    let images = vec![image("disk", bytes, change)];
    let (progress, cancel) = (Progress::new(), CancellationToken::new());
    backup(repository, "vm", images, options, progress, cancel).await.unwrap().point
}

pub async fn read_all(image: &ImageReader) -> Vec<u8> {
    let mut bytes = vec![0; image.size() as usize];
    image.read_at(0, &mut bytes).await.unwrap();
    bytes
}

/// Bytes that neither compress nor repeat.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
