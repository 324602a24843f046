//! Command descriptor blocks.

use crate::field::{u16_at, u24_at, u32_at, u64_at};
use crate::opcode::ReportOpcodes;
use crate::reservation::ReservationType;
use crate::{ModeSelect, ModeSense, Sense};

/// Blocks of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first block.
    pub lba: u64,
    /// Number of blocks.
    pub blocks: u32,
}

/// What blocks are compared with ("BYTCHK").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteCheck {
    /// Nothing: it is enough that they can be read.
    Readable,
    /// As many blocks of data.
    Data,
    /// One block of data, with each of them.
    OneBlock,
}

/// What START STOP UNIT asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// Get ready.
    Start,
    /// Stop; write what is cached first unless told not to.
    Stop {
        /// Whether cached data is to be written.
        flush: bool,
    },
    /// Load or eject the medium.
    Medium,
    /// Change the power condition.
    Condition,
}

/// What PERSISTENT RESERVE IN asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PersistentIn {
    /// The keys of all registrations.
    Keys,
    /// The reservation.
    Reservation,
    /// What is supported.
    Capabilities,
    /// All registrations, with who they belong to.
    FullStatus,
}

/// What PERSISTENT RESERVE OUT does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PersistentOut {
    /// Register, change or remove a key.
    Register,
    /// The same, whatever the present key is.
    RegisterAndIgnore,
    /// Take the reservation.
    Reserve(ReservationType),
    /// Give the reservation back.
    Release(ReservationType),
    /// Remove the reservation and all registrations.
    Clear,
    /// Remove another's registrations, and take the reservation over.
    Preempt(ReservationType),
    /// The same, and end its commands.
    PreemptAndAbort(ReservationType),
}

/// A command, its fields checked as far as that needs no knowledge of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the variants are the commands of the standards, by their names")]
pub enum Command {
    TestUnitReady,
    RequestSense { descriptors: bool, allocation: u32 },
    Inquiry { page: Option<u8>, allocation: u32 },
    ModeSense(ModeSense),
    ModeSelect(ModeSelect),
    StartStop(Power),
    SendDiagnostic,
    PreventAllow { prevent: bool },
    ReadCapacity10,
    ReadCapacity16 { allocation: u32 },
    Read { range: Range, fua: bool },
    Write { range: Range, fua: bool },
    WriteAndVerify { range: Range, check: ByteCheck },
    Verify { range: Range, check: ByteCheck },
    Prefetch { range: Range },
    Synchronize { range: Range },
    WriteSame { range: Range, unmap: bool, data: bool },
    Unmap { length: u16 },
    CompareAndWrite { range: Range, fua: bool },
    OrWrite { range: Range, fua: bool },
    Reserve,
    Release,
    PersistentIn { action: PersistentIn, allocation: u32 },
    PersistentOut { action: PersistentOut, length: u32 },
    ReportLuns { well_known: bool, allocation: u32 },
    ReportOpcodes(ReportOpcodes),
    ReportFunctions { extended: bool, allocation: u32 },
    GetLbaStatus { lba: u64, allocation: u32 },
}

impl Command {
    /// The command of a descriptor block.
    ///
    /// # Errors
    /// [`Sense::INVALID_OPCODE`] or [`Sense::INVALID_FIELD`], with a pointer to the field.
    pub fn parse(cdb: &[u8; 16]) -> Result<Self, Sense> {
        let command = Self::parse_fields(cdb)?;
        let control = length(cdb[0]) - 1;
        if cdb[control] & 0x04 != 0 {
            // Contingent allegiance is not offered.
            return Err(field(control as u16, Some(2)));
        }
        Ok(command)
    }

