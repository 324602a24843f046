//! Replies to options ("Option reply types").

use bytes::BufMut;

use crate::cursor::{Cursor, utf8};
use crate::{InfoType, OptionCode, OptionReplyHeader, TransmissionFlags, WireError};

/// What kind of answer to an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplyCode {
    /// `NBD_REP_ACK` (1): done.
    Ack,
    /// `NBD_REP_SERVER` (2): the name of an export.
    Server,
    /// `NBD_REP_INFO` (3): a piece of information about an export.
    Info,
    /// `NBD_REP_META_CONTEXT` (4): a metadata context.
    MetaContext,
    /// `NBD_REP_ERR_UNSUP`: the option is not known.
    ErrUnsupported,
    /// `NBD_REP_ERR_POLICY`: known, but forbidden here.
    ErrPolicy,
    /// `NBD_REP_ERR_INVALID`: known, but malformed or out of place.
    ErrInvalid,
    /// `NBD_REP_ERR_PLATFORM`: not possible on this system.
    ErrPlatform,
    /// `NBD_REP_ERR_TLS_REQD`: only after `NBD_OPT_STARTTLS`.
    ErrTlsRequired,
    /// `NBD_REP_ERR_UNKNOWN`: there is no such export.
    ErrUnknown,
    /// `NBD_REP_ERR_SHUTDOWN`: the server is going away.
    ErrShutdown,
    /// `NBD_REP_ERR_BLOCK_SIZE_REQD`: only for clients that ask for the block size.
    ErrBlockSizeRequired,
    /// `NBD_REP_ERR_TOO_BIG`: the option is too large to be handled.
    ErrTooBig,
    /// `NBD_REP_ERR_EXT_HEADER_REQD`: only with extended headers.
    ErrExtendedHeadersRequired,
    /// Any other number.
    Other(u32),
}

/// The bit that marks an error reply.
const ERROR: u32 = 1 << 31;

impl ReplyCode {
    /// The kind of a number on the wire.
    pub fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Ack,
            2 => Self::Server,
            3 => Self::Info,
            4 => Self::MetaContext,
            0x8000_0001 => Self::ErrUnsupported,
            0x8000_0002 => Self::ErrPolicy,
            0x8000_0003 => Self::ErrInvalid,
            0x8000_0004 => Self::ErrPlatform,
            0x8000_0005 => Self::ErrTlsRequired,
            0x8000_0006 => Self::ErrUnknown,
            0x8000_0007 => Self::ErrShutdown,
            0x8000_0008 => Self::ErrBlockSizeRequired,
            0x8000_0009 => Self::ErrTooBig,
            0x8000_000a => Self::ErrExtendedHeadersRequired,
            other => Self::Other(other),
        }
    }

    /// The number on the wire.
    pub fn code(self) -> u32 {
        match self {
            Self::Ack => 1,
            Self::Server => 2,
            Self::Info => 3,
            Self::MetaContext => 4,
            Self::ErrUnsupported => ERROR | 1,
            Self::ErrPolicy => ERROR | 2,
            Self::ErrInvalid => ERROR | 3,
            Self::ErrPlatform => ERROR | 4,
            Self::ErrTlsRequired => ERROR | 5,
            Self::ErrUnknown => ERROR | 6,
            Self::ErrShutdown => ERROR | 7,
            Self::ErrBlockSizeRequired => ERROR | 8,
            Self::ErrTooBig => ERROR | 9,
            Self::ErrExtendedHeadersRequired => ERROR | 10,
            Self::Other(code) => code,
        }
    }

    /// Whether the option failed.
    pub fn is_error(self) -> bool {
        self.code() & ERROR != 0
    }
}

/// The sizes of requests an export takes, in bytes ("Block size constraints").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of this power of two.
    pub minimum: u32,
    /// Multiples of this power of two are served fastest.
    pub preferred: u32,
    /// The longest payload.
    pub maximum: u32,
}

/// A piece of information about an export (`NBD_REP_INFO`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Info {
    /// What every client must know.
    Export {
        /// Size in bytes.
        size: u64,
        /// What the export can do.
        flags: TransmissionFlags,
    },
    /// The canonical name.
    Name(String),
    /// A text for people.
    Description(String),
    /// The sizes of requests.
    BlockSize(BlockSizes),
    /// An unknown piece, to be ignored.
    Other(u16),
}

