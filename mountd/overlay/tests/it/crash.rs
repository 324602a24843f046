//! Single things that a crash or a failing disk may do.

use sluice_block::{BlockWrite, MemoryDisk};
use sluice_overlay::{CELL, OpenOptions, Overlay, OverlayError};

use crate::support::{CREATE, base, content, open, origin, read_all};

const SIZE: usize = 1 << 20;

#[tokio::test]
async fn what_was_not_flushed_leaves_no_trace_in_other_cells() {
    let folder = tempfile::tempdir().unwrap();
    let under = content(SIZE, 1);
    {
        let options = OpenOptions { boot: Some([1; 16]), ..CREATE };
        let (_overlay, disk) = open(folder.path(), &under, options);
        disk.write_at(0, &[5; 100]).await.unwrap();
        disk.flush().await.unwrap();
        disk.write_at(8192, &[6; 100]).await.unwrap();
    }
    let options = OpenOptions { boot: Some([2; 16]), ..OpenOptions::default() };
    let (_overlay, disk) = open(folder.path(), &under, options);
    let mut model = under;
    model[..100].fill(5);
    assert!(read_all(&*disk).await == model);
    // The cell's forgotten bytes do not come back with a later write to it.
    disk.write_at(8192 + 500, &[7; 10]).await.unwrap();
    model[8692..8702].fill(7);
    assert!(read_all(&*disk).await == model);
}

#[tokio::test]
async fn a_damaged_log_is_told_and_not_taken_for_a_torn_one() {
    let folder = tempfile::tempdir().unwrap();
    let under = content(SIZE, 1);
    {
        let (_overlay, disk) = open(folder.path(), &under, CREATE);
        for cell in 0..3 {
            disk.write_at(cell * 2 * CELL, &[5; 4096]).await.unwrap();
            disk.flush().await.unwrap();
        }
    }
    let path = folder.path().join("disk-0.layer-1.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let device = std::sync::Arc::new(MemoryDisk::from_bytes(&under));
    let bases = vec![base("vda", device, "first")];
    let refused = Overlay::open(folder.path(), &origin("p"), bases, OpenOptions::default());
    assert!(matches!(refused, Err(OverlayError::Damaged { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "evidence is kept");
}

#[tokio::test]
async fn what_a_creation_that_was_cut_off_left_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["disk-0.layer-1.data", "disk-0.layer-1.log", "overlay.json.new"] {
        std::fs::write(folder.path().join(name), "half").unwrap();
    }
    let under = content(SIZE, 1);
    let (_overlay, disk) = open(folder.path(), &under, CREATE);
    assert!(read_all(&*disk).await == under);
}

#[tokio::test]
async fn files_of_layers_that_do_not_count_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let under = content(SIZE, 1);
    drop(open(folder.path(), &under, CREATE));
    let stale = folder.path().join("disk-0.layer-7.data");
    let other = folder.path().join("notes.txt");
    std::fs::write(&stale, "x").unwrap();
    std::fs::write(&other, "x").unwrap();
    drop(open(folder.path(), &under, OpenOptions::default()));
    assert!(!stale.exists() && other.exists());
}
