//! Metadata contexts: what a client selects, and what it is told.

use std::ops::Range;
use std::sync::Arc;

use sluice_block::{BlockRead, ExtentKind, ExtentList, Result};
use sluice_nbd_wire::{
    AllocationFlags, BASE_ALLOCATION, CHANGED_SINCE, STATE_CHANGED, StatusExtent,
};
use tokio::sync::{Mutex, OnceCell};

use crate::device::Changes;
use crate::sparse::first_extent;

/// Contexts of one connection; a client that wants more is not one that copies disks.
pub(crate) const MOST_CONTEXTS: usize = 16;
/// Points that are listed; older ones can be asked for all the same.
const MOST_LISTED: usize = 256;
/// Maps kept per open export: its clients ask for the same few.
const KEPT_MAPS: usize = 16;
/// Descriptors in one chunk; a client asks again from where they end.
const STATUS_EXTENTS: usize = 16 << 10;
/// Calls of `extents` for one request.
const STATUS_CALLS: usize = 64;

/// A selected context. Its number on the wire is its place in the selection, counted from 1.
#[derive(Clone)]
pub(crate) struct Context {
    /// As the client called it, which is how it looks for it in the reply.
    pub(crate) name: String,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Allocation,
    ChangedSince(Arc<ChangeMap>),
}

/// The parts of an export that changed since a point.
struct ChangeMap {
    point: String,
    changes: Arc<dyn Changes>,
    /// Made when it is first needed: that may take reading.
    ranges: OnceCell<Vec<Range<u64>>>,
}

/// The change maps of an open export.
pub(crate) struct ChangeMaps {
    changes: Option<Arc<dyn Changes>>,
    kept: Mutex<Vec<Arc<ChangeMap>>>,
}

impl ChangeMaps {
    pub(crate) fn new(changes: Option<Arc<dyn Changes>>) -> Self {
        Self { changes, kept: Mutex::default() }
    }

    /// The contexts that `query` selects: one, when it names one that there is.
    pub(crate) async fn select(&self, query: &str) -> Result<Option<Context>> {
        let name = query.to_owned();
        if query == BASE_ALLOCATION {
            return Ok(Some(Context { name, kind: Kind::Allocation }));
        }
        let (Some(changes), Some(text)) = (&self.changes, query.strip_prefix(CHANGED_SINCE)) else {
            return Ok(None);
        };
        let Some(point) = changes.find(text).await? else { return Ok(None) };
        let mut kept = self.kept.lock().await;
        let found = kept.iter().position(|map| map.point == point);
        let map = match found {
            Some(at) => kept.remove(at),
            None => {
                let changes = Arc::clone(changes);
                Arc::new(ChangeMap { point, changes, ranges: OnceCell::new() })
            }
        };
        kept.truncate(KEPT_MAPS - 1);
        kept.insert(0, Arc::clone(&map));
        Ok(Some(Context { name, kind: Kind::ChangedSince(map) }))
    }

    /// The names of contexts that match a query of a list; an empty query matches all.
    pub(crate) async fn list(&self, query: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        if ["", "base:", BASE_ALLOCATION].contains(&query) {
            names.push(BASE_ALLOCATION.to_owned());
        }
        let Some(changes) = &self.changes else { return Ok(names) };
        if ["", "sluice:", CHANGED_SINCE].contains(&query) {
            let points = changes.points().await?;
            names.extend(points.iter().take(MOST_LISTED).map(|id| format!("{CHANGED_SINCE}{id}")));
        } else if let Some(text) = query.strip_prefix(CHANGED_SINCE)
            && changes.find(text).await?.is_some()
        {
            names.push(query.to_owned());
        }
        Ok(names)
    }
}

impl Context {
    /// Descriptors of a prefix of the range, which is not empty; one only when `one`. Their
    /// lengths are multiples of `minimum`, if offset and length of the range are.
    pub(crate) async fn status(
        &self,
        device: &dyn BlockRead,
        range: Range<u64>,
        one: bool,
        minimum: u64,
    ) -> Result<Vec<StatusExtent>> {
        let start = range.start;
        let (extents, safe) = match &self.kind {
            Kind::Allocation => (allocation(device, range, one).await?, 0),
            Kind::ChangedSince(map) => {
                let made = map.ranges.get_or_try_init(|| map.changes.since(&map.point)).await?;
                let most = if one { 1 } else { STATUS_EXTENTS };
                (changed(made, range, most), STATE_CHANGED)
            }
        };
        let mut extents = aligned(extents, start, minimum, safe);
        if one {
            extents.truncate(1);
        }
        Ok(extents)
    }
}