    fn parse_fields(cdb: &[u8; 16]) -> Result<Self, Sense> {
        let fua = cdb[1] & 0x08 != 0;
        Ok(match cdb[0] {
            0x00 => Self::TestUnitReady,
            0x03 => {
                Self::RequestSense { descriptors: cdb[1] & 1 != 0, allocation: u32::from(cdb[4]) }
            }
            0x08 => Self::Read { range: range_6(cdb), fua: false },
            0x0a => Self::Write { range: range_6(cdb), fua: false },
            0x12 => inquiry(cdb)?,
            0x15 | 0x55 => Self::ModeSelect(ModeSelect::parse(cdb)?),
            0x16 | 0x17 | 0x56 | 0x57 => reserve(cdb)?,
            0x1a | 0x5a => Self::ModeSense(ModeSense::parse(cdb)?),
            0x1b => Self::StartStop(power(cdb)?),
            0x1d => send_diagnostic(cdb)?,
            0x1e => Self::PreventAllow { prevent: cdb[4] & 1 != 0 },
            0x25 => read_capacity_10(cdb)?,
            0x28 | 0x88 | 0xa8 => Self::Read { range: protected_range(cdb)?, fua },
            0x2a | 0x8a | 0xaa => Self::Write { range: protected_range(cdb)?, fua },
            0x2e | 0x8e | 0xae => {
                let check = byte_check(cdb)?;
                if check == ByteCheck::OneBlock {
                    return Err(field(1, Some(2)));
                }
                Self::WriteAndVerify { range: protected_range(cdb)?, check }
            }
            0x2f | 0x8f | 0xaf => {
                Self::Verify { range: protected_range(cdb)?, check: byte_check(cdb)? }
            }
            0x34 | 0x90 => Self::Prefetch { range: range(cdb) },
            0x35 | 0x91 => Self::Synchronize { range: range(cdb) },
            0x41 | 0x93 => write_same(cdb)?,
            0x42 => {
                anchor(cdb, 0)?;
                Self::Unmap { length: u16_at(cdb, 7) }
            }
            0x5e => persistent_in(cdb)?,
            0x5f => persistent_out(cdb)?,
            0x89 => {
                not_protected(cdb)?;
                let range = Range { lba: u64_at(cdb, 2), blocks: u32::from(cdb[13]) };
                Self::CompareAndWrite { range, fua }
            }
            0x8b => Self::OrWrite { range: protected_range(cdb)?, fua },
            0x9e => match cdb[1] & 0x1f {
                0x10 => read_capacity_16(cdb)?,
                0x12 => Self::GetLbaStatus { lba: u64_at(cdb, 2), allocation: u32_at(cdb, 10) },
                _ => return Err(field(1, Some(4))),
            },
            0xa0 => match cdb[2] {
                0..=2 => Self::ReportLuns { well_known: cdb[2] == 1, allocation: u32_at(cdb, 6) },
                _ => return Err(field(2, None)),
            },
            0xa3 => match cdb[1] & 0x1f {
                0x0c => Self::ReportOpcodes(ReportOpcodes::parse(cdb)?),
                0x0d => Self::ReportFunctions {
                    extended: cdb[2] & 0x80 != 0,
                    allocation: u32_at(cdb, 6),
                },
                _ => return Err(field(1, Some(4))),
            },
            _ => return Err(Sense::INVALID_OPCODE),
        })
    }

    /// Bytes of data that the command takes from the initiator, when a block has `block` bytes.
    pub fn data_out(&self, block: u32) -> u64 {
        let all = |range: &Range| u64::from(range.blocks) * u64::from(block);
        match self {
            Self::Write { range, .. }
            | Self::WriteAndVerify { range, .. }
            | Self::OrWrite { range, .. } => all(range),
            Self::CompareAndWrite { range, .. } => 2 * all(range),
            Self::Verify { range, check } => match check {
                ByteCheck::Readable => 0,
                ByteCheck::Data => all(range),
                ByteCheck::OneBlock if range.blocks == 0 => 0,
                ByteCheck::OneBlock => u64::from(block),
            },
            Self::WriteSame { data: true, .. } => u64::from(block),
            Self::Unmap { length } => u64::from(*length),
            Self::PersistentOut { length, .. } => u64::from(*length),
            Self::ModeSelect(select) => u64::from(select.length),
            _ => 0,
        }
    }

    /// The blocks that the command is about, and that must be on the medium.
    pub fn range(&self) -> Option<Range> {
        match self {
            Self::Read { range, .. }
            | Self::Write { range, .. }
            | Self::WriteAndVerify { range, .. }
            | Self::Verify { range, .. }
            | Self::Prefetch { range }
            | Self::Synchronize { range }
            | Self::WriteSame { range, .. }
            | Self::CompareAndWrite { range, .. }
            | Self::OrWrite { range, .. } => Some(*range),
            _ => None,
        }
    }

    /// Whether the command changes the medium.
    pub fn changes_medium(&self) -> bool {
        matches!(
            self,
            Self::Write { .. }
                | Self::WriteAndVerify { .. }
                | Self::WriteSame { .. }
                | Self::Unmap { .. }
                | Self::CompareAndWrite { .. }
                | Self::OrWrite { .. }
        )
    }
}

/// Bytes of a descriptor block, by its operation code.
pub(crate) fn length(opcode: u8) -> usize {
    match opcode >> 5 {
        0 => 6,
        1 | 2 => 10,
        5 => 12,
        _ => 16,
    }
}

pub(crate) fn field(byte: u16, bit: Option<u8>) -> Sense {
    Sense::INVALID_FIELD.at(byte, bit)
}

fn range_6(cdb: &[u8; 16]) -> Range {
    let blocks = if cdb[4] == 0 { 256 } else { u32::from(cdb[4]) };
    Range { lba: u64::from(u24_at(cdb, 1) & 0x1f_ffff), blocks }
}

