//! What an initiator sends.

use crate::bhs::{get16, get32, get64, put16, put32, put64};
use crate::{HEADER, Lengths, Serial, WireError};

const FINAL: u8 = 0x80;
const CONTINUE: u8 = 0x40;
const IMMEDIATE: u8 = 0x40;

/// A message of the initiator, without its data segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// "NOP-Out": a ping, or the answer to one.
    NopOut(NopOut),
    /// "SCSI Command".
    Command(ScsiCommand),
    /// "Task Management Function Request".
    Task(TaskRequest),
    /// "Login Request".
    Login(LoginRequest),
    /// "Text Request".
    Text(TextRequest),
    /// "SCSI Data-Out".
    DataOut(DataOut),
    /// "Logout Request".
    Logout(LogoutRequest),
}

/// A ping, or the answer to one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NopOut {
    /// Whether it is outside the order of commands.
    pub immediate: bool,
    /// The logical unit, where the tag of the target asks for it.
    pub lun: u64,
    /// Tag to answer with; [`NO_TAG`](crate::NO_TAG) wants no answer.
    pub tag: u32,
    /// Tag of the target's ping that this answers.
    pub target_tag: u32,
    /// Place in the order of commands.
    pub number: Serial,
    /// The next response that is expected.
    pub expected: Serial,
}

/// How a command is ordered among others of its logical unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskAttribute {
    /// No attribute given.
    Untagged,
    /// In any order.
    Simple,
    /// After all earlier ones, before all later ones.
    Ordered,
    /// Before all others.
    HeadOfQueue,
    /// Part of recovering from a contingent allegiance.
    Aca,
    /// Reserved.
    Other(u8),
}

impl TaskAttribute {
    fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Untagged,
            1 => Self::Simple,
            2 => Self::Ordered,
            3 => Self::HeadOfQueue,
            4 => Self::Aca,
            other => Self::Other(other),
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Untagged => 0,
            Self::Simple => 1,
            Self::Ordered => 2,
            Self::HeadOfQueue => 3,
            Self::Aca => 4,
            Self::Other(code) => code & 7,
        }
    }
}

/// A SCSI command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScsiCommand {
    /// Whether it is outside the order of commands.
    pub immediate: bool,
    /// No unsolicited data follows in messages of its own.
    pub last: bool,
    /// Data is expected from the target.
    pub read: bool,
    /// Data is sent to the target.
    pub write: bool,
    /// Order among other commands.
    pub attribute: TaskAttribute,
    /// The logical unit.
    pub lun: u64,
    /// The task's tag.
    pub tag: u32,
    /// Bytes the initiator expects to be transferred.
    pub length: u32,
    /// Place in the order of commands.
    pub number: Serial,
    /// The next response that is expected.
    pub expected: Serial,
    /// The first 16 bytes of the command descriptor block.
    pub cdb: [u8; 16],
}

/// What to do to tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskFunction {
    /// End one task.
    AbortTask,
    /// End all tasks of this session on a logical unit.
    AbortTaskSet,
    /// Leave a contingent allegiance.
    ClearAca,
    /// End all tasks of all sessions on a logical unit.
    ClearTaskSet,
    /// Put a logical unit back to its beginnings.
    LogicalUnitReset,
    /// Reset all logical units.
    TargetWarmReset,
    /// Reset all logical units and end all sessions.
    TargetColdReset,
    /// Carry on a task on another connection.
    TaskReassign,
    /// Not known.
    Other(u8),
}

impl TaskFunction {
    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::AbortTask,
            2 => Self::AbortTaskSet,
            3 => Self::ClearAca,
            4 => Self::ClearTaskSet,
            5 => Self::LogicalUnitReset,
            6 => Self::TargetWarmReset,
            7 => Self::TargetColdReset,
            8 => Self::TaskReassign,
            other => Self::Other(other),
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::AbortTask => 1,
            Self::AbortTaskSet => 2,
            Self::ClearAca => 3,
            Self::ClearTaskSet => 4,
            Self::LogicalUnitReset => 5,
            Self::TargetWarmReset => 6,
            Self::TargetColdReset => 7,
            Self::TaskReassign => 8,
            Self::Other(code) => code & 0x7f,
        }
    }
}

