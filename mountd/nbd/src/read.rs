//! Requests for content.

use futures::future::try_join_all;
use sluice_block::{BlockError, BlockRead, Piece, PoolBuffer};
use sluice_nbd_wire::{Chunk, Command, CommandFlags, Framing, Request};

use crate::command::Agreement;
use crate::reply::{Content, Reply, ReplyBuilder};
use crate::sparse::{self, Run, runs};

/// The shortest read that is checked for holes; below, asking costs more than it saves.
const SPARSE_FROM: u64 = 32 << 10;

/// Whether it is an `NBD_CMD_READ` of a part of a block, as a rule.
pub(crate) fn is_short(request: &Request) -> bool {
    request.command == Command::Read && request.length < SPARSE_FROM
}

/// The answer to an `NBD_CMD_READ` that was checked, when the device has it at hand.
pub(crate) fn read_at_hand(agreement: &Agreement, request: &Request) -> Option<Reply> {
    if request.length == 0 {
        return None;
    }
    if request.length >= SPARSE_FROM {
        return shared(agreement, request);
    }
    let mut content = agreement.open.pool.take(request.length as usize);
    let device = agreement.open.device.reader();
    device.read_cached(request.offset, &mut content).then(|| own(agreement, request, content))
}

/// A reply with the whole content in a buffer of its own.
fn own(agreement: &Agreement, request: &Request, content: PoolBuffer) -> Reply {
    let length = content.len();
    whole(agreement, request, Content::Own(content), length)
}

/// A reply with bytes as they lie in a cache, which are sent from there.
fn shared(agreement: &Agreement, request: &Request) -> Option<Reply> {
    let found = agreement.open.device.reader().read_shared(request.offset, request.length)?;
    let whole = found.iter().all(|one| matches!(one, Piece::Bytes(_)));
    let one = agreement.framing == Framing::Simple || request.flags.contains(CommandFlags::DF);
    if one && !whole {
        return None;
    }
    let (mut pieces, mut runs) = (Vec::with_capacity(found.len()), Vec::<Run>::new());
    let mut offset = request.offset;
    for one in found {
        let (length, zero) = match one {
            Piece::Zero(length) => (length, true),
            Piece::Bytes(bytes) => {
                let length = bytes.len() as u64;
                pieces.push(bytes);
                (length, false)
            }
        };
        match runs.last_mut() {
            Some(last) if last.zero == zero => last.length += length,
            _ => runs.push(Run { offset, length, zero }),
        }
        offset += length;
    }
    if !sparse::worth_it(&runs) {
        return None;
    }
    let content = Content::Shared(pieces);
    if one {
        return Some(self::whole(agreement, request, content, request.length as usize));
    }
    Some(in_runs(agreement, request, &runs, content))
}

/// A reply with the whole content in one piece.
fn whole(agreement: &Agreement, request: &Request, content: Content, length: usize) -> Reply {
    let mut builder = ReplyBuilder::new(agreement.framing, request);
    if agreement.framing == Framing::Simple {
        return builder.content(content, length);
    }
    builder.data(request.offset, length, true);
    builder.finish(content)
}

/// A reply with content where there is any, and holes.
fn in_runs(agreement: &Agreement, request: &Request, runs: &[Run], content: Content) -> Reply {
    let mut builder = ReplyBuilder::new(agreement.framing, request);
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
    builder.finish(content)
}

/// `NBD_CMD_READ`.
pub(crate) async fn read(agreement: &Agreement, request: &Request) -> Result<Reply, BlockError> {
    let device = agreement.open.device.reader();
    let (offset, length) = (request.offset, request.length);
    if length == 0 {
        return Ok(ReplyBuilder::new(agreement.framing, request).success());
    }
    let simple = agreement.framing == Framing::Simple;
    if simple || request.flags.contains(CommandFlags::DF) || length < SPARSE_FROM {
        let mut content = agreement.open.pool.take(length as usize);
        device.read_at(offset, &mut content).await?;
        return Ok(own(agreement, request, content));
    }
    let runs = runs(device, offset, length).await;
    let data: u64 = runs.iter().filter(|run| !run.zero).map(|run| run.length).sum();
    let mut content = agreement.open.pool.take(data as usize);
    read_runs(device, &runs, &mut content).await?;
    Ok(in_runs(agreement, request, &runs, Content::Own(content)))
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
