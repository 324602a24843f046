//! Replies of the transmission phase ("Simple reply message", "Structured reply chunk message",
//! "Structured reply types").

use bytes::BufMut;

use crate::cursor::{Cursor, magic};
use crate::handshake::at_most;
use crate::{Errno, Framing, ReplyFlags, WireError, limits};

/// The start of a simple reply.
const SIMPLE: u32 = 0x6744_6698;
/// The start of a structured reply chunk.
const STRUCTURED: u32 = 0x668e_33ef;
/// The start of a chunk with a 64-bit length.
const EXTENDED: u32 = 0x6e8a_278c;

/// A reply of one piece; the content of a successful read follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// Why the request failed; `None` for success.
    pub error: Option<Errno>,
    /// The request's cookie.
    pub cookie: u64,
}

impl SimpleReply {
    /// Bytes on the wire.
    pub const LEN: usize = 16;

    /// Appends the header to `out`.
    pub fn encode(self, out: &mut impl BufMut) {
        out.put_u32(SIMPLE);
        out.put_u32(self.error.map_or(0, Errno::code));
        out.put_u64(self.cookie);
    }
}

/// What a chunk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChunkType {
    /// `NBD_REPLY_TYPE_NONE` (0): nothing; the end.
    None,
    /// `NBD_REPLY_TYPE_OFFSET_DATA` (1): an offset and bytes.
    OffsetData,
    /// `NBD_REPLY_TYPE_OFFSET_HOLE` (2): an offset and a number of zeroes.
    OffsetHole,
    /// `NBD_REPLY_TYPE_BLOCK_STATUS` (5): descriptors with 32-bit lengths.
    BlockStatus,
    /// `NBD_REPLY_TYPE_BLOCK_STATUS_EXT` (6): descriptors with 64-bit lengths.
    BlockStatusExt,
    /// `NBD_REPLY_TYPE_ERROR`.
    Error,
    /// `NBD_REPLY_TYPE_ERROR_OFFSET`: an error at one offset.
    ErrorOffset,
    /// Any other number.
    Other(u16),
}

/// The bit that marks error chunks.
const ERROR: u16 = 1 << 15;

impl ChunkType {
    /// The type of a number on the wire.
    pub fn from_code(code: u16) -> Self {
        match code {
            0 => Self::None,
            1 => Self::OffsetData,
            2 => Self::OffsetHole,
            5 => Self::BlockStatus,
            6 => Self::BlockStatusExt,
            0x8001 => Self::Error,
            0x8002 => Self::ErrorOffset,
            other => Self::Other(other),
        }
    }

    /// The number on the wire.
    pub fn code(self) -> u16 {
        match self {
            Self::None => 0,
            Self::OffsetData => 1,
            Self::OffsetHole => 2,
            Self::BlockStatus => 5,
            Self::BlockStatusExt => 6,
            Self::Error => ERROR | 1,
            Self::ErrorOffset => ERROR | 2,
            Self::Other(code) => code,
        }
    }

    /// Whether the chunk reports a failure.
    pub fn is_error(self) -> bool {
        self.code() & ERROR != 0
    }
}

/// The head of a chunk; `length` bytes of payload follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Modifiers.
    pub flags: ReplyFlags,
    /// What the payload holds.
    pub kind: ChunkType,
    /// The request's cookie.
    pub cookie: u64,
    /// The request's offset; on the wire in extended framing only, else 0.
    pub offset: u64,
    /// Bytes of payload, at most [`limits::CHUNK`].
    pub length: u32,
}

impl ChunkHeader {
    /// Bytes of a chunk's header on the wire.
    pub const fn len(framing: Framing) -> usize {
        match framing {
            Framing::Simple | Framing::Structured => 20,
            Framing::Extended => 32,
        }
    }

    /// Appends the header to `out`.
    pub fn encode(&self, framing: Framing, out: &mut impl BufMut) {
        let extended = framing == Framing::Extended;
        out.put_u32(if extended { EXTENDED } else { STRUCTURED });
        out.put_u16(self.flags.0);
        out.put_u16(self.kind.code());
        out.put_u64(self.cookie);
        if extended {
            out.put_u64(self.offset);
            out.put_u64(u64::from(self.length));
        } else {
            out.put_u32(self.length);
        }
    }

