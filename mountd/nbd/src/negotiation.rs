//! What each option does.

use std::sync::Arc;

use bytes::BytesMut;
use sluice_nbd_wire::{
    ExportNameReply, Framing, Info, InfoRequest, InfoType, MetaRequest, OptionCode, OptionReply,
    OptionRequest, ReplyCode, TransmissionFlags,
};

use crate::command::{Agreement, causes};
use crate::context::{Context, MOST_CONTEXTS};
use crate::device::Device;
use crate::export::{Exports, Open};
use crate::handshake::HandshakeError;

/// What to do after an option was answered.
pub(crate) enum Next {
    Continue,
    Transmission(Agreement),
    Upgrade,
    End,
}

/// Where a connection is on its way to encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrecy {
    /// There is none here.
    Never,
    /// The client may ask for it.
    Offered,
    /// The client must ask for it.
    Required,
    /// It is in force.
    Established,
}

/// What was agreed so far. Bytes come in as options and leave through `out`.
pub(crate) struct Negotiation<'a> {
    exports: &'a Exports,
    no_zeroes: bool,
    secrecy: Secrecy,
    framing: Framing,
    /// What was selected last, and of which export.
    contexts: Option<(Arc<Open>, Vec<Context>)>,
    /// The export that was spoken of last: it stays open for the options that follow.
    held: Option<Arc<Open>>,
    pub(crate) out: BytesMut,
}

/// An option that failed: what to answer.
struct Refusal(ReplyCode, String);

impl<'a> Negotiation<'a> {
    pub(crate) fn new(exports: &'a Exports, no_zeroes: bool, secrecy: Secrecy) -> Self {
        let (framing, out) = (Framing::Simple, BytesMut::new());
        Self { exports, no_zeroes, secrecy, framing, contexts: None, held: None, out }
    }

    /// Answers one option.
    pub(crate) async fn option(
        &mut self,
        code: OptionCode,
        data: &[u8],
    ) -> Result<Next, HandshakeError> {
        let allowed = matches!(code, OptionCode::StartTls | OptionCode::Abort);
        if self.secrecy == Secrecy::Required && !allowed {
            return self.refuse_unencrypted(code);
        }
        let request = match OptionRequest::decode(code, data) {
            Ok(request) => request,
            // This option has no error reply.
            Err(error) if code == OptionCode::ExportName => return Err(error.into()),
            Err(error) => {
                self.refuse(code, ReplyCode::ErrInvalid, error.to_string());
                return Ok(Next::Continue);
            }
        };
        let answered = match request {
            OptionRequest::ExportName(name) => return self.export_name(name).await,
            OptionRequest::Abort => {
                self.reply(code, &OptionReply::Ack);
                return Ok(Next::End);
            }
            OptionRequest::Go(request) => self.info(code, &request).await.map(Next::Transmission),
            OptionRequest::Info(request) => self.info(code, &request).await.map(|_| Next::Continue),
            OptionRequest::List => {
                self.list();
                Ok(Next::Continue)
            }
            OptionRequest::StructuredReply => self.raise(code, Framing::Structured),
            OptionRequest::ExtendedHeaders => self.raise(code, Framing::Extended),
            OptionRequest::ListMetaContext(request) => self.list_contexts(code, &request).await,
            OptionRequest::SetMetaContext(request) => self.set_contexts(code, &request).await,
            OptionRequest::StartTls => self.start_tls(code),
            OptionRequest::Other(_) => {
                Err(Refusal(ReplyCode::ErrUnsupported, "the option is not known".to_owned()))
            }
        };
        Ok(answered.unwrap_or_else(|Refusal(error, message)| {
            self.refuse(code, error, message);
            Next::Continue
        }))
    }

    fn reply(&mut self, option: OptionCode, reply: &OptionReply) {
        reply.encode(option, &mut self.out);
    }

    fn refuse(&mut self, option: OptionCode, code: ReplyCode, message: impl Into<String>) {
        self.reply(option, &OptionReply::error(code, message));
    }

