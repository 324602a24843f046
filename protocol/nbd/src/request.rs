//! Requests of the transmission phase ("Request message", "Request types").

use bytes::BufMut;

use crate::cursor::{Cursor, magic};
use crate::{CommandFlags, Framing, WireError, limits};

/// The start of a request with a 32-bit length.
const COMPACT: u32 = 0x2560_9513;
/// The start of a request with a 64-bit length.
const EXTENDED: u32 = 0x21e4_1c71;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// `NBD_CMD_READ` (0).
    Read,
    /// `NBD_CMD_WRITE` (1), the only one with a payload in compact framing.
    Write,
    /// `NBD_CMD_DISC` (2): end the session; has no reply.
    Disconnect,
    /// `NBD_CMD_FLUSH` (3).
    Flush,
    /// `NBD_CMD_TRIM` (4).
    Trim,
    /// `NBD_CMD_CACHE` (5): the range will be read soon.
    Cache,
    /// `NBD_CMD_WRITE_ZEROES` (6).
    WriteZeroes,
    /// `NBD_CMD_BLOCK_STATUS` (7).
    BlockStatus,
    /// Any other number.
    Other(u16),
}

impl Command {
    /// The command of a number on the wire.
    pub fn from_code(code: u16) -> Self {
        match code {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Other(other),
        }
    }

    /// The number on the wire.
    pub fn code(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::Cache => 5,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
            Self::Other(code) => code,
        }
    }

    /// Whether it changes the export.
    pub fn is_write(self) -> bool {
        matches!(self, Self::Write | Self::Trim | Self::WriteZeroes)
    }
}

/// A request without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Modifiers.
    pub flags: CommandFlags,
    /// What is asked.
    pub command: Command,
    /// Chosen by the client and returned in the reply.
    pub cookie: u64,
    /// First byte on the export.
    pub offset: u64,
    /// Bytes on the export; bytes of payload where there is one.
    pub length: u64,
}

impl Request {
    /// Bytes of a request's header on the wire.
    pub const fn len(framing: Framing) -> usize {
        match framing {
            Framing::Simple | Framing::Structured => 28,
            Framing::Extended => 32,
        }
    }

    /// Appends the header to `out`. In compact framing the length must fit 32 bits.
    pub fn encode(&self, framing: Framing, out: &mut impl BufMut) {
        let extended = framing == Framing::Extended;
        out.put_u32(if extended { EXTENDED } else { COMPACT });
        out.put_u16(self.flags.0);
        out.put_u16(self.command.code());
        out.put_u64(self.cookie);
        out.put_u64(self.offset);
        if extended {
            out.put_u64(self.length);
        } else {
            debug_assert!(u32::try_from(self.length).is_ok());
            out.put_u32(self.length as u32);
        }
    }

    /// Reads a header of [`len`](Self::len) bytes.
    ///
    /// # Errors
    /// [`WireError::Magic`], [`WireError::Truncated`], or [`WireError::TooLong`] when a payload
    /// over [`limits::PAYLOAD`] is announced.
    pub fn decode(framing: Framing, bytes: &[u8]) -> Result<Self, WireError> {
        let extended = framing == Framing::Extended;
        let mut cursor = Cursor::new(bytes, "a request");
        let wanted = if extended { EXTENDED } else { COMPACT };
        magic(u64::from(cursor.u32()?), u64::from(wanted), "a request")?;
        let request = Self {
            flags: CommandFlags(cursor.u16()?),
            command: Command::from_code(cursor.u16()?),
            cookie: cursor.u64()?,
            offset: cursor.u64()?,
            length: if extended { cursor.u64()? } else { u64::from(cursor.u32()?) },
        };
        let (length, limit) = (request.payload(framing), u64::from(limits::PAYLOAD));
        if length > limit {
            return Err(WireError::TooLong { what: "the payload of a request", length, limit });
        }
        Ok(request)
    }

    /// Bytes of payload that follow the header.
    pub fn payload(&self, framing: Framing) -> u64 {
        let announced =
            framing == Framing::Extended && self.flags.contains(CommandFlags::PAYLOAD_LEN);
        if self.command == Command::Write || announced { self.length } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Request = Request {
        flags: CommandFlags::DF,
        command: Command::Read,
        cookie: 0x0102_0304_0506_0708,
        offset: 0x1000,
        length: 0x200,
    };

    #[test]
    fn requests_have_the_bytes_of_the_specification() {
        let compact = b"\x25\x60\x95\x13\0\x04\0\0\x01\x02\x03\x04\x05\x06\x07\x08\
                        \0\0\0\0\0\0\x10\0\0\0\x02\0";
        let extended = b"\x21\xe4\x1c\x71\0\x04\0\0\x01\x02\x03\x04\x05\x06\x07\x08\
                         \0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x02\0";
        for (framing, wire) in [
            (Framing::Simple, &compact[..]),
            (Framing::Structured, compact),
            (Framing::Extended, extended),
        ] {
            let mut out = vec![];
            READ.encode(framing, &mut out);
            assert_eq!(out, wire);
            assert_eq!(out.len(), Request::len(framing));
            assert_eq!(Request::decode(framing, wire), Ok(READ));
        }
    }

    #[test]
    fn the_framing_must_match_the_agreement() {
        let mut out = vec![];
        READ.encode(Framing::Structured, &mut out);
        out.extend([0; 4]);
        assert!(matches!(Request::decode(Framing::Extended, &out), Err(WireError::Magic { .. })));
    }

    #[test]
    fn only_writes_and_announced_payloads_carry_bytes() {
        let write = Request { command: Command::Write, flags: CommandFlags::empty(), ..READ };
        assert_eq!(READ.payload(Framing::Structured), 0);
        assert_eq!(write.payload(Framing::Simple), 0x200);
        assert_eq!(write.payload(Framing::Extended), 0x200);
        let status =
            Request { command: Command::BlockStatus, flags: CommandFlags::PAYLOAD_LEN, ..READ };
        assert_eq!(status.payload(Framing::Extended), 0x200);
        assert_eq!(status.payload(Framing::Structured), 0);
    }

    #[test]
    fn a_huge_payload_is_refused_and_a_huge_read_is_left_to_the_session() {
        let mut out = vec![];
        let write = Request { command: Command::Write, length: 0xffff_ffff, ..READ };
        write.encode(Framing::Simple, &mut out);
        assert!(Request::decode(Framing::Simple, &out).unwrap_err().is_fatal());
        let read = Request { length: 0xffff_ffff, ..READ };
        out.clear();
        read.encode(Framing::Simple, &mut out);
        assert_eq!(Request::decode(Framing::Simple, &out), Ok(read));
    }
}