    fn decode(framing: Framing, bytes: &[u8]) -> Result<Self, WireError> {
        let extended = framing == Framing::Extended;
        let mut cursor = Cursor::new(bytes, "a reply chunk");
        let wanted = if extended { EXTENDED } else { STRUCTURED };
        magic(u64::from(cursor.u32()?), u64::from(wanted), "a reply chunk")?;
        let flags = ReplyFlags(cursor.u16()?);
        let kind = ChunkType::from_code(cursor.u16()?);
        let cookie = cursor.u64()?;
        let offset = if extended { cursor.u64()? } else { 0 };
        let length = if extended { cursor.u64()? } else { u64::from(cursor.u32()?) };
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        at_most(length, limits::CHUNK, "the payload of a reply chunk")?;
        Ok(Self { flags, kind, cookie, offset, length })
    }
}

/// The head of any reply, as a client meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyHeader {
    /// A simple reply.
    Simple(SimpleReply),
    /// A chunk of a structured reply.
    Chunk(ChunkHeader),
}

impl ReplyHeader {
    /// Bytes of the shortest header; enough for [`len`](Self::len).
    pub const PREFIX: usize = SimpleReply::LEN;

    /// Bytes of the header that starts with `prefix`.
    ///
    /// # Errors
    /// [`WireError::Magic`] when no reply of the agreed framing starts so;
    /// [`WireError::Truncated`] below four bytes.
    pub fn len(framing: Framing, prefix: &[u8]) -> Result<usize, WireError> {
        match (framing, Cursor::new(prefix, "a reply").u32()?) {
            (Framing::Simple | Framing::Structured, SIMPLE) => Ok(SimpleReply::LEN),
            (Framing::Structured, STRUCTURED) | (Framing::Extended, EXTENDED) => {
                Ok(ChunkHeader::len(framing))
            }
            (_, found) => Err(WireError::Magic { what: "a reply", found: u64::from(found) }),
        }
    }

    /// Reads a header of [`len`](Self::len) bytes.
    ///
    /// # Errors
    /// [`WireError::Magic`], [`WireError::TooLong`], [`WireError::Truncated`].
    pub fn decode(framing: Framing, bytes: &[u8]) -> Result<Self, WireError> {
        if Self::len(framing, bytes)? != SimpleReply::LEN {
            return ChunkHeader::decode(framing, bytes).map(Self::Chunk);
        }
        let mut cursor = Cursor::new(bytes, "a reply");
        cursor.u32()?;
        let error = Errno::from_code(cursor.u32()?);
        Ok(Self::Simple(SimpleReply { error, cookie: cursor.u64()? }))
    }
}

/// A run of one status in a metadata context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusExtent {
    /// Bytes, never zero.
    pub length: u64,
    /// What the context says of them.
    pub flags: u64,
}

/// A chunk's payload. Content is borrowed: the caller decides where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// Nothing; the end.
    None,
    /// Bytes at an offset of the export.
    OffsetData {
        /// First byte on the export.
        offset: u64,
        /// Content, never empty.
        data: &'a [u8],
    },
    /// Zeroes at an offset of the export.
    OffsetHole {
        /// First byte on the export.
        offset: u64,
        /// Bytes, never zero.
        length: u32,
    },
    /// Consecutive runs from the request's offset on.
    BlockStatus {
        /// The context's number, from the handshake.
        context: u32,
        /// The runs, at least one.
        extents: Vec<StatusExtent>,
    },
    /// The request failed.
    Error {
        /// Why.
        error: Errno,
        /// A text for people; may be empty.
        message: String,
        /// Where, when the server knows.
        offset: Option<u64>,
    },
    /// An unknown chunk that is not an error.
    Other(u16),
}

impl<'a> Chunk<'a> {
    /// Bytes before the content in an [`ChunkType::OffsetData`] payload.
    pub const DATA_PREFIX: usize = 8;