/// Moves the boundaries between extents to multiples of `minimum`. A block of which not all is
/// of one status gets the one that promises nothing.
fn aligned(extents: Vec<StatusExtent>, start: u64, minimum: u64, safe: u64) -> Vec<StatusExtent> {
    if minimum <= 1 {
        return extents;
    }
    let mut done: Vec<StatusExtent> = Vec::with_capacity(extents.len());
    let mut push = |length: u64, flags: u64| match done.last_mut() {
        _ if length == 0 => {}
        Some(last) if last.flags == flags => last.length += length,
        _ => done.push(StatusExtent { length, flags }),
    };
    // Everything before `told` is described.
    let (mut at, mut told) = (start, start);
    for extent in extents {
        at += extent.length;
        if extent.flags == safe {
            let until = at.next_multiple_of(minimum);
            push(until - told, safe);
            told = until;
        } else if at / minimum * minimum > told {
            let until = at / minimum * minimum;
            push(until - told, extent.flags);
            told = until;
        }
        // What is left of a block belongs to more than one extent.
        if at > told {
            push(minimum, safe);
            told += minimum;
        }
    }
    done
}

async fn allocation(
    device: &dyn BlockRead,
    range: Range<u64>,
    one: bool,
) -> Result<Vec<StatusExtent>> {
    let mut list = ExtentList::default();
    if one {
        list.push(first_extent(device, range.start, range.end - range.start).await?);
    } else {
        let mut at = range.start;
        for _ in 0..STATUS_CALLS {
            if at >= range.end || list.len() >= STATUS_EXTENTS {
                break;
            }
            let extents = device.extents(at, range.end - at).await?;
            let Some(last) = extents.last() else { break };
            at = last.end();
            extents.into_iter().for_each(|extent| list.push(extent));
        }
    }
    let mut extents: Vec<StatusExtent> = list
        .into_vec()
        .into_iter()
        .map(|extent| StatusExtent { length: extent.length, flags: flags(extent.kind).0 })
        .collect();
    if extents.is_empty() {
        // A device that describes nothing breaks its contract; "data" is always a safe answer.
        extents.push(StatusExtent { length: range.end - range.start, flags: 0 });
    }
    Ok(extents)
}

fn flags(kind: ExtentKind) -> AllocationFlags {
    match kind {
        ExtentKind::Data => AllocationFlags::empty(),
        ExtentKind::Zero => AllocationFlags::ZERO,
        ExtentKind::Hole => AllocationFlags::HOLE | AllocationFlags::ZERO,
    }
}

/// Cuts `range` along the changed parts `map`, into at most `most` descriptors.
fn changed(map: &[Range<u64>], range: Range<u64>, most: usize) -> Vec<StatusExtent> {
    let mut extents = Vec::new();
    let mut at = range.start;
    let mut push = |at: &mut u64, until: u64, flags: u64| {
        if until > *at && extents.len() < most {
            extents.push(StatusExtent { length: until - *at, flags });
            *at = until;
        }
        extents.len() < most
    };
    let first = map.partition_point(|part| part.end <= range.start);
    for part in &map[first..] {
        if part.start >= range.end {
            break;
        }
        if !push(&mut at, part.start, 0) || !push(&mut at, part.end.min(range.end), STATE_CHANGED) {
            return extents;
        }
    }
    push(&mut at, range.end, 0);
    extents
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(map: &[Range<u64>], range: Range<u64>, most: usize) -> Vec<(u64, u64)> {
        changed(map, range, most).into_iter().map(|e| (e.length, e.flags)).collect()
    }

    #[test]
    fn a_change_map_is_cut_to_the_range() {
        let map = [10..20, 30..40];
        assert_eq!(extents(&map, 0..50, 99), [(10, 0), (10, 1), (10, 0), (10, 1), (10, 0)]);
        assert_eq!(extents(&map, 15..35, 99), [(5, 1), (10, 0), (5, 1)]);
        assert_eq!(extents(&map, 20..30, 99), [(10, 0)]);
        assert_eq!(extents(&map, 10..20, 99), [(10, 1)]);
        assert_eq!(extents(&[], 5..7, 99), [(2, 0)]);
        assert_eq!(extents(&map, 0..50, 1), [(10, 0)]);
        assert_eq!(extents(&map, 12..50, 2), [(8, 1), (10, 0)]);
    }

    #[test]
    fn boundaries_are_aligned_without_promising_too_much() {
        let cut = |list: &[(u64, u64)]| {
            let list =
                list.iter().map(|(length, flags)| StatusExtent { length: *length, flags: *flags });
            let cut = aligned(list.collect(), 8, 4, 0);
            cut.into_iter().map(|e| (e.length, e.flags)).collect::<Vec<_>>()
        };
        assert_eq!(cut(&[(8, 3), (4, 0)]), [(8, 3), (4, 0)]);
        assert_eq!(cut(&[(6, 3), (6, 0)]), [(4, 3), (8, 0)]);
        assert_eq!(cut(&[(6, 0), (6, 3)]), [(8, 0), (4, 3)]);
        assert_eq!(cut(&[(1, 3), (2, 2), (1, 3), (8, 2)]), [(4, 0), (8, 2)]);
        assert_eq!(cut(&[(5, 3), (2, 0)]), [(4, 3), (4, 0)], "a prefix ends at a boundary");
        assert_eq!(cut(&[(3, 3)]), [(4, 0)]);
    }
}
