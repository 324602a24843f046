//! What a target sends.

use crate::bhs::{get16, get32, get64, put16, put32, put64};
use crate::request::{Stage, flag};
use crate::{HEADER, Lengths, NO_TAG, Serial, WireError};

const FINAL: u8 = 0x80;
const CONTINUE: u8 = 0x40;

/// The numbers that almost every message of a target carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers {
    /// The number of this response, or of the next one where this has none of its own.
    pub status: Serial,
    /// The next command that is expected.
    pub expected: Serial,
    /// The last command that would be accepted now.
    pub most: Serial,
}

/// A message of the target, without its data segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response {
    /// "NOP-In": a ping, or the answer to one.
    NopIn {
        /// The logical unit, for a ping of the target.
        lun: u64,
        /// Tag of the ping answered, or [`NO_TAG`].
        tag: u32,
        /// Tag to answer with, or [`NO_TAG`].
        target_tag: u32,
    },
    /// "SCSI Response".
    Command(ScsiResponse),
    /// "Task Management Function Response".
    Task {
        /// Tag of the request.
        tag: u32,
        /// What became of it.
        answer: TaskAnswer,
    },
    /// "Login Response".
    Login(LoginResponse),
    /// "Text Response".
    Text {
        /// The exchange is over.
        last: bool,
        /// The text goes on.
        more: bool,
        /// Tag of the request.
        tag: u32,
        /// Tag to go on with, or [`NO_TAG`].
        target_tag: u32,
    },
    /// "SCSI Data-In".
    DataIn(DataIn),
    /// "Logout Response".
    Logout {
        /// Tag of the request.
        tag: u32,
        /// Zero when done; 1 for a connection that is not known, 2 for recovery not supported.
        response: u8,
    },
    /// "Ready To Transfer".
    Ready(ReadyToTransfer),
    /// "Asynchronous Message".
    Async {
        /// The logical unit that sense data is about.
        lun: u64,
        /// What happened.
        event: AsyncEvent,
    },
    /// "Reject"; the header of the message refused is its data.
    Reject {
        /// Why.
        reason: RejectReason,
    },
}

/// Bytes transferred otherwise than announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Residual {
    /// As announced.
    #[default]
    None,
    /// This many bytes fewer than the initiator expected.
    Under(u32),
    /// This many bytes would have been more than the initiator expected.
    Over(u32),
}

impl Residual {
    fn flags(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Under(_) => 0x02,
            Self::Over(_) => 0x04,
        }
    }

    fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Under(count) | Self::Over(count) => count,
        }
    }

    fn decode(flags: u8, count: u32) -> Self {
        match flags & 0x06 {
            0x02 => Self::Under(count),
            0x04 => Self::Over(count),
            _ => Self::None,
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScsiResponse {
    /// Tag of the task.
    pub tag: u32,
    /// Zero when the command completed at the target; 1 for a failure of the target.
    pub response: u8,
    /// The SCSI status.
    pub status: u8,
    /// Number of data and transfer requests that were sent for the command.
    pub data_count: u32,
    /// What the transfer lacks.
    pub residual: Residual,
}

/// What became of a task management request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskAnswer {
    /// Done.
    Complete,
    /// The task is not there.
    NoTask,
    /// The logical unit is not there.
    NoUnit,
    /// Tasks cannot change connections.
    NoReassign,
    /// The function is not offered.
    Unsupported,
    /// Refused.
    Rejected,
    /// Not known.
    Other(u8),
}

/// How a step of login went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginStatus {
    /// Well, so far.
    Success,
    /// The initiator broke the protocol, or something without a code of its own.
    InitiatorError,
    /// The initiator is not who it says.
    AuthenticationFailure,
    /// The initiator may not use this target.
    Forbidden,
    /// There is no such target.
    NotFound,
    /// No common version.
    Version,
    /// A session may have no more connections.
    TooManyConnections,
    /// A key that must be there is not.
    MissingParameter,
    /// The session to join is not of this kind.
    SessionType,
    /// There is no session of that handle.
    NoSession,
    /// The target had an error.
    TargetError,
    /// The target is not there now.
    Unavailable,
    /// The target has no room for a session.
    OutOfResources,
    /// Another class and detail.
    Other(u8, u8),
}

