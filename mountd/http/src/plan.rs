//! Cutting a range into pieces: data to read, and zeroes that need no reading.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use sluice_block::{BlockRead, Extent};

/// The longest piece of data: what is read, and held, at once.
pub(crate) const PIECE: u64 = 512 << 10;
/// A range up to here is read without asking what it is made of.
const SMALL: u64 = 1 << 20;
/// The shortest run of zeroes worth a piece of its own.
const SHORTEST_HOLE: u64 = 64 << 10;
/// Bytes described at first; doubled for as long as they are zeroes, so that a client that leaves
/// early cost little, and a large hole costs few questions.
const WINDOW: u64 = 64 << 20;
/// The longest window: the bytes that one answer of the device may be about.
const LONGEST_WINDOW: u64 = 1 << 40;

/// A part of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// To be read; at most [`PIECE`] bytes.
    Data(Range<u64>),
    /// That many zeroes.
    Zeroes(u64),
}

/// What is left to be planned of a range.
pub(crate) struct Plan {
    device: Arc<dyn BlockRead>,
    at: u64,
    end: u64,
    window: u64,
    ready: VecDeque<Piece>,
}

impl Plan {
    pub(crate) fn new(device: Arc<dyn BlockRead>, range: Range<u64>) -> Self {
        let Range { start: at, end } = range;
        Self { device, at, end, window: WINDOW, ready: VecDeque::new() }
    }

    /// The next piece; together they are the range, in order.
    pub(crate) async fn next(&mut self) -> Option<Piece> {
        if self.ready.is_empty() && self.at < self.end {
            self.refill().await;
        }
        match self.ready.front_mut()? {
            Piece::Data(range) if range.end - range.start > PIECE => {
                let cut = range.start + PIECE - range.start % PIECE;
                let piece = Piece::Data(range.start..cut);
                range.start = cut;
                Some(piece)
            }
            _ => self.ready.pop_front(),
        }
    }

    async fn refill(&mut self) {
        let length = self.window.min(self.end - self.at);
        let known = if length <= SMALL {
            vec![]
        } else {
            // Without an answer it is data: the read will say what is wrong.
            self.device.extents(self.at, length).await.unwrap_or_default()
        };
        let all_zero = !known.is_empty() && known.iter().all(|extent| extent.kind.reads_zero());
        let until = known.last().map_or(self.at + length, Extent::end);
        for extent in &known {
            self.add(extent.kind.reads_zero(), extent.offset..extent.end());
        }
        if known.is_empty() {
            self.add(false, self.at..until);
        }
        self.window = if all_zero { (self.window * 2).min(LONGEST_WINDOW) } else { WINDOW };
        self.at = until;
    }

    /// Adds to the last piece what is like it. A short run of zeroes is read as data.
    fn add(&mut self, zero: bool, range: Range<u64>) {
        let length = range.end - range.start;
        match self.ready.back_mut() {
            Some(Piece::Zeroes(count)) if zero => *count += length,
            Some(Piece::Data(data)) if !zero || length < SHORTEST_HOLE => data.end = range.end,
            _ if zero && length >= SHORTEST_HOLE => self.ready.push_back(Piece::Zeroes(length)),
            _ => self.ready.push_back(Piece::Data(range)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_block::{BlockWrite, MemoryDisk};

    async fn pieces(device: Arc<dyn BlockRead>, range: Range<u64>) -> Vec<Piece> {
        let mut plan = Plan::new(device, range);
        let mut all = vec![];
        while let Some(piece) = plan.next().await {
            all.push(piece);
        }
        all
    }

    #[tokio::test]
    async fn pieces_are_the_range_in_order_with_data_where_data_is() {
        let disk = MemoryDisk::new(300 << 20);
        for at in [0, 5 << 20, (5 << 20) + 8192, (64 << 20) - 1, 150 << 20] {
            disk.write_at(at, &[7; 3]).await.unwrap();
        }
        let disk: Arc<dyn BlockRead> = Arc::new(disk);
        for range in [0..300 << 20, 1..2, 77..(5 << 20) + 1, (5 << 20) + 1..299 << 20, 9..9] {
            let mut at = range.start;
            for piece in pieces(Arc::clone(&disk), range.clone()).await {
                match piece {
                    Piece::Data(data) => {
                        assert_eq!(data.start, at);
                        assert!(data.end - data.start <= PIECE && data.end > data.start);
                        at = data.end;
                    }
                    Piece::Zeroes(length) => {
                        assert!(length >= SHORTEST_HOLE);
                        let mut start = at;
                        at += length;
                        while start < at {
                            let mut bytes = vec![1; (at - start).min(1 << 20) as usize];
                            disk.read_at(start, &mut bytes).await.unwrap();
                            assert!(bytes.iter().all(|byte| *byte == 0));
                            start += bytes.len() as u64;
                        }
                    }
                }
            }
            assert_eq!(at, range.end);
        }
    }

    #[tokio::test]
    async fn a_huge_hole_is_few_pieces() {
        let disk = Arc::new(MemoryDisk::new(1 << 50));
        let all = pieces(disk, 0..1 << 50).await;
        assert!(all.len() < 2000, "{}", all.len());
    }
}
