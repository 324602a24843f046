//! The mount, through the kernel.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::support::disk::{self, MIB, assert_same};
use crate::support::repo::Repo;
use crate::support::run::{Cmd, Running, wait_until};
use crate::support::serve::Mount;

fn sample() -> (Repo, String) {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::sample(&image);
    let point = repo.backup(&image);
    (repo, point)
}

/// The folder of a point: its time, a dash, and the start of its id.
pub fn folder_of(mount: &Mount, point: &str) -> PathBuf {
    let (instance, id) = point.split_once('@').unwrap();
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.rsplit_once('-').is_some_and(|(_, start)| id.starts_with(start))
    };
    let entries = fs::read_dir(mount.path(instance)).unwrap();
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(fits).collect();
    assert_eq!(found.len(), 1, "one folder for {point}");
    found.remove(0)
}

fn names(path: PathBuf) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_layout_is_instance_point_image() {
    let (repo, first) = sample();
    let meta = repo.path("meta.json");
    fs::write(&meta, r#"{"cpus": 4}"#).unwrap();
    let image = repo.path("disk.raw");
    let second = repo.backup_with(&image, &["--meta", meta.to_str().unwrap()]);
    repo.ok(["backup", "other", image.to_str().unwrap()]);

    let mount = Mount::detached(&repo);
    assert_eq!(names(mount.path("")), ["other", "vm"]);
    assert_eq!(names(mount.path("vm")).len(), 3);
    let latest = fs::read_link(mount.path("vm/latest")).unwrap();
    assert_eq!(mount.path("vm").join(latest), folder_of(&mount, &second));
    for point in [&first, &second] {
        let folder = folder_of(&mount, point);
        assert_eq!(names(folder.clone()), ["disk.raw", "metadata.json"]);
        let file = folder.join("disk.raw");
        assert_eq!(file.metadata().unwrap().len(), 50 * MIB + 12_345);
        assert_eq!(file.metadata().unwrap().mode() & 0o222, 0, "nobody may write");
        let text = fs::read_to_string(folder.join("metadata.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(point.ends_with(json["id"].as_str().unwrap()), "{json}");
    }
    let text = fs::read_to_string(mount.path("vm/latest/metadata.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["metadata"]["cpus"], 4);
    mount.unmount(false);
}

#[test]
fn nothing_can_be_written_below_a_mount() {
    let (repo, _) = sample();
    let mount = Mount::detached(&repo);
    let file = mount.path("vm/latest/disk.raw");
    assert!(fs::OpenOptions::new().write(true).open(&file).is_err());
    assert!(fs::remove_file(&file).is_err());
    assert!(fs::write(mount.path("vm/new"), "x").is_err());
    assert!(fs::create_dir(mount.path("new")).is_err());
    mount.unmount(false);
}

#[test]
fn new_points_appear_and_removed_ones_vanish() {
    let (repo, first) = sample();
    let mount = Mount::detached(&repo);
    let gone = folder_of(&mount, &first);
    disk::modify(&repo.path("disk.raw"), 1);
    let second = repo.backup(repo.path("disk.raw"));
    repo.ok(["forget", &first]);
    let expected = |names: &[String]| {
        let (_, id) = second.split_once('@').unwrap();
        let is_second = |name: &String| id.starts_with(name.rsplit('-').next().unwrap());
        names.len() == 2 && names.iter().any(is_second)
    };
    wait_until("the new point takes the place of the removed one", || {
        expected(&names(mount.path("vm")))
    });
    wait_until("the kernel forgets the removed one", || !gone.exists());
    assert_same(&repo.path("disk.raw"), &mount.path("vm/latest/disk.raw"));
    mount.unmount(false);
}

#[test]
fn it_unmounts_with_a_file_open() {
    let (repo, _) = sample();
    let mount = Mount::detached(&repo);
    let mut file = File::open(mount.path("vm/latest/disk.raw")).unwrap();
    let mut bytes = [0; 100];
    file.read_exact(&mut bytes).unwrap();
    let dir = mount.path("");
    // As the kernel has it, a plain unmount may be refused while a file is open; ours works.
    repo.ok(["unmount".as_ref(), dir.as_os_str()]);
    assert!(!mount.is_mounted());
    drop(file);
    drop(mount);
    // And it can be mounted again at once.
    Mount::detached(&repo).unmount(false);
}

#[test]
fn a_killed_mount_can_be_unmounted() {
    let (repo, _) = sample();
    let dir = repo.path("mnt");
    fs::create_dir_all(&dir).unwrap();
    // In the foreground: mountd would start it again.
    let running = repo.sluice(["mount".as_ref(), dir.as_os_str()]).spawn();
    let mount = Mount::adopt(dir);
    wait_until("the mount is there", || mount.path("vm").exists());
    let file = File::open(mount.path("vm/latest/disk.raw")).unwrap();
    running.signal(rustix::process::Signal::KILL);
    running.wait();
    // A request that was on its way when the process died is told so; every later one is told
    // that there is nobody.
    let look = || fs::read_dir(mount.path("vm")).map(|_| ()).unwrap_err().raw_os_error();
    let aborted = Some(rustix::io::Errno::CONNABORTED.raw_os_error());
    let told = (0..100).map(|_| look()).find(|told| *told != aborted).flatten();
    assert_eq!(told, Some(rustix::io::Errno::NOTCONN.raw_os_error()));
    drop(file);
    mount.unmount(false);
    Mount::detached(&repo).unmount(false);
}

#[test]
fn a_vanished_destination_is_an_error_to_readers_and_no_obstacle_to_unmounting() {
    let (repo, _) = sample();
    let mount = Mount::detached_with(&repo, &["--timeout", "3s", "--retry-for", "2s"]);
    let aside = repo.path("aside");
    fs::rename(repo.folder(), &aside).unwrap();
    // Not cached yet: must be fetched, cannot be.
    let read = Cmd::new("dd")
        .args([format!("if={}", mount.path("vm/latest/disk.raw").display()), "of=/dev/null".into()])
        .args(["bs=1M"])
        .run();
    assert_eq!(read.code, Some(1), "{}", read.err);
    assert!(
        read.err.contains("Input/output error") || read.err.contains("No such"),
        "{}",
        read.err
    );
    // It works again when the destination does.
    fs::rename(&aside, repo.folder()).unwrap();
    assert_same(&repo.path("disk.raw"), &mount.path("vm/latest/disk.raw"));
    fs::rename(repo.folder(), &aside).unwrap();
    mount.unmount(false);
}

#[test]
fn a_mount_in_the_foreground_ends_when_it_is_unmounted_or_interrupted() {
    let (repo, _) = sample();
    for by_signal in [true, false] {
        let dir = repo.path("mnt");
        fs::create_dir_all(&dir).unwrap();
        let running = repo.sluice(["mount".as_ref(), dir.as_os_str()]).spawn();
        let mount = Mount::adopt(dir.clone());
        wait_until("the mount is there", || dir.join("vm").exists());
        if by_signal {
            running.signal(rustix::process::Signal::INT);
        } else {
            Cmd::new("fusermount3").arg("-u").arg(&dir).ok();
        }
        running.wait().ended(0);
        assert!(!mount.is_mounted());
    }
    assert!(repo.objects("p").is_empty(), "pins are left: {:?}", repo.objects("p"));
}

#[test]
fn mounting_on_what_is_no_folder_says_so() {
    let (repo, _) = sample();
    let nowhere = repo.path("nowhere");
    repo.fails(1, ["mount".as_ref(), nowhere.as_os_str()]).says(&["nowhere"]);
    let detached = ["mount".as_ref(), nowhere.as_os_str(), "--detach".as_ref()];
    repo.fails(1, detached).says(&["nowhere"]);
}

/// Serves in the foreground, with images that can be written.
fn writable(repo: &Repo, more: &[&str]) -> (Running, Mount) {
    let dir = repo.path("mnt");
    fs::create_dir_all(&dir).unwrap();
    let overlays = repo.path("overlays");
    let places = [dir.to_str().unwrap(), "--writable", "--overlays", overlays.to_str().unwrap()];
    let running = repo.sluice([&["mount"], &places[..], more].concat()).spawn();
    let mount = Mount::adopt(dir);
    wait_until("there is a mount", || mount.is_mounted());
    (running, mount)
}

#[test]
fn images_of_a_writable_mount_take_writes_and_what_was_synced_survives_a_kill() {
    use std::os::unix::fs::FileExt;
    let (repo, point) = sample();
    let image = repo.path("written.raw");
    fs::copy(repo.path("disk.raw"), &image).unwrap();
    let put = |file: &File| {
        file.write_all_at(&[0x5a; 300_000], MIB + 77).unwrap();
        file.write_all_at(&[0x11; 5], 50 * MIB + 12_340).unwrap();
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, punch, 3 * MIB + 5, MIB).unwrap();
        file.sync_all().unwrap();
    };
    put(&File::options().write(true).open(&image).unwrap());
    let (running, mount) = writable(&repo, &[]);
    let path = folder_of(&mount, &point).join("disk.raw");
    // Somebody who has it open since before the first write sees what is written.
    let reader = File::open(&path).unwrap();
    let overlays = || fs::read_dir(repo.path("overlays")).map_or(0, Iterator::count);
    assert_eq!(overlays(), 0, "reading makes no overlay");
    let file = File::options().read(true).write(true).open(&path).unwrap();
    put(&file);
    assert_same(&image, &path);
    let mut byte = [0; 2];
    reader.read_exact_at(&mut byte, MIB + 77).unwrap();
    assert_eq!(byte, [0x5a; 2]);
    // A disk has the size it has, and no file is added to a point.
    let beyond = file.write_all_at(b"x", 50 * MIB + 12_345).unwrap_err();
    assert_eq!(beyond.raw_os_error(), Some(28), "{beyond}");
    file.set_len(4096).unwrap_err();
    file.set_len(50 * MIB + 12_345).unwrap();
    let strange = File::create(path.with_file_name("other.raw")).unwrap_err();
    assert_eq!(strange.raw_os_error(), Some(30), "{strange}");
    let text = File::options().write(true).open(path.with_file_name("metadata.json"));
    text.unwrap_err();
    drop((file, reader));
    running.signal(rustix::process::Signal::KILL);
    let _ = running.wait();
    drop(mount);

    let (running, mount) = writable(&repo, &[]);
    let path = folder_of(&mount, &point).join("disk.raw");
    assert_same(&image, &path);
    // The overlay is one of those that exports have, and the process answers for it.
    let id = point.replace('@', "-");
    let overlay = repo.path("overlays").join(id);
    repo.ok(["overlay", "commit", overlay.to_str().unwrap(), "--as", "changed"]);
    mount.unmount(false);
    running.wait().ended(0);
    repo.assert_restores("changed@latest", &image);
    repo.assert_restores(&point, &repo.path("disk.raw"));
}

#[test]
fn a_full_overlay_of_a_mount_says_no_space_and_room_comes_back() {
    use std::os::unix::fs::FileExt;
    let (repo, point) = sample();
    let (running, mount) = writable(&repo, &["--overlay-limit", "64KiB"]);
    let path = folder_of(&mount, &point).join("disk.raw");
    let file = File::options().read(true).write(true).open(&path).unwrap();
    file.write_all_at(&[1; 64 << 10], 0).unwrap();
    let full = file.write_all_at(&[2; 4096], MIB).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
    file.write_all_at(&[3; 4096], 4096).unwrap();
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 0, 4096).unwrap();
    file.write_all_at(&[2; 4096], MIB).unwrap();
    file.sync_data().unwrap();
    drop(file);
    mount.unmount(false);
    running.wait().ended(0);
}
