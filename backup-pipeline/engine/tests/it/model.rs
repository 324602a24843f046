//! Backups against a plain vector of bytes: whatever was done to the disk, every point reads as
//! the disk was, and all ways of finding changes give the same image.

use std::ops::Range;

use proptest::prelude::*;
use sluice_block::{BlockRead, conformance};
use sluice_engine::Change;
use sluice_repository::PointSpec;
use sluice_repository::format::MIN_BLOCK;

use crate::support::*;

#[derive(Debug, Clone)]
enum Step {
    Write { at: u16, length: u32, seed: u64 },
    Repeat { from: u16, to: u16 },
    Zero { at: u16, length: u32 },
    Resize { blocks: u16, odd: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    let length = 1u32..300_000;
    prop_oneof![
        4 => (any::<u16>(), length.clone(), 0u64..6)
            .prop_map(|(at, length, seed)| Step::Write { at, length, seed }),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(from, to)| Step::Repeat { from, to }),
        2 => (any::<u16>(), length).prop_map(|(at, length)| Step::Zero { at, length }),
        1 => (0u16..700, 0u16..2000).prop_map(|(blocks, odd)| Step::Resize { blocks, odd }),
    ]
}

/// Does a step; returns the bytes it changed.
fn apply(disk: &mut Vec<u8>, step: &Step) -> Range<u64> {
    let place = |at: u16, disk: &[u8]| disk.len() * usize::from(at) / (usize::from(u16::MAX) + 1);
    let range = match *step {
        Step::Write { at, length, seed } => {
            let from = place(at, disk);
            let to = (from + length as usize).min(disk.len());
            disk[from..to].copy_from_slice(&noise(seed, to - from));
            from..to
        }
        Step::Zero { at, length } => {
            let from = place(at, disk);
            let to = (from + length as usize).min(disk.len());
            disk[from..to].fill(0);
            from..to
        }
        Step::Repeat { from, to } => {
            let block = BLOCK as usize;
            let (from, to) = (place(from, disk) / block * block, place(to, disk) / block * block);
            let length = block.min(disk.len() - from.max(to));
            disk.copy_within(from..from + length, to);
            to..to + length
        }
        Step::Resize { blocks, odd } => {
            disk.resize(usize::from(blocks) * BLOCK as usize / 2 + usize::from(odd), 0);
            0..0
        }
    };
    range.start as u64..range.end as u64
}

/// Steps between two points, and the way their changes are found.
fn rounds() -> impl Strategy<Value = Vec<(Vec<Step>, u8)>> {
    proptest::collection::vec((proptest::collection::vec(step(), 1..6), 0u8..3), 1..5)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_point_reads_as_the_disk_was(
        first in 0usize..(20 << 20),
        rounds in rounds(),
        block in prop_oneof![Just(MIN_BLOCK), Just(BLOCK as u32)],
    ) {
        runtime().block_on(async {
            let (destination, repository) = new_repository().await;
            let mut disk = vec![0u8; first];
            let fill = disk.len() / 3;
            disk[..fill].copy_from_slice(&noise(99, fill));
            let point = back_up_in_blocks(&repository, block, &disk, Change::Rescan).await;
            let mut points = vec![(point, disk.clone())];
            for (steps, way) in rounds {
                let mut changed = Vec::new();
                for step in &steps {
                    changed.push(apply(&mut disk, step));
                }
                // A caller's list speaks of bytes inside the device.
                let size = disk.len() as u64;
                changed.retain(|range| range.start < size);
                changed.iter_mut().for_each(|range| range.end = range.end.min(size));
                // A device that shrank and grew again within one round is beyond what a list
                // can say, unless the list says so.
                if steps.iter().any(|step| matches!(step, Step::Resize { .. })) {
                    changed.push(0..size);
                }
                let change = match way {
                    0 => Change::Regions,
                    1 => Change::Rescan,
                    _ => Change::Changed(changed),
                };
                let point = back_up_in_blocks(&repository, block, &disk, change).await;
                points.push((point, disk.clone()));
            }
            // A fresh process sees the same, from the destination alone.
            let again = open(destination).await;
            for (point, bytes) in &points {
                let image = again.image(point, None).unwrap();
                assert_eq!(image.record().size, bytes.len() as u64);
                assert!(read_all(&image).await == *bytes, "{point} differs");
                let data = bytes.chunks(block as usize).filter(|b| b.iter().any(|b| *b != 0));
                assert_eq!(image.record().data_blocks, data.count() as u64, "{}", point.method);
            }
        });
    }

    #[test]
    fn three_ways_of_finding_changes_give_one_image(
        size in (1usize << 20)..(40 << 20),
        steps in proptest::collection::vec(step(), 1..8),
    ) {
        runtime().block_on(async {
            let mut disk = vec![0u8; size];
            disk[..size / 2].copy_from_slice(&noise(7, size / 2));
            let before = disk.clone();
            let mut changed = Vec::new();
            for step in steps.iter().filter(|step| !matches!(step, Step::Resize { .. })) {
                changed.push(apply(&mut disk, step));
            }
            let mut roots = Vec::new();
            let (_, repository) = new_repository().await;
            for change in [Change::Regions, Change::Rescan, Change::Changed(changed)] {
                back_up(&repository, &before, Change::Rescan).await;
                let point = back_up(&repository, &disk, change).await;
                roots.push(point.images[0].root);
            }
            assert!(roots[0] == roots[1] && roots[1] == roots[2]);
        });
    }
}