/// A reply to an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionReply {
    /// Done.
    Ack,
    /// An export.
    Server {
        /// Its name.
        name: String,
        /// A text for people; may be empty.
        description: String,
    },
    /// A piece of information about an export.
    Info(Info),
    /// A metadata context.
    MetaContext {
        /// Its number in block status replies; 0 in lists.
        id: u32,
        /// Its name.
        name: String,
    },
    /// The option failed.
    Error {
        /// Why.
        code: ReplyCode,
        /// A text for people; may be empty.
        message: String,
    },
    /// A reply this crate does not know; its data is dropped.
    Other(u32),
}

impl OptionReply {
    /// A failure with a text for people.
    ///
    /// `code` must be an error code, which is for the caller to know.
    pub fn error(code: ReplyCode, message: impl Into<String>) -> Self {
        debug_assert!(code.is_error());
        Self::Error { code, message: message.into() }
    }

    /// The kind of reply.
    pub fn code(&self) -> ReplyCode {
        match self {
            Self::Ack => ReplyCode::Ack,
            Self::Server { .. } => ReplyCode::Server,
            Self::Info(_) => ReplyCode::Info,
            Self::MetaContext { .. } => ReplyCode::MetaContext,
            Self::Error { code, .. } => *code,
            Self::Other(code) => ReplyCode::Other(*code),
        }
    }

    /// Appends header and data of a reply to `option`.
    pub fn encode(&self, option: OptionCode, out: &mut impl BufMut) {
        let mut data = Vec::new();
        match self {
            Self::Ack | Self::Other(_) => {}
            Self::Server { name, description } => {
                data.put_u32(name.len() as u32);
                data.put_slice(name.as_bytes());
                data.put_slice(description.as_bytes());
            }
            Self::Info(info) => info.encode(&mut data),
            Self::MetaContext { id, name } => {
                data.put_u32(*id);
                data.put_slice(name.as_bytes());
            }
            Self::Error { message, .. } => data.put_slice(message.as_bytes()),
        }
        OptionReplyHeader { option, reply: self.code(), length: data.len() as u32 }.encode(out);
        out.put_slice(&data);
    }

    /// Reads the data of a reply whose header said `code` and `data.len()`.
    ///
    /// # Errors
    /// A [`WireError`]: the server breaks the protocol.
    pub fn decode(code: ReplyCode, data: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(data, "a reply to an option");
        let reply = match code {
            ReplyCode::Ack => Self::Ack,
            ReplyCode::Server => Self::Server {
                name: cursor.string("an export name")?,
                description: utf8(cursor.rest(), "a description")?,
            },
            ReplyCode::Info => Self::Info(Info::decode(&mut cursor)?),
            ReplyCode::MetaContext => Self::MetaContext {
                id: cursor.u32()?,
                name: utf8(cursor.rest(), "a metadata context")?,
            },
            ReplyCode::Other(other) if !code.is_error() => return Ok(Self::Other(other)),
            // The text is for people: bytes that are not UTF-8 do not make the error worse.
            code => {
                let message = String::from_utf8_lossy(cursor.rest()).into_owned();
                Self::Error { code, message }
            }
        };
        cursor.end()?;
        Ok(reply)
    }
}

impl Info {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Export { size, flags } => {
                out.put_u16(InfoType::Export.code());
                out.put_u64(*size);
                out.put_u16(flags.0);
            }
            Self::Name(name) => {
                out.put_u16(InfoType::Name.code());
                out.put_slice(name.as_bytes());
            }
            Self::Description(text) => {
                out.put_u16(InfoType::Description.code());
                out.put_slice(text.as_bytes());
            }
            Self::BlockSize(sizes) => {
                out.put_u16(InfoType::BlockSize.code());
                out.put_u32(sizes.minimum);
                out.put_u32(sizes.preferred);
                out.put_u32(sizes.maximum);
            }
            Self::Other(code) => out.put_u16(*code),
        }
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, WireError> {
        Ok(match InfoType::from_code(cursor.u16()?) {
            InfoType::Export => {
                Self::Export { size: cursor.u64()?, flags: TransmissionFlags(cursor.u16()?) }
            }
            InfoType::Name => Self::Name(utf8(cursor.rest(), "an export name")?),
            InfoType::Description => Self::Description(utf8(cursor.rest(), "a description")?),
            InfoType::BlockSize => Self::BlockSize(BlockSizes::decode(cursor)?),
            InfoType::Other(code) => {
                cursor.rest();
                Self::Other(code)
            }
        })
    }
}

