//! NBD exports, as real clients see them.

use std::fs;

use serde_json::Value;

use crate::support::disk::{self, KIB, MIB, assert_same};
use crate::support::repo::Repo;
use crate::support::run::Cmd;
use crate::support::serve::Export;

/// A repository with the sample disk as `vm`.
fn sample() -> (Repo, String) {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::sample(&image);
    let point = repo.backup(&image);
    (repo, point)
}

fn nbdinfo(args: &[&str]) -> Value {
    Cmd::new("nbdinfo").arg("--json").args(args).ok().json()
}

#[test]
fn nbdinfo_sees_a_read_only_disk_of_the_right_size() {
    let (repo, point) = sample();
    for export in [Export::unix(&repo, &point), Export::tcp(&repo, &point)] {
        let info = nbdinfo(&[export.uri()]);
        let disk = &info["exports"][0];
        assert_eq!(disk["export-size"], 50 * MIB + 12_345);
        assert_eq!(disk["is_read_only"], true);
        assert_eq!(disk["can_multi_conn"], true);
        assert_eq!(info["structured"], true);
        assert!(disk["contexts"].as_array().unwrap().contains(&"base:allocation".into()));
        let list = nbdinfo(&["--list", export.uri()]);
        assert_eq!(list["exports"][0]["export-name"], "disk");
        export.stop();
    }
}

#[test]
fn the_map_shows_holes_where_the_disk_has_none_of_its_data() {
    let (repo, point) = sample();
    let export = Export::unix(&repo, &point);
    let map = nbdinfo(&["--map", export.uri()]);
    let kind = |at: u64| {
        let extents = map.as_array().unwrap().iter();
        let mut all = extents
            .map(|e| (e["offset"].as_u64().unwrap(), e["length"].as_u64().unwrap(), &e["type"]));
        all.find(|(start, length, _)| (*start..start + length).contains(&at)).unwrap().2.clone()
    };
    for data in [0, 4 * MIB, 13 * MIB, 20 * MIB, 33 * MIB, 50 * MIB + 12_344] {
        assert_eq!(kind(data), 0, "data at {data}");
    }
    // Zeroes that were written come back as a hole.
    for hole in [2 * MIB, 10 * MIB + 500 * KIB, 15 * MIB, 30 * MIB, 48 * MIB] {
        assert_eq!(kind(hole), 3, "a hole at {hole}");
    }
    let ends = map.as_array().unwrap().last().unwrap();
    let end = ends["offset"].as_u64().unwrap() + ends["length"].as_u64().unwrap();
    assert_eq!(end, 50 * MIB + 12_345);
}

#[test]
fn nbdcopy_makes_an_equal_file() {
    let (repo, point) = sample();
    for export in [Export::unix(&repo, &point), Export::tcp(&repo, &point)] {
        let copy = repo.path("copy.raw");
        Cmd::new("nbdcopy").args(["--connections=4", export.uri()]).arg(&copy).ok();
        assert_same(&repo.path("disk.raw"), &copy);
        fs::remove_file(copy).unwrap();
    }
}

#[test]
fn qemu_io_reads_anywhere_and_writes_nowhere() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, 8 * MIB);
    disk::write(&image, 1_000_001, &[0x5a; 200_000]);
    let point = repo.backup(&image);
    let export = Export::unix(&repo, &point);
    for read in ["read -P 0x5a 1000001 200000", "read -P 0 1200001 7188607", "read -P 0 0 1000001"]
    {
        let ran = Cmd::new("qemu-io").args(["-r", "-f", "raw", "-c", read, export.uri()]).ok();
        assert!(!ran.text().contains("verification failed"), "{read}: {}", ran.text());
    }
    let ran = Cmd::new("qemu-io").args(["-f", "raw", "-c", "write 0 512", export.uri()]).run();
    assert_ne!(ran.code, Some(0), "a write was accepted");
    // And the image is what it was.
    repo.assert_restores(&point, &image);
}

#[test]
fn nbdkit_passes_an_export_on() {
    let (repo, point) = sample();
    let export = Export::unix(&repo, &point);
    let copy = repo.path("copy.raw");
    let run = format!("nbdcopy \"$uri\" {}", copy.display());
    Cmd::new("nbdkit")
        .args(["-U", "-", "--exit-with-parent", "nbd"])
        .args([&format!("uri={}", export.uri()), "shared=true", "--run", &run])
        .ok();
    assert_same(&repo.path("disk.raw"), &copy);
}

#[test]
fn an_overlay_over_an_export_is_a_writable_disk_at_once() {
    // What instant recovery is made of: a writable qcow2 whose backing file is the export.
    let (repo, point) = sample();
    let export = Export::unix(&repo, &point);
    let overlay = repo.path("overlay.qcow2");
    Cmd::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", export.uri()])
        .arg(&overlay)
        .ok();
    Cmd::new("qemu-io").args(["-c", "write -q -P 1 100k 10k"]).arg(&overlay).ok();
    let image = repo.path("disk.raw");
    disk::write(&image, 100 << 10, &[1; 10 << 10]);
    Cmd::new("qemu-img").args(["compare", "-q", "-f", "raw"]).arg(&image).arg(&overlay).ok();
}

#[test]
fn the_images_of_a_point_are_exports_of_their_names() {
    let repo = Repo::new();
    let paths = ["vda", "vdb"].map(|name| repo.path(&format!("{name}.raw")));
    for (number, path) in paths.iter().enumerate() {
        disk::create(path, (number as u64 + 1) * MIB);
        disk::fill(path, 4096, 50_000, number as u64);
    }
    let args = ["backup".as_ref(), "vm".as_ref(), paths[0].as_os_str(), paths[1].as_os_str()];
    repo.ok(args);
    let export = Export::unix(&repo, "vm@latest");
    let list = nbdinfo(&["--list", export.uri()]);
    let names: Vec<_> =
        list["exports"].as_array().unwrap().iter().map(|e| e["export-name"].clone()).collect();
    assert_eq!(names, ["vda", "vdb"]);
    for (name, path) in [("vda", &paths[0]), ("vdb", &paths[1]), ("", &paths[0])] {
        let copy = repo.path("copy.raw");
        Cmd::new("nbdcopy").arg(export.named(name)).arg(&copy).ok();
        assert_same(path, &copy);
        fs::remove_file(copy).unwrap();
    }
    let refused = Cmd::new("nbdinfo").args(["--size", &export.named("vdc")]).run();
    assert_ne!(refused.code, Some(0), "an export that is not there was opened");
    export.stop();
    // One alone.
    let export = Export::unix(&repo, "vm@latest:vdb");
    let list = nbdinfo(&["--list", export.uri()]);
    assert_eq!(list["exports"].as_array().unwrap().len(), 1);
    let copy = repo.path("copy.raw");
    Cmd::new("nbdcopy").arg(export.uri()).arg(&copy).ok();
    assert_same(&paths[1], &copy);
}

#[test]
fn an_export_ends_on_a_signal_and_takes_its_socket_away() {
    let (repo, point) = sample();
    let export = Export::unix(&repo, &point);
    let socket = export.uri().split_once("socket=").unwrap().1.to_owned();
    assert!(fs::exists(&socket).unwrap());
    // With a client that stays connected.
    let client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    export.stop();
    drop(client);
    assert!(!fs::exists(&socket).unwrap(), "the socket was left behind");
    assert!(repo.objects("p").is_empty(), "the point is still pinned: {:?}", repo.objects("p"));
}

#[test]
fn an_address_that_is_taken_is_named() {
    let (repo, point) = sample();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    repo.fails(1, ["export", "nbd", &point, "--listen", &address]).says(&[&address]);
}
