//! The server's side of the fixed newstyle negotiation.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use sluice_nbd_wire::{
    BASE_ALLOCATION, BlockSizes, ClientFlags, ExportNameReply, Framing, Greeting, HandshakeFlags,
    Info, InfoRequest, MetaRequest, OptionCode, OptionHeader, OptionReply, OptionRequest,
    ReplyCode, TransmissionFlags, WireError, limits,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::command::{ALLOCATION_ID, Agreement};
use crate::export::{Exports, Served};

/// Why a negotiation did not lead to transmission.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    /// The client broke the protocol.
    #[error("the client does not speak the protocol: {0}")]
    Wire(#[from] WireError),
    /// The client set flags that were not offered.
    #[error("the client set unknown flags {0:#x}")]
    Flags(u32),
    /// There is no such export, and the option has no way to say so.
    #[error("the client asked for the unknown export {0:?}")]
    UnknownExport(String),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

/// What to do after an option was answered.
enum Next {
    Continue,
    Transmission(Agreement),
    End,
}

/// Negotiates until transmission begins; `None` when the client ends the session in good order.
pub(crate) async fn negotiate<R, W>(
    exports: &Exports,
    input: &mut R,
    output: &mut W,
) -> Result<Option<Agreement>, HandshakeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    let mut out = BytesMut::new();
    Greeting { flags }.encode(&mut out);
    output.write_all_buf(&mut out).await?;

    let mut bytes = [0; ClientFlags::LEN];
    input.read_exact(&mut bytes).await?;
    let client = ClientFlags::decode(&bytes)?;
    if client.without(ClientFlags::KNOWN) != ClientFlags::empty() {
        return Err(HandshakeError::Flags(client.0));
    }
    let mut negotiation = Negotiation {
        exports,
        no_zeroes: client.contains(ClientFlags::NO_ZEROES),
        framing: Framing::Simple,
        allocation: None,
        out,
    };
    loop {
        let mut head = [0; OptionHeader::LEN];
        if input.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        input.read_exact(&mut head[1..]).await?;
        let header = OptionHeader::decode(&head)?;
        // The header was admitted, so this is at most `limits::OPTION_DATA`.
        let mut data = vec![0; header.length as usize];
        input.read_exact(&mut data).await?;
        let next = negotiation.option(header.code, &data)?;
        output.write_all_buf(&mut negotiation.out).await?;
        match next {
            Next::Continue => {}
            Next::Transmission(agreement) => return Ok(Some(agreement)),
            Next::End => return Ok(None),
        }
    }
}

/// What was agreed so far. Pure: bytes come in as options and leave through `out`.
struct Negotiation<'a> {
    exports: &'a Exports,
    no_zeroes: bool,
    framing: Framing,
    /// The export for which `base:allocation` was selected last.
    allocation: Option<Arc<Served>>,
    out: BytesMut,
}

