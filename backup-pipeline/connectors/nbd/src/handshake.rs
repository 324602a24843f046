//! The client's side of the fixed newstyle negotiation.

use bytes::BytesMut;
use sluice_nbd_wire::{
    BlockSizes, ClientFlags, ExportNameReply, Framing, Greeting, HandshakeFlags, Info, InfoRequest,
    InfoType, MetaRequest, OptionReply, OptionReplyHeader, OptionRequest, ReplyCode,
    TransmissionFlags, limits,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::NbdError;

/// Replies to one option, so that a list without end is not followed.
const MOST_REPLIES: usize = 10_000;

/// What was agreed with the server.
#[derive(Debug, Clone)]
pub(crate) struct Agreement {
    pub(crate) framing: Framing,
    /// Size of the export in bytes.
    pub(crate) size: u64,
    pub(crate) flags: TransmissionFlags,
    pub(crate) sizes: BlockSizes,
    /// Numbers and names of the selected metadata contexts.
    pub(crate) contexts: Vec<(u32, String)>,
}

impl Agreement {
    /// The number of a selected metadata context.
    pub(crate) fn context(&self, name: &str) -> Option<u32> {
        self.contexts.iter().find(|(_, known)| known == name).map(|(id, _)| *id)
    }
}

/// A connection before transmission.
pub(crate) struct Negotiation<S> {
    stream: S,
    no_zeroes: bool,
    framing: Framing,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Negotiation<S> {
    /// Exchanges greetings and settles the framing, the richest the server knows.
    pub(crate) async fn begin(mut stream: S) -> Result<Self, NbdError> {
        let mut greeting = [0; Greeting::LEN];
        stream.read_exact(&mut greeting).await.map_err(lost)?;
        let server = Greeting::decode(&greeting)?.flags;
        if !server.contains(HandshakeFlags::FIXED_NEWSTYLE) {
            return Err(NbdError::Protocol("it knows no fixed newstyle negotiation; update it"));
        }
        let no_zeroes = server.contains(HandshakeFlags::NO_ZEROES);
        let mut flags = ClientFlags::FIXED_NEWSTYLE;
        if no_zeroes {
            flags = flags | ClientFlags::NO_ZEROES;
        }
        let mut out = BytesMut::new();
        flags.encode(&mut out);
        stream.write_all(&out).await.map_err(lost)?;
        let mut this = Self { stream, no_zeroes, framing: Framing::Simple };
        for (option, framing) in [
            (OptionRequest::ExtendedHeaders, Framing::Extended),
            (OptionRequest::StructuredReply, Framing::Structured),
        ] {
            match this.option(&option).await?.last() {
                Some(OptionReply::Ack) => {
                    this.framing = framing;
                    break;
                }
                Some(OptionReply::Error { code: ReplyCode::ErrTlsRequired, .. }) => {
                    return Err(NbdError::TlsRequired);
                }
                _ => {}
            }
        }
        Ok(this)
    }

    /// Selects those of `names` that the export has.
    pub(crate) async fn select(
        &mut self,
        export: &str,
        names: &[String],
    ) -> Result<Vec<(u32, String)>, NbdError> {
        if self.framing == Framing::Simple || names.is_empty() {
            return Ok(vec![]);
        }
        let request = MetaRequest { export: export.to_owned(), queries: names.to_vec() };
        self.contexts(&OptionRequest::SetMetaContext(request)).await
    }

    /// The names of the contexts that match `query`, a namespace or a prefix.
    pub(crate) async fn list(
        &mut self,
        export: &str,
        query: &str,
    ) -> Result<Vec<String>, NbdError> {
        if self.framing == Framing::Simple {
            return Ok(vec![]);
        }
        let request = MetaRequest { export: export.to_owned(), queries: vec![query.to_owned()] };
        let found = self.contexts(&OptionRequest::ListMetaContext(request)).await?;
        Ok(found.into_iter().map(|(_, name)| name).collect())
    }

    async fn contexts(&mut self, request: &OptionRequest) -> Result<Vec<(u32, String)>, NbdError> {
        let replies = self.option(request).await?;
        // Metadata is a bonus: a server that refuses has none, and GO will tell of other trouble.
        if !matches!(replies.last(), Some(OptionReply::Ack)) {
            return Ok(vec![]);
        }
        let contexts = replies.into_iter().filter_map(|reply| match reply {
            OptionReply::MetaContext { id, name } => Some((id, name)),
            _ => None,
        });
        Ok(contexts.collect())
    }

    /// Enters transmission.
    pub(crate) async fn go(
        mut self,
        export: &str,
        contexts: Vec<(u32, String)>,
    ) -> Result<(S, Agreement), NbdError> {
        let infos = vec![InfoType::BlockSize];
        let request = OptionRequest::Go(InfoRequest { name: export.to_owned(), infos });
        let mut replies = self.option(&request).await?;
        let (size, flags, sizes) = match replies.pop() {
            Some(OptionReply::Ack) => described(&replies)?,
            Some(OptionReply::Error { code: ReplyCode::ErrUnsupported, .. }) => {
                self.export_name(export).await?
            }
            Some(OptionReply::Error { code: ReplyCode::ErrUnknown, .. }) => {
                let name = export.to_owned();
                let offered = self.exports().await?;
                return Err(NbdError::NoSuchExport { name, offered });
            }
            Some(OptionReply::Error { code: ReplyCode::ErrTlsRequired, .. }) => {
                return Err(NbdError::TlsRequired);
            }
            Some(OptionReply::Error { message, .. }) => {
                return Err(NbdError::Refused { what: "to open the export", message });
            }
            _ => return Err(NbdError::Protocol("the reply to GO has no end")),
        };
        let sizes = BlockSizes {
            // A server may announce a maximum that is no multiple of the minimum, or more than
            // this client would ever send.
            maximum: sizes.maximum.min(limits::PAYLOAD),
            ..sizes
        };
        if size > i64::MAX as u64 {
            return Err(NbdError::Protocol("the size of the export is not a number of bytes"));
        }
        if sizes.minimum > sizes.maximum {
            return Err(NbdError::Protocol("its smallest block is over 32 MiB"));
        }
        let framing = self.framing;
        Ok((self.stream, Agreement { framing, size, flags, sizes, contexts }))
    }

    /// The way into transmission of servers that know no GO.
    async fn export_name(
        &mut self,
        export: &str,
    ) -> Result<(u64, TransmissionFlags, BlockSizes), NbdError> {
        let mut out = BytesMut::new();
        OptionRequest::ExportName(export.to_owned()).encode(&mut out);
        self.stream.write_all(&out).await.map_err(lost)?;
        let mut reply = vec![0; ExportNameReply::len(self.no_zeroes)];
        self.stream
            .read_exact(&mut reply)
            .await
            .map_err(|_| NbdError::NoSuchExport { name: export.to_owned(), offered: vec![] })?;
        let reply = ExportNameReply::decode(&reply)?;
        Ok((reply.size, reply.flags, UNKNOWN_SIZES))
    }

    async fn exports(&mut self) -> Result<Vec<String>, NbdError> {
        let replies = self.option(&OptionRequest::List).await?;
        let names = replies.into_iter().filter_map(|reply| match reply {
            OptionReply::Server { name, .. } => Some(name),
            _ => None,
        });
        Ok(names.collect())
    }

    /// Sends an option; returns its replies, the final one last.
    async fn option(&mut self, request: &OptionRequest) -> Result<Vec<OptionReply>, NbdError> {
        let mut out = BytesMut::new();
        request.encode(&mut out);
        self.stream.write_all(&out).await.map_err(lost)?;
        let mut replies = vec![];
        while replies.len() < MOST_REPLIES {
            let mut head = [0; OptionReplyHeader::LEN];
            self.stream.read_exact(&mut head).await.map_err(lost)?;
            let header = OptionReplyHeader::decode(&head)?;
            if header.option != request.code() {
                return Err(NbdError::Protocol("a reply belongs to another option"));
            }
            // The header was admitted, so this is at most `limits::OPTION_REPLY_DATA`.
            let mut data = vec![0; header.length as usize];
            self.stream.read_exact(&mut data).await.map_err(lost)?;
            let last = header.reply == ReplyCode::Ack || header.reply.is_error();
            replies.push(OptionReply::decode(header.reply, &data)?);
            if last {
                return Ok(replies);
            }
        }
        Err(NbdError::Protocol("an option has replies without end"))
    }
}

/// What a client must assume of a server that does not say ("Block size constraints").
const UNKNOWN_SIZES: BlockSizes =
    BlockSizes { minimum: 1, preferred: 4096, maximum: limits::PAYLOAD };

fn described(replies: &[OptionReply]) -> Result<(u64, TransmissionFlags, BlockSizes), NbdError> {
    let (mut export, mut sizes) = (None, UNKNOWN_SIZES);
    for reply in replies {
        match reply {
            OptionReply::Info(Info::Export { size, flags }) => export = Some((*size, *flags)),
            OptionReply::Info(Info::BlockSize(found)) => sizes = *found,
            _ => {}
        }
    }
    let (size, flags) = export.ok_or(NbdError::Protocol("it does not tell the export's size"))?;
    Ok((size, flags, sizes))
}

/// A connection that broke.
pub(crate) fn lost(error: std::io::Error) -> NbdError {
    let why = match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "the server closed it".to_owned(),
        _ => error.to_string(),
    };
    NbdError::Lost { why }
}
