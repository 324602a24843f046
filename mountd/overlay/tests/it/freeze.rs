use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sluice_block::{BlockRead, BlockWrite, MemoryDisk, conformance};
use sluice_overlay::{CELL, OpenOptions, Overlay, OverlayError};

use crate::support::{CREATE, base, content, open, origin, read_all};

const SIZE: usize = 2 << 20;

/// Whether two disks agree wherever `changed` names nothing.
fn same_outside(changed: &[std::ops::Range<u64>], one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    let mut same = true;
    for range in changed {
        same &= one[at..range.start as usize] == other[at..range.start as usize];
        at = range.end as usize;
    }
    same && one[at..] == other[at..]
}

#[tokio::test]
async fn a_frozen_view_stays_while_the_disk_is_written_and_becomes_the_base() {
    let folder = tempfile::tempdir().unwrap();
    let under = content(SIZE, 9);
    let (overlay, disk) = open(folder.path(), &under, CREATE);
    disk.write_at(10_000, &[1; 20_000]).await.unwrap();
    disk.write_zeroes(100_000, 50_000).await.unwrap();
    let before = read_all(&*disk).await;
    let frozen = overlay.freeze().unwrap();
    assert!(matches!(overlay.freeze(), Err(OverlayError::Frozen)));
    // Part of a cell that is written below, part of one that is zero below, and a fresh one.
    disk.write_at(12_000, &[2; 100]).await.unwrap();
    disk.write_at(110_000, &[3; 10]).await.unwrap();
    disk.write_at(1 << 20, &[4; 5000]).await.unwrap();
    disk.write_zeroes(20_000, 9000).await.unwrap();
    let mut after = before.clone();
    after[12_000..12_100].fill(2);
    after[110_000..110_010].fill(3);
    after[1 << 20..(1 << 20) + 5000].fill(4);
    after[20_000..29_000].fill(0);
    conformance::read(&*frozen.disks()[0].device, &before).await;
    conformance::read(&*disk, &after).await;
    let changed = &frozen.disks()[0].changed;
    assert!(same_outside(changed, &under, &before));
    assert_eq!(changed.iter().map(|range| range.end - range.start).sum::<u64>(), 19 * CELL);
    let used = overlay.status();
    assert_eq!((used.layers, used.frozen), (2, true));
    let below = Arc::new(MemoryDisk::from_bytes(&before));
    frozen
        .rebase(&origin("p"), &origin("next"), vec![base("vda", below.clone(), "second")], true)
        .unwrap();
    conformance::read(&*disk, &after).await;
    let status = overlay.status();
    assert_eq!((status.layers, status.frozen), (1, false));
    assert_eq!(status.written, 6 * CELL);
    disk.flush().await.unwrap();
    drop((overlay, disk));
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().collect();
    assert_eq!(names.len(), 6, "{names:?}");
    let bases = vec![base("vda", below, "second")];
    let overlay =
        Overlay::open(folder.path(), &origin("next"), bases, OpenOptions::default()).unwrap();
    conformance::read(&*overlay.disks()[0], &after).await;
    assert_eq!(overlay.description().first_base, origin("p"));
}

#[tokio::test]
async fn failed_commits_lose_nothing_and_a_restart_merges_what_they_left() {
    let folder = tempfile::tempdir().unwrap();
    let under = content(SIZE, 9);
    let mut model = under.clone();
    {
        let (overlay, disk) = open(folder.path(), &under, CREATE);
        for round in 0..15u8 {
            let at = 3000 * u64::from(round);
            disk.write_at(at, &[round + 1; 7000]).await.unwrap();
            model[at as usize..at as usize + 7000].fill(round + 1);
            disk.write_zeroes(at + 500_000, 9000).await.unwrap();
            model[at as usize + 500_000..at as usize + 509_000].fill(0);
            drop(overlay.freeze().unwrap());
        }
        assert!(matches!(overlay.freeze(), Err(OverlayError::TooManyLayers)));
        conformance::read(&*disk, &model).await;
        disk.write_at(0, &[99]).await.unwrap();
        model[0] = 99;
        disk.flush().await.unwrap();
    }
    let (overlay, disk) = open(folder.path(), &under, OpenOptions::default());
    conformance::read(&*disk, &model).await;
    assert_eq!(overlay.status().layers, 1);
    // The room is that of the cells that are left.
    let frozen = overlay.freeze().unwrap();
    let changed = frozen.disks()[0].changed.clone();
    assert!(same_outside(&changed, &under, &model));
    let bytes: u64 = changed.iter().map(|range| range.end - range.start).sum();
    let status = overlay.status();
    assert_eq!(status.written + status.zero, bytes);
}

