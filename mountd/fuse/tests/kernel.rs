//! The mount as programs see it, through the kernel.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sluice_block::{
    BlockError, BlockRead, BlockWrite, ErrorKind, Extent, FaultyRead, MemoryDisk, Result,
};
use sluice_fuse::{Catalogue, ImageEntry, MountError, MountOptions, PointEntry, mount, unmount};

/// Points in memory.
#[derive(Default)]
struct Points {
    list: Mutex<Vec<(PointEntry, Arc<dyn BlockRead>)>>,
}

impl Points {
    fn add(&self, instance: &str, name: &str, created_ms: u64, device: Arc<dyn BlockRead>) {
        let size = device.size();
        let images = vec![ImageEntry { name: "vda".into(), size, data_bytes: size / 2 }];
        let metadata = format!("{{\"point\":\"{name}\"}}").into_bytes();
        let (instance, name) = (instance.to_owned(), name.to_owned());
        let point = PointEntry { instance, name, created_ms, images, metadata };
        self.list.lock().push((point, device));
    }
}

#[async_trait]
impl Catalogue for Points {
    async fn points(&self) -> Result<Vec<PointEntry>> {
        Ok(self.list.lock().iter().map(|(point, _)| point.clone()).collect())
    }

    async fn open(&self, instance: &str, point: &str, _: &str) -> Result<Arc<dyn BlockRead>> {
        let list = self.list.lock();
        let found = list.iter().find(|(p, _)| p.instance == instance && p.name == point);
        found
            .map(|(_, device)| device.clone())
            .ok_or_else(|| BlockError::new(ErrorKind::Io, "no such point"))
    }
}

/// A device whose reads never end.
struct Silent(u64);

#[async_trait]
impl BlockRead for Silent {
    fn size(&self) -> u64 {
        self.0
    }
    async fn read_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
        std::future::pending().await
    }
}

fn options() -> MountOptions {
    MountOptions {
        read_timeout: Duration::from_millis(300),
        refresh: Duration::ZERO,
        ..MountOptions::default()
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 % 251) as u8).collect()
}

/// Runs `check` on a thread of its own, as other programs are.
async fn outside<T: Send + 'static>(check: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(check).await.unwrap()
}

