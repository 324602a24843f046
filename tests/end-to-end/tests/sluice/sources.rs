//! What can be backed up: image formats, devices, streams, and other programs' exports.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::support::disk::{self, MIB, assert_same};
use crate::support::repo::Repo;
use crate::support::run::{Cmd, wait_until};
use crate::support::serve::Source;

fn qemu_img(args: &[&str]) {
    Cmd::new("qemu-img").args(args).ok();
}

fn qemu_io(image: &Path, format: &str, writes: &[&str]) {
    let commands = writes.iter().flat_map(|write| ["-c", write]);
    Cmd::new("qemu-io").args(["-f", format]).args(commands).arg(image).ok();
}

/// What QEMU says the image reads as.
fn as_raw(image: &Path, format: &str) -> PathBuf {
    let raw = image.with_extension("expected");
    qemu_img(&[
        "convert",
        "-f",
        format,
        "-O",
        "raw",
        image.to_str().unwrap(),
        raw.to_str().unwrap(),
    ]);
    raw
}

/// Backs up an image twice, with writes between, and compares both points.
fn both_points_are_right(repo: &Repo, image: &Path, format: &str, flag: &[&str]) {
    let first = repo.backup_with(image, flag);
    repo.assert_restores(&first, &as_raw(image, format));
    qemu_io(image, format, &["write -q -P 7 1M 200k", "write -q -P 9 9M 1"]);
    let second = repo.backup_with(image, flag);
    let expected = as_raw(image, format);
    repo.assert_restores(&second, &expected);
    let stats = repo.stats(&second);
    assert!(stats.new <= MIB, "{} new bytes in the second point", stats.new);
}

/// A raw disk converted to a format.
fn converted(repo: &Repo, format: &str, options: &[&str]) -> PathBuf {
    let raw = repo.path("source.raw");
    disk::create(&raw, 64 * MIB);
    disk::fill(&raw, 0, 6 * MIB, 1);
    disk::fill(&raw, 30 * MIB + 512, MIB, 2);
    disk::fill(&raw, 64 * MIB - 4096, 4096, 3);
    let image = repo.path(&format!("disk.{format}"));
    let ends = [raw.to_str().unwrap(), image.to_str().unwrap()];
    qemu_img(&[&["convert", "-f", "raw", "-O", format], options, &ends[..]].concat());
    image
}

#[test]
fn qcow2_with_a_backing_chain_reads_as_qemu_reads_it() {
    let repo = Repo::new();
    let base = converted(&repo, "qcow2", &[]);
    let middle = repo.path("middle.qcow2");
    let top = repo.path("top.qcow2");
    // Relative names, as people make them.
    for (under, over) in [(&base, &middle), (&middle, &top)] {
        let name = under.file_name().unwrap().to_str().unwrap();
        qemu_img(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            name,
            over.to_str().unwrap(),
        ]);
    }
    qemu_io(&middle, "qcow2", &["write -q -P 3 2M 1M", "write -q -z 4M 64k"]);
    qemu_io(&top, "qcow2", &["write -q -P 4 2500k 64k", "write -q -P 5 60M 3M"]);
    both_points_are_right(&repo, &top, "qcow2", &[]);
}

#[test]
fn qcow2_over_a_raw_base_reads_as_qemu_reads_it() {
    let repo = Repo::new();
    let base = converted(&repo, "raw", &[]);
    let top = repo.path("top.qcow2");
    let name = base.to_str().unwrap();
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        name,
        top.to_str().unwrap(),
        "70M",
    ]);
    both_points_are_right(&repo, &top, "qcow2", &["--format", "qcow2"]);
}

#[test]
fn compressed_qcow2_reads_as_qemu_reads_it() {
    for kind in ["zlib", "zstd"] {
        let repo = Repo::new();
        let option = format!("compression_type={kind}");
        let image = converted(&repo, "qcow2", &["-c", "-o", &option]);
        both_points_are_right(&repo, &image, "qcow2", &[]);
    }
}

