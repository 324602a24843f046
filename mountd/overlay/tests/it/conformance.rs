use sluice_block::{BlockRead, BlockWrite, ErrorKind, conformance};
use sluice_overlay::{CELL, Description, Discard, OpenOptions, Overlay, OverlayError, is_in_use};

use crate::support::{CREATE, base, content, open, origin, read_all};

const SIZE: usize = (3 << 20) + 1234;

#[tokio::test]
async fn an_overlay_is_a_disk_that_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let under = content(SIZE, 3);
    let (_overlay, disk) = open(folder.path(), &under, CREATE);
    conformance::read(&*disk, &under).await;
    conformance::write(&*disk).await;
}

#[tokio::test]
async fn what_is_written_is_there_after_a_restart_and_nothing_after_a_discard() {
    let folder = tempfile::tempdir().unwrap();
    let under = content(SIZE, 3);
    let mut model = under.clone();
    {
        let (overlay, disk) = open(folder.path(), &under, CREATE);
        assert!(is_in_use(folder.path()));
        disk.write_at(5000, &[7; 9000]).await.unwrap();
        disk.write_zeroes(100_000, 300_000).await.unwrap();
        model[5000..14_000].fill(7);
        model[100_000..400_000].fill(0);
        assert!(read_all(&*disk).await == model);
        overlay.flush().unwrap();
    }
    assert!(!is_in_use(folder.path()));
    {
        let (overlay, disk) = open(folder.path(), &under, OpenOptions::default());
        conformance::read(&*disk, &model).await;
        let cells = |from: u64, to: u64| (to.div_ceil(CELL) - from / CELL) * CELL;
        let status = overlay.status();
        // Cells that are zeroed in part are written.
        assert_eq!(status.written, cells(5000, 14_000) + 2 * CELL);
        assert_eq!(status.zero, cells(100_000, 400_000) - 2 * CELL);
        assert!(matches!(Discard::begin(folder.path()), Err(OverlayError::InUse(_))));
    }
    Discard::begin(folder.path()).unwrap().finish().unwrap();
    assert!(!folder.path().exists());
    let (_overlay, disk) = open(folder.path(), &under, CREATE);
    assert!(read_all(&*disk).await == under);
}

#[tokio::test]
async fn beyond_the_limit_writes_fail_and_all_else_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let under = content(SIZE, 3);
    let options = OpenOptions { create: true, limit: Some(10 * CELL + 17), boot: None };
    let (overlay, disk) = open(folder.path(), &under, options);
    disk.write_at(0, &[1; 10 * CELL as usize]).await.unwrap();
    for (offset, length) in [(10 * CELL, 1), (20 * CELL, 3 * CELL as usize), (CELL * 9, 8192)] {
        let refused = disk.write_at(offset, &vec![2; length]).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NoSpace);
    }
    // What takes no room goes on: writing again what is written, zeroes, reads.
    disk.write_at(100, &[3; 5000]).await.unwrap();
    disk.write_zeroes(40 * CELL, 4 * CELL).await.unwrap();
    let mut byte = [0];
    disk.read_at(9 * CELL, &mut byte).await.unwrap();
    assert_eq!(byte, [1]);
    // Room that is given back is there for others.
    disk.write_zeroes(0, 3 * CELL).await.unwrap();
    assert_eq!(overlay.status().written, 7 * CELL);
    disk.write_at(50 * CELL, &[4; 3 * CELL as usize]).await.unwrap();
    disk.write_at(60 * CELL, &[4; 1]).await.unwrap_err();
    drop((overlay, disk));
    // A larger limit counts from the next start on, and is kept.
    let larger = OpenOptions { create: false, limit: Some(20 * CELL), boot: None };
    let (overlay, disk) = open(folder.path(), &under, larger);
    disk.write_at(60 * CELL, &[4; 1]).await.unwrap();
    drop((overlay, disk));
    assert_eq!(Description::read(folder.path()).unwrap().limit, Some(20 * CELL));
}

#[tokio::test]
async fn an_overlay_is_used_by_one_and_over_its_own_base_only() {
    let folder = tempfile::tempdir().unwrap();
    let under = content(SIZE, 3);
    let again = |point: &str, root: &str, options| {
        let device = std::sync::Arc::new(sluice_block::MemoryDisk::from_bytes(&under));
        Overlay::open(folder.path(), &origin(point), vec![base("vda", device, root)], options)
    };
    let missing = again("p", "first", OpenOptions::default());
    assert!(matches!(missing, Err(OverlayError::NotFound(_))));
    let first = again("p", "first", CREATE).unwrap();
    assert!(matches!(again("p", "first", CREATE), Err(OverlayError::InUse(_))));
    drop(first);
    for (point, root) in [("other", "first"), ("p", "other")] {
        let refused = again(point, root, CREATE);
        assert!(matches!(refused, Err(OverlayError::OtherBase { .. })));
    }
    let strange = tempfile::tempdir().unwrap();
    std::fs::write(strange.path().join("letter"), "dear").unwrap();
    let device = std::sync::Arc::new(sluice_block::MemoryDisk::from_bytes(&under));
    let refused =
        Overlay::open(strange.path(), &origin("p"), vec![base("vda", device, "r")], CREATE);
    assert!(matches!(refused, Err(OverlayError::NotEmpty(_))));
    assert!(matches!(Discard::begin(strange.path()), Err(OverlayError::NotFound(_))));
}

#[tokio::test]
async fn a_description_of_another_version_or_of_nonsense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), &content(SIZE, 3), CREATE));
    let path = folder.path().join("overlay.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("\"version\": 1", "\"version\": 2"),
        ("\"cell\": 4096", "\"cell\": 512"),
        ("\"id\": \"", "\"id\": \"zz"),
        ("    1\n", "    3,\n    2\n"),
        ("{", "["),
    ] {
        assert!(text.contains(from), "{from} is not in {text}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        Description::read(folder.path()).unwrap_err();
    }
    std::fs::write(&path, text).unwrap();
    Description::read(folder.path()).unwrap();
}

#[tokio::test]
async fn a_huge_sparse_disk_costs_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let device = std::sync::Arc::new(sluice_block::MemoryDisk::new(8 << 40));
    let bases = vec![base("vda", device, "r")];
    let overlay = Overlay::open(folder.path(), &origin("p"), bases, CREATE).unwrap();
    let disk = overlay.disks().remove(0);
    let last = disk.size() - 4096;
    disk.write_at(last, &[1; 4096]).await.unwrap();
    overlay.flush().unwrap();
    let extents = sluice_block::coalesce(&*disk, 0, disk.size()).await.unwrap();
    let wanted = [sluice_block::Extent::hole(0, last), sluice_block::Extent::data(last, 4096)];
    assert_eq!(extents, wanted);
}