/// A task management request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskRequest {
    /// Whether it is outside the order of commands.
    pub immediate: bool,
    /// What to do.
    pub function: TaskFunction,
    /// The logical unit.
    pub lun: u64,
    /// Tag of this request.
    pub tag: u32,
    /// Tag of the task to end.
    pub task: u32,
    /// Place in the order of commands.
    pub number: Serial,
    /// The next response that is expected.
    pub expected: Serial,
    /// Place of the task to end in the order of commands.
    pub task_number: Serial,
}

/// A stage of the login phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Who is who.
    Security,
    /// How to speak.
    Operational,
    /// Login is over.
    FullFeature,
    /// Reserved.
    Reserved,
}

impl Stage {
    pub(crate) fn from_code(code: u8) -> Self {
        match code & 3 {
            0 => Self::Security,
            1 => Self::Operational,
            3 => Self::FullFeature,
            _ => Self::Reserved,
        }
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Security => 0,
            Self::Operational => 1,
            Self::Reserved => 2,
            Self::FullFeature => 3,
        }
    }
}

/// A step of login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginRequest {
    /// The initiator wants to go on to `next`.
    pub transit: bool,
    /// The text goes on in the next request.
    pub more: bool,
    /// The stage this belongs to.
    pub stage: Stage,
    /// The stage that follows, with `transit`.
    pub next: Stage,
    /// Highest and lowest version that the initiator speaks.
    pub versions: (u8, u8),
    /// The initiator's part of the session's identity.
    pub isid: [u8; 6],
    /// The target's part: zero for a new session.
    pub tsih: u16,
    /// Tag of this request.
    pub tag: u32,
    /// The connection's number.
    pub connection: u16,
    /// Place in the order of commands.
    pub number: Serial,
    /// The next response that is expected.
    pub expected: Serial,
}

/// Text keys in the full feature phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextRequest {
    /// Whether it is outside the order of commands.
    pub immediate: bool,
    /// The initiator has nothing more to say.
    pub last: bool,
    /// The text goes on in the next request.
    pub more: bool,
    /// The logical unit, where the tag of the target asks for it.
    pub lun: u64,
    /// Tag of this request.
    pub tag: u32,
    /// Tag of the exchange that this goes on with.
    pub target_tag: u32,
    /// Place in the order of commands.
    pub number: Serial,
    /// The next response that is expected.
    pub expected: Serial,
}

/// Data of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataOut {
    /// Ends a sequence.
    pub last: bool,
    /// The logical unit.
    pub lun: u64,
    /// Tag of the task.
    pub tag: u32,
    /// Tag of the request to transfer; [`NO_TAG`](crate::NO_TAG) for unsolicited data.
    pub target_tag: u32,
    /// The next response that is expected.
    pub expected: Serial,
    /// Place in the sequence.
    pub number: u32,
    /// Where in the command's data this belongs, in bytes.
    pub offset: u32,
}

/// What is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogoutReason {
    /// The session.
    Session,
    /// One connection.
    Connection,
    /// One connection, which another will take over.
    Recovery,
    /// Not known.
    Other(u8),
}

/// A goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogoutRequest {
    /// Whether it is outside the order of commands.
    pub immediate: bool,
    /// What is to end.
    pub reason: LogoutReason,
    /// Tag of this request.
    pub tag: u32,
    /// The connection that is to end.
    pub connection: u16,
    /// Place in the order of commands.
    pub number: Serial,
    /// The next response that is expected.
    pub expected: Serial,
}