#[tokio::test]
async fn a_base_that_is_not_the_frozen_disk_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (overlay, _disk) = open(folder.path(), &content(SIZE, 9), CREATE);
    let small = Arc::new(MemoryDisk::new(CELL));
    for bases in [vec![], vec![base("vda", small, "x")]] {
        let refused = overlay.freeze().unwrap().rebase(&origin("p"), &origin("next"), bases, false);
        assert!(matches!(refused, Err(OverlayError::OtherBase { .. })));
    }
    assert_eq!(overlay.description().base, origin("p"));
}

/// What changed since one base, put on top of another, is a disk that never was.
#[tokio::test]
async fn a_base_that_was_built_on_another_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (overlay, disk) = open(folder.path(), &content(SIZE, 9), CREATE);
    let next = async |built_on: &str, point: &str| {
        let frozen = overlay.freeze().unwrap();
        let then = Arc::new(MemoryDisk::from_bytes(&read_all(&*frozen.disks()[0].device).await));
        frozen.rebase(&origin(built_on), &origin(point), vec![base("vda", then, point)], true)
    };
    disk.write_at(0, &[1; 4096]).await.unwrap();
    next("p", "one").await.unwrap();
    disk.write_at(4096, &[2; 4096]).await.unwrap();
    let refused = next("p", "two").await.unwrap_err();
    assert!(matches!(refused, OverlayError::BuiltOnOther { .. }));
    let said = refused.to_string();
    assert!(said.contains("vm@one") && said.contains("vm@p"), "{said}");
    assert_eq!(overlay.description().base, origin("one"));
    next("one", "two").await.unwrap();
    let now = read_all(&*disk).await;
    assert_eq!((now[0], now[4096]), (1, 2));
}

/// Two disks are written in lockstep; a view of one moment never has one ahead of the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_disks_are_frozen_at_one_moment() {
    let folder = tempfile::tempdir().unwrap();
    let device = || Arc::new(MemoryDisk::new(SIZE as u64));
    let bases = vec![base("vda", device(), "a"), base("vdb", device(), "b")];
    let overlay = Overlay::open(folder.path(), &origin("p"), bases, CREATE).unwrap();
    let disks = overlay.disks();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (disks, stop) = (disks.clone(), stop.clone());
        async move {
            let mut number = 0u64;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                for disk in &disks {
                    // Not at a cell's start, so that each needs what lies below.
                    disk.write_at(12_345, &number.to_le_bytes()).await.unwrap();
                }
            }
            number
        }
    });
    let number = async |device: &dyn BlockRead| {
        let mut bytes = [0; 8];
        device.read_at(12_345, &mut bytes).await.unwrap();
        u64::from_le_bytes(bytes)
    };
    let mut last = 0;
    for _ in 0..14 {
        tokio::task::yield_now().await;
        let before = number(&*disks[1]).await;
        let at_once = overlay.clone();
        let frozen = tokio::task::spawn_blocking(move || at_once.freeze()).await.unwrap().unwrap();
        let [first, second] = [&frozen.disks()[0], &frozen.disks()[1]];
        let (first, second) = (number(&*first.device).await, number(&*second.device).await);
        assert!(second >= before && second >= last, "an answered write is missing");
        assert!(first == second || first == second + 1, "{first} and {second}");
        last = second;
    }
    stop.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    assert_eq!(number(&*disks[0]).await, written);
}
