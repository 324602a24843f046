//! Restore points that are written to: what is written is kept, committed, or thrown away, and the
//! point stays what it was.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::iscsi::qemu;
use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;
use crate::support::run::{Cmd, wait_until};
use crate::support::serve::Export;

/// A repository with a disk as `vm`; its size is a multiple of 512.
fn sample() -> (Repo, String) {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, 24 * MIB);
    disk::fill(&image, 0, 9 * MIB, 1);
    disk::fill(&image, 15 * MIB, 5 * MIB, 2);
    let point = repo.backup(&image);
    (repo, point)
}

fn writable(repo: &Repo, point: &str, more: &[&str]) -> Export {
    let dir = repo.path("overlay");
    let args = [&["--writable", "--overlay", dir.to_str().unwrap()], more].concat();
    Export::iscsi(repo, point, &args)
}

/// Runs commands of qemu-io on an export, or on a file.
fn io(place: &str, commands: &[&str]) -> Cmd {
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    qemu("qemu-io").args(["-f", "raw"]).args(commands).arg(place)
}

/// What the tests write, and the same done to a copy of the disk.
const WRITES: [&str; 4] =
    ["write -P 0x5a 1M 64k", "write -P 0x11 5000k 512", "write -z 16M 1M", "write -P 0x77 22M 8k"];

fn expected(repo: &Repo, name: &str, commands: &[&str]) -> std::path::PathBuf {
    let path = repo.path(name);
    fs::copy(repo.path("disk.raw"), &path).unwrap();
    io(path.to_str().unwrap(), commands).ok();
    path
}

fn same(uri: &str, path: &Path) {
    qemu("qemu-img").args(["compare", "-f", "raw", "-F", "raw", uri]).arg(path).ok();
}

fn overlay(repo: &Repo) -> String {
    repo.path("overlay").to_str().unwrap().to_owned()
}

#[test]
fn what_is_written_over_nbd_is_kept_and_becomes_a_point() {
    let (repo, point) = sample();
    let (image, dir) = (expected(&repo, "written.raw", &WRITES), overlay(&repo));
    let args = [point.as_str(), "--writable", "--overlay", &dir];
    let export = Export::nbd(&repo, &args);
    io(export.uri(), &WRITES).ok();
    same(export.uri(), &image);
    repo.ok(["overlay", "commit", &dir, "--as", "changed"]);
    io(export.uri(), &["write -P 0x99 2M 4k", "flush"]).ok();
    drop(export);
    repo.assert_restores("changed@latest", &image);
    repo.assert_restores(&point, &repo.path("disk.raw"));
    // The same overlay over the other protocol.
    let export = writable(&repo, &point, &[]);
    io(export.uri(), &["read -P 0x99 2M 4k", "read -P 0x5a 1M 64k"]).ok();
    repo.fails(2, ["export", "nbd", &point, &point, "--writable"]).says(&["one restore point"]);
}

#[test]
fn what_is_written_is_kept_across_restarts_and_thrown_away_on_request() {
    let (repo, point) = sample();
    let image = expected(&repo, "written.raw", &WRITES);
    let export = writable(&repo, &point, &[]);
    io(export.uri(), &WRITES).ok();
    same(export.uri(), &image);
    // In use by another process.
    repo.fails(1, ["overlay", "discard", &overlay(&repo)]).says(&["in use"]);
    export.stop();
    let export = writable(&repo, &point, &[]);
    same(export.uri(), &image);
    export.stop();
    repo.assert_restores(&point, &repo.path("disk.raw"));
    repo.ok(["overlay", "discard", &overlay(&repo)]);
    assert!(!repo.path("overlay").exists());
    let export = writable(&repo, &point, &[]);
    same(export.uri(), &repo.path("disk.raw"));
}

#[test]
fn what_was_flushed_survives_a_kill() {
    let (repo, point) = sample();
    let image = expected(&repo, "written.raw", &WRITES);
    let mut export = writable(&repo, &point, &[]);
    io(export.uri(), &[&WRITES[..], &["flush"]].concat()).ok();
    export.running().signal(Signal::KILL);
    drop(export);
    let export = writable(&repo, &point, &[]);
    same(export.uri(), &image);
}