const LOGIN_STATUS: [(LoginStatus, (u8, u8)); 13] = [
    (LoginStatus::Success, (0, 0)),
    (LoginStatus::InitiatorError, (2, 0)),
    (LoginStatus::AuthenticationFailure, (2, 1)),
    (LoginStatus::Forbidden, (2, 2)),
    (LoginStatus::NotFound, (2, 3)),
    (LoginStatus::Version, (2, 5)),
    (LoginStatus::TooManyConnections, (2, 6)),
    (LoginStatus::MissingParameter, (2, 7)),
    (LoginStatus::SessionType, (2, 9)),
    (LoginStatus::NoSession, (2, 10)),
    (LoginStatus::TargetError, (3, 0)),
    (LoginStatus::Unavailable, (3, 1)),
    (LoginStatus::OutOfResources, (3, 2)),
];

impl LoginStatus {
    /// Class and detail on the wire.
    pub fn code(self) -> (u8, u8) {
        if let Self::Other(class, detail) = self {
            return (class, detail);
        }
        LOGIN_STATUS.iter().find(|(status, _)| *status == self).map_or((3, 0), |(_, code)| *code)
    }

    fn from_code(code: (u8, u8)) -> Self {
        let known = LOGIN_STATUS.iter().find(|(_, other)| *other == code);
        known.map_or(Self::Other(code.0, code.1), |(status, _)| *status)
    }
}

/// The answer to a step of login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginResponse {
    /// The next stage begins.
    pub transit: bool,
    /// The text goes on in the next response.
    pub more: bool,
    /// The stage this belongs to.
    pub stage: Stage,
    /// The stage that follows, with `transit`.
    pub next: Stage,
    /// The initiator's part of the session's identity.
    pub isid: [u8; 6],
    /// The target's part, once there is a session.
    pub tsih: u16,
    /// Tag of the request.
    pub tag: u32,
    /// How it went.
    pub status: LoginStatus,
}

/// Data of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataIn {
    /// Ends a sequence.
    pub last: bool,
    /// Tag of the task.
    pub tag: u32,
    /// Place in the sequence of data and transfer requests.
    pub number: u32,
    /// Where in the command's data this belongs, in bytes.
    pub offset: u32,
    /// The SCSI status and residual, when the command ends with this.
    pub status: Option<(u8, Residual)>,
}

/// A wish for data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadyToTransfer {
    /// The logical unit.
    pub lun: u64,
    /// Tag of the task.
    pub tag: u32,
    /// Tag that the data is to carry.
    pub target_tag: u32,
    /// Place in the sequence of data and transfer requests.
    pub number: u32,
    /// First byte wanted.
    pub offset: u32,
    /// Bytes wanted.
    pub length: u32,
}

/// News that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsyncEvent {
    /// Sense data about a logical unit is in the data segment.
    Sense,
    /// The target wants the initiator to log out within this many seconds.
    Logout(u16),
    /// The connection is about to be dropped; coming back makes sense after so many seconds, up to
    /// so many.
    Drop {
        /// The connection.
        connection: u16,
        /// Seconds.
        wait: u16,
        /// Seconds.
        retain: u16,
    },
    /// All connections of the session are about to be dropped.
    DropAll {
        /// Seconds.
        wait: u16,
        /// Seconds.
        retain: u16,
    },
    /// Not known.
    Other(u8),
}

/// Why a message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// A data digest was wrong.
    DataDigest,
    /// Retransmission is not offered.
    SnackReject,
    /// It broke the protocol.
    Protocol,
    /// It is not supported.
    Unsupported,
    /// Too many immediate commands.
    TooManyImmediate,
    /// The task is still there.
    TaskInProgress,
    /// A field is invalid.
    InvalidField,
    /// Too many of something.
    OutOfResources,
    /// Not known.
    Other(u8),
}

const REJECT: [(RejectReason, u8); 8] = [
    (RejectReason::DataDigest, 2),
    (RejectReason::SnackReject, 3),
    (RejectReason::Protocol, 4),
    (RejectReason::Unsupported, 5),
    (RejectReason::TooManyImmediate, 6),
    (RejectReason::TaskInProgress, 7),
    (RejectReason::InvalidField, 9),
    (RejectReason::OutOfResources, 10),
];

const TASK_ANSWER: [(TaskAnswer, u8); 6] = [
    (TaskAnswer::Complete, 0),
    (TaskAnswer::NoTask, 1),
    (TaskAnswer::NoUnit, 2),
    (TaskAnswer::NoReassign, 4),
    (TaskAnswer::Unsupported, 5),
    (TaskAnswer::Rejected, 255),
];

