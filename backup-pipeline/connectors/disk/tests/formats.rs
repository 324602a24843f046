//! Images of every format, made by QEMU's tools, read the same as those tools read them.

use std::path::{Path, PathBuf};
use std::process::Command;

use sluice_block::conformance;
use sluice_connector_disk::{DiskError, Format, Within, open, open_within};

fn tool(name: &str, args: &[&str]) -> String {
    let output = Command::new(name)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{name}: {error}; install the package qemu-utils"));
    assert!(
        output.status.success(),
        "{name} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A raw disk of 12 MiB with data, written zeroes and holes.
fn make_raw(folder: &Path) -> PathBuf {
    let path = folder.join("disk.raw");
    tool("qemu-img", &["create", "-q", "-f", "raw", text(&path), "12M"]);
    let writes =
        ["write -P 17 0 70000", "write -P 99 5M 1M", "write -z 7M 1M", "write -P 3 12582400 512"];
    for write in writes {
        tool("qemu-io", &["-f", "raw", "-c", write, text(&path)]);
    }
    path
}

fn bytes_by_qemu(path: &Path, format: &str) -> Vec<u8> {
    let raw = path.with_extension("converted");
    tool("qemu-img", &["convert", "-q", "-f", format, "-O", "raw", text(path), text(&raw)]);
    std::fs::read(raw).unwrap()
}

async fn reads_as_qemu(path: &Path, format: Format, qemu: &str) {
    let expected = bytes_by_qemu(path, qemu);
    for named in [None, Some(format)] {
        let disk = open(path, named).await.unwrap();
        assert_eq!(disk.format, format);
        conformance::read(&*disk.device, &expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_reads_as_qemu_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let raw = make_raw(folder.path());
    reads_as_qemu(&raw, Format::Raw, "raw").await;
    let made: [(&str, &str, Format, &[&str]); 11] = [
        ("a.qcow2", "qcow2", Format::Qcow2, &[]),
        ("v2.qcow2", "qcow2", Format::Qcow2, &["-o", "compat=0.10"]),
        ("zlib.qcow2", "qcow2", Format::Qcow2, &["-c"]),
        ("zstd.qcow2", "qcow2", Format::Qcow2, &["-c", "-o", "compression_type=zstd"]),
        ("sparse.vmdk", "vmdk", Format::Vmdk, &[]),
        ("stream.vmdk", "vmdk", Format::Vmdk, &["-o", "subformat=streamOptimized"]),
        ("flat.vmdk", "vmdk", Format::Vmdk, &["-o", "subformat=monolithicFlat"]),
        ("split.vmdk", "vmdk", Format::Vmdk, &["-o", "subformat=twoGbMaxExtentSparse"]),
        ("dynamic.vhd", "vpc", Format::Vhd, &[]),
        ("fixed.vhd", "vpc", Format::Vhd, &["-o", "subformat=fixed"]),
        ("dynamic.vhdx", "vhdx", Format::Vhdx, &[]),
    ];
    for (name, qemu, format, options) in made {
        let path = folder.path().join(name);
        let mut args = vec!["convert", "-q", "-f", "raw", "-O", qemu];
        args.extend_from_slice(options);
        args.extend_from_slice(&[text(&raw), text(&path)]);
        tool("qemu-img", &args);
        reads_as_qemu(&path, format, qemu).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overlays_show_what_lies_below_also_where_the_sizes_differ() {
    let folder = tempfile::tempdir().unwrap();
    let raw = make_raw(folder.path());
    for (name, size) in [("same.qcow2", "12M"), ("longer.qcow2", "20M"), ("shorter.qcow2", "6M")] {
        let path = folder.path().join(name);
        let base = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"];
        let args = [&base[..], &[text(&raw), text(&path), size]].concat();
        tool("qemu-img", &args);
        tool("qemu-io", &["-f", "qcow2", "-c", "write -P 5 64k 3000", text(&path)]);
        tool("qemu-io", &["-f", "qcow2", "-c", "write -z 5M 64k", text(&path)]);
        reads_as_qemu(&path, Format::Qcow2, "qcow2").await;
        let disk = open(&path, None).await.unwrap();
        assert_eq!(disk.files.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_reads_nothing_that_lies_outside_of_the_folders_that_are_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let raw = make_raw(folder.path());
    let shop = folder.path().join("shop");
    std::fs::create_dir(&shop).unwrap();
    let inside = shop.join("base.raw");
    std::fs::copy(&raw, &inside).unwrap();
    let within = Within::new(&[vec![text(&shop).to_owned()], vec![text(folder.path()).to_owned()]]);
    for (name, base) in [("out.qcow2", &raw), ("in.qcow2", &inside)] {
        let path = shop.join(name);
        let create = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"];
        tool("qemu-img", &[&create[..], &[text(base), text(&path)]].concat());
        let opened = open_within(&path, None, &within).await;
        if base == &inside {
            conformance::read(&*opened.unwrap().device, &std::fs::read(&raw).unwrap()).await;
            continue;
        }
        let error = opened.unwrap_err();
        let named = matches!(&error, DiskError::Outside(_, file) if file.ends_with("disk.raw"));
        assert!(named, "{error}");
        assert!(open(&path, None).await.is_ok(), "nobody has forbidden it here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_are_told_and_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let raw = make_raw(folder.path());
    let path = folder.path().join("a.qcow2");
    tool("qemu-img", &["convert", "-q", "-O", "qcow2", text(&raw), text(&path)]);
    for path in [raw, path] {
        let disk = open(&path, None).await.unwrap().device;
        let extents = sluice_block::coalesce(&*disk, 0, disk.size()).await.unwrap();
        let data: u64 = extents.iter().filter(|e| !e.kind.reads_zero()).map(|e| e.length).sum();
        assert!((1 << 20..4 << 20).contains(&data), "{data} bytes of data in {path:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_shrinks_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let raw = make_raw(folder.path());
    let disk = open(&raw, None).await.unwrap().device;
    std::fs::File::options().write(true).open(&raw).unwrap().set_len(1 << 20).unwrap();
    let error = disk.read_at(5 << 20, &mut [0; 4096]).await.unwrap_err();
    assert!(error.to_string().contains("has shrunk"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_images_are_refused_or_read_without_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let raw = make_raw(folder.path());
    let path = folder.path().join("a.qcow2");
    tool("qemu-img", &["convert", "-q", "-O", "qcow2", text(&raw), text(&path)]);
    let good = std::fs::read(&path).unwrap();
    for round in 0..12usize {
        let mut bad = good.clone();
        bad[round * 131 % 600] ^= 1 << (round % 8);
        if round % 3 == 0 {
            bad.truncate(round * 5000 + 100);
        }
        std::fs::write(&path, bad).unwrap();
        if let Ok(disk) = open(&path, Some(Format::Qcow2)).await {
            let mut bytes = vec![0; disk.device.size().min(1 << 20) as usize];
            let _ = disk.device.read_at(0, &mut bytes).await;
        }
    }
    let missing = open(&folder.path().join("none"), None).await.unwrap_err();
    assert!(matches!(missing, DiskError::Io(..)));
    assert!(open(folder.path(), None).await.is_err(), "a folder");
}
