//! Commands that read and write the blocks of a disk.

use sluice_block::{ExtentKind, PoolBuffer};
use sluice_scsi::{ByteCheck, LbaStatus, Range, Sense, lba_status, unmap_ranges};
use tokio_util::sync::CancellationToken;

use crate::execute::Failure;
use crate::unit::{BLOCK, MOST_RANGES, MOST_UNMAP, Unit};

/// Bytes read, written or compared in one step of a long command.
const STEP: u64 = 1 << 20;
/// Bytes zeroed in one step: between steps a command can be ended.
const ZERO_STEP: u64 = 1 << 30;
/// Descriptors in one answer to GET LBA STATUS.
const MOST_RUNS: usize = 1024;
/// Calls of `extents` for one answer.
const MOST_CALLS: usize = 64;

/// A command on the medium of a unit.
pub(crate) struct Medium<'a> {
    pub(crate) unit: &'a Unit,
    pub(crate) cancel: &'a CancellationToken,
}

fn bytes(range: Range) -> (u64, u64) {
    (range.lba * u64::from(BLOCK), u64::from(range.blocks) * u64::from(BLOCK))
}

impl Medium<'_> {
    /// Reads the first `length` bytes of a range. Ends at once when the command is ended.
    pub(crate) async fn read(&self, range: Range, length: usize) -> Result<PoolBuffer, Failure> {
        let mut buffer = self.unit.pool.take(length);
        self.fill(bytes(range).0, &mut buffer).await?;
        Ok(buffer)
    }

    async fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Failure> {
        tokio::select! {
            biased;
            read = self.unit.read(offset, buffer) => Ok(read?),
            () = self.cancel.cancelled() => Err(Failure::Ended),
        }
    }

    /// Writes `data` to the beginning of a range. What has begun is not cut off: whoever ends the
    /// command waits, so that no byte of it arrives afterwards.
    pub(crate) async fn write(&self, range: Range, data: &[u8], fua: bool) -> Result<(), Failure> {
        let device = self.unit.writer()?;
        let (offset, _) = bytes(range);
        if !data.is_empty() {
            let written = device.write_at(offset, data).await;
            written.map_err(|error| self.unit.failed(&error, offset, Sense::WRITE_ERROR))?;
        }
        if fua { self.flush().await } else { Ok(()) }
    }

    /// Makes everything durable that was written.
    pub(crate) async fn flush(&self) -> Result<(), Failure> {
        if self.unit.is_read_only() {
            return Ok(());
        }
        let flushed = self.unit.writer()?.flush().await;
        Ok(flushed.map_err(|error| self.unit.failed(&error, 0, Sense::WRITE_ERROR))?)
    }

    /// Compares a range with data, or only reads it.
    pub(crate) async fn verify(
        &self,
        range: Range,
        check: ByteCheck,
        data: &[u8],
    ) -> Result<(), Failure> {
        let (start, mut length) = bytes(range);
        if check == ByteCheck::Data {
            length = length.min(data.len() as u64);
        }
        let mut scratch = self.unit.pool.take(length.min(STEP) as usize);
        let mut at = 0;
        while at < length {
            let step = (length - at).min(STEP) as usize;
            self.fill(start + at, &mut scratch[..step]).await?;
            let differs = match check {
                ByteCheck::Readable => None,
                ByteCheck::Data => difference(&scratch[..step], &data[at as usize..]),
                ByteCheck::OneBlock => {
                    let blocks = scratch[..step].chunks(BLOCK as usize).enumerate();
                    blocks.into_iter().find_map(|(index, block)| {
                        Some(index * BLOCK as usize + difference(block, data)?)
                    })
                }
            };
            if let Some(place) = differs {
                return Err(Sense::MISCOMPARE.about(at + place as u64).into());
            }
            at += step as u64;
        }
        Ok(())
    }

    /// Writes one block over a whole range.
    pub(crate) async fn write_same(&self, range: Range, block: &[u8]) -> Result<(), Failure> {
        if block.iter().all(|byte| *byte == 0) {
            return self.zero(range).await;
        }
        let device = self.unit.writer()?;
        let (start, length) = bytes(range);
        let mut pattern = self.unit.pool.take(length.min(STEP) as usize);
        pattern.chunks_mut(block.len()).for_each(|place| place.copy_from_slice(block));
        let mut at = 0;
        while at < length {
            self.go_on()?;
            let step = (length - at).min(STEP);
            let written = device.write_at(start + at, &pattern[..step as usize]).await;
            written.map_err(|e| self.unit.failed(&e, start + at, Sense::WRITE_ERROR))?;
            at += step;
        }
        Ok(())
    }

    /// Makes a range read as zeroes.
    async fn zero(&self, range: Range) -> Result<(), Failure> {
        let device = self.unit.writer()?;
        let (start, length) = bytes(range);
        let mut at = 0;
        while at < length {
            self.go_on()?;
            let step = (length - at).min(ZERO_STEP);
            let written = device.write_zeroes(start + at, step).await;
            written.map_err(|e| self.unit.failed(&e, start + at, Sense::WRITE_ERROR))?;
            at += step;
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() { Err(Failure::Ended) } else { Ok(()) }
    }

    /// The ranges of a parameter list that are to be unmapped: all of them, or none when one is
    /// wrong.
    pub(crate) fn to_unmap(&self, parameters: &[u8]) -> Result<Vec<Range>, Failure> {
        let ranges = unmap_ranges(parameters, MOST_RANGES as usize)?;
        let blocks = self.unit.blocks();
        if ranges.iter().any(|range| !fits(*range, blocks)) {
            return Err(Sense::OUT_OF_RANGE.into());
        }
        let all: u64 = ranges.iter().map(|range| u64::from(range.blocks)).sum();
        if all > u64::from(MOST_UNMAP) {
            return Err(Sense::INVALID_PARAMETER.in_parameters(8).into());
        }
        Ok(ranges)
    }

    /// Unmaps ranges.
    pub(crate) async fn unmap(&self, ranges: &[Range]) -> Result<(), Failure> {
        for range in ranges {
            self.zero(*range).await?;
        }
        Ok(())
    }

    /// Writes the second half of `data` where the first half stands. The caller sees to it that
    /// nobody comes in between.
    pub(crate) async fn compare_and_write(
        &self,
        range: Range,
        data: &[u8],
        fua: bool,
    ) -> Result<(), Failure> {
        let (expected, new) = data.split_at(data.len() / 2);
        self.verify(range, ByteCheck::Data, expected).await?;
        self.go_on()?;
        self.write(range, new, fua).await
    }

    /// Sets the bits of `data` in a range. The caller sees to it that nobody comes in between.
    pub(crate) async fn or_write(
        &self,
        range: Range,
        data: &[u8],
        fua: bool,
    ) -> Result<(), Failure> {
        let mut merged = self.read(range, data.len()).await?;
        merged.iter_mut().zip(data).for_each(|(byte, more)| *byte |= more);
        self.go_on()?;
        self.write(range, &merged, fua).await
    }

    /// Which blocks are mapped, from `lba` on, as far as an answer of `room` bytes goes.
    pub(crate) async fn status(&self, lba: u64, room: u32) -> Result<Vec<u8>, Failure> {
        let blocks = self.unit.blocks();
        if lba >= blocks {
            return Err(Sense::OUT_OF_RANGE.at(2, None).into());
        }
        let most = ((room.saturating_sub(8) / 16) as usize).clamp(1, MOST_RUNS);
        let mut runs: Vec<LbaStatus> = Vec::new();
        let (device, block) = (self.unit.reader(), u64::from(BLOCK));
        let (mut at, end) = (lba * block, device.size());
        for _ in 0..MOST_CALLS {
            if at >= end || runs.len() > most {
                break;
            }
            let asked = device.extents(at, end - at).await;
            let extents = asked.map_err(|e| self.unit.failed(&e, at, Sense::READ_ERROR))?;
            let Some(last) = extents.last() else { break };
            at = last.end();
            for extent in extents {
                // A block that is mapped in part is mapped.
                let (from, to) = if extent.kind == ExtentKind::Hole {
                    let to = if extent.end() == end { blocks } else { extent.end() / block };
                    (extent.offset.div_ceil(block), to)
                } else {
                    (extent.offset / block, extent.end().div_ceil(block))
                };
                push(&mut runs, from, to, extent.kind != ExtentKind::Hole);
            }
        }
        if runs.is_empty() {
            // Who describes nothing breaks a promise; "mapped" is always a safe answer.
            push(&mut runs, lba, blocks, true);
        }
        runs.truncate(most);
        Ok(lba_status(&runs))
    }
}

