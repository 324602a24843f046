//! A raw disk, backed up again and again, and every restore point got back by every way out.

use std::fs;
use std::path::{Path, PathBuf};

use crate::mount::folder_of;
use crate::support::disk::{self, MIB, allocated, assert_qemu_same, assert_same};
use crate::support::repo::Repo;
use crate::support::run::Cmd;
use crate::support::serve::{Export, Mount};

/// The restore points of a disk and what each must read as.
struct History {
    repo: Repo,
    points: Vec<(String, PathBuf)>,
}

impl History {
    /// Four days of a disk, each day's changes found another way.
    fn record(repo: Repo) -> Self {
        let mut history = Self { repo, points: Vec::new() };
        let image = history.repo.path("disk.raw");
        disk::sample(&image);
        history.day(&image, &[]);
        disk::modify(&image, 1);
        history.day(&image, &[]);
        disk::modify(&image, 2);
        history.day(&image, &["--rescan"]);
        let changed = disk::modify(&image, 3);
        let list = changed
            .iter()
            .map(|(at, length)| serde_json::json!({ "offset": at, "length": length }));
        let file = history.repo.path("extents.json");
        fs::write(&file, serde_json::Value::Array(list.collect()).to_string()).unwrap();
        history.day(&image, &["--changed", file.to_str().unwrap()]);
        history
    }

    fn day(&mut self, image: &Path, how: &[&str]) {
        let kept = self.repo.path(&format!("day-{}.raw", self.points.len()));
        Cmd::new("cp").arg("--sparse=always").arg(image).arg(&kept).ok();
        let point = self.repo.backup_with(image, how);
        assert!(self.points.iter().all(|(earlier, _)| *earlier < point));
        self.points.push((point, kept));
    }

    fn check_exports(&self) {
        for (number, (point, expected)) in self.points.iter().enumerate() {
            // One over each transport would do; all of them over the socket, ends over TCP.
            let unix = Export::unix(&self.repo, point);
            assert_qemu_same(expected, "raw", unix.uri());
            unix.stop();
            if number % 3 == 0 {
                let tcp = Export::tcp(&self.repo, point);
                assert_qemu_same(expected, "raw", tcp.uri());
                tcp.stop();
            }
        }
    }

    fn check_files(&self) {
        let mount = Mount::detached(&self.repo);
        for (point, expected) in &self.points {
            assert_same(expected, &folder_of(&mount, point).join("disk.raw"));
        }
        let (_, newest) = self.points.last().unwrap();
        assert_same(newest, &mount.path("vm/latest/disk.raw"));
        mount.unmount(false);
    }

    fn check_restores(&self) {
        for (point, expected) in &self.points {
            let raw = self.repo.path("restored.raw");
            self.repo.ok(["restore", point, raw.to_str().unwrap()]);
            assert_same(expected, &raw);
            let slack = 2 * MIB;
            assert!(
                allocated(&raw) <= allocated(expected) + slack,
                "a restored file takes {} bytes, its source {}",
                allocated(&raw),
                allocated(expected)
            );
            fs::remove_file(raw).unwrap();
        }
        let (point, expected) = self.points.last().unwrap();
        let qcow2 = self.repo.path("restored.qcow2");
        let target = qcow2.to_str().unwrap();
        self.repo.ok(["restore", point, "--to", target, "--format", "qcow2"]);
        Cmd::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(&qcow2).ok();
        assert_qemu_same_size(expected, &qcow2);
        assert!(allocated(&qcow2) <= allocated(expected) + 4 * MIB);
        // And what `cat` writes.
        let cat = self.repo.ok(["cat", point]);
        assert!(cat.out == fs::read(expected).unwrap(), "cat writes something else");
    }
}

/// qcow2 counts in sectors of 512 bytes: what is beyond the odd end reads as zeroes.
fn assert_qemu_same_size(raw: &Path, qcow2: &Path) {
    assert_qemu_same(raw, "qcow2", qcow2.to_str().unwrap());
    let info = Cmd::new("qemu-img").args(["info", "--output=json"]).arg(qcow2).ok().json();
    let size = raw.metadata().unwrap().len();
    assert_eq!(info["virtual-size"].as_u64().unwrap(), size.next_multiple_of(512));
}

fn everything(repo: Repo) {
    let history = History::record(repo);
    let methods: Vec<_> = history
        .points
        .iter()
        .map(|(point, _)| history.repo.json(["show", point])["method"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(methods, ["full", "regions", "rescan", "changed"]);
    // An incremental one stores the change; with a list it does not even read more.
    let (full, last) = (&history.points[0].0, &history.points[3].0);
    assert!(history.repo.stats(full).dedup >= 4 * MIB - 256 * 1024, "equal blocks are stored once");
    for (point, _) in &history.points[1..] {
        let stats = history.repo.stats(point);
        assert!(stats.new < 2 * MIB, "{point} stored {} new bytes", stats.new);
    }
    assert!(history.repo.stats(last).read < 3 * MIB);
    history.check_exports();
    history.check_files();
    history.check_restores();
    history.repo.assert_sound();
}

#[test]
fn every_point_of_a_folder_comes_back_by_every_way() {
    everything(Repo::new());
}

#[test]
fn every_point_on_s3_comes_back_by_every_way() {
    everything(Repo::on_s3());
}

#[test]
fn the_same_content_again_is_stored_once_across_instances() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::sample(&image);
    repo.backup(&image);
    let before = disk::folder_size(&repo.folder());
    repo.ok(["backup", "twin", image.to_str().unwrap()]);
    let grown = disk::folder_size(&repo.folder()) - before;
    assert!(grown < 200 * disk::KIB, "the twin took {grown} bytes");
    repo.assert_restores("twin@latest", &image);
}

#[test]
fn points_are_found_by_id_prefix_time_and_latest() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, MIB);
    disk::fill(&image, 0, 5000, 1);
    let first = repo.backup(&image);
    let kept = repo.path("first.raw");
    fs::copy(&image, &kept).unwrap();
    disk::fill(&image, 0, 5000, 2);
    let second = repo.backup(&image);

    repo.assert_restores("vm@latest", &image);
    repo.assert_restores("vm", &image);
    repo.assert_restores(&first, &kept);
    // Ids of one minute share their beginning; all but the last characters tell them apart.
    let prefix = &first[..first.len() - 4];
    repo.assert_restores(prefix, &kept);
    repo.assert_restores("vm@2199-01-01T00:00", &image);
    repo.fails(1, ["restore", "vm@1999-01-01T00:00", "x"]).says(&["help:"]);
    let shared = first.bytes().zip(second.bytes()).take_while(|(a, b)| a == b).count();
    repo.fails(1, ["show", &first[..shared]]).says(&["more of the id"]);
}