/// A change of these bytes only.
fn only(range: Range<u64>) -> Change {
    Change::Changed(std::iter::once(range).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_keeps_the_contract_of_a_device() {
    let (_, repository) = new_repository().await;
    let mut disk = noise(1, 40 << 20);
    disk[3 << 20..30 << 20].fill(0);
    disk.truncate((40 << 20) - 777);
    let point = back_up(&repository, &disk, Change::Regions).await;
    conformance::read(&repository.image(&point, None).unwrap(), &disk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_is_at_hand_and_counted() {
    let (_, repository) = new_repository().await;
    let disk = noise(1, 8 << 20);
    let point = back_up(&repository, &disk, Change::Regions).await;
    let image = repository.image(&point, None).unwrap();
    let block = u64::from(image.block_size());
    let (at, length) = (3 * block - 100, 200);
    let mut buf = vec![0; length];
    assert!(!image.read_cached(at, &mut buf), "nothing was read before");
    image.read_at(at, &mut buf).await.unwrap();
    let before = repository.cache_counts();
    buf.fill(0);
    assert!(image.read_cached(at, &mut buf));
    assert!(buf == disk[at as usize..][..length]);
    let after = repository.cache_counts();
    assert_eq!((after.hits, after.misses), (before.hits + 2, before.misses));
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_data_is_not_stored_again() {
    let (_, repository) = new_repository().await;
    let disk = noise(1, 8 << 20);
    let first = back_up(&repository, &disk, Change::Regions).await;
    assert_eq!(first.stats.new_bytes, 8 << 20);
    for change in [Change::Regions, Change::Rescan, only(0..8 << 20)] {
        let next = back_up(&repository, &disk, change).await;
        assert_eq!((next.stats.new_bytes, next.stats.meta_bytes), (0, 0), "{}", next.method);
        assert_eq!(next.stats.unchanged_bytes, 8 << 20);
        assert_eq!(next.images[0].root, first.images[0].root);
    }
    let listed = repository.list(Some("vm")).await.unwrap();
    assert_eq!(listed.points.len(), 4);
    assert!(listed.points.is_sorted_by_key(|point| point.id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_list_reads_only_what_it_names() {
    let (_, repository) = new_repository().await;
    let mut disk = noise(1, 8 << 20);
    back_up(&repository, &disk, Change::Regions).await;
    disk[100..200].fill(9);
    let changed = only(100..200);
    let point = back_up(&repository, &disk, changed).await;
    assert_eq!(point.stats.read_bytes, BLOCK);
    assert_eq!(point.stats.new_bytes, BLOCK);
    let image = repository.image(&point, None).unwrap();
    assert!(read_all(&image).await == disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_finds_what_is_stored_through_the_index() {
    let (destination, repository) = new_repository().await;
    let disk = noise(1, 8 << 20);
    back_up(&repository, &disk, Change::Regions).await;
    let cache = tempfile::tempdir().unwrap();
    let settings = settings(Some(cache.path()));
    let clock = sluice_repository::Clock::system();
    let elsewhere = sluice_repository::Repository::open(destination, clock, passphrase(), settings)
        .await
        .unwrap();
    let cancel = tokio_util::sync::CancellationToken::new();
    let progress = sluice_engine::Progress::new();
    let images = vec![image("other", &disk, Change::Regions)];
    let done = sluice_engine::backup(&elsewhere, "vm2", images, options(), progress, cancel);
    let stats = done.await.unwrap().point.stats;
    assert_eq!((stats.new_bytes, stats.dedup_bytes), (0, 8 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_image_of_many_tib_costs_its_data_only() {
    use sluice_block::{BlockRead, BlockWrite, MemoryDisk};
    let (_, repository) = new_repository().await;
    let disk = std::sync::Arc::new(MemoryDisk::new(16 << 40));
    for at in [0u64, 5 << 40, (16 << 40) - 4096] {
        disk.write_at(at, &noise(at, 4096)).await.unwrap();
    }
    let point = run(&repository, vec![device_image("disk", disk, Change::Regions)]).await;
    let point = point.unwrap().point;
    assert_eq!(point.images[0].data_blocks, 3);
    assert!(point.images[0].directory.len() < 200);
    let image = repository.image(&point, None).unwrap();
    let mut bytes = vec![0; 4096];
    image.read_at(5 << 40, &mut bytes).await.unwrap();
    assert!(bytes == noise(5 << 40, 4096));
    image.read_at(7 << 40, &mut bytes).await.unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    let extents = sluice_block::coalesce(&image, 0, 16 << 40).await.unwrap();
    assert_eq!(extents.iter().filter(|extent| !extent.kind.reads_zero()).count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_found_by_time_and_by_prefix() {
    let (_, repository) = new_repository().await;
    let zone = jiff::tz::TimeZone::UTC;
    let first = back_up(&repository, &noise(1, 1000), Change::Regions).await;
    let second = back_up(&repository, &noise(2, 1000), Change::Regions).await;
    let find = async |text: &str| {
        repository.resolve(&PointSpec::parse(text, &zone).unwrap()).await.map(|point| point.id)
    };
    assert_eq!(find("vm@latest").await.unwrap(), second.id);
    assert_eq!(find(&format!("vm@{}", first.id)).await.unwrap(), first.id);
    let time = sluice_repository::rfc3339(second.created_ms);
    assert_eq!(find(&format!("vm@{time}")).await.unwrap(), second.id);
    assert!(find("vm@2001-01-01T00:00").await.is_err());
    assert!(find("nobody@latest").await.is_err());
}
