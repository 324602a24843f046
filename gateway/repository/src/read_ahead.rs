//! Telling sequential readers from random ones, and how far ahead to read for them.

use std::ops::Range;

/// Streams remembered side by side (several readers of one image, or one with several threads).
const STREAMS: usize = 8;
/// First window in bytes.
const SMALLEST: u64 = 1 << 20;
/// Largest window in bytes.
const LARGEST: u64 = 8 << 20;
/// How far a request may lie from where its stream stands: parallel readers arrive out of order.
const SLACK: u64 = 4 << 20;

#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// One past the furthest byte asked for.
    end: u64,
    /// One past the furthest byte read ahead.
    ahead: u64,
    /// Bytes to read ahead; 0 until the stream has proven itself.
    window: u64,
    /// When it was last seen, in requests.
    seen: u64,
}

/// Watches one image's reads.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    streams: Vec<Stream>,
    requests: u64,
}

impl ReadAhead {
    /// Takes note of a read; returns what to read ahead, if anything. The range may end beyond
    /// the image.
    pub(crate) fn note(&mut self, offset: u64, length: u64) -> Option<Range<u64>> {
        self.requests += 1;
        let end = offset + length;
        let seen = self.requests;
        let near = |stream: &&mut Stream| {
            offset <= stream.end + SLACK.min(stream.window) && end + SLACK >= stream.end
        };
        let Some(stream) = self.streams.iter_mut().find(near) else {
            let fresh = Stream { end, ahead: end, window: 0, seen };
            if self.streams.len() < STREAMS {
                self.streams.push(fresh);
            } else if let Some(oldest) = self.streams.iter_mut().min_by_key(|s| s.seen) {
                *oldest = fresh;
            }
            return None;
        };
        stream.seen = seen;
        if end <= stream.end {
            return None;
        }
        stream.end = end;
        stream.window = (stream.window * 2).clamp(SMALLEST, LARGEST);
        // Ask again only once half of the window is used up: few large gets, not many small.
        let start = stream.ahead.max(end);
        let target = end + stream.window;
        if target < start + stream.window / 2 {
            return None;
        }
        stream.ahead = target;
        Some(start..target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequential_reader_is_read_ahead_of_without_gaps_or_repeats() {
        let mut ahead = ReadAhead::default();
        let (mut covered, mut asked) = (0, 0);
        for step in 0..1000u64 {
            let offset = step * (128 << 10);
            if let Some(range) = ahead.note(offset, 128 << 10) {
                assert!(range.start >= covered, "read ahead twice");
                assert!(range.end - range.start <= LARGEST + SMALLEST);
                covered = range.end;
                asked += 1;
            }
        }
        assert!(covered >= 1000 * (128 << 10));
        assert!(asked < 40, "{asked} small requests");
    }

    #[test]
    fn a_random_reader_is_left_alone() {
        let mut ahead = ReadAhead::default();
        let mut at = 12345u64;
        for _ in 0..1000 {
            at = at.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let offset = (at >> 20) & !4095;
            assert_eq!(ahead.note(offset, 4096), None);
        }
    }

    #[test]
    fn two_interleaved_streams_are_both_seen() {
        let mut ahead = ReadAhead::default();
        let (mut first, mut second) = (0, 0);
        for step in 0..100u64 {
            first += usize::from(ahead.note(step << 20, 1 << 20).is_some());
            second += usize::from(ahead.note((1 << 40) + (step << 20), 1 << 20).is_some());
        }
        assert!(first > 5 && second > 5);
    }
}
