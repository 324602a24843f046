//! Options: what a client asks for during the handshake ("Option types").

use bytes::BufMut;

use crate::cursor::{Cursor, utf8};
use crate::{OptionHeader, WireError, limits};

/// Which option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OptionCode {
    /// `NBD_OPT_EXPORT_NAME` (1): enter transmission, without an answer to errors.
    ExportName,
    /// `NBD_OPT_ABORT` (2): end the session.
    Abort,
    /// `NBD_OPT_LIST` (3): name the exports.
    List,
    /// `NBD_OPT_STARTTLS` (5).
    StartTls,
    /// `NBD_OPT_INFO` (6): describe an export.
    Info,
    /// `NBD_OPT_GO` (7): describe an export and enter transmission.
    Go,
    /// `NBD_OPT_STRUCTURED_REPLY` (8).
    StructuredReply,
    /// `NBD_OPT_LIST_META_CONTEXT` (9).
    ListMetaContext,
    /// `NBD_OPT_SET_META_CONTEXT` (10).
    SetMetaContext,
    /// `NBD_OPT_EXTENDED_HEADERS` (11).
    ExtendedHeaders,
    /// Any other number.
    Other(u32),
}

impl OptionCode {
    /// The option of a number on the wire.
    pub fn from_code(code: u32) -> Self {
        match code {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext,
            10 => Self::SetMetaContext,
            11 => Self::ExtendedHeaders,
            other => Self::Other(other),
        }
    }

    /// The number on the wire.
    pub fn code(self) -> u32 {
        match self {
            Self::ExportName => 1,
            Self::Abort => 2,
            Self::List => 3,
            Self::StartTls => 5,
            Self::Info => 6,
            Self::Go => 7,
            Self::StructuredReply => 8,
            Self::ListMetaContext => 9,
            Self::SetMetaContext => 10,
            Self::ExtendedHeaders => 11,
            Self::Other(code) => code,
        }
    }
}

/// Which piece of information about an export (`NBD_INFO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InfoType {
    /// `NBD_INFO_EXPORT` (0): size and transmission flags.
    Export,
    /// `NBD_INFO_NAME` (1): the canonical name.
    Name,
    /// `NBD_INFO_DESCRIPTION` (2).
    Description,
    /// `NBD_INFO_BLOCK_SIZE` (3).
    BlockSize,
    /// Any other number.
    Other(u16),
}

impl InfoType {
    /// The type of a number on the wire.
    pub fn from_code(code: u16) -> Self {
        match code {
            0 => Self::Export,
            1 => Self::Name,
            2 => Self::Description,
            3 => Self::BlockSize,
            other => Self::Other(other),
        }
    }

    /// The number on the wire.
    pub fn code(self) -> u16 {
        match self {
            Self::Export => 0,
            Self::Name => 1,
            Self::Description => 2,
            Self::BlockSize => 3,
            Self::Other(code) => code,
        }
    }
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfoRequest {
    /// Name of the export; empty for the default export.
    pub name: String,
    /// Information asked for beyond [`InfoType::Export`].
    pub infos: Vec<InfoType>,
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaRequest {
    /// Name of the export; empty for the default export.
    pub export: String,
    /// Contexts or patterns, each a namespace, a colon and a leaf name.
    pub queries: Vec<String>,
}

/// An option with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionRequest {
    /// Enter transmission on this export.
    ExportName(String),
    /// End the session.
    Abort,
    /// Name the exports.
    List,
    /// Encrypt the connection.
    StartTls,
    /// Describe an export.
    Info(InfoRequest),
    /// Describe an export and enter transmission.
    Go(InfoRequest),
    /// Use structured replies.
    StructuredReply,
    /// Name the metadata contexts of an export.
    ListMetaContext(MetaRequest),
    /// Select metadata contexts of an export.
    SetMetaContext(MetaRequest),
    /// Use 64-bit lengths.
    ExtendedHeaders,
    /// An option this crate does not know; its data is dropped.
    Other(u32),
}

impl OptionRequest {
    /// Which option this is.
    pub fn code(&self) -> OptionCode {
        match self {
            Self::ExportName(_) => OptionCode::ExportName,
            Self::Abort => OptionCode::Abort,
            Self::List => OptionCode::List,
            Self::StartTls => OptionCode::StartTls,
            Self::Info(_) => OptionCode::Info,
            Self::Go(_) => OptionCode::Go,
            Self::StructuredReply => OptionCode::StructuredReply,
            Self::ListMetaContext(_) => OptionCode::ListMetaContext,
            Self::SetMetaContext(_) => OptionCode::SetMetaContext,
            Self::ExtendedHeaders => OptionCode::ExtendedHeaders,
            Self::Other(code) => OptionCode::Other(*code),
        }
    }

    /// Reads the data of an option whose header was `code` and `data.len()`.
    ///
    /// # Errors
    /// A [`WireError`] to be answered with `NBD_REP_ERR_INVALID`; the stream is still in place.
    pub fn decode(code: OptionCode, data: &[u8]) -> Result<Self, WireError> {
        let bare =
            |request: Self| Cursor::new(data, "an option without data").end().map(|()| request);
        match code {
            OptionCode::ExportName => utf8(data, "an export name").map(Self::ExportName),
            // "The server MUST reply even if the client sends data with it."
            OptionCode::Abort => Ok(Self::Abort),
            OptionCode::List => bare(Self::List),
            OptionCode::StartTls => bare(Self::StartTls),
            OptionCode::Info => InfoRequest::decode(data).map(Self::Info),
            OptionCode::Go => InfoRequest::decode(data).map(Self::Go),
            OptionCode::StructuredReply => bare(Self::StructuredReply),
            OptionCode::ListMetaContext => MetaRequest::decode(data).map(Self::ListMetaContext),
            OptionCode::SetMetaContext => MetaRequest::decode(data).map(Self::SetMetaContext),
            OptionCode::ExtendedHeaders => bare(Self::ExtendedHeaders),
            OptionCode::Other(code) => Ok(Self::Other(code)),
        }
    }

