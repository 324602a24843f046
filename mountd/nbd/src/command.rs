//! What each request does.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use sluice_block::{BlockError, ErrorKind, PoolBuffer};
use sluice_nbd_wire::{
    Chunk, Command, CommandFlags, Errno, Framing, Request, StatusFilter, limits,
};

use crate::context::Context;
use crate::export::Open;
use crate::read::{read, read_at_hand};
use crate::reply::{Content, Reply, ReplyBuilder};
use crate::write;

/// Bytes of one `NBD_CMD_CACHE` that are warmed; the command is a hint.
const CACHE_BYTES: u64 = 64 << 20;
/// Bytes of one step of warming.
const CACHE_STEP: u64 = 1 << 20;

/// What was agreed for a connection.
#[derive(Clone)]
pub(crate) struct Agreement {
    pub(crate) open: Arc<Open>,
    pub(crate) framing: Framing,
    /// The selected metadata contexts; the first has the number 1.
    pub(crate) contexts: Arc<[Context]>,
}

/// A connection in transmission, as its requests see it.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) agreement: Agreement,
    /// Whether something was written since the last flush.
    pub(crate) unflushed: Arc<AtomicBool>,
}

/// A request with what followed it on the wire.
pub(crate) struct Incoming {
    pub(crate) request: Request,
    pub(crate) payload: Payload,
}

/// What followed a request.
pub(crate) enum Payload {
    /// Nothing, or what was not wanted.
    None,
    /// The content of a write.
    Content(PoolBuffer),
    /// What a block status request is about.
    Filter(StatusFilter),
    /// Nonsense, and what is wrong with it.
    Invalid(String),
}

/// A request that is refused: the number and a text for people.
pub(crate) type Refused = (Errno, &'static str);

/// Bytes of content that a request needs memory for.
pub(crate) fn weight(agreement: &Agreement, request: &Request) -> u64 {
    match request.command {
        Command::Read => request.length.min(u64::from(limits::PAYLOAD)),
        Command::Write if agreement.open.device.writer().is_some() => request.length,
        Command::Cache => request.length.min(CACHE_STEP),
        Command::WriteZeroes if request.flags.contains(CommandFlags::NO_HOLE) => {
            request.length.min(write::STEP)
        }
        _ => 0,
    }
}

/// Runs a request to its reply, even when the device crashes: a request without an answer would
/// leave its client waiting for ever.
pub(crate) async fn answer(link: Link, incoming: Incoming) -> Reply {
    let request = incoming.request;
    let builder = ReplyBuilder::new(link.agreement.framing, &request);
    AssertUnwindSafe(execute(link, incoming)).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(?request, "the device crashed");
        builder.error(Errno::Io, "the request crashed")
    })
}

/// The reply to a request that needs neither waiting nor work worth sharing.
pub(crate) fn answer_at_hand(link: &Link, incoming: &Incoming) -> Option<Reply> {
    let (agreement, request) = (&link.agreement, &incoming.request);
    if request.command != Command::Read || check(agreement, request, &incoming.payload).is_err() {
        return None;
    }
    // A device that crashes does so once more, where it is told.
    let answered = std::panic::catch_unwind(AssertUnwindSafe(|| read_at_hand(agreement, request)));
    answered.ok().flatten()
}

async fn execute(link: Link, incoming: Incoming) -> Reply {
    let Incoming { mut request, payload } = incoming;
    let agreement = &link.agreement;
    let builder = ReplyBuilder::new(agreement.framing, &request);
    match &payload {
        // What the header counts is the payload; from here on, the range counts.
        Payload::Filter(filter) => request.length = filter.length,
        Payload::Invalid(message) => return builder.error(Errno::Invalid, message),
        Payload::None | Payload::Content(_) => {}
    }
    if let Err((error, message)) = check(agreement, &request, &payload) {
        tracing::debug!(?request, %error, message, "request refused");
        return builder.error(error, message);
    }
    let outcome = match (request.command, payload) {
        (Command::Read, _) => read(agreement, &request).await,
        (Command::BlockStatus, payload) => block_status(agreement, &request, &payload).await,
        (Command::Cache, _) => cache(agreement, &request).await.map(|()| builder.success()),
        (Command::Write, Payload::Content(content)) => {
            write::content(&link, &request, content).await.map(|()| builder.success())
        }
        (Command::Trim, _) => write::trim(&link, &request).await.map(|()| builder.success()),
        (Command::WriteZeroes, _) => {
            write::zeroes(&link, &request).await.map(|()| builder.success())
        }
        (Command::Flush, _) => write::flush(&link).await.map(|()| builder.success()),
        // `check` let nothing else through.
        _ => return builder.error(Errno::Invalid, "the command is not known"),
    };
    outcome.unwrap_or_else(|error| {
        report(agreement, &request, &error);
        ReplyBuilder::new(agreement.framing, &request).error(errno(&error), &error.to_string())
    })
}