#[test]
fn a_commit_while_it_is_served_is_a_new_point_and_only_changes_are_read() {
    let (repo, point) = sample();
    let export = writable(&repo, &point, &[]);
    io(export.uri(), &WRITES).ok();
    let done = repo.json(["overlay", "commit", &overlay(&repo)]);
    let committed = done["point"]["point"].as_str().unwrap().to_owned();
    assert_eq!(repo.points("vm"), [point.clone(), committed.clone()]);
    let image = expected(&repo, "written.raw", &WRITES);
    repo.assert_restores(&committed, &image);
    repo.assert_restores(&point, &repo.path("disk.raw"));
    // Blocks of 128 KiB: one for each small write, two where one crosses a boundary.
    assert!(repo.stats(&committed).read <= MIB + 5 * (128 << 10), "{done}");
    let meta = &done["point"]["metadata"]["sluice.overlay"];
    assert_eq!(meta["base"].as_str(), Some(point.as_str()));
    // The same export goes on, over the new point, and its next commit builds on that one.
    same(export.uri(), &image);
    let more = ["write -P 0x33 3M 4k"];
    io(export.uri(), &more).ok();
    export.stop();
    let done = repo.json(["overlay", "commit", &overlay(&repo), "--as", "clone"]);
    let clone = done["point"]["point"].as_str().unwrap();
    assert!(clone.starts_with("clone@"));
    assert_eq!(repo.stats(clone).read, 128 << 10);
    repo.assert_restores(clone, &expected(&repo, "more.raw", &[&WRITES[..], &more].concat()));
    repo.assert_sound();
    // Served again as at first: the overlay remembers where it came from.
    let export = writable(&repo, &point, &[]);
    same(export.uri(), &repo.path("more.raw"));
}

#[test]
fn a_full_overlay_tells_the_client_and_goes_on() {
    let (repo, point) = sample();
    let export = writable(&repo, &point, &["--overlay-limit", "64KiB"]);
    io(export.uri(), &["write -P 1 0 64k"]).ok();
    let refused = io(export.uri(), &["write -P 2 1M 4k"]).run();
    let told = format!("{}{}", refused.text(), refused.err);
    assert!(told.contains("No space left"), "{told}");
    io(export.uri(), &["read -P 1 0 64k", "write -P 3 4k 4k", "discard 8k 32k"]).ok();
    io(export.uri(), &["write -P 2 1M 4k", "read -P 2 1M 4k", "read -P 3 4k 4k"]).ok();
}

#[test]
fn overlays_are_listed_shown_and_bound_to_their_point() {
    let (repo, first) = sample();
    disk::modify(&repo.path("disk.raw"), 1);
    let second = repo.backup(repo.path("disk.raw"));
    let export = writable(&repo, &first, &["--overlay-limit", "1GiB"]);
    io(export.uri(), &["write -P 1 0 8k"]).ok();
    let shown = repo.json(["overlay", "show", &overlay(&repo)]);
    assert_eq!(shown["base"].as_str(), Some(first.as_str()));
    assert_eq!(
        (shown["in_use"].as_bool(), shown["status"]["written"].as_u64()),
        (Some(true), Some(8192))
    );
    export.stop();
    let dir = repo.dir().to_str().unwrap();
    let listed = repo.json(["overlay", "list", dir]);
    let listed = listed["overlays"].as_array().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["in_use"].as_bool(), Some(false));
    let overlay = overlay(&repo);
    let args = ["export", "iscsi", &second, "--listen", "127.0.0.1:0"];
    let refused = repo.fails(1, args.into_iter().chain(["--writable", "--overlay", &overlay]));
    refused.says(&[first.split('@').nth(1).unwrap(), "overlay show"]);
    repo.fails(1, ["overlay", "show", repo.path("none").to_str().unwrap()]).says(&["no overlay"]);
}

#[test]
fn a_hydrated_overlay_reads_nothing_of_the_repository() {
    let (repo, point) = sample();
    let export = writable(&repo, &point, &[]);
    io(export.uri(), &WRITES).ok();
    let done = repo.json(["overlay", "hydrate", &overlay(&repo), "--limit", "1GiB"]);
    assert_eq!(done["hydration"]["done"], 24 * MIB);
    // The data is gone from under it, and nobody misses it.
    let data = repo.folder().join("d");
    fs::rename(&data, repo.path("away")).unwrap();
    let image = expected(&repo, "written.raw", &WRITES);
    same(export.uri(), &image);
    export.stop();
    let export = writable(&repo, &point, &[]);
    same(export.uri(), &image);
    fs::rename(repo.path("away"), &data).unwrap();
    let done = repo.json(["overlay", "commit", &overlay(&repo)]);
    let committed = done["point"]["point"].as_str().unwrap();
    repo.assert_restores(committed, &image);
    same(export.uri(), &image);
    export.stop();
    // Once it is there, another run has nothing to do.
    repo.ok(["overlay", "hydrate", &overlay(&repo)]);
}