impl Request {
    /// The message whose header is `h`.
    ///
    /// # Errors
    /// [`WireError::Opcode`] for what no initiator sends here.
    pub fn decode(h: &[u8; HEADER]) -> Result<Self, WireError> {
        let immediate = h[0] & IMMEDIATE != 0;
        let (lun, tag) = (get64(h, 8), get32(h, 16));
        let (number, expected) = (Serial(get32(h, 24)), Serial(get32(h, 28)));
        let (last, more) = (h[1] & FINAL != 0, h[1] & CONTINUE != 0);
        let target_tag = get32(h, 20);
        Ok(match h[0] & 0x3f {
            0x00 => Self::NopOut(NopOut { immediate, lun, tag, target_tag, number, expected }),
            0x01 => Self::Command(ScsiCommand {
                immediate,
                last,
                read: h[1] & 0x40 != 0,
                write: h[1] & 0x20 != 0,
                attribute: TaskAttribute::from_code(h[1] & 7),
                lun,
                tag,
                length: get32(h, 20),
                number,
                expected,
                // The header is longer than where this ends.
                cdb: std::array::from_fn(|at| h[32 + at]),
            }),
            0x02 => Self::Task(TaskRequest {
                immediate,
                function: TaskFunction::from_code(h[1] & 0x7f),
                lun,
                tag,
                task: get32(h, 20),
                number,
                expected,
                task_number: Serial(get32(h, 32)),
            }),
            0x03 => Self::Login(LoginRequest {
                transit: last,
                more,
                stage: Stage::from_code(h[1] >> 2),
                next: Stage::from_code(h[1]),
                versions: (h[2], h[3]),
                isid: std::array::from_fn(|at| h[8 + at]),
                tsih: get16(h, 14),
                tag,
                connection: get16(h, 20),
                number,
                expected,
            }),
            0x04 => Self::Text(TextRequest {
                immediate,
                last,
                more,
                lun,
                tag,
                target_tag,
                number,
                expected,
            }),
            0x05 => Self::DataOut(DataOut {
                last,
                lun,
                tag,
                target_tag,
                expected,
                number: get32(h, 36),
                offset: get32(h, 40),
            }),
            0x06 => Self::Logout(LogoutRequest {
                immediate,
                reason: match h[1] & 0x7f {
                    0 => LogoutReason::Session,
                    1 => LogoutReason::Connection,
                    2 => LogoutReason::Recovery,
                    other => LogoutReason::Other(other),
                },
                tag,
                connection: get16(h, 20),
                number,
                expected,
            }),
            opcode => return Err(WireError::Opcode { opcode }),
        })
    }

    /// The header of the message, when `data` bytes follow.
    pub fn encode(&self, data: usize) -> [u8; HEADER] {
        let h = &mut [0; HEADER];
        Lengths::encode_data(h, data);
        let mut put = |opcode: u8, immediate: bool, lun: u64, tag: u32| {
            h[0] = opcode | if immediate { IMMEDIATE } else { 0 };
            put64(h, 8, lun);
            put32(h, 16, tag);
        };
        match self {
            Self::NopOut(m) => {
                put(0x00, m.immediate, m.lun, m.tag);
                h[1] = FINAL;
                put32(h, 20, m.target_tag);
                put_numbers(h, Some(m.number), m.expected);
            }
            Self::Command(m) => {
                put(0x01, m.immediate, m.lun, m.tag);
                h[1] = flag(m.last, FINAL) | flag(m.read, 0x40) | flag(m.write, 0x20);
                h[1] |= m.attribute.code();
                put32(h, 20, m.length);
                put_numbers(h, Some(m.number), m.expected);
                h[32..].copy_from_slice(&m.cdb);
            }
            Self::Task(m) => {
                put(0x02, m.immediate, m.lun, m.tag);
                h[1] = FINAL | m.function.code();
                put32(h, 20, m.task);
                put_numbers(h, Some(m.number), m.expected);
                put32(h, 32, m.task_number.0);
            }
            Self::Login(m) => {
                put(0x03, true, 0, m.tag);
                h[1] = flag(m.transit, FINAL) | flag(m.more, CONTINUE);
                h[1] |= m.stage.code() << 2 | m.next.code();
                (h[2], h[3]) = m.versions;
                h[8..14].copy_from_slice(&m.isid);
                put16(h, 14, m.tsih);
                put16(h, 20, m.connection);
                put_numbers(h, Some(m.number), m.expected);
            }
            Self::Text(m) => {
                put(0x04, m.immediate, m.lun, m.tag);
                h[1] = flag(m.last, FINAL) | flag(m.more, CONTINUE);
                put32(h, 20, m.target_tag);
                put_numbers(h, Some(m.number), m.expected);
            }
            Self::DataOut(m) => {
                put(0x05, false, m.lun, m.tag);
                h[1] = flag(m.last, FINAL);
                put32(h, 20, m.target_tag);
                put_numbers(h, None, m.expected);
                put32(h, 36, m.number);
                put32(h, 40, m.offset);
            }
            Self::Logout(m) => {
                put(0x06, m.immediate, 0, m.tag);
                let reason = match m.reason {
                    LogoutReason::Session => 0,
                    LogoutReason::Connection => 1,
                    LogoutReason::Recovery => 2,
                    LogoutReason::Other(code) => code & 0x7f,
                };
                h[1] = FINAL | reason;
                put16(h, 20, m.connection);
                put_numbers(h, Some(m.number), m.expected);
            }
        }
        *h
    }

