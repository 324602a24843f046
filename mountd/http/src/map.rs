//! The map of a device: which of its bytes are data, as JSON.

use serde::Serialize;
use sluice_block::{BlockRead, Extent, ExtentKind, ExtentList, Result};

use crate::path::query;

/// Extents in one answer, after which the client asks again: about 1 MiB of text at most.
const MOST_EXTENTS: usize = 16 << 10;
/// Questions to the device for one answer.
const MOST_CALLS: usize = 64;

/// A part of a map.
#[derive(Debug, Serialize)]
pub(crate) struct Map {
    size: u64,
    extents: Vec<Entry>,
    /// Where to go on; absent when this was the last part.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Entry {
    offset: u64,
    length: u64,
    #[serde(rename = "type")]
    kind: &'static str,
}

impl From<Extent> for Entry {
    fn from(extent: Extent) -> Self {
        let kind = match extent.kind {
            ExtentKind::Data => "data",
            ExtentKind::Zero => "zero",
            ExtentKind::Hole => "hole",
        };
        Self { offset: extent.offset, length: extent.length, kind }
    }
}

/// The range a query asks about, by `offset` and `length`; all when it names none. `None` when
/// that is no range of the device.
pub(crate) fn asked(text: &str, size: u64) -> Option<(u64, u64)> {
    let number = |key| query(text, key).map(str::parse::<u64>).transpose().ok();
    let offset = number("offset")?.unwrap_or(0);
    let rest = size.checked_sub(offset)?;
    let length = number("length")?.unwrap_or(rest);
    (length <= rest).then_some((offset, length))
}

/// Describes a range, or as much of it as fits into an answer.
///
/// # Errors
/// What the device reports.
pub(crate) async fn map(device: &dyn BlockRead, offset: u64, length: u64) -> Result<Map> {
    let (mut at, end) = (offset, offset + length);
    let mut list = ExtentList::default();
    for _ in 0..MOST_CALLS {
        if at == end || list.len() >= MOST_EXTENTS {
            break;
        }
        for extent in device.extents(at, end - at).await? {
            at = extent.end();
            list.push(extent);
        }
    }
    let extents = list.into_vec().into_iter().map(Entry::from).collect();
    Ok(Map { size: device.size(), extents, next: (at < end).then_some(at) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_block::{BlockWrite, MemoryDisk};

    #[test]
    fn a_query_names_a_range_of_the_device() {
        assert_eq!(asked("extents", 100), Some((0, 100)));
        assert_eq!(asked("extents&offset=40", 100), Some((40, 60)));
        assert_eq!(asked("extents&length=5&offset=95", 100), Some((95, 5)));
        for bad in ["offset=101", "offset=96&length=5", "offset=-1", "length=x", "offset="] {
            assert_eq!(asked(bad, 100), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_long_map_comes_in_parts_that_join() {
        let disk = MemoryDisk::new(400 << 20);
        for block in (0..100_000_u64).step_by(2) {
            disk.write_at(block * 4096, &[1]).await.unwrap();
        }
        let (mut at, mut parts, mut data) = (0, 0, 0);
        loop {
            let part = map(&disk, at, (400 << 20) - at).await.unwrap();
            for extent in &part.extents {
                assert_eq!(extent.offset, at);
                at += extent.length;
                data += if extent.kind == "data" { extent.length } else { 0 };
            }
            parts += 1;
            match part.next {
                Some(next) => assert_eq!(next, at),
                None => break,
            }
        }
        assert_eq!((at, data), (400 << 20, 50_000 * 4096));
        assert!(parts > 1);
    }
}
