//! Parameters of commands, and answers, that have no module of their own.

use crate::field::{put, u16_at, u32_at, u64_at};
use crate::{Range, Sense, lun_to_wire};

/// The answer to READ CAPACITY (10).
pub fn capacity_10(blocks: u64, block: u32) -> Vec<u8> {
    // What does not fit says so, and the initiator asks with the long command.
    let last = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    [last.to_be_bytes(), block.to_be_bytes()].concat()
}

/// The answer to READ CAPACITY (16): a thin disk whose unmapped blocks read as zeroes.
///
/// There are 2 to the power of `physical_exponent` blocks in a physical one.
pub fn capacity_16(blocks: u64, block: u32, physical_exponent: u8) -> Vec<u8> {
    let mut data = vec![0; 32];
    put(&mut data, 0, &blocks.saturating_sub(1).to_be_bytes());
    put(&mut data, 8, &block.to_be_bytes());
    data[13] = physical_exponent & 0x0f;
    data[14] = 0xc0;
    data
}

/// A run of blocks and whether they are mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LbaStatus {
    /// The blocks.
    pub range: Range,
    /// False for blocks that take no room and read as zeroes.
    pub mapped: bool,
}

/// The answer to GET LBA STATUS.
pub fn lba_status(runs: &[LbaStatus]) -> Vec<u8> {
    let length = 4 + 16 * runs.len() as u32;
    let mut data = length.to_be_bytes().to_vec();
    data.extend([0; 4]);
    for run in runs {
        data.extend(run.range.lba.to_be_bytes());
        data.extend(run.range.blocks.to_be_bytes());
        data.extend([u8::from(!run.mapped), 0, 0, 0]);
    }
    data
}

/// The answer to REPORT LUNS.
pub fn report_luns(luns: impl Iterator<Item = u16>) -> Vec<u8> {
    let mut data = vec![0; 8];
    data.extend(luns.flat_map(|lun| lun_to_wire(lun).to_be_bytes()));
    let length = (data.len() - 8) as u32;
    put(&mut data, 0, &length.to_be_bytes());
    data
}

/// The answer to REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.
pub fn task_functions(extended: bool) -> Vec<u8> {
    // Abort task, abort task set, clear task set, logical unit reset.
    let functions = 0x80 | 0x40 | 0x10 | 0x08;
    let mut data = vec![functions, 0, 0, 0];
    if extended {
        data[3] = 12;
        data.extend([0; 12]);
    }
    data
}

/// A range of UNMAP.
pub type UnmapRange = Range;

/// The ranges in the parameters of UNMAP; at most `most` of them.
///
/// # Errors
/// [`Sense::PARAMETER_LENGTH`] or [`Sense::INVALID_PARAMETER`].
pub fn unmap_ranges(parameters: &[u8], most: usize) -> Result<Vec<UnmapRange>, Sense> {
    if parameters.is_empty() {
        return Ok(Vec::new());
    }
    if parameters.len() < 8 {
        return Err(Sense::PARAMETER_LENGTH);
    }
    // What the list says of its length and what came must not differ upwards; ends of ranges that
    // did not come are ignored, as the standard has it.
    let said = usize::from(u16_at(parameters, 2));
    let (ranges, rest) = parameters[8..].as_chunks::<16>();
    if said > ranges.len() * 16 + rest.len() {
        return Err(Sense::PARAMETER_LENGTH);
    }
    let count = said / 16;
    if count > most {
        return Err(Sense::INVALID_PARAMETER.in_parameters(2));
    }
    let range = |bytes: &[u8; 16]| Range { lba: u64_at(bytes, 0), blocks: u32_at(bytes, 8) };
    Ok(ranges.iter().take(count).map(range).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_end_with_their_last_block() {
        assert_eq!(capacity_10(0x1000, 512), [0, 0, 0x0f, 0xff, 0, 0, 2, 0]);
        assert_eq!(capacity_10(1 << 33, 512)[..4], [0xff; 4]);
        let data = capacity_16(1 << 33, 512, 3);
        assert_eq!(data[..16], [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0, 0, 3, 0xc0, 0]);
    }

    #[test]
    fn unmapped_runs_are_told_from_mapped_ones() {
        let run = |lba, blocks, mapped| LbaStatus { range: Range { lba, blocks }, mapped };
        let data = lba_status(&[run(0, 8, true), run(8, 16, false)]);
        assert_eq!(data[..4], [0, 0, 0, 36]);
        assert_eq!(data[8..24], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
        assert_eq!(data[24..], [0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 16, 1, 0, 0, 0]);
    }

    #[test]
    fn luns_are_listed_in_their_order() {
        let data = report_luns([0, 1].into_iter());
        assert_eq!(data, [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn ranges_to_unmap_are_counted_before_they_are_read() {
        let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
        list.extend([0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 0]);
        assert_eq!(unmap_ranges(&list, 1), Ok(vec![Range { lba: 7, blocks: 9 }]));
        assert_eq!(unmap_ranges(&list, 0).unwrap_err().key(), crate::SenseKey::IllegalRequest);
        assert_eq!(unmap_ranges(&list[..20], 1), Err(Sense::PARAMETER_LENGTH));
        assert_eq!(unmap_ranges(&list[..7], 1), Err(Sense::PARAMETER_LENGTH));
        assert_eq!(unmap_ranges(&[], 1), Ok(vec![]));
        assert_eq!(unmap_ranges(&[0; 8], 1), Ok(vec![]));
    }
}
