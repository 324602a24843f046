//! Which parts of a range need reading, and which are known to be zero.

use sluice_block::{BlockRead, Extent, ExtentKind, ExtentList, Result};

/// The shortest run of zeroes worth a chunk of its own; a shorter one costs less as bytes.
const SHORTEST_HOLE: u64 = 4096;
/// The most runs a read is cut into, so that headers stay few beside the content.
const MOST_RUNS: usize = 64;
/// Boundaries between chunks are multiples of this where possible ("Request types", read).
const ALIGN: u64 = 512;
/// Calls of `extents` per request, after which the rest counts as data.
const MOST_CALLS: usize = 16;
/// Data described by one answer about the first run: a client that copies asks again from where
/// it ends, and must not make the device walk its whole map each time.
const MOST_DATA: u64 = 1 << 30;

/// A part of a read: bytes to fetch, or zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) zero: bool,
}

/// Whether runs that lie in a cache are answered as they are: not when they are too many, or when a
/// hole between them is too short.
pub(crate) fn worth_it(runs: &[Run]) -> bool {
    let short = |run: &Run| run.zero && run.length < SHORTEST_HOLE;
    runs.len() <= MOST_RUNS && (runs.len() == 1 || !runs.iter().any(short))
}

/// Cuts a range into runs. Without an answer from the device all of it is data.
pub(crate) async fn runs(device: &dyn BlockRead, offset: u64, length: u64) -> Vec<Run> {
    let mut known = Vec::new();
    let mut at = offset;
    for _ in 0..MOST_CALLS {
        match device.extents(at, offset + length - at).await {
            Ok(extents) if !extents.is_empty() => {
                at = extents.last().map_or(at, Extent::end);
                known.extend(extents);
            }
            _ => break,
        }
        if at == offset + length {
            break;
        }
    }
    cut(&known, offset, length)
}

/// Raises the shortest hole until few enough runs are left.
fn cut(known: &[Extent], offset: u64, length: u64) -> Vec<Run> {
    let mut shortest = SHORTEST_HOLE;
    loop {
        let runs = cut_at(known, offset, length, shortest);
        if runs.len() <= MOST_RUNS {
            return runs;
        }
        shortest *= 2;
    }
}

fn cut_at(known: &[Extent], offset: u64, length: u64, shortest: u64) -> Vec<Run> {
    let end = offset + length;
    let mut runs = Vec::new();
    let mut data_from = offset;
    let mut zeroes = ExtentList::default();
    for extent in known.iter().filter(|extent| extent.kind.reads_zero()) {
        zeroes.push(Extent::zero(extent.offset, extent.length));
    }
    for zero in zeroes.into_vec() {
        let from = if zero.offset == offset { offset } else { zero.offset.next_multiple_of(ALIGN) };
        let to = if zero.end() == end { end } else { zero.end() / ALIGN * ALIGN };
        // A read that is nothing but zeroes needs no bytes, however short it is.
        if to <= from || (to - from < shortest && to - from < length) {
            continue;
        }
        if from > data_from {
            runs.push(Run { offset: data_from, length: from - data_from, zero: false });
        }
        runs.push(Run { offset: from, length: to - from, zero: true });
        data_from = to;
    }
    if end > data_from {
        runs.push(Run { offset: data_from, length: end - data_from, zero: false });
    }
    runs
}

