//! Backing up a stream: bytes in order, the size known at the end.
//!
//! A leaf's bytes are gathered in memory and then go the way of any other leaf, while the next
//! leaf is gathered.

use std::sync::Arc;

use async_trait::async_trait;
use sluice_block::{BlockError, BlockRead, ErrorKind as BlockKind};
use sluice_repository::Page;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::StreamSource;
use crate::backup::cancelled;
use crate::error::{EngineError, ErrorKind, Result};
use crate::leaf::{Context, LARGEST_HELD, SEGMENT};

/// A leaf's bytes as a device that knows nothing else.
struct Held {
    start: u64,
    bytes: Vec<u8>,
}

#[async_trait]
impl BlockRead for Held {
    fn size(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> sluice_block::Result<()> {
        if self.read_cached(offset, buf) {
            return Ok(());
        }
        Err(BlockError::new(BlockKind::OutOfRange, "a stream cannot be read out of order"))
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        let from = offset.checked_sub(self.start).map(|from| from as usize);
        let held = from.and_then(|from| self.bytes.get(from..from + buf.len()));
        held.map(|held| buf.copy_from_slice(held)).is_some()
    }
}

/// Reads the stream to its end.
pub(crate) async fn run(
    context: &Context,
    mut source: Box<dyn StreamSource>,
    by_block: bool,
    cancel: &CancellationToken,
) -> Result<()> {
    let span = context.image.leaf_span();
    let mut under_way: Option<JoinHandle<Result<()>>> = None;
    let mut start = 0;
    let fed = loop {
        let bytes = match gather(context, &mut *source, span, cancel).await {
            Ok(bytes) => bytes,
            Err(error) => break Err(error),
        };
        let length = bytes.len() as u64;
        if length == 0 {
            break Ok(());
        }
        if let Err(error) = settle(under_way.take()).await {
            break Err(error);
        }
        context.image.set_size(start + length);
        let (context, held) = (context.clone(), Held { start, bytes });
        under_way = Some(tokio::spawn(async move { leaf(&context, held, by_block).await }));
        start += length;
        if length < span {
            break Ok(());
        }
        if span > LARGEST_HELD
            && let Err(error) = settle(under_way.take()).await
        {
            break Err(error);
        }
    };
    let settled = settle(under_way).await;
    fed.and(settled)
}

async fn settle(task: Option<JoinHandle<Result<()>>>) -> Result<()> {
    match task {
        None => Ok(()),
        Some(task) => task.await.unwrap_or_else(|error| {
            Err(EngineError::caused(ErrorKind::Cancelled, "a part of the run died", error))
        }),
    }
}

/// The next leaf's bytes; fewer only at the end of the stream.
async fn gather(
    context: &Context,
    source: &mut dyn StreamSource,
    span: u64,
    cancel: &CancellationToken,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < span {
        let most = (span - bytes.len() as u64).min(SEGMENT) as usize;
        let next = tokio::select! {
            () = cancel.cancelled() => return Err(cancelled()),
            next = source.next(most) => next,
        };
        let next = next.map_err(|error| {
            let text = format!("reading the source of image {} failed", context.name);
            EngineError::caused(ErrorKind::Source, text, error)
        })?;
        match next {
            Some(part) => bytes.extend_from_slice(&part),
            None => break,
        }
    }
    Ok(bytes)
}

async fn leaf(context: &Context, held: Held, by_block: bool) -> Result<()> {
    let (start, end) = (held.start, held.size());
    let held: Arc<dyn BlockRead> = Arc::new(held);
    let span = context.image.leaf_span();
    let number = start / span;
    let runs = std::iter::once(start..end).collect();
    if !by_block && context.image.parent().is_some() && span <= LARGEST_HELD {
        context.compare_region(&held, number, runs).await?;
    } else {
        let parent = context.image.parent_leaf(number).await?;
        context.store_runs(&held, number, runs, Page::empty(0), parent).await?;
    }
    context.progress.add_done(end - start);
    Ok(())
}