impl Negotiation<'_> {
    fn option(&mut self, code: OptionCode, data: &[u8]) -> Result<Next, HandshakeError> {
        let request = match OptionRequest::decode(code, data) {
            Ok(request) => request,
            // This option has no error reply.
            Err(error) if code == OptionCode::ExportName => return Err(error.into()),
            Err(error) => {
                self.refuse(code, ReplyCode::ErrInvalid, error.to_string());
                return Ok(Next::Continue);
            }
        };
        match request {
            OptionRequest::ExportName(name) => return self.export_name(name),
            OptionRequest::Abort => {
                self.reply(code, &OptionReply::Ack);
                return Ok(Next::End);
            }
            OptionRequest::Go(request) => return Ok(self.info(code, &request)),
            OptionRequest::Info(request) => {
                self.info(code, &request);
            }
            OptionRequest::List => self.list(),
            OptionRequest::StructuredReply => self.raise(code, Framing::Structured),
            OptionRequest::ExtendedHeaders => self.raise(code, Framing::Extended),
            OptionRequest::ListMetaContext(request) => self.meta(code, &request),
            OptionRequest::SetMetaContext(request) => self.meta(code, &request),
            OptionRequest::StartTls => {
                self.refuse(code, ReplyCode::ErrUnsupported, "TLS is not served here");
            }
            OptionRequest::Other(_) => {
                self.refuse(code, ReplyCode::ErrUnsupported, "the option is not known");
            }
        }
        Ok(Next::Continue)
    }

    fn reply(&mut self, option: OptionCode, reply: &OptionReply) {
        reply.encode(option, &mut self.out);
    }

    fn refuse(&mut self, option: OptionCode, code: ReplyCode, message: impl Into<String>) {
        self.reply(option, &OptionReply::error(code, message));
    }

    fn export_name(&mut self, name: String) -> Result<Next, HandshakeError> {
        let Some(served) = self.exports.find(&name) else {
            return Err(HandshakeError::UnknownExport(name));
        };
        let agreement = self.agree(served);
        let size = served.export.device.size();
        ExportNameReply { size, flags: self.flags() }.encode(self.no_zeroes, &mut self.out);
        Ok(Next::Transmission(agreement))
    }

    fn list(&mut self) {
        for export in self.exports.iter() {
            let (name, description) = (export.name.clone(), export.description.clone());
            let reply = OptionReply::Server { name, description };
            reply.encode(OptionCode::List, &mut self.out);
        }
        self.reply(OptionCode::List, &OptionReply::Ack);
    }

    fn info(&mut self, code: OptionCode, request: &InfoRequest) -> Next {
        let Some(served) = self.exports.find(&request.name) else {
            let message = format!("there is no export called {:?}", request.name);
            self.refuse(code, ReplyCode::ErrUnknown, message);
            return Next::Continue;
        };
        let export = &served.export;
        let mut infos = vec![
            Info::Export { size: export.device.size(), flags: self.flags() },
            Info::BlockSize(BlockSizes { minimum: 1, preferred: 4096, maximum: limits::PAYLOAD }),
            Info::Name(export.name.clone()),
        ];
        if !export.description.is_empty() {
            infos.push(Info::Description(export.description.clone()));
        }
        for info in infos {
            self.reply(code, &OptionReply::Info(info));
        }
        self.reply(code, &OptionReply::Ack);
        Next::Transmission(self.agree(served))
    }

    /// Moves to a richer framing; never back.
    fn raise(&mut self, code: OptionCode, framing: Framing) {
        if self.framing == Framing::Extended {
            let message = "extended headers are already agreed on";
            let error = if framing == Framing::Extended {
                ReplyCode::ErrInvalid
            } else {
                ReplyCode::ErrExtendedHeadersRequired
            };
            return self.refuse(code, error, message);
        }
        if self.framing == framing {
            let message = "structured replies are already agreed on";
            return self.refuse(code, ReplyCode::ErrInvalid, message);
        }
        self.framing = framing;
        self.reply(code, &OptionReply::Ack);
    }

    fn meta(&mut self, code: OptionCode, request: &MetaRequest) {
        let set = code == OptionCode::SetMetaContext;
        if set {
            // Whatever follows, the earlier selection is gone.
            self.allocation = None;
        }
        if self.framing == Framing::Simple {
            let message = "metadata contexts need structured replies; ask for these first";
            return self.refuse(code, ReplyCode::ErrInvalid, message);
        }
        let Some(served) = self.exports.find(&request.export) else {
            let message = format!("there is no export called {:?}", request.export);
            return self.refuse(code, ReplyCode::ErrUnknown, message);
        };
        if let Some(query) = request.queries.iter().find(|query| !query.contains(':')) {
            let message = format!("the query {query:?} has no namespace");
            return self.refuse(code, ReplyCode::ErrInvalid, message);
        }
        let wanted = if set {
            request.queries.iter().any(|query| query == BASE_ALLOCATION)
        } else {
            let matches = |query: &String| query == BASE_ALLOCATION || query == "base:";
            request.queries.is_empty() || request.queries.iter().any(matches)
        };
        if wanted {
            if set {
                self.allocation = Some(Arc::clone(served));
            }
            let id = if set { ALLOCATION_ID } else { 0 };
            let name = BASE_ALLOCATION.to_owned();
            self.reply(code, &OptionReply::MetaContext { id, name });
        }
        self.reply(code, &OptionReply::Ack);
    }

    fn flags(&self) -> TransmissionFlags {
        let flags = TransmissionFlags::HAS_FLAGS
            | TransmissionFlags::READ_ONLY
            | TransmissionFlags::CAN_MULTI_CONN
            | TransmissionFlags::SEND_CACHE;
        if self.framing == Framing::Simple { flags } else { flags | TransmissionFlags::SEND_DF }
    }

    fn agree(&self, served: &Arc<Served>) -> Agreement {
        let selected = self.allocation.as_ref();
        Agreement {
            served: Arc::clone(served),
            framing: self.framing,
            allocation: selected.is_some_and(|selected| Arc::ptr_eq(selected, served)),
        }
    }
}
