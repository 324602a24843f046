//! Requests that change the export.

use std::sync::atomic::Ordering;

use sluice_block::{BlockError, BlockWrite, ErrorKind, PoolBuffer, Result};
use sluice_nbd_wire::{CommandFlags, Request};

use crate::command::Link;

/// Bytes of one step of writing zeroes that must stay allocated.
pub(crate) const STEP: u64 = 1 << 20;

/// `NBD_CMD_WRITE`.
pub(crate) async fn content(link: &Link, request: &Request, content: PoolBuffer) -> Result<()> {
    let device = writer(link)?;
    link.unflushed.store(true, Ordering::SeqCst);
    if !content.is_empty() {
        device.write_buffer(request.offset, content).await?;
    }
    finish(link, request).await
}

/// `NBD_CMD_TRIM`: whole blocks of the preferred size read as zeroes afterwards. Parts of blocks
/// stay as they are: to make them zero is to write, for which there may be no room, and trimming is
/// what makes room.
pub(crate) async fn trim(link: &Link, request: &Request) -> Result<()> {
    let device = writer(link)?;
    link.unflushed.store(true, Ordering::SeqCst);
    let block = u64::from(link.agreement.open.sizes.preferred);
    let (start, end) = (request.offset.next_multiple_of(block), request.offset + request.length);
    // The last block of a disk may be a short one.
    let end = if end == device.size() { end } else { end / block * block };
    if start < end {
        device.write_zeroes(start, end - start).await?;
    }
    finish(link, request).await
}

/// `NBD_CMD_WRITE_ZEROES`.
pub(crate) async fn zeroes(link: &Link, request: &Request) -> Result<()> {
    let device = writer(link)?;
    link.unflushed.store(true, Ordering::SeqCst);
    let allocate = request.flags.contains(CommandFlags::NO_HOLE);
    if request.length == 0 {
        // Nothing to do.
    } else if allocate {
        let mut step = link.agreement.open.pool.take(request.length.min(STEP) as usize);
        step.fill(0);
        let (mut at, end) = (request.offset, request.offset + request.length);
        while at < end {
            let length = STEP.min(end - at);
            device.write_at(at, &step[..length as usize]).await?;
            at += length;
        }
    } else {
        device.write_zeroes(request.offset, request.length).await?;
    }
    finish(link, request).await
}

/// `NBD_CMD_FLUSH`: whatever any connection was told is written, is durable afterwards. So several
/// connections may be used as one.
pub(crate) async fn flush(link: &Link) -> Result<()> {
    let Some(device) = link.agreement.open.device.writer() else { return Ok(()) };
    // Before the flush: what is written meanwhile needs another.
    link.unflushed.store(false, Ordering::SeqCst);
    let flushed = device.flush().await;
    if flushed.is_err() {
        link.unflushed.store(true, Ordering::SeqCst);
    }
    flushed
}

async fn finish(link: &Link, request: &Request) -> Result<()> {
    if request.flags.contains(CommandFlags::FUA) { flush(link).await } else { Ok(()) }
}

fn writer(link: &Link) -> Result<&dyn BlockWrite> {
    let read_only = || BlockError::new(ErrorKind::ReadOnly, "the export is read-only");
    link.agreement.open.device.writer().ok_or_else(read_only)
}