    /// Reads the payload of a chunk whose header said `kind` and `payload.len()`.
    ///
    /// # Errors
    /// A [`WireError`]: the server breaks the protocol.
    pub fn decode(kind: ChunkType, payload: &'a [u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(payload, "a reply chunk");
        let chunk = match kind {
            ChunkType::None => Self::None,
            ChunkType::OffsetData => {
                let offset = cursor.u64()?;
                if cursor.remaining() == 0 {
                    return Err(WireError::Invalid { what: "an empty data chunk" });
                }
                Self::OffsetData { offset, data: cursor.rest() }
            }
            ChunkType::OffsetHole => {
                let (offset, length) = (cursor.u64()?, cursor.u32()?);
                if length == 0 {
                    return Err(WireError::Invalid { what: "an empty hole chunk" });
                }
                Self::OffsetHole { offset, length }
            }
            ChunkType::BlockStatus => decode_status(&mut cursor, false)?,
            ChunkType::BlockStatusExt => decode_status(&mut cursor, true)?,
            ChunkType::Other(code) if !kind.is_error() => return Ok(Self::Other(code)),
            ChunkType::Error | ChunkType::ErrorOffset | ChunkType::Other(_) => {
                return decode_error(&mut cursor, kind);
            }
        };
        cursor.end()?;
        Ok(chunk)
    }

    /// The type that goes into the header.
    pub fn kind(&self, framing: Framing) -> ChunkType {
        match self {
            Self::None => ChunkType::None,
            Self::OffsetData { .. } => ChunkType::OffsetData,
            Self::OffsetHole { .. } => ChunkType::OffsetHole,
            Self::BlockStatus { .. } if framing == Framing::Extended => ChunkType::BlockStatusExt,
            Self::BlockStatus { .. } => ChunkType::BlockStatus,
            Self::Error { offset: None, .. } => ChunkType::Error,
            Self::Error { .. } => ChunkType::ErrorOffset,
            Self::Other(code) => ChunkType::Other(*code),
        }
    }

    /// Appends the payload to `out`. In compact framing, lengths and flags of block status must
    /// fit 32 bits.
    pub fn encode(&self, framing: Framing, out: &mut impl BufMut) {
        match self {
            Self::None | Self::Other(_) => {}
            Self::OffsetData { offset, data } => {
                out.put_u64(*offset);
                out.put_slice(data);
            }
            Self::OffsetHole { offset, length } => {
                out.put_u64(*offset);
                out.put_u32(*length);
            }
            Self::BlockStatus { context, extents } => {
                out.put_u32(*context);
                let extended = framing == Framing::Extended;
                if extended {
                    out.put_u32(extents.len() as u32);
                }
                extents.iter().for_each(|extent| extent.encode(extended, out));
            }
            Self::Error { error, message, offset } => {
                out.put_u32(error.code());
                out.put_u16(message.len() as u16);
                out.put_slice(message.as_bytes());
                if let Some(offset) = offset {
                    out.put_u64(*offset);
                }
            }
        }
    }
}

impl StatusExtent {
    fn encode(self, extended: bool, out: &mut impl BufMut) {
        if extended {
            out.put_u64(self.length);
            out.put_u64(self.flags);
        } else {
            debug_assert!(u32::try_from(self.length).is_ok());
            out.put_u32(self.length as u32);
            out.put_u32(self.flags as u32);
        }
    }
}

fn decode_status(cursor: &mut Cursor<'_>, extended: bool) -> Result<Chunk<'static>, WireError> {
    let context = cursor.u32()?;
    let announced = if extended { Some(cursor.u32()? as usize) } else { None };
    let width = if extended { 16 } else { 8 };
    let count = cursor.remaining() / width;
    if count == 0 || count > limits::STATUS_EXTENTS || announced.is_some_and(|n| n != count) {
        return Err(WireError::Invalid { what: "the number of block status descriptors" });
    }
    let mut extents = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, flags) = if extended {
            (cursor.u64()?, cursor.u64()?)
        } else {
            (u64::from(cursor.u32()?), u64::from(cursor.u32()?))
        };
        if length == 0 {
            return Err(WireError::Invalid { what: "an empty block status descriptor" });
        }
        extents.push(StatusExtent { length, flags });
    }
    Ok(Chunk::BlockStatus { context, extents })
}

fn decode_error(cursor: &mut Cursor<'_>, kind: ChunkType) -> Result<Chunk<'static>, WireError> {
    let error = Errno::from_code(cursor.u32()?)
        .ok_or(WireError::Invalid { what: "an error chunk that reports success" })?;
    let length = cursor.u16()?;
    let message = String::from_utf8_lossy(cursor.take(usize::from(length))?).into_owned();
    let offset = if kind == ChunkType::ErrorOffset { Some(cursor.u64()?) } else { None };
    // Further fields belong to error types that are not known here; they are skipped.
    Ok(Chunk::Error { error, message, offset })
}
