//! The fixed parts of the newstyle negotiation.

use bytes::BufMut;

use crate::cursor::{Cursor, magic};
use crate::{ClientFlags, HandshakeFlags, OptionCode, ReplyCode, TransmissionFlags};
use crate::{WireError, limits};

/// `NBDMAGIC`, the first eight bytes of every server.
const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, the start of the newstyle negotiation and of every option.
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// The second magic of the old negotiation, named in the error about such servers.
const OLDSTYLE: u64 = 0x0000_4202_8186_1253;
/// The start of every reply to an option.
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// Zeroes that follow the reply to `NBD_OPT_EXPORT_NAME` unless both sides waive them.
const PADDING: usize = 124;

/// The server's first message ("Newstyle negotiation").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// What the server offers.
    pub flags: HandshakeFlags,
}

impl Greeting {
    /// Bytes on the wire.
    pub const LEN: usize = 18;

    /// Appends the message to `out`.
    pub fn encode(self, out: &mut impl BufMut) {
        out.put_u64(NBDMAGIC);
        out.put_u64(IHAVEOPT);
        out.put_u16(self.flags.0);
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`WireError::Magic`] when the peer is no newstyle NBD server, [`WireError::Truncated`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(bytes, "the server's greeting");
        magic(cursor.u64()?, NBDMAGIC, "the server's greeting")?;
        match cursor.u64()? {
            IHAVEOPT => Ok(Self { flags: HandshakeFlags(cursor.u16()?) }),
            OLDSTYLE => Err(WireError::Invalid { what: "the oldstyle negotiation of the server" }),
            found => Err(WireError::Magic { what: "the server's negotiation", found }),
        }
    }
}

impl ClientFlags {
    /// Bytes on the wire.
    pub const LEN: usize = 4;

    /// Appends the message to `out`.
    pub fn encode(self, out: &mut impl BufMut) {
        out.put_u32(self.0);
    }

    /// Reads the message. Unknown bits are kept; a server must end the session on them.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        Cursor::new(bytes, "the client's flags").u32().map(Self)
    }
}

/// The head of an option; `length` bytes of data follow ("Option haggling").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option.
    pub code: OptionCode,
    /// Bytes of data that follow, at most [`limits::OPTION_DATA`].
    pub length: u32,
}

impl OptionHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 16;

    /// Appends the message to `out`.
    pub fn encode(self, out: &mut impl BufMut) {
        out.put_u64(IHAVEOPT);
        out.put_u32(self.code.code());
        out.put_u32(self.length);
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`WireError::Magic`], [`WireError::TooLong`], [`WireError::Truncated`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(bytes, "an option");
        magic(cursor.u64()?, IHAVEOPT, "an option")?;
        let code = OptionCode::from_code(cursor.u32()?);
        let length = cursor.u32()?;
        at_most(length, limits::OPTION_DATA, "the data of an option")?;
        Ok(Self { code, length })
    }
}

/// The head of a reply to an option; `length` bytes of data follow ("Option haggling").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option that is answered.
    pub option: OptionCode,
    /// What kind of answer.
    pub reply: ReplyCode,
    /// Bytes of data that follow, at most [`limits::OPTION_REPLY_DATA`].
    pub length: u32,
}

impl OptionReplyHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 20;

    /// Appends the message to `out`.
    pub fn encode(self, out: &mut impl BufMut) {
        out.put_u64(OPTION_REPLY);
        out.put_u32(self.option.code());
        out.put_u32(self.reply.code());
        out.put_u32(self.length);
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`WireError::Magic`], [`WireError::TooLong`], [`WireError::Truncated`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(bytes, "a reply to an option");
        magic(cursor.u64()?, OPTION_REPLY, "a reply to an option")?;
        let option = OptionCode::from_code(cursor.u32()?);
        let reply = ReplyCode::from_code(cursor.u32()?);
        let length = cursor.u32()?;
        at_most(length, limits::OPTION_REPLY_DATA, "the data of a reply to an option")?;
        Ok(Self { option, reply, length })
    }
}

/// The bare answer to `NBD_OPT_EXPORT_NAME`, after which transmission begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportNameReply {
    /// Size of the export in bytes.
    pub size: u64,
    /// What the export can do.
    pub flags: TransmissionFlags,
}

