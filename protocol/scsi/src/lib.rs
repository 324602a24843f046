//! SCSI as bytes: command descriptor blocks, sense data, and the pages a disk describes itself
//! with. No devices, no sockets, no state.
//!
//! What is here follows SPC-4 (commands of all devices), SBC-3 (those of disks) and SAM-5 (logical
//! unit numbers, status). A target parses a [`Command`], does what it says, and answers with bytes
//! built here or with [`Sense`].
//!
//! # Invariants
//!
//! * Everything is big-endian. Parsers never panic, whatever the bytes.
//! * What cannot be done as asked is refused with the sense data that the standards name, and with
//!   a pointer to the field at fault; nothing is silently ignored.
//! * Lengths found in commands are not used to allocate; answers are cut to the allocation length
//!   by [`cut`].

mod command;
mod data;
mod field;
mod identity;
mod inquiry;
mod lun;
mod mode;
mod opcode;
mod reservation;
mod sense;

pub use command::{ByteCheck, Command, PersistentIn, PersistentOut, Power, Range};
pub use data::{
    LbaStatus, UnmapRange, capacity_10, capacity_16, lba_status, report_luns, task_functions,
    unmap_ranges,
};
pub use identity::{Identity, Names};
pub use inquiry::{Limits, inquiry, vital_page};
pub use lun::{lun_from_wire, lun_normal, lun_to_wire};
pub use mode::{ModeSelect, ModeSense, ModeState, mode_select, mode_sense};
pub use opcode::{ReportOpcodes, report_opcodes};
pub use reservation::{
    OutParameters, ReservationType, StatusEntry, full_status, keys, out_parameters,
    report_capabilities, reservation,
};
pub use sense::{Sense, SenseKey};

/// How a command ended (SAM-5, "Status codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Good,
    /// Sense data says what is wrong.
    CheckCondition,
    /// The logical unit is busy.
    Busy,
    /// Another initiator has reserved the logical unit.
    ReservationConflict,
    /// No more commands fit.
    TaskSetFull,
    /// The command was ended by another initiator.
    TaskAborted,
}

impl Status {
    /// The code on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::Good => 0x00,
            Self::CheckCondition => 0x02,
            Self::Busy => 0x08,
            Self::ReservationConflict => 0x18,
            Self::TaskSetFull => 0x28,
            Self::TaskAborted => 0x40,
        }
    }
}

/// Cuts an answer to the bytes that its initiator has room for.
pub fn cut(mut answer: Vec<u8>, allocation: u32) -> Vec<u8> {
    answer.truncate(allocation as usize);
    answer
}