    /// The place in the order of commands, and whether the message stands outside it. Data has
    /// none.
    pub fn order(&self) -> Option<(Serial, bool)> {
        match self {
            Self::NopOut(m) => Some((m.number, m.immediate)),
            Self::Command(m) => Some((m.number, m.immediate)),
            Self::Task(m) => Some((m.number, m.immediate)),
            Self::Login(m) => Some((m.number, true)),
            Self::Text(m) => Some((m.number, m.immediate)),
            Self::Logout(m) => Some((m.number, m.immediate)),
            Self::DataOut(_) => None,
        }
    }

    /// The tag of the message.
    pub fn tag(&self) -> u32 {
        match self {
            Self::NopOut(m) => m.tag,
            Self::Command(m) => m.tag,
            Self::Task(m) => m.tag,
            Self::Login(m) => m.tag,
            Self::Text(m) => m.tag,
            Self::DataOut(m) => m.tag,
            Self::Logout(m) => m.tag,
        }
    }
}

fn put_numbers(h: &mut [u8; HEADER], number: Option<Serial>, expected: Serial) {
    put32(h, 24, number.map_or(0, |number| number.0));
    put32(h, 28, expected.0);
}

pub(crate) fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_command_is_where_the_specification_has_it() {
        let mut h = [0; HEADER];
        h[..8].copy_from_slice(&[0x41, 0xa1, 0, 0, 0, 0, 2, 0]);
        h[9] = 3;
        h[19] = 7;
        h[22] = 0x10;
        h[27] = 9;
        h[31] = 8;
        h[32] = 0x2a;
        h[47] = 0xee;
        let Request::Command(command) = Request::decode(&h).unwrap() else { panic!() };
        assert!(command.immediate && command.last && command.write && !command.read);
        assert_eq!(command.attribute, TaskAttribute::Simple);
        assert_eq!((command.lun, command.tag, command.length), (3 << 48, 7, 0x1000));
        assert_eq!((command.number, command.expected), (Serial(9), Serial(8)));
        assert_eq!((command.cdb[0], command.cdb[15]), (0x2a, 0xee));
    }

    #[test]
    fn what_only_targets_send_is_refused() {
        for opcode in [0x07, 0x10, 0x20, 0x21, 0x3f] {
            let mut h = [0; HEADER];
            h[0] = opcode;
            assert_eq!(Request::decode(&h), Err(WireError::Opcode { opcode }));
        }
    }

    proptest! {
        #[test]
        fn what_decodes_survives_the_way_back(
            mut bytes in proptest::array::uniform32(any::<u8>()),
            rest in proptest::array::uniform16(any::<u8>()),
            opcode in 0_u8..7,
        ) {
            bytes[0] = bytes[0] & 0x40 | opcode;
            let mut h = [0; HEADER];
            h[..32].copy_from_slice(&bytes);
            h[32..].copy_from_slice(&rest);
            let request = Request::decode(&h).unwrap();
            prop_assert_eq!(Request::decode(&request.encode(0)).unwrap(), request);
        }
    }
}