/// Refuses what needs no look at the device ("Request types", "Error values").
fn check(agreement: &Agreement, request: &Request, payload: &Payload) -> Result<(), Refused> {
    let writable = agreement.open.device.writer().is_some();
    if request.command.is_write() && !writable {
        return Err((Errno::Permission, "the export is read-only"));
    }
    check_flags(agreement, request, writable)?;
    check_range(agreement, request)?;
    let slow = !agreement.open.fast_zeroes || request.flags.contains(CommandFlags::NO_HOLE);
    match request.command {
        Command::WriteZeroes if slow && request.flags.contains(CommandFlags::FAST_ZERO) => {
            Err((Errno::NotSupported, "these zeroes would be no faster than a write"))
        }
        Command::BlockStatus if agreement.contexts.is_empty() => {
            Err((Errno::Invalid, "no metadata context was selected"))
        }
        Command::BlockStatus if request.length == 0 => Err((Errno::Invalid, "the range is empty")),
        Command::BlockStatus => match payload {
            Payload::Filter(filter) if filter.contexts.iter().any(|id| !known(agreement, *id)) => {
                Err((Errno::Invalid, "a context was not selected"))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn check_flags(agreement: &Agreement, request: &Request, writable: bool) -> Result<(), Refused> {
    let extended = agreement.framing == Framing::Extended;
    let payload = if extended { CommandFlags::PAYLOAD_LEN } else { CommandFlags::empty() };
    let allowed = match request.command {
        Command::Read if agreement.framing != Framing::Simple => CommandFlags::DF,
        Command::BlockStatus => CommandFlags::REQ_ONE | payload,
        Command::Write => payload,
        Command::WriteZeroes => CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO,
        Command::Read | Command::Trim | Command::Cache | Command::Flush => CommandFlags::empty(),
        Command::Disconnect | Command::Other(_) => {
            return Err((Errno::Invalid, "the command is not known"));
        }
    };
    // "Command flags": where it is offered, it may be set on every command.
    let allowed = if writable { allowed | CommandFlags::FUA } else { allowed };
    if request.flags.without(allowed) != CommandFlags::empty() {
        return Err((Errno::Invalid, "a flag does not belong to the command"));
    }
    Ok(())
}

fn check_range(agreement: &Agreement, request: &Request) -> Result<(), Refused> {
    let open = &agreement.open;
    if request.command == Command::Flush {
        return Ok(());
    }
    let end = request.offset.checked_add(request.length);
    if end.is_none_or(|end| end > open.size()) {
        let full = matches!(request.command, Command::Write | Command::WriteZeroes);
        let error = if full { Errno::NoSpace } else { Errno::Invalid };
        return Err((error, "the range leaves the export"));
    }
    let minimum = u64::from(open.sizes.minimum);
    if !request.offset.is_multiple_of(minimum) || !request.length.is_multiple_of(minimum) {
        return Err((Errno::Invalid, "the range is not aligned to the minimum block size"));
    }
    let content = matches!(request.command, Command::Read | Command::Write);
    if content && request.length > u64::from(open.sizes.maximum) {
        return Err((Errno::Invalid, "the request is over the maximum block size"));
    }
    Ok(())
}

/// Whether `id` is the number of a selected context.
fn known(agreement: &Agreement, id: u32) -> bool {
    (1..=agreement.contexts.len() as u64).contains(&u64::from(id))
}

async fn block_status(
    agreement: &Agreement,
    request: &Request,
    payload: &Payload,
) -> Result<Reply, BlockError> {
    let open = &agreement.open;
    let (device, minimum) = (open.device.reader(), u64::from(open.sizes.minimum));
    let one = request.flags.contains(CommandFlags::REQ_ONE);
    let wanted = |id: &u32| match payload {
        Payload::Filter(filter) => filter.contexts.contains(id),
        _ => true,
    };
    let mut chunks = Vec::new();
    for (context, selected) in (1u32..).zip(agreement.contexts.iter()) {
        if wanted(&context) {
            let range = request.offset..request.offset + request.length;
            let extents = selected.status(device, range, one, minimum).await?;
            chunks.push(Chunk::BlockStatus { context, extents });
        }
    }
    let mut builder = ReplyBuilder::new(agreement.framing, request);
    for (index, chunk) in chunks.iter().enumerate() {
        builder.chunk(chunk, index + 1 == chunks.len());
    }
    Ok(builder.finish(Content::None))
}

/// Reads the range and drops it, which leaves it in whatever cache the device has.
async fn cache(agreement: &Agreement, request: &Request) -> Result<(), BlockError> {
    let open = &agreement.open;
    let end = request.offset + request.length.min(CACHE_BYTES);
    let mut scratch = open.pool.take(weight(agreement, request) as usize);
    let mut at = request.offset;
    while at < end {
        let step = CACHE_STEP.min(end - at);
        open.device.reader().read_at(at, &mut scratch[..step as usize]).await?;
        at += step;
    }
    Ok(())
}

fn errno(error: &BlockError) -> Errno {
    match error.kind() {
        ErrorKind::OutOfRange => Errno::Invalid,
        ErrorKind::ReadOnly => Errno::Permission,
        ErrorKind::NoSpace => Errno::NoSpace,
        _ => Errno::Io,
    }
}

/// Logs a failure with its causes: the client only learns a number and one line.
fn report(agreement: &Agreement, request: &Request, error: &BlockError) {
    tracing::warn!(
        export = agreement.open.name,
        command = ?request.command,
        offset = request.offset,
        length = request.length,
        "request failed: {error}{}", causes(error)
    );
}

/// The causes of an error, each after a colon.
pub(crate) fn causes(error: &BlockError) -> String {
    let mut causes = String::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        causes.push_str(": ");
        causes.push_str(&cause.to_string());
        next = cause.source();
    }
    causes
}

impl Link {
    pub(crate) fn new(agreement: Agreement) -> Self {
        Self { agreement, unflushed: Arc::new(AtomicBool::new(false)) }
    }

    /// Makes durable what was written and not yet flushed, when the client has gone: it may have
    /// relied on the server's good manners.
    pub(crate) async fn settle(&self) {
        if !self.unflushed.swap(false, Ordering::SeqCst) {
            return;
        }
        if let Err(error) = write::flush(self).await {
            let export = &self.agreement.open.name;
            tracing::error!(export, "flushing after the last request failed: {error}");
        }
    }
}