impl Response {
    /// Whether sending the message uses up a response number.
    pub fn is_numbered(&self) -> bool {
        match self {
            Self::Ready(_) => false,
            Self::DataIn(data) => data.status.is_some(),
            Self::NopIn { tag, .. } => *tag != NO_TAG,
            _ => true,
        }
    }

    /// The header of the message, when `data` bytes follow.
    pub fn encode(&self, numbers: Numbers, data: usize) -> [u8; HEADER] {
        let h = &mut [0; HEADER];
        Lengths::encode_data(h, data);
        h[1] = FINAL;
        put32(h, 24, numbers.status.0);
        put32(h, 28, numbers.expected.0);
        put32(h, 32, numbers.most.0);
        let mut put = |opcode: u8, tag: u32| {
            h[0] = opcode;
            put32(h, 16, tag);
        };
        match self {
            Self::NopIn { lun, tag, target_tag } => {
                put(0x20, *tag);
                put64(h, 8, *lun);
                put32(h, 20, *target_tag);
            }
            Self::Command(m) => {
                put(0x21, m.tag);
                h[1] |= m.residual.flags();
                (h[2], h[3]) = (m.response, m.status);
                put32(h, 36, m.data_count);
                put32(h, 44, m.residual.count());
            }
            Self::Task { tag, answer } => {
                put(0x22, *tag);
                let known = TASK_ANSWER.iter().find(|(other, _)| other == answer);
                let other = if let TaskAnswer::Other(code) = answer { *code } else { 255 };
                h[2] = known.map_or(other, |(_, code)| *code);
            }
            Self::Login(m) => m.encode(h),
            Self::Text { last, more, tag, target_tag } => {
                put(0x24, *tag);
                h[1] = flag(*last, FINAL) | flag(*more, CONTINUE);
                put32(h, 20, *target_tag);
            }
            Self::DataIn(m) => m.encode(h),
            Self::Logout { tag, response } => {
                put(0x26, *tag);
                h[2] = *response;
            }
            Self::Ready(m) => {
                put(0x31, m.tag);
                put64(h, 8, m.lun);
                put32(h, 20, m.target_tag);
                put32(h, 36, m.number);
                put32(h, 40, m.offset);
                put32(h, 44, m.length);
            }
            Self::Async { lun, event } => {
                put(0x32, NO_TAG);
                put64(h, 8, *lun);
                event.encode(h);
            }
            Self::Reject { reason } => {
                put(0x3f, NO_TAG);
                let known = REJECT.iter().find(|(other, _)| other == reason);
                let other = if let RejectReason::Other(code) = reason { *code } else { 4 };
                h[2] = known.map_or(other, |(_, code)| *code);
            }
        }
        *h
    }

    /// The message whose header is `h`, and its numbers.
    ///
    /// # Errors
    /// [`WireError::Opcode`] for what no target sends.
    pub fn decode(h: &[u8; HEADER]) -> Result<(Self, Numbers), WireError> {
        let numbers = Numbers {
            status: Serial(get32(h, 24)),
            expected: Serial(get32(h, 28)),
            most: Serial(get32(h, 32)),
        };
        let (lun, tag, target_tag) = (get64(h, 8), get32(h, 16), get32(h, 20));
        let message = match h[0] & 0x3f {
            0x20 => Self::NopIn { lun, tag, target_tag },
            0x21 => Self::Command(ScsiResponse {
                tag,
                response: h[2],
                status: h[3],
                data_count: get32(h, 36),
                residual: Residual::decode(h[1], get32(h, 44)),
            }),
            0x22 => {
                let known = TASK_ANSWER.iter().find(|(_, code)| *code == h[2]);
                let answer = known.map_or(TaskAnswer::Other(h[2]), |(answer, _)| *answer);
                Self::Task { tag, answer }
            }
            0x23 => Self::Login(LoginResponse::decode(h)),
            0x24 => {
                Self::Text { last: h[1] & FINAL != 0, more: h[1] & CONTINUE != 0, tag, target_tag }
            }
            0x25 => Self::DataIn(DataIn {
                last: h[1] & FINAL != 0,
                tag,
                number: get32(h, 36),
                offset: get32(h, 40),
                status: (h[1] & 1 != 0).then(|| (h[3], Residual::decode(h[1], get32(h, 44)))),
            }),
            0x26 => Self::Logout { tag, response: h[2] },
            0x31 => Self::Ready(ReadyToTransfer {
                lun,
                tag,
                target_tag,
                number: get32(h, 36),
                offset: get32(h, 40),
                length: get32(h, 44),
            }),
            0x32 => Self::Async { lun, event: AsyncEvent::decode(h) },
            0x3f => {
                let known = REJECT.iter().find(|(_, code)| *code == h[2]);
                Self::Reject {
                    reason: known.map_or(RejectReason::Other(h[2]), |(reason, _)| *reason),
                }
            }
            opcode => return Err(WireError::Opcode { opcode }),
        };
        Ok((message, numbers))
    }
}

