//! Storing scattered parts of an image anew, in the order of the image.
//!
//! A point inherits most of its blocks from points before it, and after many small changes a
//! stretch of the disk lies in as many packs. Points never change, so it is the next backup that
//! puts such a stretch together: it stores those blocks once more, side by side, and its point
//! names the new places. The old ones go when the points that name them do.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use crate::fetch::MAX_GAP;
use crate::format::id::Digest;
use crate::format::page::Page;

const GIB: u64 = 1 << 30;
/// Extents of a leaf that are as good as one: a new leaf may begin in one pack and end in another.
const FEW: u64 = 2;

/// What to put together, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defragment {
    /// Leaves with more extents than this for each GiB of their data. An extent is what one
    /// request gets: stored blocks of one pack with no large gap between them.
    pub above: u32,
    /// Most bytes of blocks to store again in one backup; the worst leaves come first.
    pub limit: u64,
}

/// How many requests it takes to read all blocks of a leaf.
pub(crate) fn extents(leaf: &Page) -> u64 {
    let mut places: Vec<_> = leaf
        .iter()
        .map(|(_, chunk)| {
            let (pack, from) = (chunk.location.pack, u64::from(chunk.location.offset));
            (pack, from, from + u64::from(chunk.location.stored_len))
        })
        .collect();
    places.sort_unstable();
    places.dedup();
    let near =
        |one: &(_, u64, u64), next: &(_, u64, u64)| one.0 == next.0 && next.1 <= one.2 + MAX_GAP;
    places.chunk_by(near).count() as u64
}

/// By how bad it is: extents for each GiB, number of the leaf, its bytes, its blocks.
type Scattered = (u64, u64, u64, Vec<Digest>);

/// The worst leaves of an image within the limit.
#[derive(Debug)]
pub(crate) struct Worst {
    wanted: Defragment,
    leaves: BinaryHeap<Reverse<Scattered>>,
    bytes: u64,
}

impl Worst {
    pub(crate) fn new(wanted: Defragment) -> Self {
        Self { wanted, leaves: BinaryHeap::new(), bytes: 0 }
    }

    pub(crate) fn look_at(&mut self, number: u64, leaf: &Page, block_size: u32) {
        let ids: Vec<Digest> = leaf.iter().map(|(_, chunk)| chunk.id).collect();
        let bytes = ids.len() as u64 * u64::from(block_size);
        let rate = extents(leaf).saturating_sub(FEW) * GIB / bytes.max(1);
        if rate <= u64::from(self.wanted.above) {
            return;
        }
        self.leaves.push(Reverse((rate, number, bytes, ids)));
        self.bytes += bytes;
        while self.bytes > self.wanted.limit
            && let Some(Reverse((_, _, bytes, _))) = self.leaves.pop()
        {
            self.bytes -= bytes;
        }
    }

    /// The leaves, and the blocks in them.
    pub(crate) fn into_parts(self) -> (Vec<u64>, HashSet<Digest>) {
        let (mut numbers, mut blocks) = (Vec::new(), HashSet::new());
        for Reverse((_, number, _, ids)) in self.leaves {
            numbers.push(number);
            blocks.extend(ids);
        }
        numbers.sort_unstable();
        (numbers, blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::PackId;
    use crate::format::pack::Codec;
    use crate::format::page::{Entry, Location};

    fn leaf(places: &[(u8, u32)]) -> Page {
        let mut page = Page::empty(0);
        for (at, (pack, offset)) in places.iter().enumerate() {
            let location = Location {
                pack: PackId([*pack; 16]),
                slot: at as u16,
                codec: Codec::Raw,
                offset: *offset,
                stored_len: 1000,
            };
            page.set(at, Some(Entry { id: Digest([at as u8; 16]), location }));
        }
        page
    }

    #[test]
    fn what_one_request_gets_is_one_extent() {
        assert_eq!(extents(&leaf(&[])), 0);
        assert_eq!(extents(&leaf(&[(1, 0), (1, 1000), (1, 5000)])), 1);
        assert_eq!(extents(&leaf(&[(1, 1000), (1, 0)])), 1, "in whatever order");
        let far = MAX_GAP as u32 + 1001;
        assert_eq!(extents(&leaf(&[(1, 0), (1, far), (2, 0)])), 3);
    }

    #[test]
    fn the_worst_leaves_are_taken_up_to_the_limit() {
        let wanted = Defragment { above: 0, limit: 5 << 16 };
        let mut worst = Worst::new(wanted);
        worst.look_at(7, &leaf(&[(1, 0), (1, 1000), (1, 2000)]), 1 << 16);
        worst.look_at(8, &leaf(&[(1, 0), (2, 0), (3, 0)]), 1 << 16);
        worst.look_at(9, &leaf(&[(1, 0), (2, 0), (3, 0), (4, 0)]), 1 << 16);
        let (leaves, blocks) = worst.into_parts();
        assert_eq!((leaves, blocks.len()), (vec![9], 4));
    }
}