/// Prunes and collects all that nothing keeps of `vm`, of which there are newer points.
fn sweep(repo: &Repo) {
    disk::fill(&repo.path("disk.raw"), 0, 20 * MIB, 7);
    repo.backup(repo.path("disk.raw"));
    repo.ok(["prune", "vm", "--keep-last", "1"]);
    repo.ok(["collect", "--min-saving", "0", "--compact-below", "100%"]);
}

#[test]
fn a_point_under_an_overlay_stays_between_runs_until_the_overlay_is_gone() {
    let (repo, point) = sample();
    let image = expected(&repo, "written.raw", &WRITES);
    let export = writable(&repo, &point, &[]);
    io(export.uri(), &WRITES).ok();
    export.stop();
    let listed = repo.json(["overlay", "list", repo.dir().to_str().unwrap()]);
    assert_eq!(listed["overlays"][0]["overlay"]["kept"], true, "{listed}");
    let id = listed["overlays"][0]["overlay"]["id"].clone();
    let shown = repo.json(["show", &point]);
    let shown = shown.get("point").filter(|point| point.is_object()).unwrap_or(&shown);
    assert_eq!(shown["protection"]["overlays"][0], id, "{shown}");
    repo.fails(1, ["forget", &point]).says(&["overlay"]);
    sweep(&repo);
    assert_eq!(repo.points("vm")[0], point);
    let export = writable(&repo, &point, &[]);
    same(export.uri(), &image);
    // A commit puts the new point underneath, and the old one may go.
    let done = repo.json(["overlay", "commit", &overlay(&repo), "--as", "other"]);
    let committed = done["point"]["point"].as_str().unwrap().to_owned();
    export.stop();
    sweep(&repo);
    assert!(!repo.points("vm").contains(&point));
    repo.fails(1, ["forget", &committed]).says(&["overlay"]);
    let export = writable(&repo, &committed, &[]);
    same(export.uri(), &image);
    export.stop();
    repo.ok(["overlay", "discard", &overlay(&repo)]);
    repo.ok(["forget", &committed]);
    repo.assert_sound();
}

#[test]
fn a_point_whose_overlay_was_lost_is_let_go_of_by_hand() {
    let (repo, point) = sample();
    writable(&repo, &point, &[]).stop();
    let away = repo.sluice(["overlay", "discard", &overlay(&repo), "--repo", "/nowhere"]);
    away.run().ended(1).says(&["nothing was discarded"]);
    repo.ok(["hold", &point, "--reason", "case 9"]);
    repo.ok(["overlay", "discard", &overlay(&repo), "--local", "--repo", "/nowhere"]);
    assert!(!repo.path("overlay").exists());
    repo.ok(["release", &point]);
    repo.fails(1, ["forget", &point]).says(&["overlay"]);
    repo.ok(["release", &point, "--overlays"]);
    repo.ok(["forget", &point]);
}