/// The range in its places in blocks of 10, 12 and 16 bytes.
fn range(cdb: &[u8; 16]) -> Range {
    match length(cdb[0]) {
        10 => Range { lba: u64::from(u32_at(cdb, 2)), blocks: u32::from(u16_at(cdb, 7)) },
        12 => Range { lba: u64::from(u32_at(cdb, 2)), blocks: u32_at(cdb, 6) },
        _ => Range { lba: u64_at(cdb, 2), blocks: u32_at(cdb, 10) },
    }
}

/// Protection information is not offered.
fn not_protected(cdb: &[u8; 16]) -> Result<(), Sense> {
    if cdb[1] & 0xe0 == 0 { Ok(()) } else { Err(field(1, Some(7))) }
}

fn protected_range(cdb: &[u8; 16]) -> Result<Range, Sense> {
    not_protected(cdb)?;
    Ok(range(cdb))
}

fn byte_check(cdb: &[u8; 16]) -> Result<ByteCheck, Sense> {
    match cdb[1] >> 1 & 3 {
        0 => Ok(ByteCheck::Readable),
        1 => Ok(ByteCheck::Data),
        3 => Ok(ByteCheck::OneBlock),
        _ => Err(field(1, Some(2))),
    }
}

/// Blocks cannot be kept reserved while they are unmapped.
fn anchor(cdb: &[u8; 16], bit: u8) -> Result<(), Sense> {
    if cdb[1] >> bit & 1 == 0 { Ok(()) } else { Err(field(1, Some(bit))) }
}

fn inquiry(cdb: &[u8; 16]) -> Result<Command, Sense> {
    let vital = cdb[1] & 1 != 0;
    if cdb[1] & 2 != 0 {
        return Err(field(1, Some(1)));
    }
    if !vital && cdb[2] != 0 {
        return Err(field(2, None));
    }
    let page = vital.then_some(cdb[2]);
    Ok(Command::Inquiry { page, allocation: u32::from(u16_at(cdb, 3)) })
}

/// Reservations of extents and for others are of the past.
fn reserve(cdb: &[u8; 16]) -> Result<Command, Sense> {
    if cdb[1] & 0x11 != 0 {
        return Err(field(1, Some(if cdb[1] & 1 != 0 { 0 } else { 4 })));
    }
    Ok(if matches!(cdb[0], 0x16 | 0x56) { Command::Reserve } else { Command::Release })
}

fn power(cdb: &[u8; 16]) -> Result<Power, Sense> {
    if cdb[4] >> 4 != 0 {
        return Ok(Power::Condition);
    }
    Ok(match (cdb[4] & 2 != 0, cdb[4] & 1 != 0) {
        (true, _) => Power::Medium,
        (false, true) => Power::Start,
        (false, false) => Power::Stop { flush: cdb[4] & 4 == 0 },
    })
}

fn send_diagnostic(cdb: &[u8; 16]) -> Result<Command, Sense> {
    // Only the default self-test.
    if cdb[1] >> 5 != 0 {
        return Err(field(1, Some(7)));
    }
    if u16_at(cdb, 3) != 0 {
        return Err(field(3, None));
    }
    Ok(Command::SendDiagnostic)
}

fn read_capacity_10(cdb: &[u8; 16]) -> Result<Command, Sense> {
    // An address without the bit that gives it meaning.
    let partial = cdb[8] & 1 != 0;
    if !partial && u32_at(cdb, 2) != 0 { Err(field(2, None)) } else { Ok(Command::ReadCapacity10) }
}

fn read_capacity_16(cdb: &[u8; 16]) -> Result<Command, Sense> {
    if cdb[14] & 1 == 0 && u64_at(cdb, 2) != 0 {
        return Err(field(2, None));
    }
    Ok(Command::ReadCapacity16 { allocation: u32_at(cdb, 10) })
}

fn write_same(cdb: &[u8; 16]) -> Result<Command, Sense> {
    not_protected(cdb)?;
    anchor(cdb, 4)?;
    let unmap = cdb[1] & 0x08 != 0;
    // Data that holds block addresses is of the past; in the long form, one of the bits says that
    // there is no data.
    let long = cdb[0] == 0x93;
    if cdb[1] & 0x06 != 0 {
        return Err(field(1, Some(2)));
    }
    let data = !(long && cdb[1] & 1 != 0);
    Ok(Command::WriteSame { range: range(cdb), unmap, data })
}

