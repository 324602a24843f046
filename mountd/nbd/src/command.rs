//! What each request does.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::try_join_all;
use sluice_block::{BlockError, BlockRead, ErrorKind, ExtentKind, ExtentList};
use sluice_nbd_wire::{
    AllocationFlags, Chunk, Command, CommandFlags, Errno, Framing, Request, StatusExtent, limits,
};

use crate::export::Served;
use crate::reply::{Reply, ReplyBuilder};
use crate::sparse::{Run, first_extent, runs};

/// The number of the `base:allocation` context in every session.
pub(crate) const ALLOCATION_ID: u32 = 1;
/// The shortest read that is checked for holes; below, asking costs more than it saves.
const SPARSE_FROM: u64 = 32 << 10;
/// Bytes of one `NBD_CMD_CACHE` that are warmed; the command is a hint.
const CACHE_BYTES: u64 = 64 << 20;
/// Bytes of one step of warming.
const CACHE_STEP: u64 = 1 << 20;
/// Descriptors in one block status reply; a client asks again from where they end.
const STATUS_EXTENTS: usize = 16 << 10;
/// Calls of `extents` for one block status request.
const STATUS_CALLS: usize = 64;

/// What was agreed for a connection.
#[derive(Clone)]
pub(crate) struct Agreement {
    pub(crate) served: Arc<Served>,
    pub(crate) framing: Framing,
    /// Whether `base:allocation` was selected for this export.
    pub(crate) allocation: bool,
}

/// Bytes of reply that a request needs memory for.
pub(crate) fn weight(request: &Request) -> u64 {
    match request.command {
        Command::Read => request.length.min(u64::from(limits::PAYLOAD)),
        Command::Cache => request.length.min(CACHE_STEP),
        _ => 0,
    }
}

/// Runs a request to its reply, even when the device crashes: a request without an answer would
/// leave its client waiting for ever.
pub(crate) async fn answer(agreement: Agreement, request: Request) -> Reply {
    let builder = ReplyBuilder::new(agreement.framing, &request);
    AssertUnwindSafe(execute(agreement, request)).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(?request, "the device crashed");
        builder.error(Errno::Io, "the request crashed")
    })
}

async fn execute(agreement: Agreement, request: Request) -> Reply {
    let builder = ReplyBuilder::new(agreement.framing, &request);
    if let Err((error, message)) = check(&agreement, &request) {
        tracing::debug!(?request, %error, message, "request refused");
        return builder.error(error, message);
    }
    let device = &*agreement.served.export.device;
    let outcome = match request.command {
        Command::Read => read(&agreement, &request).await,
        Command::BlockStatus => block_status(device, &agreement, &request).await,
        Command::Cache => cache(&agreement, &request).await.map(|()| builder.success()),
        // `check` let nothing else through but a flush, which has nothing to do.
        _ => Ok(builder.success()),
    };
    outcome.unwrap_or_else(|error| {
        report(&agreement, &request, &error);
        ReplyBuilder::new(agreement.framing, &request).error(errno(&error), &error.to_string())
    })
}

/// Refuses what needs no look at the device ("Request types", "Error values").
fn check(agreement: &Agreement, request: &Request) -> Result<(), (Errno, &'static str)> {
    let structured = agreement.framing != Framing::Simple;
    let allowed = match request.command {
        Command::Read if structured => CommandFlags::DF,
        Command::BlockStatus => CommandFlags::REQ_ONE,
        Command::Write | Command::Trim | Command::WriteZeroes => {
            return Err((Errno::Permission, "the export is read-only"));
        }
        Command::Read | Command::Cache | Command::Flush => CommandFlags::empty(),
        Command::Disconnect | Command::Other(_) => {
            return Err((Errno::Invalid, "the command is not known"));
        }
    };
    if request.flags.without(allowed) != CommandFlags::empty() {
        return Err((Errno::Invalid, "a flag does not belong to the command"));
    }
    let end = request.offset.checked_add(request.length);
    if end.is_none_or(|end| end > agreement.served.export.device.size()) {
        return Err((Errno::Invalid, "the range leaves the export"));
    }
    match request.command {
        Command::Read if request.length > u64::from(limits::PAYLOAD) => {
            Err((Errno::Invalid, "the read is over the maximum block size"))
        }
        Command::BlockStatus if !agreement.allocation => {
            Err((Errno::Invalid, "no metadata context was selected"))
        }
        Command::BlockStatus if request.length == 0 => Err((Errno::Invalid, "the range is empty")),
        _ => Ok(()),
    }
}

