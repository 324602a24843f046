//! Repositories written by released versions stay readable for ever.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_block::BlockRead;
use sluice_destination::filesystem::FilesystemDestination;
use sluice_engine::Change;
use sluice_repository::{Clock, Depth, RecoveryKey, Repository, Unlock};

use crate::golden_disk;
use crate::support::*;

fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/repositories").join(version)
}

/// A copy, for opening may tidy up and tests write.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let to = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &to);
        } else {
            std::fs::copy(item.path(), to).unwrap();
        }
    }
}

async fn open_copy(version: &str, folder: &Path, unlock: Unlock) -> Repository {
    copy(&fixture(version), folder);
    let destination = FilesystemDestination::open(folder).await.unwrap();
    Repository::open(Arc::new(destination), Clock::system(), unlock, settings(None)).await.unwrap()
}

fn golden_passphrase() -> Unlock {
    Unlock::Passphrase("golden".to_owned().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_format_1_0_reads_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let repository = open_copy("1.0", folder.path(), golden_passphrase()).await;
    let listing = repository.list(None).await.unwrap();
    assert!(listing.damaged.is_empty());
    let ids: Vec<String> = listing.points.iter().map(ToString::to_string).collect();
    assert_eq!(ids.len(), 2, "{ids:?}");
    for (generation, point) in listing.points.iter().enumerate() {
        assert_eq!(point.instance, "golden");
        assert_eq!(point.created_ms, 1_767_225_600_000 + (generation as u64 + 1) * 86_400_000);
        assert_eq!(point.metadata, Some(format!("{{\"generation\":{generation}}}")));
        let image = repository.image(point, Some("vda")).unwrap();
        let mut bytes = vec![0; image.size() as usize];
        image.read_at(0, &mut bytes).await.unwrap();
        assert!(bytes == golden_disk::bytes(generation as u64), "generation {generation}");
    }
    let report = repository.verify(None, Depth::Data, Arc::default()).await.unwrap();
    assert_eq!(report.damage, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_key_of_format_1_0_still_opens() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixture("1.0").join("RECOVERY")).unwrap();
    let unlock = Unlock::Recovery(RecoveryKey::from_text(&text).unwrap());
    let repository = open_copy("1.0", folder.path(), unlock).await;
    assert_eq!(repository.list(None).await.unwrap().points.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_format_1_0_can_be_continued() {
    let folder = tempfile::tempdir().unwrap();
    let repository = open_copy("1.0", folder.path(), golden_passphrase()).await;
    let images = vec![image("vda", &golden_disk::bytes(1), Change::Regions)];
    let cancel = tokio_util::sync::CancellationToken::new();
    let progress = sluice_engine::Progress::new();
    let next = sluice_engine::backup(&repository, "golden", images, options(), progress, cancel);
    let point = next.await.unwrap().point;
    assert_eq!((point.stats.new_bytes, point.stats.meta_bytes), (0, 0));
}
