//! An image of 16 TiB with little in it: cost and memory follow the data, not the size.

use std::fs;

use crate::support::disk::{self, KIB, MIB, TIB};
use crate::support::repo::Repo;
use crate::support::run::{Cmd, Ran};
use crate::support::serve::Export;

const LIMIT: u64 = 512 * MIB;

fn within_memory(ran: Ran) {
    assert!(ran.peak > 0, "no memory was measured");
    assert!(ran.peak <= LIMIT, "{} took {} MiB", ran.what, ran.peak / MIB);
}

#[test]
fn a_sparse_image_of_16_tib_is_backed_up_exported_and_restored_within_memory() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    // The file system of the tests may end just below; no file system ends before this.
    let size = 16 * TIB - 64 * KIB;
    disk::create(&image, size);
    let places = [0, 3 * TIB + 77 * KIB, 9 * TIB, size - 64 * KIB];
    for (seed, at) in places.into_iter().enumerate() {
        disk::fill(&image, at, 64 * KIB, seed as u64);
    }
    disk::fill(&image, TIB, 4 * MIB, 50);
    within_memory(repo.ok(["backup", "vm", image.to_str().unwrap()]));
    disk::fill(&image, 5 * TIB, MIB, 60);
    within_memory(repo.ok(["backup", "vm", image.to_str().unwrap()]));
    let point = repo.points("vm").pop().unwrap();
    let stats = repo.stats(&point);
    assert!(stats.read < 16 * MIB && stats.new < 2 * MIB);

    let mut export = Export::unix(&repo, &point);
    let told = Cmd::new("nbdinfo").args(["--size", export.uri()]).ok().text();
    assert_eq!(told.trim(), size.to_string());
    let mut expected = vec![0; 64 << 10];
    for at in [places[1], places[3], 5 * TIB] {
        let file = fs::File::open(&image).unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut expected, at).unwrap();
        let piece = repo.path("piece");
        fs::write(&piece, &expected).unwrap();
        // A window of the export, as a disk of its own.
        let window = serde_json::json!({
            "driver": "raw", "offset": at, "size": 64 << 10,
            "file": { "driver": "nbd", "server": {
                "type": "unix",
                "path": export.uri().split_once("socket=").unwrap().1,
            }},
        });
        disk::assert_qemu_same(&piece, "raw", &format!("json:{window}"));
    }
    let hole = format!("read -P 0 {} 1M", 12 * TIB);
    let ran = Cmd::new("qemu-io").args(["-r", "-f", "raw", "-c", &hole, export.uri()]).ok();
    assert!(!ran.text().contains("failed"), "{}", ran.text());
    assert!(!export.running().is_over());
    within_memory(export.stop());

    let target = repo.path("restored.raw");
    within_memory(repo.ok(["restore", &point, target.to_str().unwrap()]));
    assert_eq!(target.metadata().unwrap().len(), size);
    assert!(disk::allocated(&target) <= disk::allocated(&image) + 2 * MIB);
    Cmd::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(&image).arg(&target).ok();
    within_memory(repo.ok(["verify", "--data"]));
}

#[test]
fn memory_stays_bounded_over_a_gigabyte_of_new_data() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, 1024 * MIB);
    disk::fill(&image, 0, 1024 * MIB, 1);
    within_memory(repo.ok(["backup", "vm", image.to_str().unwrap()]));
    let target = repo.path("restored.raw");
    within_memory(repo.ok(["restore", "vm", target.to_str().unwrap()]));
    disk::assert_same(&image, &target);
    within_memory(repo.ok(["backup", "vm", image.to_str().unwrap()]));
}