async fn read(agreement: &Agreement, request: &Request) -> Result<Reply, BlockError> {
    let device = &*agreement.served.export.device;
    let mut builder = ReplyBuilder::new(agreement.framing, request);
    let (offset, length) = (request.offset, request.length);
    if length == 0 {
        return Ok(builder.success());
    }
    let simple = agreement.framing == Framing::Simple;
    let whole = simple || request.flags.contains(CommandFlags::DF) || length < SPARSE_FROM;
    let runs = if whole {
        vec![Run { offset, length, zero: false }]
    } else {
        runs(device, offset, length).await
    };
    let data: u64 = runs.iter().filter(|run| !run.zero).map(|run| run.length).sum();
    let mut content = agreement.served.pool.take(data as usize);
    read_runs(device, &runs, &mut content).await?;
    if simple {
        return Ok(builder.content(content));
    }
    for (index, run) in runs.iter().enumerate() {
        let last = index + 1 == runs.len();
        if run.zero {
            // A run is no longer than the read, which was checked to fit 32 bits.
            let hole = Chunk::OffsetHole { offset: run.offset, length: run.length as u32 };
            builder.chunk(&hole, last);
        } else {
            builder.data(run.offset, run.length as usize, last);
        }
    }
    Ok(builder.finish(Some(content)))
}

/// Reads the data runs, side by side, into consecutive parts of `content`.
async fn read_runs(
    device: &dyn BlockRead,
    runs: &[Run],
    content: &mut [u8],
) -> Result<(), BlockError> {
    let mut rest = content;
    let mut reads = Vec::new();
    for run in runs.iter().filter(|run| !run.zero) {
        let (this, next) = rest.split_at_mut(run.length as usize);
        rest = next;
        reads.push(device.read_at(run.offset, this));
    }
    match (reads.pop(), reads.is_empty()) {
        (None, _) => Ok(()),
        (Some(only), true) => only.await,
        (Some(last), false) => {
            reads.push(last);
            try_join_all(reads).await.map(|_| ())
        }
    }
}

async fn block_status(
    device: &dyn BlockRead,
    agreement: &Agreement,
    request: &Request,
) -> Result<Reply, BlockError> {
    let mut list = ExtentList::default();
    if request.flags.contains(CommandFlags::REQ_ONE) {
        list.push(first_extent(device, request.offset, request.length).await?);
    } else {
        let (mut at, end) = (request.offset, request.offset + request.length);
        for _ in 0..STATUS_CALLS {
            if at >= end || list.len() >= STATUS_EXTENTS {
                break;
            }
            let extents = device.extents(at, end - at).await?;
            let Some(last) = extents.last() else { break };
            at = last.end();
            extents.into_iter().for_each(|extent| list.push(extent));
        }
    }
    let mut extents: Vec<StatusExtent> = list
        .into_vec()
        .into_iter()
        .map(|extent| StatusExtent { length: extent.length, flags: allocation(extent.kind).0 })
        .collect();
    if extents.is_empty() {
        // A device that describes nothing breaks its contract; "data" is always a safe answer.
        extents.push(StatusExtent { length: request.length, flags: 0 });
    }
    let mut builder = ReplyBuilder::new(agreement.framing, request);
    builder.chunk(&Chunk::BlockStatus { context: ALLOCATION_ID, extents }, true);
    Ok(builder.finish(None))
}

fn allocation(kind: ExtentKind) -> AllocationFlags {
    match kind {
        ExtentKind::Data => AllocationFlags::empty(),
        ExtentKind::Zero => AllocationFlags::ZERO,
        ExtentKind::Hole => AllocationFlags::HOLE | AllocationFlags::ZERO,
    }
}

/// Reads the range and drops it, which leaves it in whatever cache the device has.
async fn cache(agreement: &Agreement, request: &Request) -> Result<(), BlockError> {
    let end = request.offset + request.length.min(CACHE_BYTES);
    let mut scratch = agreement.served.pool.take(weight(request) as usize);
    let mut at = request.offset;
    while at < end {
        let step = CACHE_STEP.min(end - at);
        agreement.served.export.device.read_at(at, &mut scratch[..step as usize]).await?;
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
    let mut causes = String::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        causes.push_str(": ");
        causes.push_str(&cause.to_string());
        next = cause.source();
    }
    tracing::warn!(
        export = agreement.served.export.name,
        command = ?request.command,
        offset = request.offset,
        length = request.length,
        "request failed: {error}{causes}"
    );
}