    /// Says nothing about what there is before the connection is encrypted.
    fn refuse_unencrypted(&mut self, code: OptionCode) -> Result<Next, HandshakeError> {
        let reason = "the connection must be encrypted first (NBD_OPT_STARTTLS)";
        if code == OptionCode::ExportName {
            let (name, reason) = (String::new(), reason.to_owned());
            return Err(HandshakeError::Refused { name, reason });
        }
        self.refuse(code, ReplyCode::ErrTlsRequired, reason);
        Ok(Next::Continue)
    }

    fn start_tls(&mut self, code: OptionCode) -> Result<Next, Refusal> {
        match self.secrecy {
            Secrecy::Offered | Secrecy::Required => {
                self.reply(code, &OptionReply::Ack);
                Ok(Next::Upgrade)
            }
            Secrecy::Never => {
                // "TLS support": a server that could but must not says "policy".
                Err(Refusal(ReplyCode::ErrUnsupported, "TLS is not served here".to_owned()))
            }
            Secrecy::Established => {
                Err(Refusal(ReplyCode::ErrInvalid, "the connection is encrypted".to_owned()))
            }
        }
    }

    /// The open export of that name, or why not.
    async fn open(&mut self, name: &str) -> Result<Arc<Open>, Refusal> {
        let Some(served) = self.exports.find(name) else {
            let message = format!("there is no export called {name:?}");
            return Err(Refusal(ReplyCode::ErrUnknown, message));
        };
        let open = served.open().await.map_err(|error| {
            let name = &served.export.name;
            tracing::warn!(export = name, "cannot open the export: {error}{}", causes(&error));
            let message = format!("the export cannot be opened: {error}");
            Refusal(ReplyCode::ErrUnknown, shorten(&message))
        })?;
        self.held = Some(Arc::clone(&open));
        Ok(open)
    }