#[test]
fn vmdk_reads_as_qemu_reads_it() {
    let repo = Repo::new();
    let image = converted(&repo, "vmdk", &[]);
    both_points_are_right(&repo, &image, "vmdk", &[]);
}

#[test]
fn stream_optimised_vmdk_reads_as_qemu_reads_it() {
    let repo = Repo::new();
    let image = converted(&repo, "vmdk", &["-o", "subformat=streamOptimized"]);
    let point = repo.backup_with(&image, &["--format", "vmdk"]);
    repo.assert_restores(&point, &as_raw(&image, "vmdk"));
}

#[test]
fn vhd_reads_as_qemu_reads_it() {
    for kind in ["dynamic", "fixed"] {
        let repo = Repo::new();
        let image = converted(&repo, "vpc", &["-o", &format!("subformat={kind},force_size=on")]);
        both_points_are_right(&repo, &image, "vpc", &["--format", "vhd"]);
    }
}

#[test]
fn vhdx_reads_as_qemu_reads_it() {
    let repo = Repo::new();
    let image = converted(&repo, "vhdx", &[]);
    both_points_are_right(&repo, &image, "vhdx", &[]);
}

#[test]
fn an_empty_qcow2_is_a_disk_of_its_size_without_a_byte() {
    let repo = Repo::new();
    for (name, size, bytes) in
        [("none", "0", 0), ("sparse", "300M", 300 * MIB), ("odd", "512", 512)]
    {
        let image = repo.path(&format!("{name}.qcow2"));
        qemu_img(&["create", "-q", "-f", "qcow2", image.to_str().unwrap(), size]);
        let point = repo.backup(&image);
        let stats = repo.stats(&point);
        assert_eq!((stats.new, stats.dedup), (0, 0), "{name}");
        let shown = repo.json(["show", &point]);
        let shown = shown.get("point").filter(|point| point.is_object()).unwrap_or(&shown);
        assert_eq!(shown["images"][0]["size"], bytes, "{shown}");
        let target = repo.path(&format!("{name}.raw"));
        repo.ok(["restore", &point, target.to_str().unwrap()]);
        let restored = fs::metadata(&target).unwrap();
        assert_eq!(restored.len(), bytes, "{name}");
        assert_same(&as_raw(&image, "qcow2"), &target);
        // What is written to it later is all that the next point has.
        if bytes > MIB {
            qemu_io(&image, "qcow2", &["write -q -P 7 1M 200k"]);
            let next = repo.backup(&image);
            repo.assert_restores(&next, &as_raw(&image, "qcow2"));
        }
    }
    repo.assert_sound();
}

#[test]
fn what_is_called_raw_is_taken_as_it_is() {
    let repo = Repo::new();
    let image = converted(&repo, "qcow2", &[]);
    let point = repo.backup_with(&image, &["--format", "raw"]);
    repo.assert_restores(&point, &image);
}

#[test]
fn a_guest_draws_no_file_of_its_host_into_its_backup() {
    let repo = Repo::new();
    let secret = repo.path("secret");
    fs::write(&secret, [0x53; MIB as usize]).unwrap();
    let guest = repo.path("guest.raw");
    // To QEMU, these are blanks.
    for blank in [" ", "\t", "\x0b", "\x0c"] {
        let head = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n";
        let extent = ["RW", "2048", "FLAT", &format!("\"{}\"", secret.display()), "0\n"];
        let text = format!("{head}createType=\"monolithicFlat\"\n{}", extent.join(blank));
        disk::create(&guest, 2 * MIB);
        disk::fill(&guest, MIB, MIB, 4);
        File::options().write(true).open(&guest).unwrap().write_all_at(text.as_bytes(), 0).unwrap();
        // It would be read: what is refused is not what QEMU would refuse by itself.
        assert_eq!(fs::read(as_raw(&guest, "vmdk")).unwrap(), fs::read(&secret).unwrap());
        repo.fails(1, ["backup", "vm", guest.to_str().unwrap()]).says(&["--format raw"]);
        let point = repo.backup_with(&guest, &["--format", "raw"]);
        repo.assert_restores(&point, &guest);
    }
}