/// Adds a run from where the last one ended up to `to`, or to the last one itself.
fn push(runs: &mut Vec<LbaStatus>, from: u64, to: u64, mapped: bool) {
    let from = runs.last().map_or(from, |last| last.range.lba + u64::from(last.range.blocks));
    if to <= from {
        return;
    }
    // What is longer than the field is told in parts, by asking again.
    let clip = |blocks: u64| u32::try_from(blocks).unwrap_or(u32::MAX);
    match runs.last_mut() {
        Some(last) if last.mapped == mapped => {
            last.range.blocks = clip(to - last.range.lba);
        }
        _ => runs.push(LbaStatus { range: Range { lba: from, blocks: clip(to - from) }, mapped }),
    }
}

/// Whether a range lies on a medium of so many blocks.
pub(crate) fn fits(range: Range, blocks: u64) -> bool {
    range.lba.checked_add(u64::from(range.blocks)).is_some_and(|end| end <= blocks)
}

/// The first place in which two byte strings differ, as far as both go.
fn difference(left: &[u8], right: &[u8]) -> Option<usize> {
    let length = left.len().min(right.len());
    if left[..length] == right[..length] {
        return None;
    }
    left.iter().zip(right).position(|(left, right)| left != right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_follow_each_other_whatever_their_edges() {
        let mut runs = Vec::new();
        // A hole from the middle of block 3 to the middle of block 5, between data.
        push(&mut runs, 0, 4, true);
        push(&mut runs, 4, 5, false);
        push(&mut runs, 5, 9, true);
        push(&mut runs, 9, 12, true);
        let found: Vec<_> =
            runs.iter().map(|run| (run.range.lba, run.range.blocks, run.mapped)).collect();
        assert_eq!(found, [(0, 4, true), (4, 1, false), (5, 7, true)]);
    }

    #[test]
    fn ranges_are_held_to_the_medium() {
        let range = |lba, blocks| Range { lba, blocks };
        assert!(fits(range(0, 10), 10) && fits(range(10, 0), 10));
        assert!(!fits(range(1, 10), 10) && !fits(range(u64::MAX, 2), 10));
        assert!(!fits(range(11, 0), 10));
    }
}