async fn with_mount(points: Arc<Points>, check: impl FnOnce(&Path) + Send + 'static) {
    let folder = tempfile::tempdir().unwrap();
    let mounted = mount(points, folder.path(), options()).await.unwrap();
    let dir = folder.path().to_owned();
    outside(move || check(&dir)).await;
    mounted.unmount().await.unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "still mounted");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_links_and_metadata_are_where_they_should_be() {
    let points = Arc::new(Points::default());
    let content = bytes(3_000_001);
    points.add("web-1", "p1", 1_000_000, Arc::new(MemoryDisk::from_bytes(b"old")));
    points.add("web-1", "p2", 2_000_000, Arc::new(MemoryDisk::from_bytes(&content)));
    points.add("a/..", "p1", 3_000_000, Arc::new(MemoryDisk::new(10)));
    with_mount(points, move |dir| {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|item| item.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["a%2F..", "web-1"]);
        assert_eq!(fs::read_link(dir.join("web-1/latest")).unwrap(), Path::new("p2"));
        let file = dir.join("web-1/latest/vda.raw");
        assert!(fs::read(&file).unwrap() == content);
        let meta = fs::metadata(&file).unwrap();
        assert_eq!((meta.len(), meta.mtime(), meta.mode() & 0o777), (3_000_001, 2000, 0o444));
        let metadata = fs::read_to_string(dir.join("web-1/p1/metadata.json")).unwrap();
        assert_eq!(metadata, "{\"point\":\"p1\"}");
        let error = File::options().write(true).open(&file).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        assert!(fs::metadata(dir.join("web-1/p9")).is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_side_by_side_get_the_right_bytes() {
    let points = Arc::new(Points::default());
    let content = Arc::new(bytes(8 << 20));
    points.add("i", "p", 1, Arc::new(MemoryDisk::from_bytes(&content)));
    with_mount(points, move |dir| {
        std::thread::scope(|scope| {
            for reader in 0..8u64 {
                let content = content.clone();
                scope.spawn(move || {
                    let file = File::open(dir.join("i/p/vda.raw")).unwrap();
                    for step in 0..200u64 {
                        let at = (reader * 7919 + step * 104_729) % (8 << 20);
                        let length = (step * 37 % 9000).min((8 << 20) - at) as usize;
                        let mut buf = vec![0; length];
                        file.read_exact_at(&mut buf, at).unwrap();
                        assert!(buf == content[at as usize..at as usize + length]);
                    }
                });
            }
        });
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_can_be_skipped_and_huge_files_are_no_trouble() {
    let disk = MemoryDisk::new(16 << 40);
    disk.write_at(5 << 40, &[7; 4096]).await.unwrap();
    disk.write_at((16 << 40) - 4096, &[9; 4096]).await.unwrap();
    let points = Arc::new(Points::default());
    points.add("i", "p", 1, Arc::new(disk));
    with_mount(points, |dir| {
        let mut file = File::open(dir.join("i/p/vda.raw")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 16 << 40);
        let seek = |file: &File, at: u64, data: bool| {
            let to =
                if data { rustix::fs::SeekFrom::Data(at) } else { rustix::fs::SeekFrom::Hole(at) };
            rustix::fs::seek(file, to).unwrap()
        };
        assert_eq!(seek(&file, 0, true), 5 << 40);
        assert_eq!(seek(&file, 5 << 40, false), (5 << 40) + 4096);
        assert_eq!(seek(&file, 6 << 40, true), (16 << 40) - 4096);
        file.seek(SeekFrom::End(-4096)).unwrap();
        let mut end = Vec::new();
        file.read_to_end(&mut end).unwrap();
        assert_eq!(end, [9; 4096]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_or_never_answers_gives_eio_and_delays_nobody() {
    let points = Arc::new(Points::default());
    let broken = FaultyRead::new(MemoryDisk::new(1 << 20), 0, ErrorKind::Damaged);
    points.add("i", "broken", 1, Arc::new(broken));
    points.add("i", "silent", 2, Arc::new(Silent(1 << 20)));
    points.add("i", "sound", 3, Arc::new(MemoryDisk::from_bytes(&bytes(1000))));
    with_mount(points, |dir| {
        let read = |point: &str| fs::read(dir.join("i").join(point).join("vda.raw"));
        std::thread::scope(|scope| {
            let silent = scope.spawn(|| read("silent").unwrap_err());
            assert!(read("sound").unwrap() == bytes(1000));
            assert_eq!(read("broken").unwrap_err().raw_os_error(), Some(libc::EIO));
            assert_eq!(silent.join().unwrap().raw_os_error(), Some(libc::EIO));
        });
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unmounting_works_with_files_open_and_reads_that_hang() {
    let points = Arc::new(Points::default());
    points.add("i", "silent", 1, Arc::new(Silent(1 << 20)));
    let folder = tempfile::tempdir().unwrap();
    let slow = MountOptions { read_timeout: Duration::from_secs(3), ..options() };
    let mounted = mount(points, folder.path(), slow).await.unwrap();
    let path = folder.path().join("i/silent/vda.raw");
    let file = outside(move || File::open(path).unwrap()).await;
    let hanging = tokio::task::spawn_blocking(move || {
        let mut buf = [0; 10];
        file.read_exact_at(&mut buf, 0).unwrap_err()
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    mounted.unmount().await.unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the folder is free at once");
    assert_eq!(hanging.await.unwrap().raw_os_error(), Some(libc::EIO));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_points_appear_and_pruned_ones_go() {
    let points = Arc::new(Points::default());
    points.add("i", "p1", 1, Arc::new(MemoryDisk::from_bytes(b"one")));
    let shared = points.clone();
    with_mount(points, move |dir| {
        assert_eq!(fs::read(dir.join("i/latest/vda.raw")).unwrap(), b"one");
        shared.add("i", "p2", 2, Arc::new(MemoryDisk::from_bytes(b"two")));
        assert_eq!(fs::read(dir.join("i/p2/vda.raw")).unwrap(), b"two");
        // The kernel may believe the old link for as long as it was told.
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(fs::read(dir.join("i/latest/vda.raw")).unwrap(), b"two");
        shared.list.lock().remove(0);
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(fs::read_dir(dir.join("i")).unwrap().count(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_mount_points_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let points = Arc::new(Points::default());
    let missing = mount(points.clone(), &folder.path().join("none"), options()).await.unwrap_err();
    assert!(missing.to_string().contains("create it"), "{missing}");
    fs::write(folder.path().join("file"), "x").unwrap();
    let full = mount(points.clone(), folder.path(), options()).await.unwrap_err();
    assert!(full.to_string().contains("not empty"), "{full}");
    let file = mount(points, &folder.path().join("file"), options()).await.unwrap_err();
    assert!(matches!(file, MountError::MountPoint(..)), "{file}");
    assert!(matches!(unmount(folder.path()), Err(MountError::Unmount(..))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmount_from_outside_ends_the_session() {
    let points = Arc::new(Points::default());
    points.add("i", "p", 1, Arc::new(MemoryDisk::new(10)));
    let folder = tempfile::tempdir().unwrap();
    let mounted = mount(points, folder.path(), options()).await.unwrap();
    assert!(!mounted.has_ended());
    let dir = folder.path().to_owned();
    outside(move || unmount(&dir).unwrap()).await;
    mounted.ended().await;
    mounted.unmount().await.unwrap();
}

/// A map that ends early or has gaps must not confuse seeking.
#[tokio::test(flavor = "multi_thread")]
async fn maps_in_small_pieces_are_followed_to_the_end() {
    struct Pieces(MemoryDisk);
    #[async_trait]
    impl BlockRead for Pieces {
        fn size(&self) -> u64 {
            self.0.size()
        }
        async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
            self.0.read_at(offset, buf).await
        }
        async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
            self.0.extents(offset, length.min(4096)).await
        }
    }
    let disk = MemoryDisk::new(1 << 20);
    disk.write_at(900_000, &[1]).await.unwrap();
    let points = Arc::new(Points::default());
    points.add("i", "p", 1, Arc::new(Pieces(disk)));
    with_mount(points, |dir| {
        let file = File::open(dir.join("i/p/vda.raw")).unwrap();
        let at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
        assert_eq!(at, 900_000 / 4096 * 4096);
    })
    .await;
}

/// A mount of another kind on a folder of its own, gone with the value.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn on(folder: tempfile::TempDir) -> Self {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", folder.path(), "tmpfs", flags, None)
            .expect("root can mount a tmpfs");
        fs::write(folder.path().join("kept"), "x").unwrap();
        Self(folder)
    }

    fn is_there(&self) -> bool {
        self.0.path().join("kept").exists()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_of_another_kind_are_left_alone() {
    let other = Tmpfs::on(tempfile::tempdir().unwrap());
    let error = unmount(other.0.path()).unwrap_err();
    assert!(matches!(error, MountError::Unmount(..)), "{error}");
    assert!(other.is_there(), "the other mount was detached");
}

#[tokio::test(flavor = "multi_thread")]
async fn unmounting_what_is_gone_leaves_what_came_after_it() {
    let points = Arc::new(Points::default());
    points.add("i", "p", 1, Arc::new(MemoryDisk::new(4096)));
    let folder = tempfile::tempdir().unwrap();
    let mounted = mount(points, folder.path(), options()).await.unwrap();
    let dir = folder.path().to_owned();
    // The open file keeps the session alive after the folder is free again.
    let file = outside(move || {
        let file = File::open(dir.join("i/p/vda.raw")).unwrap();
        unmount(&dir).unwrap();
        file
    })
    .await;
    let other = Tmpfs::on(folder);
    mounted.unmount().await.unwrap();
    assert!(other.is_there(), "the other mount was detached");
    drop(file);
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_do_not_pile_up_behind_a_catalogue_that_hangs() {
    #[derive(Default)]
    struct Hangs(std::sync::atomic::AtomicUsize);
    #[async_trait]
    impl Catalogue for Hangs {
        async fn points(&self) -> Result<Vec<PointEntry>> {
            match self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                0 => Ok(vec![]),
                _ => std::future::pending().await,
            }
        }
        async fn open(&self, _: &str, _: &str, _: &str) -> Result<Arc<dyn BlockRead>> {
            Err(BlockError::new(ErrorKind::Io, "no images"))
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let patient = MountOptions { read_timeout: Duration::from_secs(60), ..options() };
    let mounted = mount(Arc::new(Hangs::default()), folder.path(), patient).await.unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let dir = folder.path().to_owned();
    outside(move || {
        for look in 0..20 {
            assert!(fs::metadata(dir.join(format!("none-{look}"))).is_err());
        }
    })
    .await;
    // One hangs, and those of the last looks end behind their answers.
    while tasks() > before + 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    mounted.unmount().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_called_latest_does_not_hide_behind_the_link() {
    let points = Arc::new(Points::default());
    points.add("i", "latest", 2, Arc::new(MemoryDisk::from_bytes(b"named")));
    with_mount(points, |dir| {
        assert_eq!(fs::read_link(dir.join("i/latest")).unwrap(), Path::new("%6Catest"));
        assert_eq!(fs::read(dir.join("i/latest/vda.raw")).unwrap(), b"named");
    })
    .await;
}

/// A map without progress must end the seek, not keep a thread busy for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_map_without_progress_gives_eio() {
    struct Stuck;
    #[async_trait]
    impl BlockRead for Stuck {
        fn size(&self) -> u64 {
            1 << 20
        }
        async fn read_at(&self, _: u64, buf: &mut [u8]) -> Result<()> {
            buf.fill(1);
            Ok(())
        }
        async fn extents(&self, _: u64, _: u64) -> Result<Vec<Extent>> {
            Ok(Vec::new())
        }
    }
    let points = Arc::new(Points::default());
    points.add("i", "p", 1, Arc::new(Stuck));
    with_mount(points, |dir| {
        let file = File::open(dir.join("i/p/vda.raw")).unwrap();
        let error = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap_err();
        assert_eq!(error, rustix::io::Errno::IO);
    })
    .await;
}
