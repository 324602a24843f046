//! Dirty bitmaps of QEMU.

use std::path::{Path, PathBuf};

use sluice_block::{BlockRead, Extent};
use sluice_connector_nbd::{NbdError, NbdSource};
use sluice_nbd::Limits;
use tempfile::TempDir;

use crate::support::{Ours, Theirs, succeed};

const QEMU: &str = "qemu-utils";

/// An image of 64 MiB with the bitmap "since-monday" of 64 KiB a bit, and writes after it.
fn image() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    let image = path.to_str().unwrap();
    succeed(QEMU, "qemu-img", &["create", "-q", "-f", "qcow2", image, "64M"]);
    succeed(QEMU, "qemu-io", &["-f", "qcow2", "-c", "write -q -P 1 0 8M", image]);
    succeed(QEMU, "qemu-img", &["bitmap", "--add", "-g", "65536", image, "since-monday"]);
    succeed(QEMU, "qemu-img", &["bitmap", "--add", "-g", "65536", image, "unused"]);
    for write in ["write -q -P 2 1M 4k", "write -q -P 3 1114112 1", "write -q -P 4 67043328 64k"] {
        succeed(QEMU, "qemu-io", &["-f", "qcow2", "-c", write, image]);
    }
    (dir, path)
}

async fn qemu_nbd(dir: &Path, image: &Path, bitmap: Option<&str>) -> Theirs {
    let socket = dir.join("qemu.sock");
    let mut args = vec!["-r", "-t", "-f", "qcow2", "-k", socket.to_str().unwrap()];
    args.extend(bitmap.iter().flat_map(|name| ["-B", name]));
    args.push(image.to_str().unwrap());
    Theirs::start(QEMU, "qemu-nbd", &args, &socket).await
}

#[tokio::test]
async fn the_changed_ranges_are_those_written_since_the_bitmap() {
    let (dir, path) = image();
    let server = qemu_nbd(dir.path(), &path, Some("since-monday")).await;
    let source = {
        // qemu-nbd takes one client at a time here: the source leaves before the bitmap is read.
        let source = NbdSource::connect(&server.uri).await.unwrap();
        assert_eq!(source.size(), 64 << 20);
        let data = source.extents(0, 64 << 20).await.unwrap();
        assert_eq!(data[0], Extent::data(0, 8 << 20));
        source
    };
    drop(source);
    drop(server);

    let socket = dir.path().join("shared.sock");
    let arguments = ["-r", "-t", "-e", "8", "-f", "qcow2", "-B", "since-monday", "-k"];
    let tail = [socket.to_str().unwrap(), path.to_str().unwrap()];
    let server = Theirs::start(QEMU, "qemu-nbd", &[&arguments[..], &tail].concat(), &socket).await;
    let source = NbdSource::connect(&server.uri).await.unwrap();
    assert_eq!(source.bitmaps().await.unwrap(), ["since-monday"]);
    let changed = source.dirty_bitmap("since-monday").await.unwrap();
    assert_eq!(changed, [1 << 20..(1 << 20) + (128 << 10), 67_043_328..67_043_328 + 65_536]);
    let mut byte = [0];
    source.read_at(1_114_112, &mut byte).await.unwrap();
    assert_eq!(byte, [3]);
}

#[tokio::test]
async fn a_bitmap_that_is_not_offered_is_an_error_that_names_those_that_are() {
    let (dir, path) = image();
    let socket = dir.path().join("qemu.sock");
    let arguments = ["-r", "-t", "-e", "8", "-f", "qcow2", "-B", "since-monday", "-k"];
    let tail = [socket.to_str().unwrap(), path.to_str().unwrap()];
    let server = Theirs::start(QEMU, "qemu-nbd", &[&arguments[..], &tail].concat(), &socket).await;
    let source = NbdSource::connect(&server.uri).await.unwrap();
    let error = source.dirty_bitmap("since-sunday").await.unwrap_err();
    assert!(error.to_string().contains("it offers \"since-monday\""), "{error}");
    assert!(matches!(error, NbdError::NoSuchBitmap { .. }));
}

#[tokio::test]
async fn a_server_without_bitmaps_offers_none() {
    let server = Ours::start(Limits::default()).await;
    let source = NbdSource::connect(&server.tcp()).await.unwrap();
    assert!(source.bitmaps().await.unwrap().is_empty());
    let error = source.dirty_bitmap("any").await.unwrap_err();
    assert!(error.to_string().contains("it offers none"), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn the_storage_daemon_serves_its_bitmaps_too() {
    let (dir, path) = image();
    let socket = dir.path().join("daemon.sock");
    let file = format!("driver=file,node-name=file,read-only=on,filename={}", path.display());
    let nbd = format!("addr.type=unix,addr.path={}", socket.display());
    let args = [
        "--blockdev",
        &file,
        "--blockdev",
        "driver=qcow2,node-name=disk,read-only=on,file=file",
        "--nbd-server",
        &nbd,
        "--export",
        "type=nbd,id=export,node-name=disk,name=vda,bitmaps.0=since-monday,bitmaps.1=unused",
    ];
    let server = Theirs::start(QEMU, "qemu-storage-daemon", &args, &socket).await;
    let uri = server.uri.replace("nbd+unix:///", "nbd+unix:///vda");
    let source = NbdSource::connect(&uri).await.unwrap();
    let mut bitmaps = source.bitmaps().await.unwrap();
    bitmaps.sort();
    assert_eq!(bitmaps, ["since-monday", "unused"]);
    let changed = source.dirty_bitmap("since-monday").await.unwrap();
    assert_eq!(changed, [1 << 20..(1 << 20) + (128 << 10), 67_043_328..67_043_328 + 65_536]);
    assert_eq!(source.dirty_bitmap("unused").await.unwrap(), changed);
}