impl BlockSizes {
    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, WireError> {
        let sizes =
            Self { minimum: cursor.u32()?, preferred: cursor.u32()?, maximum: cursor.u32()? };
        let ordered = sizes.minimum <= sizes.preferred && sizes.minimum <= sizes.maximum;
        if sizes.minimum.is_power_of_two() && sizes.preferred.is_power_of_two() && ordered {
            return Ok(sizes);
        }
        Err(WireError::Invalid { what: "the block size information" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_ways(reply: OptionReply, option: OptionCode, wire: &[u8]) {
        let mut out = vec![];
        reply.encode(option, &mut out);
        assert_eq!(out, wire);
        let header = OptionReplyHeader::decode(wire).unwrap();
        assert_eq!(header.option, option);
        assert_eq!(header.length as usize, wire.len() - OptionReplyHeader::LEN);
        assert_eq!(OptionReply::decode(header.reply, &wire[20..]), Ok(reply));
    }

    #[test]
    fn replies_have_the_bytes_of_the_specification() {
        both_ways(
            OptionReply::Ack,
            OptionCode::List,
            b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x03\0\0\0\x01\0\0\0\0",
        );
        both_ways(
            OptionReply::Server { name: "disk".into(), description: "first".into() },
            OptionCode::List,
            b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x03\0\0\0\x02\0\0\0\x0d\0\0\0\x04diskfirst",
        );
        both_ways(
            OptionReply::Info(Info::Export { size: 1 << 30, flags: TransmissionFlags(0x0103) }),
            OptionCode::Go,
            b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x0c\
              \0\0\0\0\0\0\x40\0\0\0\x01\x03",
        );
        both_ways(
            OptionReply::Info(Info::BlockSize(BlockSizes {
                minimum: 1,
                preferred: 4096,
                maximum: 32 << 20,
            })),
            OptionCode::Info,
            b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x06\0\0\0\x03\0\0\0\x0e\
              \0\x03\0\0\0\x01\0\0\x10\0\x02\0\0\0",
        );
        both_ways(
            OptionReply::MetaContext { id: 1, name: "base:allocation".into() },
            OptionCode::SetMetaContext,
            b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x0a\0\0\0\x04\0\0\0\x13\
              \0\0\0\x01base:allocation",
        );
        both_ways(
            OptionReply::error(ReplyCode::ErrUnsupported, "no"),
            OptionCode::StartTls,
            b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x05\x80\0\0\x01\0\0\0\x02no",
        );
    }

    #[test]
    fn nonsense_block_sizes_are_refused() {
        for sizes in [[0u32, 4096, 65536], [3, 4096, 65536], [4096, 512, 65536], [512, 1024, 1]] {
            let mut data = vec![0, 3];
            sizes.iter().for_each(|size| data.put_u32(*size));
            assert!(OptionReply::decode(ReplyCode::Info, &data).is_err(), "{sizes:?}");
        }
    }

    #[test]
    fn unknown_replies_and_infos_survive_for_the_caller_to_ignore() {
        assert_eq!(OptionReply::decode(ReplyCode::Other(77), b"x"), Ok(OptionReply::Other(77)));
        assert_eq!(
            OptionReply::decode(ReplyCode::Info, b"\x01\x00zzz"),
            Ok(OptionReply::Info(Info::Other(256)))
        );
        let odd = ReplyCode::from_code(0x8000_7777);
        assert!(odd.is_error());
        let error = OptionReply::decode(odd, b"\xff!").unwrap();
        assert!(matches!(error, OptionReply::Error { message, .. } if message.ends_with('!')));
    }
}