#[test]
fn what_grew_or_shrank_comes_back_at_its_size() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, 5 * MIB + 1);
    disk::fill(&image, 0, 5 * MIB + 1, 1);
    let mut expected = Vec::new();
    for size in [5 * MIB + 1, 40 * MIB + 77, 3 * MIB + 513, 0, 700] {
        fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(size).unwrap();
        if size > 100_000 {
            disk::fill(&image, size - 100_000, 100_000, size);
        }
        let kept = repo.path(&format!("{size}.raw"));
        fs::copy(&image, &kept).unwrap();
        expected.push((repo.backup(&image), kept));
    }
    for (point, kept) in expected {
        repo.assert_restores(&point, &kept);
    }
}

#[test]
fn the_difference_of_two_points_is_a_list_of_changes_for_a_backup() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::sample(&image);
    let first = repo.backup(&image);
    let changed = disk::modify(&image, 1);
    let second = repo.backup(&image);
    let diff = repo.json(["diff", &first, &second]);
    assert_eq!(repo.json(["diff", "vm@latest~1", "vm@latest"]), diff);
    repo.fails(1, ["diff", "vm@latest~2", "vm@latest"])
        .says(&["no restore point", "sluice list vm"]);
    let extents =
        diff.as_array().or_else(|| diff["extents"].as_array()).expect("a list of extents");
    let covers = |at: u64| {
        extents.iter().any(|extent| {
            let (start, length) = (extent["offset"].as_u64(), extent["length"].as_u64());
            (start.unwrap()..start.unwrap() + length.unwrap()).contains(&at)
        })
    };
    for (at, length) in changed {
        assert!(covers(at) && covers(at + length - 1), "{at}+{length} is not in {diff}");
    }
    assert!(!covers(20 * MIB) && !covers(45 * MIB), "unchanged bytes are in {diff}");
    // Another instance with the first state, brought forward by that list alone.
    let file = repo.path("extents.json");
    fs::write(&file, diff.to_string()).unwrap();
    let old = repo.path("old.raw");
    repo.ok(["restore", &first, old.to_str().unwrap()]);
    repo.ok(["backup", "copy", &format!("disk={}", old.display())]);
    let args = ["backup", "copy", &format!("disk={}", image.display()), "--changed"];
    repo.sluice(args).arg(&file).ok();
    repo.assert_restores("copy@latest", &image);
}

#[test]
fn a_restore_overwrites_only_when_told_to() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::sample(&image);
    let point = repo.backup(&image);
    let target = repo.path("target.raw");
    fs::write(&target, "precious").unwrap();
    repo.fails(1, ["restore", &point, target.to_str().unwrap()]).says(&["target.raw", "overwrite"]);
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    // Old content beyond holes must not shine through.
    disk::fill(&target, 0, 60 * MIB, 99);
    repo.ok(["restore", &point, target.to_str().unwrap(), "--overwrite"]);
    assert_same(&image, &target);
}

#[test]
fn several_images_go_into_a_folder_together() {
    let repo = Repo::new();
    let (a, b) = (repo.path("a.raw"), repo.path("b.raw"));
    disk::sample(&a);
    disk::create(&b, 3 * MIB);
    disk::fill(&b, MIB, 1000, 5);
    let meta = repo.path("meta.json");
    fs::write(&meta, r#"{"cpus": 4}"#).unwrap();
    let root = format!("root={}", a.display());
    repo.sluice(["backup", "vm", &root]).arg(&b).args(["--meta"]).arg(&meta).ok();
    let shown = repo.json(["show", "vm@latest"]);
    assert_eq!(shown["metadata"]["cpus"], 4);
    let names: Vec<_> = shown["images"].as_array().unwrap().iter().map(|i| &i["name"]).collect();
    assert_eq!(names, ["root", "b"]);
    repo.fails(1, ["restore", "vm@latest", "one.raw"]).says(&["root", "b"]);
    let folder = repo.path("images");
    fs::create_dir(&folder).unwrap();
    repo.ok(["restore", "vm@latest", &format!("{}/", folder.display())]);
    assert_same(&a, &folder.join("root.raw"));
    assert_same(&b, &folder.join("b.raw"));
    repo.assert_restores("vm@latest:b", &b);
    repo.fails(1, ["restore", "vm@latest:c", "c.raw"]).says(&["root", "b"]);
    repo.fails(2, ["backup", "vm", &format!("x={}", a.display()), &format!("x={}", b.display())])
        .says(&["two images", "x"]);
}
