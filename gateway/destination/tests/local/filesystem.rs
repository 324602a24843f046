use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sluice_destination::filesystem::FilesystemDestination;
use sluice_destination::memory::MemoryDestination;
use sluice_destination::{ByteRange, Destination, ErrorKind, Key, ListPage, MAX_GET, list_all};
use tempfile::{TempDir, tempdir};

const HOUR: Duration = Duration::from_secs(3600);

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn store() -> (TempDir, FilesystemDestination) {
    let folder = tempdir().unwrap();
    let store = FilesystemDestination::open(folder.path()).await.unwrap();
    (folder, store)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_missing_folder_is_refused_and_not_made() {
    let parent = tempdir().unwrap();
    let missing = parent.path().join("not/mounted");
    let error = FilesystemDestination::open(&missing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("mounted"), "{error}");
    assert!(!missing.exists());
    let made = FilesystemDestination::create(&missing).await.unwrap();
    made.put_new(&key("a"), Bytes::from_static(b"a")).await.unwrap();
    assert!(missing.join("a").is_file());
}

#[tokio::test]
async fn a_file_is_no_destination() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = FilesystemDestination::open(file.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn puts_leave_no_temporary_files() {
    let (folder, store) = store().await;
    store.put_new(&key("d/a"), Bytes::from_static(b"1")).await.unwrap();
    store.put_new(&key("d/a"), Bytes::from_static(b"2")).await.unwrap_err();
    store.put(&key("d/a"), Bytes::from_static(b"3")).await.unwrap();
    store.put_new(&key("d/a/below"), Bytes::from_static(b"4")).await.unwrap_err();
    assert!(files(&folder.path().join(".tmp")).is_empty());
    assert_eq!(fs::read(folder.path().join("d/a")).unwrap(), b"3");
}

#[tokio::test]
async fn opening_removes_what_a_crash_left_days_ago_and_nothing_else() {
    let (folder, store) = store().await;
    store.put(&key("object"), Bytes::from_static(b"x")).await.unwrap();
    let fresh = fs::metadata(folder.path().join("object")).unwrap().modified().unwrap();
    let left = |name: &str, age: Duration| {
        let path = folder.path().join(name);
        let file = File::options().create(true).append(true).open(&path).unwrap();
        file.set_modified(fresh - age).unwrap();
        path
    };
    let stale = left(".tmp/stale", 25 * HOUR);
    let running = left(".tmp/running", 23 * HOUR);
    let object = left("object", 99 * HOUR);
    FilesystemDestination::open(folder.path()).await.unwrap();
    assert!(!stale.exists() && running.exists() && object.exists());
}

#[tokio::test]
async fn foreign_files_are_no_objects() {
    let (folder, store) = store().await;
    store.put(&key("a"), Bytes::from_static(b"a")).await.unwrap();
    fs::create_dir(folder.path().join("lost+found")).unwrap();
    fs::write(folder.path().join("lost+found/x"), "").unwrap();
    fs::write(folder.path().join(".hidden"), "").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("link")).unwrap();
    let names = list_all(&store, "").await.unwrap();
    assert_eq!(names.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["a"]);
    store.get(&key("link"), ByteRange::Full).await.unwrap_err();
    assert_eq!(store.head(&key("link")).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_openings_of_one_folder_race_as_one() {
    let (folder, ours) = store().await;
    let theirs = FilesystemDestination::open(folder.path()).await.unwrap();
    for round in 0..20 {
        let name = key(&format!("r/{round}/key"));
        let puts = [&ours, &theirs].map(|store| store.put_new(&name, Bytes::from_static(b"x")));
        let won = join_all(puts).await.into_iter().filter(Result::is_ok).count();
        assert_eq!(won, 1, "winners of round {round}");
    }
}

#[tokio::test]
async fn a_folder_that_vanishes_is_not_made_again() {
    let (folder, store) = store().await;
    store.put(&key("d/a"), Bytes::from_static(b"a")).await.unwrap();
    // As when its disk is unmounted: the mount point stays behind, empty.
    fs::remove_dir_all(folder.path().join("d")).unwrap();
    fs::remove_dir_all(folder.path().join(".tmp")).unwrap();
    for name in ["d/b", "e"] {
        let error = store.put_new(&key(name), Bytes::from_static(b"b")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Other, "{error}");
        assert!(error.to_string().contains("mount"), "{error}");
    }
    assert!(files(folder.path()).is_empty());
}

#[tokio::test]
async fn an_object_too_large_to_hold_is_read_by_spans_only() {
    let (folder, store) = store().await;
    File::create(folder.path().join("huge")).unwrap().set_len(MAX_GET + 10).unwrap();
    let error = store.get(&key("huge"), ByteRange::Full).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Other, "{error}");
    let span = ByteRange::Span { offset: MAX_GET, length: 100 };
    assert_eq!(store.get(&key("huge"), span).await.unwrap(), [0; 10].as_slice());
}

/// Text of a few characters around the slash in order, so that names are prefixes of each other.
fn text(random: &mut StdRng, length: usize) -> String {
    (0..length).map(|_| *b"a-.0/".choose(random).unwrap() as char).collect()
}

#[tokio::test]
async fn listings_are_those_of_an_ordered_map() {
    for seed in 0..20 {
        let (_folder, store) = store().await;
        let twin = MemoryDestination::new();
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..60 {
            let length = random.random_range(1..8);
            let Ok(name) = Key::new(text(&mut random, length)) else { continue };
            // A key that goes on where another one ends is refused by a file system.
            if store.put(&name, Bytes::new()).await.is_ok() {
                twin.put(&name, Bytes::new()).await.unwrap();
            }
        }
        assert!(twin.len() > 10, "seed {seed} stores next to nothing");
        for _ in 0..100 {
            let length = random.random_range(0..4);
            let prefix = text(&mut random, length);
            let after = Key::new(text(&mut random, 3)).ok();
            let limit = random.random_range(1..20);
            let found = store.list(&prefix, after.as_ref(), limit).await.unwrap();
            let wanted = twin.list(&prefix, after.as_ref(), limit).await.unwrap();
            let keys = |page: &ListPage| -> Vec<String> {
                page.objects.iter().map(|object| object.key.to_string()).collect()
            };
            let asked = format!("seed {seed}, {limit} below {prefix:?} after {after:?}");
            assert_eq!(keys(&found), keys(&wanted), "{asked}");
            assert_eq!(found.more, wanted.more, "{asked}");
        }
    }
}
