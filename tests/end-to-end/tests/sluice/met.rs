//! Damage that readers meet reaches the next backup without a verification in between.

use std::fs;
use std::path::{Path, PathBuf};

use crate::mount::folder_of;
use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;
use crate::support::run::{Cmd, Ran, wait_until};
use crate::support::serve::{Export, Mount};

/// A repository whose one point has a damaged block.
struct Patient {
    repo: Repo,
    point: String,
    image: PathBuf,
}

impl Patient {
    fn new() -> Self {
        let repo = Repo::new();
        let image = repo.path("disk.raw");
        disk::create(&image, 40 * MIB + 5);
        disk::fill(&image, MIB, 2 * MIB, 1);
        disk::fill(&image, 35 * MIB, MIB, 2);
        let point = repo.backup(&image);
        flip(&repo.objects("d")[0]);
        Self { repo, point, image }
    }

    fn records(&self) -> usize {
        self.repo.objects("b").len()
    }

    /// An incremental backup makes a point that is whole, and says what it stored again.
    fn next_backup_heals(&self) {
        assert_eq!(self.records(), 1);
        let healed = self.repo.backup(&self.image);
        assert_eq!(self.repo.stats(&healed).new, 128 << 10, "the damaged block and no other");
        // A warning remains: of what the new point shares a pack with, and does not need.
        self.repo.fails(3, ["verify", &healed, "--data"]);
        self.repo.assert_restores(&healed, &self.image);
    }
}

/// Flips a bit in the middle of an object.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

fn says_so(ran: &Ran) {
    assert!(ran.err.contains("1 damaged pack recorded"), "{}", ran.err);
}

#[test]
fn cat_and_restore_tell_the_next_backup_what_they_met() {
    for command in ["cat", "restore"] {
        let patient = Patient::new();
        let target = patient.repo.path("restored.raw");
        let args: &[&str] = match command {
            "cat" => &["cat", &patient.point],
            _ => &["restore", &patient.point, target.to_str().unwrap()],
        };
        says_so(&patient.repo.fails(4, args));
        let _ = fs::remove_file(&target);
        patient.next_backup_heals();
    }
}

#[test]
fn an_export_tells_the_next_backup_what_it_met_while_it_serves() {
    let patient = Patient::new();
    let export = Export::unix(&patient.repo, &patient.point);
    let copy = patient.repo.path("copy.raw");
    let ran = Cmd::new("qemu-img").args(["convert", "-O", "raw", export.uri()]).arg(&copy).run();
    assert_ne!(ran.code, Some(0));
    wait_until("the damage is recorded", || patient.records() == 1);
    patient.next_backup_heals();
    says_so(&export.stop());
}

#[test]
fn a_mount_tells_the_next_backup_what_it_met() {
    let patient = Patient::new();
    let mount = Mount::detached(&patient.repo);
    fs::read(folder_of(&mount, &patient.point).join("disk.raw")).unwrap_err();
    wait_until("the damage is recorded", || patient.records() == 1);
    mount.unmount(false);
    patient.next_backup_heals();
}