    /// Appends header and data to `out`.
    pub fn encode(&self, out: &mut impl BufMut) {
        let mut data = Vec::new();
        match self {
            Self::ExportName(name) => data.put_slice(name.as_bytes()),
            Self::Info(info) | Self::Go(info) => info.encode(&mut data),
            Self::ListMetaContext(meta) | Self::SetMetaContext(meta) => meta.encode(&mut data),
            Self::Abort
            | Self::List
            | Self::StartTls
            | Self::StructuredReply
            | Self::ExtendedHeaders
            | Self::Other(_) => {}
        }
        OptionHeader { code: self.code(), length: data.len() as u32 }.encode(out);
        out.put_slice(&data);
    }
}

impl InfoRequest {
    fn decode(data: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(data, "a request for export information");
        let name = cursor.string("an export name")?;
        let count = cursor.u16()?;
        if count > limits::INFO_TYPES {
            return Err(WireError::Invalid { what: "the number of information types" });
        }
        let infos: Result<_, _> =
            (0..count).map(|_| cursor.u16().map(InfoType::from_code)).collect();
        let infos = infos?;
        cursor.end()?;
        Ok(Self { name, infos })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_string(&self.name, out);
        out.put_u16(self.infos.len() as u16);
        for info in &self.infos {
            out.put_u16(info.code());
        }
    }
}

impl MetaRequest {
    fn decode(data: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(data, "a request for metadata contexts");
        let export = cursor.string("an export name")?;
        let count = cursor.u32()?;
        if count > limits::QUERIES {
            return Err(WireError::Invalid { what: "the number of metadata queries" });
        }
        let queries: Result<_, _> = (0..count).map(|_| cursor.string("a metadata query")).collect();
        let queries = queries?;
        cursor.end()?;
        Ok(Self { export, queries })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_string(&self.export, out);
        out.put_u32(self.queries.len() as u32);
        for query in &self.queries {
            put_string(query, out);
        }
    }
}

fn put_string(text: &str, out: &mut Vec<u8>) {
    out.put_u32(text.len() as u32);
    out.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes, compares with the fixture, decodes back.
    fn both_ways(request: OptionRequest, wire: &[u8]) {
        let mut out = vec![];
        request.encode(&mut out);
        assert_eq!(out, wire);
        let header = OptionHeader::decode(wire).unwrap();
        assert_eq!(header.length as usize, wire.len() - OptionHeader::LEN);
        assert_eq!(OptionRequest::decode(header.code, &wire[16..]), Ok(request));
    }

    #[test]
    fn options_have_the_bytes_of_the_specification() {
        both_ways(
            OptionRequest::ExportName("disk".into()),
            b"IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x04disk",
        );
        both_ways(OptionRequest::List, b"IHAVEOPT\x00\x00\x00\x03\x00\x00\x00\x00");
        both_ways(
            OptionRequest::Go(InfoRequest {
                name: "a".into(),
                infos: vec![InfoType::BlockSize, InfoType::Other(9)],
            }),
            b"IHAVEOPT\0\0\0\x07\0\0\0\x0b\0\0\0\x01a\0\x02\0\x03\0\x09",
        );
        both_ways(
            OptionRequest::SetMetaContext(MetaRequest {
                export: "".into(),
                queries: vec!["base:allocation".into()],
            }),
            b"IHAVEOPT\0\0\0\x0a\0\0\0\x1b\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation",
        );
        both_ways(OptionRequest::ExtendedHeaders, b"IHAVEOPT\0\0\0\x0b\0\0\0\0");
    }

    #[test]
    fn lengths_that_leave_the_data_are_refused() {
        let cut = OptionRequest::decode(OptionCode::Go, b"\xff\xff\xff\xffa\0\0");
        assert!(matches!(cut, Err(WireError::Truncated { .. })));
        let queries = b"\0\0\0\0\xff\xff\xff\xff";
        assert!(OptionRequest::decode(OptionCode::SetMetaContext, queries).is_err());
        let trailing = OptionRequest::decode(OptionCode::Go, b"\0\0\0\0\0\0\0");
        assert_eq!(
            trailing,
            Err(WireError::Trailing { what: "a request for export information", extra: 1 })
        );
    }

    #[test]
    fn data_where_none_is_allowed_is_refused_except_for_abort() {
        assert!(OptionRequest::decode(OptionCode::List, b"x").is_err());
        assert!(OptionRequest::decode(OptionCode::StructuredReply, b"x").is_err());
        assert_eq!(OptionRequest::decode(OptionCode::Abort, b"x"), Ok(OptionRequest::Abort));
    }

    #[test]
    fn long_and_broken_names_are_refused() {
        let long = vec![b'a'; 4097];
        assert!(OptionRequest::decode(OptionCode::ExportName, &long).is_err());
        assert!(OptionRequest::decode(OptionCode::ExportName, &long[..4096]).is_ok());
        assert_eq!(
            OptionRequest::decode(OptionCode::ExportName, b"\xff\xfe"),
            Err(WireError::NotUtf8 { what: "an export name" })
        );
    }
}