/// A loop device of a file; detached when dropped.
struct Loop(String);

impl Loop {
    fn attach(file: &Path) -> Result<Self, String> {
        let ran = Cmd::new("losetup").args(["--find", "--show"]).arg(file).run();
        if ran.code == Some(0) { Ok(Self(ran.text().trim().to_owned())) } else { Err(ran.err) }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Cmd::new("losetup").args(["--detach", &self.0]).run();
    }
}

#[test]
fn a_block_device_is_backed_up_and_restored_to() {
    let repo = Repo::new();
    let file = repo.path("device.img");
    disk::create(&file, 48 * MIB);
    disk::fill(&file, MIB, 5 * MIB, 1);
    let device = match Loop::attach(&file) {
        Ok(device) => device,
        Err(why) => {
            eprintln!("SKIPPED: no loop devices here (root and the loop module): {why}");
            return;
        }
    };
    repo.ok(["backup", "vm", &format!("disk={}", device.0)]);
    repo.assert_restores("vm@latest", &file);

    let target = repo.path("target.img");
    disk::create(&target, 48 * MIB);
    disk::fill(&target, 0, 48 * MIB, 9);
    let onto = Loop::attach(&target).unwrap();
    repo.fails(1, ["restore", "vm@latest", &onto.0]).says(&["--overwrite"]);
    repo.ok(["restore", "vm@latest", &onto.0, "--overwrite"]);
    assert_same(&file, &target);

    let small = repo.path("small.img");
    disk::create(&small, 10 * MIB);
    let too_small = Loop::attach(&small).unwrap();
    repo.fails(1, ["restore", "vm@latest", &too_small.0, "--overwrite"])
        .says(&[&too_small.0, "small"]);

    // What an image is based on may be a device, too.
    let overlay = repo.path("overlay.qcow2");
    let base = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &device.0];
    qemu_img(&[&base[..], &[overlay.to_str().unwrap()]].concat());
    let point = repo.backup(&overlay);
    repo.assert_restores(&point, &file);
}

#[test]
fn standard_input_is_a_disk_too() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::sample(&image);
    let args = ["backup", "vm", "dump=-"];
    repo.sluice(args).stdin(File::open(&image).unwrap()).ok();
    repo.assert_restores("vm@latest:dump", &image);
    disk::modify(&image, 1);
    // Through a pipe, in pieces of all sizes.
    let script = r#"cat "$IMAGE" | "$@""#;
    let shell = ["sh", "-c", script, "sh"].map(Into::into);
    repo.sluice(args).env("IMAGE", &image).behind(&shell).ok();
    repo.assert_restores("vm@latest", &image);
    let second = repo.points("vm").pop().unwrap();
    assert!(repo.stats(&second).new < 2 * MIB, "a stream is deduplicated too");
    // Nothing at all is an image of no bytes.
    repo.sluice(["backup", "empty", "-"]).ok();
    let shown = repo.json(["show", "empty@latest"]);
    assert_eq!(shown["images"][0]["size"], 0);
}