/// The first run of one kind in a range, as long as it goes on.
///
/// Asking for all extents of a large range only to use the first is wasteful when a client
/// walks the device that way, so the window starts small and doubles while one kind fills it.
pub(crate) async fn first_extent(
    device: &dyn BlockRead,
    offset: u64,
    length: u64,
) -> Result<Extent> {
    let end = offset + length;
    let mut window = 1 << 20;
    let mut found: Option<(ExtentKind, u64)> = None;
    loop {
        let at = found.map_or(offset, |(_, until)| until);
        if at == end {
            break;
        }
        let mut list = ExtentList::default();
        for extent in device.extents(at, window.min(end - at)).await? {
            list.push(extent);
        }
        let Some(first) = list.into_vec().into_iter().next() else { break };
        match found {
            Some((kind, _)) if kind != first.kind => break,
            _ => found = Some((first.kind, first.end())),
        }
        let enough = first.kind == ExtentKind::Data && first.end() - offset >= MOST_DATA;
        if enough || first.end() < (at + window).min(end) {
            break;
        }
        window = window.saturating_mul(2);
    }
    let (kind, until) = found.unwrap_or((ExtentKind::Data, end));
    Ok(Extent { offset, length: until - offset, kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_block::{BlockWrite, MemoryDisk};

    fn run(offset: u64, length: u64, zero: bool) -> Run {
        Run { offset, length, zero }
    }

    #[test]
    fn short_holes_are_read_and_long_ones_are_not() {
        let known = [
            Extent::data(0, 8192),
            Extent::hole(8192, 1024),
            Extent::data(9216, 7168),
            Extent::hole(16384, 4096),
            Extent::zero(20480, 4096),
            Extent::data(24576, 100),
        ];
        assert_eq!(
            cut(&known, 0, 24676),
            [run(0, 16384, false), run(16384, 8192, true), run(24576, 100, false)]
        );
    }

    #[test]
    fn a_short_read_of_nothing_but_zeroes_is_a_hole() {
        assert_eq!(cut(&[Extent::hole(100, 7)], 100, 7), [run(100, 7, true)]);
    }

    #[test]
    fn inner_boundaries_are_aligned_and_outer_ones_exact() {
        let known = [Extent::data(1, 9999), Extent::hole(10_000, 90_001)];
        assert_eq!(cut(&known, 1, 100_000), [run(1, 10_239, false), run(10_240, 89_761, true)]);
    }

    #[test]
    fn what_the_device_did_not_describe_is_data() {
        assert_eq!(
            cut(&[Extent::hole(0, 8192)], 0, 16384),
            [run(0, 8192, true), run(8192, 8192, false)]
        );
    }

    #[test]
    fn a_chequered_range_is_cut_into_few_runs_that_cover_it() {
        let known: Vec<Extent> = (0..2000)
            .map(|i| {
                if i % 2 == 0 { Extent::data(i * 4096, 4096) } else { Extent::hole(i * 4096, 4096) }
            })
            .collect();
        let runs = cut(&known, 0, 2000 * 4096);
        assert!(runs.len() <= MOST_RUNS);
        assert_eq!(runs.iter().map(|run| run.length).sum::<u64>(), 2000 * 4096);
    }

    /// A disk that describes itself as one run of data, however long the range.
    struct Solid;

    #[async_trait::async_trait]
    impl BlockRead for Solid {
        fn size(&self) -> u64 {
            1 << 50
        }

        async fn read_at(&self, _: u64, buf: &mut [u8]) -> Result<()> {
            buf.fill(1);
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_long_run_of_data_is_described_in_parts() {
        let first = first_extent(&Solid, 512, (1 << 50) - 512).await.unwrap();
        assert_eq!((first.offset, first.kind), (512, ExtentKind::Data));
        assert!(first.length >= MOST_DATA && first.length < 4 * MOST_DATA);
    }

    #[tokio::test]
    async fn the_first_extent_is_followed_to_its_end() {
        let disk = MemoryDisk::new(1 << 40);
        disk.write_at(5 << 30, b"x").await.unwrap();
        let first = first_extent(&disk, 4096, (1 << 40) - 4096).await.unwrap();
        assert_eq!(first, Extent::hole(4096, (5 << 30) - 4096));
        let first = first_extent(&disk, 5 << 30, 8192).await.unwrap();
        assert_eq!(first, Extent::data(5 << 30, 4096));
        let first = first_extent(&disk, 6 << 30, 10).await.unwrap();
        assert_eq!(first, Extent::hole(6 << 30, 10));
    }
}