fn persistent_in(cdb: &[u8; 16]) -> Result<Command, Sense> {
    let action = match cdb[1] & 0x1f {
        0 => PersistentIn::Keys,
        1 => PersistentIn::Reservation,
        2 => PersistentIn::Capabilities,
        3 => PersistentIn::FullStatus,
        _ => return Err(field(1, Some(4))),
    };
    Ok(Command::PersistentIn { action, allocation: u32::from(u16_at(cdb, 7)) })
}

fn persistent_out(cdb: &[u8; 16]) -> Result<Command, Sense> {
    let kind = || {
        // Only whole logical units can be reserved.
        if cdb[2] >> 4 != 0 {
            return Err(field(2, Some(7)));
        }
        ReservationType::from_code(cdb[2] & 0x0f).ok_or(field(2, Some(3)))
    };
    let action = match cdb[1] & 0x1f {
        0 => PersistentOut::Register,
        1 => PersistentOut::Reserve(kind()?),
        2 => PersistentOut::Release(kind()?),
        3 => PersistentOut::Clear,
        4 => PersistentOut::Preempt(kind()?),
        5 => PersistentOut::PreemptAndAbort(kind()?),
        6 => PersistentOut::RegisterAndIgnore,
        _ => return Err(field(1, Some(4))),
    };
    Ok(Command::PersistentOut { action, length: u32_at(cdb, 5) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Command, Sense> {
        let mut cdb = [0; 16];
        cdb[..bytes.len()].copy_from_slice(bytes);
        Command::parse(&cdb)
    }

    #[test]
    fn ranges_of_all_sizes_are_read() {
        let range = Range { lba: 0x01_0203, blocks: 4 };
        let read = Ok(Command::Read { range, fua: false });
        assert_eq!(parse(&[0x08, 1, 2, 3, 4]), read);
        assert_eq!(parse(&[0x28, 0, 0, 1, 2, 3, 0, 0, 4]), read);
        assert_eq!(parse(&[0xa8, 0, 0, 1, 2, 3, 0, 0, 0, 4]), read);
        assert_eq!(parse(&[0x88, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 4]), read);
        let fua = Ok(Command::Write { range, fua: true });
        assert_eq!(parse(&[0x2a, 0x08, 0, 1, 2, 3, 0, 0, 4]), fua);
        let whole = Range { lba: 0x1f_ffff, blocks: 256 };
        assert_eq!(
            parse(&[0x0a, 0xff, 0xff, 0xff, 0]),
            Ok(Command::Write { range: whole, fua: false })
        );
    }

    #[test]
    fn what_is_not_offered_is_pointed_at() {
        assert_eq!(parse(&[0xff]), Err(Sense::INVALID_OPCODE));
        assert_eq!(parse(&[0x28, 0x20]), Err(field(1, Some(7))));
        assert_eq!(parse(&[0x2f, 0x04]), Err(field(1, Some(2))));
        assert_eq!(parse(&[0x2e, 0x06]), Err(field(1, Some(2))));
        assert_eq!(parse(&[0x9e, 0x11]), Err(field(1, Some(4))));
        assert_eq!(parse(&[0x5e, 0x04]), Err(field(1, Some(4))));
        assert_eq!(parse(&[0x5f, 0x01, 0x02]), Err(field(2, Some(3))));
        assert_eq!(parse(&[0x12, 0, 0x80]), Err(field(2, None)));
        assert_eq!(parse(&[0x00, 0, 0, 0, 0, 0x04]), Err(field(5, Some(2))));
        assert_eq!(parse(&[0x42, 1]), Err(field(1, Some(0))));
    }

    #[test]
    fn the_data_that_a_command_takes_is_known() {
        let bytes = |cdb: &[u8]| parse(cdb).unwrap().data_out(512);
        assert_eq!(bytes(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 3]), 1536);
        assert_eq!(bytes(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]), 2048);
        assert_eq!(bytes(&[0x2f, 0, 0, 0, 0, 0, 0, 0, 3]), 0);
        assert_eq!(bytes(&[0x2f, 2, 0, 0, 0, 0, 0, 0, 3]), 1536);
        assert_eq!(bytes(&[0x2f, 6, 0, 0, 0, 0, 0, 0, 3]), 512);
        assert_eq!(bytes(&[0x93, 1]), 0);
        assert_eq!(bytes(&[0x41, 8]), 512);
        assert_eq!(bytes(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24]), 24);
    }

    proptest::proptest! {
        #[test]
        fn no_block_makes_the_parser_panic(cdb in proptest::array::uniform16(0_u8..)) {
            if let Ok(command) = Command::parse(&cdb) {
                command.data_out(u32::MAX);
                let known = crate::report_opcodes(&ReportOpcodes::all(false, u32::MAX)).unwrap();
                proptest::prop_assert!(known[4..].chunks(8).any(|entry| entry[0] == cdb[0]));
            }
        }
    }
}