/// A program to be backed up by its output.
fn dump(repo: &Repo, lines: &str) -> String {
    let path = repo.path("dump");
    fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn what_a_program_prints_is_a_disk_if_it_ends_well() {
    let repo = Repo::new();
    let image = repo.path("an image.raw");
    disk::sample(&image);
    let program = dump(&repo, "cat \"$1\"");
    let command = format!("--output-of=db={program} '{}'", image.display());
    repo.ok(["backup", "vm", &command]);
    repo.assert_restores("vm@latest:db", &image);
    // Beside a file, named by the program; as an array no word is split.
    let words = serde_json::json!([program, image]);
    let file = format!("file={}", image.display());
    repo.ok(["backup", "both", &file, &format!("--output-of={words}")]);
    repo.assert_restores("both@latest:dump", &image);
    let shown = repo.json(["show", "vm@latest"]);
    assert_eq!(shown["images"][0]["source"], format!("output of {program}"), "{shown}");

    // What broke off looks like a whole dump.
    dump(&repo, "cat \"$1\"; echo no more memory >&2; exit 3");
    let ran = repo.fails(1, ["backup", "vm", &command]);
    ran.says(&["no restore point of vm was made", "exit status: 3", "no more memory"]);
    dump(&repo, "kill -9 $$");
    repo.fails(1, ["backup", "vm", &command]).says(&["signal: 9"]);
    assert_eq!(repo.points("vm").len(), 1);
    let none = format!("--output-of={}", repo.path("none").display());
    repo.fails(1, ["backup", "vm", &none]).says(&["none"]);
}

#[test]
fn a_program_learns_nothing_of_the_repository_and_ends_with_its_backup() {
    let repo = Repo::new();
    let program = dump(&repo, "env; echo; cat");
    repo.sluice(["backup", "vm", &format!("--output-of={program}")]).env("APP", "shop").ok();
    let said = repo.sluice(["cat", "vm@latest"]).ok().text();
    assert!(said.contains("APP=shop") && !said.contains("SLUICE_"), "{said}");

    let pid = repo.path("pid");
    let note = ">$1.new; mv $1.new $1";
    for (signal, lines) in [
        // Stopped, it ends what the program has started, too.
        (Signal::INT, format!("sleep 600 & echo $! {note}; yes")),
        // Killed, it can end nothing any more: the kernel ends the program.
        (Signal::KILL, format!("echo $$ {note}; exec yes")),
    ] {
        let command = format!("--output-of={} {}", dump(&repo, &lines), pid.display());
        let running = repo.sluice(["backup", "vm", &command]).spawn();
        wait_until("the program runs", || pid.exists());
        running.signal(signal);
        running.wait();
        let process = Path::new("/proc").join(fs::read_to_string(&pid).unwrap().trim());
        wait_until("it is over", || !process.exists());
        fs::remove_file(&pid).unwrap();
    }
    assert_eq!(repo.points("vm").len(), 1);
}

#[test]
fn an_nbd_export_is_a_source() {
    let repo = Repo::new();
    let image = converted(&repo, "qcow2", &[]);
    let server = Source::qemu(repo.dir(), &image, "qcow2", &[]);
    repo.ok(["backup", "vm", server.uri()]);
    repo.assert_restores("vm@latest", &as_raw(&image, "qcow2"));
    let point = repo.points("vm").pop().unwrap();
    let read = repo.stats(&point).read;
    assert!(read < 12 * MIB, "holes of the export were read: {read} bytes");
}

#[test]
fn with_a_dirty_bitmap_only_the_change_is_read() {
    let repo = Repo::new();
    let image = converted(&repo, "qcow2", &[]);
    let name = image.to_str().unwrap();
    let first = {
        let server = Source::qemu(repo.dir(), &image, "qcow2", &[]);
        repo.ok(["backup", "vm", &format!("vda={}", server.uri())]);
        repo.points("vm").pop().unwrap()
    };
    let before = as_raw(&image, "qcow2");
    fs::rename(&before, repo.path("before.raw")).unwrap();
    qemu_img(&["bitmap", "--add", "-g", "65536", name, "since"]);
    qemu_io(
        &image,
        "qcow2",
        &["write -q -P 2 1M 4k", "write -q -P 3 40M 300k", "write -q -z 0 64k"],
    );

    let server = Source::qemu(repo.dir(), &image, "qcow2", &["-B", "since"]);
    let source = format!("vda={}", server.uri());
    repo.fails(1, ["backup", "vm", &source, "--dirty-bitmap", "until"]).says(&["until", "since"]);
    repo.ok(["backup", "vm", &source, "--dirty-bitmap", "since"]);
    drop(server);
    let second = repo.points("vm").pop().unwrap();
    let read = repo.stats(&second).read;
    assert!(read > 0 && read <= MIB, "{read} bytes were read");
    repo.assert_restores(&first, &repo.path("before.raw"));
    repo.assert_restores(&second, &as_raw(&image, "qcow2"));
}