impl LoginResponse {
    fn encode(&self, h: &mut [u8; HEADER]) {
        h[0] = 0x23;
        h[1] = flag(self.transit, FINAL) | flag(self.more, CONTINUE);
        h[1] |= self.stage.code() << 2;
        h[1] |= if self.transit { self.next.code() } else { 0 };
        h[8..14].copy_from_slice(&self.isid);
        put16(h, 14, self.tsih);
        put32(h, 16, self.tag);
        (h[36], h[37]) = self.status.code();
    }

    fn decode(h: &[u8; HEADER]) -> Self {
        let transit = h[1] & FINAL != 0;
        Self {
            transit,
            more: h[1] & CONTINUE != 0,
            stage: Stage::from_code(h[1] >> 2),
            next: if transit { Stage::from_code(h[1]) } else { Stage::Security },
            isid: std::array::from_fn(|at| h[8 + at]),
            tsih: get16(h, 14),
            tag: get32(h, 16),
            status: LoginStatus::from_code((h[36], h[37])),
        }
    }
}

impl DataIn {
    fn encode(&self, h: &mut [u8; HEADER]) {
        h[0] = 0x25;
        h[1] = flag(self.last, FINAL);
        put32(h, 16, self.tag);
        put32(h, 20, NO_TAG);
        put32(h, 36, self.number);
        put32(h, 40, self.offset);
        match self.status {
            Some((status, residual)) => {
                h[1] |= 1 | residual.flags();
                h[3] = status;
                put32(h, 44, residual.count());
            }
            // Reserved when no status is there.
            None => put32(h, 24, 0),
        }
    }
}

impl AsyncEvent {
    fn encode(self, h: &mut [u8; HEADER]) {
        let (code, parameters) = match self {
            Self::Sense => (0, [0; 3]),
            Self::Logout(seconds) => (1, [0, 0, seconds]),
            Self::Drop { connection, wait, retain } => (2, [connection, wait, retain]),
            Self::DropAll { wait, retain } => (3, [0, wait, retain]),
            Self::Other(code) => (code, [0; 3]),
        };
        h[36] = code;
        for (index, parameter) in parameters.into_iter().enumerate() {
            put16(h, 38 + 2 * index, parameter);
        }
    }

    fn decode(h: &[u8; HEADER]) -> Self {
        let [first, second, third] = [38, 40, 42].map(|at| get16(h, at));
        match h[36] {
            0 => Self::Sense,
            1 => Self::Logout(third),
            2 => Self::Drop { connection: first, wait: second, retain: third },
            3 => Self::DropAll { wait: second, retain: third },
            other => Self::Other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn data_that_ends_a_command_carries_its_status() {
        let data = DataIn {
            last: true,
            tag: 5,
            number: 2,
            offset: 512,
            status: Some((2, Residual::Under(7))),
        };
        let numbers = Numbers { status: Serial(1), expected: Serial(2), most: Serial(3) };
        let h = Response::DataIn(data).encode(numbers, 0x1234);
        assert_eq!(h[..8], [0x25, 0x83, 0, 2, 0, 0, 0x12, 0x34]);
        assert_eq!(h[16..24], [0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(h[24..36], [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]);
        assert_eq!(h[36..], [0, 0, 0, 2, 0, 0, 2, 0, 0, 0, 0, 7]);
        assert!(Response::DataIn(data).is_numbered());
        assert!(!Response::DataIn(DataIn { status: None, ..data }).is_numbered());
    }

    proptest! {
        #[test]
        fn what_decodes_survives_the_way_back(
            bytes in proptest::array::uniform32(any::<u8>()),
            rest in proptest::array::uniform16(any::<u8>()),
            opcode in prop_oneof![0x20_u8..0x27, 0x31_u8..0x33, Just(0x3f)],
        ) {
            let mut h = [0; HEADER];
            h[..32].copy_from_slice(&bytes);
            h[32..].copy_from_slice(&rest);
            h[0] = opcode;
            let (response, numbers) = Response::decode(&h).unwrap();
            let again = response.encode(numbers, 0);
            prop_assert_eq!(Response::decode(&again).unwrap().0, response);
        }
    }
}