#[test]
fn a_disk_moves_to_a_file_while_it_is_served_and_the_file_is_the_disk() {
    let (repo, point) = sample();
    let (dir, file) = (overlay(&repo), repo.path("moved.raw"));
    let to = file.to_str().unwrap();
    let mut export = writable(&repo, &point, &[]);
    io(export.uri(), &[&WRITES[..], &["flush"]].concat()).ok();
    // Killed in its middle, whoever asked for it is told, and it goes on.
    let hydrate = ["overlay", "hydrate", &dir, "--to", to];
    let slow = repo.sluice([&hydrate[..], &["--limit", "1MiB"]].concat()).spawn();
    wait_until("the copy has begun", || {
        let shown = repo.json(["overlay", "show", &dir]);
        shown["status"]["hydration"]["done"].as_u64().is_some_and(|done| done > 0)
    });
    export.running().signal(Signal::KILL);
    drop(export);
    slow.wait().ended(1);
    let export = writable(&repo, &point, &[]);
    let told = repo.sluice([&hydrate[..], &["--json", "--limit", "8MiB"]].concat()).run().ended(0);
    assert!(told.text().contains("\"eta_seconds\""), "{}", told.text());
    let more = ["write -P 0x99 2M 4k", "write -z 4M 1M", "write -P 0x31 23M 64k", "flush"];
    io(export.uri(), &more).ok();
    // The repository's data is not needed any more, and neither is the export.
    let data = repo.folder().join("d");
    fs::rename(&data, repo.path("away")).unwrap();
    let image = expected(&repo, "more.raw", &[&WRITES[..], &more].concat());
    same(export.uri(), &image);
    repo.fails(1, ["overlay", "commit", &dir]).says(&["moved.raw"]);
    repo.fails(1, ["overlay", "hydrate", &dir, "--to", "/nowhere/disk.raw"]).says(&[to]);
    drop(export);
    disk::assert_same(&file, &image);
    let export = writable(&repo, &point, &[]);
    same(export.uri(), &image);
    io(export.uri(), &["write -P 0x42 12M 4k"]).ok();
    export.stop();
    io(image.to_str().unwrap(), &["write -P 0x42 12M 4k"]).ok();
    disk::assert_same(&file, &image);
    fs::rename(repo.path("away"), &data).unwrap();
    repo.ok(["overlay", "discard", &dir]);
    disk::assert_same(&file, &image);
    // No file that holds something is written over.
    writable(&repo, &point, &[]).stop();
    repo.fails(1, hydrate).says(&["not empty"]);
    disk::assert_same(&file, &image);
}

#[test]
fn the_same_command_again_follows_a_copy_that_goes_on_without_its_client() {
    let (repo, point) = sample();
    let (dir, file) = (overlay(&repo), repo.path("moved.raw"));
    let export = writable(&repo, &point, &[]);
    io(export.uri(), &WRITES).ok();
    let hydrate = ["overlay", "hydrate", &dir, "--to", file.to_str().unwrap()];
    let slow = repo.sluice([&hydrate[..], &["--limit", "1MiB"]].concat()).spawn();
    wait_until("the copy has begun", || {
        let shown = repo.json(["overlay", "show", &dir]);
        shown["status"]["hydration"]["done"].as_u64().is_some_and(|done| done > 0)
    });
    slow.signal(Signal::INT);
    slow.wait();
    // What it may take was said anew.
    let again = [&hydrate[..], &["--json", "--limit", "1GiB"]].concat();
    let told = repo.sluice(again).run().ended(0);
    assert!(told.text().contains("\"progress\""), "{}", told.text());
    let image = expected(&repo, "written.raw", &WRITES);
    same(export.uri(), &image);
    export.stop();
    disk::assert_same(&file, &image);
}

#[test]
fn an_overlay_is_another_target_and_disk_than_its_point_and_stays_that() {
    let (repo, point) = sample();
    let who = |export: &Export| {
        let target = export.uri().split('/').nth(3).expect("a target").to_owned();
        // Serial number, and names.
        let pages = ["128", "131"].map(|page| {
            Cmd::new("iscsi-inq").args(["-e", "1", "-c", page, export.uri()]).ok().text()
        });
        (target, pages)
    };
    // Both at a time, as an initiator may come to see them.
    let (only_read, written) = (Export::iscsi(&repo, &point, &[]), writable(&repo, &point, &[]));
    let (point_is, overlay_is) = (who(&only_read), who(&written));
    assert_ne!(point_is.0, overlay_is.0, "the target's name");
    assert_ne!(point_is.1[0], overlay_is.1[0], "the serial number");
    assert_ne!(point_is.1[1], overlay_is.1[1], "the names of the disk");
    assert!(overlay_is.0.contains(":vm."), "{}", overlay_is.0);
    only_read.stop();
    io(written.uri(), &WRITES).ok();
    repo.ok(["overlay", "commit", &overlay(&repo)]);
    assert_eq!(who(&written), overlay_is);
    written.stop();
    let written = writable(&repo, &point, &[]);
    assert_eq!(who(&written), overlay_is, "after a commit and a restart");
    written.stop();
    let other = repo.path("other");
    let args = ["--writable", "--overlay", other.to_str().unwrap()];
    let other = who(&Export::iscsi(&repo, &point, &args));
    assert!(other.0 != overlay_is.0 && other.1[0] != overlay_is.1[0], "another overlay");
}
