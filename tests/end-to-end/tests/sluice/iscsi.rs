//! iSCSI exports, as real initiators see them.

use std::fs;
use std::path::PathBuf;

use crate::support::disk::{self, MIB};
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

/// `HOST:PORT` and target of a URL.
fn parts(url: &str) -> (&str, &str) {
    let mut parts = url.strip_prefix("iscsi://").unwrap().split('/');
    (parts.next().unwrap(), parts.next().unwrap())
}

/// A program of QEMU that speaks iSCSI: the system's, or the one that `scripts/setup --test` put
/// beside it where the system's has no modules that fit.
pub fn qemu(program: &str) -> Cmd {
    let able = |cmd: Cmd| {
        let tried = cmd.args(["info", "iscsi://127.0.0.1:1/iqn.2026-01.test:none/0"]).run();
        !["Unknown protocol", "load module"].iter().any(|words| tried.err.contains(words))
    };
    if able(Cmd::new("qemu-img")) {
        return Cmd::new(program);
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache =
        cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    let tools = std::env::var_os("SLUICE_TOOLS").map(PathBuf::from);
    let root = tools.unwrap_or_else(|| cache.join("sluice-tools")).join("qemu");
    assert!(
        root.join("usr/bin/qemu-img").exists(),
        "qemu-img speaks no iSCSI: install the Debian package qemu-block-extra, or run \
         scripts/setup --test"
    );
    let modules = fs::read_dir(root.join("usr/lib")).unwrap().flatten();
    let modules = modules.map(|folder| folder.path().join("qemu")).find(|path| path.exists());
    Cmd::new(root.join("usr/bin").join(program)).env("QEMU_MODULE_DIR", modules.unwrap())
}

#[test]
fn qemu_reads_the_disk_it_was() {
    let (repo, point) = sample();
    let export = Export::iscsi(&repo, &point, &[]);
    let (disk, copy) = (repo.path("disk.raw"), repo.path("copy.raw"));
    // The last block is filled up with zeroes, which a comparison takes for nothing.
    qemu("qemu-img").args(["compare", "-f", "raw", export.uri()]).arg(&disk).ok();
    qemu("qemu-img").args(["convert", "-f", "raw", "-O", "raw", export.uri()]).arg(&copy).ok();
    Cmd::new("qemu-img").args(["compare", "-f", "raw"]).arg(&disk).arg(&copy).ok();
    assert_eq!(fs::metadata(&copy).unwrap().len(), (50 * MIB + 12_345).next_multiple_of(512));
    export.stop();
}

#[test]
fn holes_are_seen_as_holes() {
    let (repo, point) = sample();
    let export = Export::iscsi(&repo, &point, &[]);
    let map =
        qemu("qemu-img").args(["map", "--output=json", "-f", "raw", export.uri()]).ok().json();
    let kind = |at: u64| {
        let mut extents = map.as_array().unwrap().iter();
        let found = extents.find(|e| {
            let start = e["start"].as_u64().unwrap();
            (start..start + e["length"].as_u64().unwrap()).contains(&at)
        });
        found.unwrap()["zero"].as_bool().unwrap()
    };
    for data in [0, 4 * MIB, 13 * MIB, 20 * MIB] {
        assert!(!kind(data), "data at {data}");
    }
    for hole in [2 * MIB, 15 * MIB, 30 * MIB, 48 * MIB] {
        assert!(kind(hole), "a hole at {hole}");
    }
}

#[test]
fn discovery_finds_the_images_as_logical_units() {
    let repo = Repo::new();
    let paths = ["vda", "vdb"].map(|name| repo.path(&format!("{name}.raw")));
    for (number, path) in paths.iter().enumerate() {
        disk::create(path, (number as u64 + 4) * MIB);
        disk::fill(path, 4096, 50_000, number as u64);
    }
    let args = ["backup".as_ref(), "vm".as_ref(), paths[0].as_os_str(), paths[1].as_os_str()];
    repo.ok(args);
    let export = Export::iscsi(&repo, "vm@latest", &[]);
    let (portal, target) = parts(export.uri());
    let list = Cmd::new("iscsi-ls").args(["-s", &format!("iscsi://{portal}")]).ok();
    for word in [target, "Lun:0", "Lun:1"] {
        assert!(list.text().contains(word), "no {word} in {}", list.text());
    }
    for (lun, path) in paths.iter().enumerate() {
        let url = format!("iscsi://{portal}/{target}/{lun}");
        let size = Cmd::new("iscsi-readcapacity16").arg("-s").arg(&url).ok();
        assert_eq!(size.text().trim(), fs::metadata(path).unwrap().len().to_string());
        qemu("qemu-img").args(["compare", "-f", "raw", &url]).arg(path).ok();
    }
    // One alone.
    let export = Export::iscsi(&repo, "vm@latest:vdb", &[]);
    qemu("qemu-img").args(["compare", "-f", "raw", export.uri()]).arg(&paths[1]).ok();
}

#[test]
fn a_restore_point_says_that_it_is_write_protected_and_is() {
    let (repo, point) = sample();
    let export = Export::iscsi(&repo, &point, &[]);
    let suite = ["--dataloss", "--fail", "--normal", "--test=SCSI.ReadOnly"];
    let ran = Cmd::new("iscsi-test-cu").args(suite).arg(export.uri()).ok();
    assert!(!ran.text().contains("[SKIPPED]"), "{}", ran.text());
    export.stop();
    // And the image is what it was.
    repo.assert_restores(&point, &repo.path("disk.raw"));
}

#[test]
fn a_disk_is_the_same_disk_after_a_restart_and_no_other_point_is() {
    let (repo, first) = sample();
    disk::modify(&repo.path("disk.raw"), 1);
    let second = repo.backup(repo.path("disk.raw"));
    let identity = |point: &str| {
        let export = Export::iscsi(&repo, point, &["--target-name", "iqn.2026-01.test:same"]);
        // Serial number, and names.
        let pages = ["128", "131"].map(|page| {
            Cmd::new("iscsi-inq").args(["-e", "1", "-c", page, export.uri()]).ok().text()
        });
        export.stop();
        pages
    };
    let known = identity(&first);
    assert!(known[0].lines().any(|line| line.contains("Unit Serial Number")), "{known:?}");
    assert_eq!(identity(&first), known);
    let other = identity(&second);
    assert_ne!(other[0], known[0]);
    assert_ne!(other[1], known[1]);
}

#[test]
fn only_who_knows_the_secret_gets_in() {
    let (repo, point) = sample();
    fs::write(repo.path("secret"), "a-secret-of-twenty-1\nsecond line\n").unwrap();
    let file = repo.path("secret");
    let chap = ["--chap-user", "backup", "--chap-secret-file", file.to_str().unwrap()];
    let export = Export::iscsi(&repo, &point, &chap);
    let (portal, target) = parts(export.uri());
    let read = |user: &str, secret: &str| {
        let cmd = Cmd::new("iscsi-readcapacity16").env("LIBISCSI_CHAP_USERNAME", user);
        cmd.env("LIBISCSI_CHAP_PASSWORD", secret).arg(export.uri()).run().code
    };
    assert_eq!(read("backup", "a-secret-of-twenty-1"), Some(0));
    for (user, secret) in [("backup", "another-secret-22"), ("other", "a-secret-of-twenty-1")] {
        assert_ne!(read(user, secret), Some(0), "{user} with {secret} was let in");
    }
    assert_ne!(Cmd::new("iscsi-readcapacity16").arg(export.uri()).run().code, Some(0));
    // The name is no secret: initiators look for it before they know which secret to use.
    let list = Cmd::new("iscsi-ls").arg(format!("iscsi://{portal}")).ok();
    assert!(list.text().contains(target), "{}", list.text());
    let told = export.stop();
    assert!(!told.text().contains("a-secret") && !told.err.contains("a-secret"), "{}", told.err);
}

#[test]
fn the_target_proves_itself_to_whoever_asks() {
    let (repo, point) = sample();
    let files = [("initiator", "the-initiator-s-secret"), ("target", "the-target-s-secret")];
    let [ours, theirs] = files.map(|(name, secret)| {
        let path = repo.path(name);
        fs::write(&path, format!("{secret}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let chap = ["--chap-user", "backup", "--chap-secret-file", &ours];
    let mutual = ["--mutual-chap-user", "disk", "--mutual-chap-secret-file", &theirs];
    let export = Export::iscsi(&repo, &point, &[chap, mutual].concat());
    let read = |secret: &str| {
        let cmd = Cmd::new("iscsi-readcapacity16").env("LIBISCSI_CHAP_USERNAME", "backup");
        let cmd = cmd.env("LIBISCSI_CHAP_PASSWORD", files[0].1);
        let cmd = cmd.env("LIBISCSI_CHAP_TARGET_USERNAME", "disk");
        cmd.env("LIBISCSI_CHAP_TARGET_PASSWORD", secret).arg(export.uri()).run()
    };
    assert_eq!(read(files[1].1).code, Some(0));
    let refused = read("what-another-target-knows");
    assert_ne!(refused.code, Some(0), "a target that knows another secret was believed");
}

#[test]
fn only_initiators_on_the_list_get_in() {
    let (repo, point) = sample();
    let name = "iqn.2026-01.test:host-1";
    let export = Export::iscsi(&repo, &point, &["--initiator", name]);
    let read = |name: &str| Cmd::new("iscsi-inq").args(["-i", name, export.uri()]).run().code;
    assert_eq!(read(name), Some(0));
    assert_ne!(read("iqn.2026-01.test:host-2"), Some(0));
    // Others do not even see the name.
    let (portal, target) = parts(export.uri());
    let list = |name: &str| {
        let cmd = Cmd::new("iscsi-ls").args(["-i", name]).arg(format!("iscsi://{portal}"));
        cmd.run().text().contains(target)
    };
    assert!(list(name) && !list("iqn.2026-01.test:host-2"));
}

#[test]
fn initiators_are_sent_to_the_portals_announced() {
    let (repo, point) = sample();
    let announced = ["--json", "--portal", "192.0.2.7:3260", "--portal", "[2001:db8::7]:860"];
    let told = Export::iscsi(&repo, &point, &announced).stop();
    let ready = told.json();
    assert_eq!(ready["type"], "ready");
    assert_eq!(ready["portals"], serde_json::json!(["192.0.2.7:3260", "[2001:db8::7]:860"]));
    let uri = ready["luns"][0]["uri"].as_str().unwrap();
    assert_eq!(uri, format!("iscsi://192.0.2.7:3260/{}/0", ready["target"].as_str().unwrap()));
}

#[test]
fn what_cannot_be_served_is_said_before_anybody_connects() {
    let (repo, point) = sample();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    repo.fails(1, ["export", "iscsi", &point, "--listen", &address]).says(&[&address]);
    let free = ["export", "iscsi", &point, "--listen", "127.0.0.1:0"];
    repo.fails(1, [&free[..], &["--target-name", "Disk 1"]].concat()).says(&["Disk 1", "iqn."]);
    fs::write(repo.path("short"), "short\n").unwrap();
    let file = repo.path("short");
    let chap = ["--chap-user", "backup", "--chap-secret-file", file.to_str().unwrap()];
    repo.fails(1, [&free[..], &chap].concat()).says(&["12"]);
    repo.fails(2, [&free[..], &chap[..2]].concat()).says(&["--chap-secret-file"]);
}

#[test]
fn an_export_ends_on_a_signal_though_an_initiator_stays() {
    let (repo, point) = sample();
    let export = Export::iscsi(&repo, &point, &[]);
    let client = std::net::TcpStream::connect(parts(export.uri()).0).unwrap();
    export.stop();
    drop(client);
    assert!(repo.objects("p").is_empty(), "the point is still pinned: {:?}", repo.objects("p"));
}