    async fn export_name(&mut self, name: String) -> Result<Next, HandshakeError> {
        if self.exports.find(&name).is_none() {
            return Err(HandshakeError::UnknownExport(name));
        }
        let open = match self.open(&name).await {
            Ok(open) if open.sizes.minimum == 1 => open,
            Ok(_) => {
                let reason = "it must ask for the block sizes".to_owned();
                return Err(HandshakeError::Refused { name, reason });
            }
            Err(Refusal(_, reason)) => return Err(HandshakeError::Refused { name, reason }),
        };
        let agreement = self.agree(open);
        let (size, flags) = (agreement.open.size(), self.flags(&agreement));
        ExportNameReply { size, flags }.encode(self.no_zeroes, &mut self.out);
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

    async fn info(
        &mut self,
        code: OptionCode,
        request: &InfoRequest,
    ) -> Result<Agreement, Refusal> {
        let open = self.open(&request.name).await?;
        if open.sizes.minimum > 1 && !request.infos.contains(&InfoType::BlockSize) {
            let message = "ask for the block sizes, and keep to them".to_owned();
            return Err(Refusal(ReplyCode::ErrBlockSizeRequired, message));
        }
        let agreement = self.agree(Arc::clone(&open));
        let mut infos = vec![
            Info::Export { size: open.size(), flags: self.flags(&agreement) },
            Info::BlockSize(open.sizes),
            Info::Name(open.name.clone()),
        ];
        let served = self.exports.find(&request.name);
        let description = served.map_or("", |served| &served.export.description);
        if !description.is_empty() {
            infos.push(Info::Description(description.to_owned()));
        }
        for info in infos {
            self.reply(code, &OptionReply::Info(info));
        }
        self.reply(code, &OptionReply::Ack);
        Ok(agreement)
    }

    /// Moves to a richer framing; never back.
    fn raise(&mut self, code: OptionCode, framing: Framing) -> Result<Next, Refusal> {
        if self.framing == Framing::Extended {
            let message = "extended headers are already agreed on".to_owned();
            let error = if framing == Framing::Extended {
                ReplyCode::ErrInvalid
            } else {
                ReplyCode::ErrExtendedHeadersRequired
            };
            return Err(Refusal(error, message));
        }
        if self.framing == framing {
            let message = "structured replies are already agreed on".to_owned();
            return Err(Refusal(ReplyCode::ErrInvalid, message));
        }
        self.framing = framing;
        self.reply(code, &OptionReply::Ack);
        Ok(Next::Continue)
    }

    /// What both options about contexts have in common.
    async fn of_contexts(&mut self, request: &MetaRequest) -> Result<Arc<Open>, Refusal> {
        if self.framing == Framing::Simple {
            let message = "metadata contexts need structured replies; ask for these first";
            return Err(Refusal(ReplyCode::ErrInvalid, message.to_owned()));
        }
        let open = self.open(&request.export).await?;
        if let Some(query) = request.queries.iter().find(|query| !query.contains(':')) {
            let message = format!("the query {query:?} has no namespace");
            return Err(Refusal(ReplyCode::ErrInvalid, message));
        }
        Ok(open)
    }

    async fn list_contexts(
        &mut self,
        code: OptionCode,
        request: &MetaRequest,
    ) -> Result<Next, Refusal> {
        let open = self.of_contexts(request).await?;
        let all = [String::new()];
        let queries = if request.queries.is_empty() { &all[..] } else { &request.queries };
        let mut names: Vec<String> = Vec::new();
        for query in queries {
            for name in open.maps.list(query).await.map_err(not_now)? {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        for name in names {
            self.reply(code, &OptionReply::MetaContext { id: 0, name });
        }
        self.reply(code, &OptionReply::Ack);
        Ok(Next::Continue)
    }

    async fn set_contexts(
        &mut self,
        code: OptionCode,
        request: &MetaRequest,
    ) -> Result<Next, Refusal> {
        // Whatever follows, the earlier selection is gone.
        self.contexts = None;
        let open = self.of_contexts(request).await?;
        let mut selected: Vec<Context> = Vec::new();
        for query in &request.queries {
            if selected.iter().any(|context| context.name == *query) {
                continue;
            }
            if let Some(context) = open.maps.select(query).await.map_err(not_now)? {
                selected.push(context);
            }
            if selected.len() > MOST_CONTEXTS {
                let message = format!("select no more than {MOST_CONTEXTS} contexts at a time");
                return Err(Refusal(ReplyCode::ErrTooBig, message));
            }
        }
        for (id, context) in (1..).zip(&selected) {
            self.reply(code, &OptionReply::MetaContext { id, name: context.name.clone() });
        }
        self.reply(code, &OptionReply::Ack);
        self.contexts = Some((open, selected));
        Ok(Next::Continue)
    }

    fn flags(&self, agreement: &Agreement) -> TransmissionFlags {
        let mut flags = TransmissionFlags::HAS_FLAGS
            | TransmissionFlags::CAN_MULTI_CONN
            | TransmissionFlags::SEND_CACHE;
        flags = flags
            | match agreement.open.device {
                Device::ReadOnly(_) => TransmissionFlags::READ_ONLY,
                Device::Writable(_) => {
                    TransmissionFlags::SEND_FLUSH
                        | TransmissionFlags::SEND_FUA
                        | TransmissionFlags::SEND_TRIM
                        | TransmissionFlags::SEND_WRITE_ZEROES
                        | TransmissionFlags::SEND_FAST_ZERO
                }
            };
        if self.framing != Framing::Simple {
            flags = flags | TransmissionFlags::SEND_DF;
        }
        if self.framing == Framing::Extended && !agreement.contexts.is_empty() {
            flags = flags | TransmissionFlags::BLOCK_STATUS_PAYLOAD;
        }
        flags
    }

    fn agree(&self, open: Arc<Open>) -> Agreement {
        let selected = self.contexts.as_ref().filter(|(of, _)| Arc::ptr_eq(of, &open));
        let contexts = selected.map_or_else(Vec::new, |(_, contexts)| contexts.clone());
        Agreement { open, framing: self.framing, contexts: contexts.into() }
    }
}

fn not_now(error: sluice_block::BlockError) -> Refusal {
    tracing::warn!("cannot look for metadata contexts: {error}{}", causes(&error));
    Refusal(ReplyCode::ErrInvalid, shorten(&error.to_string()))
}

/// The beginning of a text: strings on the wire are short.
fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}
