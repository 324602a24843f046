//! Repositories written by released versions stay readable for ever.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_block::BlockRead;
use sluice_destination::filesystem::FilesystemDestination;
use sluice_engine::Change;
use sluice_repository::{Clock, Depth, ListedSlot, RecoveryKey, Repository, Standing, Unlock};

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

/// The disks of both points, and nothing damaged.
async fn assert_golden_disks(repository: &Repository) {
    let listing = repository.list(None).await.unwrap();
    assert!(listing.damaged.is_empty());
    assert_eq!(listing.points.len(), 2);
    for (generation, point) in listing.points.iter().enumerate() {
        let image = repository.image(point, None).unwrap();
        assert!(read_all(&image).await == golden_disk::bytes(generation as u64), "{generation}");
    }
    let report = repository.verify(None, Depth::Data, Arc::default()).await.unwrap();
    assert_eq!(report.damage, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_format_1_1_reads_across_its_epochs_with_either_key() {
    let text = std::fs::read_to_string(fixture("1.1").join("RECOVERY")).unwrap();
    let recovery = Unlock::Recovery(RecoveryKey::from_text(&text).unwrap());
    for unlock in [golden_passphrase(), recovery] {
        let folder = tempfile::tempdir().unwrap();
        let repository = open_copy("1.1", folder.path(), unlock).await;
        assert_eq!(repository.data_epoch(), 1);
        assert_golden_disks(&repository).await;
    }
    // What a program of format 1.0 looks at first.
    let format = std::fs::read_to_string(fixture("1.1").join("format")).unwrap();
    assert!(format.contains("\"min_reader\": 2"), "{format}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_point_of_format_1_1_is_as_it_was_said() {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture("1.1"), folder.path());
    let said = 1_767_225_600_000 + 86_400_000;
    let (clock, hand) = Clock::manual(said);
    let destination = Arc::new(FilesystemDestination::open(folder.path()).await.unwrap());
    let opened = Repository::open(destination, clock, golden_passphrase(), settings(None)).await;
    let repository = opened.unwrap();
    let first = || async { repository.list(None).await.unwrap().points.remove(0) };
    let kept = first().await.protection;
    assert_eq!((kept.hold, kept.reason.as_deref()), (true, Some("golden hold")));
    assert_eq!(kept.retain_until_ms, Some(said + 1_000));
    let event = kept.event.unwrap();
    assert_eq!(
        (event.name.as_str(), event.keep_ms, event.happened_ms),
        ("golden event", 2_000, None)
    );
    let shorten = kept.shorten.unwrap();
    assert_eq!((shorten.to_ms, shorten.effective_ms), (Some(said + 500), said + 100));
    hand.fetch_add(100, std::sync::atomic::Ordering::SeqCst);
    let kept = first().await.protection;
    assert_eq!((kept.retain_until_ms, kept.event, kept.shorten), (Some(said + 500), None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_format_1_0_can_begin_a_data_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let repository = open_copy("1.0", folder.path(), golden_passphrase()).await;
    let mut options = sluice_repository::RotateData {
        passphrases: vec!["golden".to_owned().into()],
        kdf: CHEAP,
        ..Default::default()
    };
    // Its recovery slot does not prove whose it is: somebody has to vouch for it.
    let refused = repository.rotate_data(&options).await.unwrap_err().to_string();
    let slots = repository.key_slots().await.unwrap();
    let is_recovery = |slot: &&ListedSlot| slot.slot.as_ref().unwrap().fingerprint().is_some();
    let name = slots.iter().find(is_recovery).unwrap().name.clone();
    assert!(refused.contains(&name), "{refused}");
    options.trusted.push(name);
    let rotated = repository.rotate_data(&options).await.unwrap();
    assert_eq!((rotated.epoch, rotated.kept.len()), (1, 2));
    let text = std::fs::read_to_string(fixture("1.0").join("RECOVERY")).unwrap();
    let recovery = Unlock::Recovery(RecoveryKey::from_text(&text).unwrap());
    for unlock in [golden_passphrase(), recovery] {
        let destination = Arc::new(FilesystemDestination::open(folder.path()).await.unwrap());
        let opened = Repository::open(destination, Clock::system(), unlock, settings(None)).await;
        assert_golden_disks(&opened.unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_of_earlier_versions_can_be_vouched_for() {
    for version in ["1.0", "1.1"] {
        let folder = tempfile::tempdir().unwrap();
        let repository = open_copy(version, folder.path(), golden_passphrase()).await;
        let standings = async |repository: &Repository| {
            let slots = repository.key_slots().await.unwrap();
            slots.into_iter().map(|one| (one.name, one.standing.unwrap())).collect::<Vec<_>>()
        };
        let before = standings(&repository).await;
        assert!(before.iter().all(|(_, standing)| *standing != Standing::Vouched), "{before:?}");
        let own = repository.opened_by().to_owned();
        // The recovery slot may be anybody's, so the passphrase's is not given up for it.
        let refused = repository.remove_key_slot(&own).await.unwrap_err().to_string();
        assert!(refused.contains("sluice key vouch"), "{refused}");
        let first = repository.vouch(&[]).await.unwrap();
        // In slots of 1.0 not even the public key is known to be somebody's with the key.
        assert_eq!(first.renewed.len() + first.unknown.len(), 2, "{first:?}");
        assert_eq!(first.unknown.len(), usize::from(version == "1.0"), "{first:?}");
        let repository = reopen(folder.path(), golden_passphrase()).await;
        repository.vouch(&first.unknown).await.unwrap();
        let after = standings(&repository).await;
        assert!(after.iter().all(|(_, standing)| *standing == Standing::Vouched), "{after:?}");
        let own = repository.opened_by().to_owned();
        repository.remove_key_slot(&own).await.unwrap();
        let text = std::fs::read_to_string(fixture(version).join("RECOVERY")).unwrap();
        let recovery = Unlock::Recovery(RecoveryKey::from_text(&text).unwrap());
        assert_golden_disks(&reopen(folder.path(), recovery).await).await;
    }
}

async fn reopen(folder: &Path, unlock: Unlock) -> Repository {
    let destination = Arc::new(FilesystemDestination::open(folder).await.unwrap());
    Repository::open(destination, Clock::system(), unlock, settings(None)).await.unwrap()
}