impl ExportNameReply {
    /// Bytes on the wire; `no_zeroes` when both sides agreed to leave the padding out.
    pub const fn len(no_zeroes: bool) -> usize {
        if no_zeroes { 10 } else { 10 + PADDING }
    }

    /// Appends the message to `out`.
    pub fn encode(self, no_zeroes: bool, out: &mut impl BufMut) {
        out.put_u64(self.size);
        out.put_u16(self.flags.0);
        if !no_zeroes {
            out.put_bytes(0, PADDING);
        }
    }

    /// Reads the message; padding is not looked at.
    ///
    /// # Errors
    /// [`WireError::Truncated`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(bytes, "the reply to an export name");
        Ok(Self { size: cursor.u64()?, flags: TransmissionFlags(cursor.u16()?) })
    }
}

/// Checks a length found on the wire against its limit.
pub(crate) fn at_most(length: u32, limit: u32, what: &'static str) -> Result<(), WireError> {
    if length <= limit {
        return Ok(());
    }
    Err(WireError::TooLong { what, length: u64::from(length), limit: u64::from(limit) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greeting_has_the_bytes_of_the_specification() {
        let wire = b"NBDMAGICIHAVEOPT\x00\x03";
        let greeting =
            Greeting { flags: HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES };
        let mut out = vec![];
        greeting.encode(&mut out);
        assert_eq!(out, wire);
        assert_eq!(out.len(), Greeting::LEN);
        assert_eq!(Greeting::decode(wire), Ok(greeting));
    }

    #[test]
    fn an_oldstyle_server_is_told_from_a_stranger() {
        let old = b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\x00\x00";
        assert!(matches!(Greeting::decode(old), Err(WireError::Invalid { .. })));
        let ssh = b"SSH-2.0-OpenSSH_9.9";
        assert!(matches!(Greeting::decode(ssh), Err(WireError::Magic { .. })));
    }

    #[test]
    fn option_header_has_the_bytes_of_the_specification() {
        let wire = b"IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x0a";
        let header = OptionHeader { code: OptionCode::Go, length: 10 };
        let mut out = vec![];
        header.encode(&mut out);
        assert_eq!(out, wire);
        assert_eq!(OptionHeader::decode(wire), Ok(header));
    }

    #[test]
    fn huge_lengths_are_refused_from_the_header_alone() {
        let wire = b"IHAVEOPT\x00\x00\x00\x07\xff\xff\xff\xff";
        let error = OptionHeader::decode(wire).unwrap_err();
        assert!(matches!(error, WireError::TooLong { length: 0xffff_ffff, .. }));
        assert!(error.is_fatal());
        let wire = b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\x00\x01\x00\x01";
        assert!(OptionReplyHeader::decode(wire).unwrap_err().is_fatal());
    }

    #[test]
    fn option_reply_header_has_the_bytes_of_the_specification() {
        let wire =
            b"\x00\x03\xe8\x89\x04\x55\x65\xa9\x00\x00\x00\x06\x80\x00\x00\x06\x00\x00\x00\x00";
        let header =
            OptionReplyHeader { option: OptionCode::Info, reply: ReplyCode::ErrUnknown, length: 0 };
        let mut out = vec![];
        header.encode(&mut out);
        assert_eq!(out, wire);
        assert_eq!(OptionReplyHeader::decode(wire), Ok(header));
    }

    #[test]
    fn export_name_reply_is_padded_unless_waived() {
        let reply = ExportNameReply {
            size: 0x0102_0304,
            flags: TransmissionFlags::HAS_FLAGS | TransmissionFlags::READ_ONLY,
        };
        let mut out = vec![];
        reply.encode(true, &mut out);
        assert_eq!(out, b"\0\0\0\0\x01\x02\x03\x04\0\x03");
        assert_eq!(ExportNameReply::decode(&out), Ok(reply));
        reply.encode(false, &mut out);
        assert_eq!(out.len(), ExportNameReply::len(true) + ExportNameReply::len(false));
        assert_eq!(out[20..], [0; 124]);
    }
}
