//! Bodies: made while they are sent.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use hyper::body::{Body, Frame, SizeHint};
use sluice_block::{BlockError, BlockRead};
use tokio_util::task::AbortOnDropHandle;

use crate::plan::{Piece, Plan};

/// Pieces of data read ahead of the socket.
const READ_AHEAD: usize = 4;
/// All zeroes are sent from here.
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];

/// Why a body ends early.
pub(crate) type Failure = BlockError;

/// A stream of bytes of a device.
pub(crate) type Bits = BoxStream<'static, Result<Bytes, Failure>>;

/// A body whose length is known before it is made.
pub(crate) struct Content {
    bits: Bits,
    left: u64,
}

impl Content {
    pub(crate) fn new(bits: Bits, length: u64) -> Self {
        Self { bits, left: length }
    }

    pub(crate) fn empty() -> Self {
        Self::new(stream::empty().boxed(), 0)
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        let length = text.len() as u64;
        Self::new(stream::iter([Ok(Bytes::from(text))]).boxed(), length)
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = std::task::ready!(self.bits.poll_next_unpin(cx));
        Poll::Ready(next.map(|bytes| {
            let bytes = bytes.map_err(|error| {
                log_failure("a body under way", &error);
                io::Error::other(error)
            })?;
            self.left = self
                .left
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| io::Error::other("more bytes than announced"))?;
            Ok(Frame::data(bytes))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The bytes of a range.
pub(crate) fn read(device: Arc<dyn BlockRead>, range: Range<u64>) -> Bits {
    let plan = Plan::new(Arc::clone(&device), range);
    let pieces = stream::unfold(plan, async |mut plan| Some((plan.next().await?, plan)));
    pieces
        .map(move |piece| fetch(Arc::clone(&device), piece))
        .buffered(READ_AHEAD)
        .flat_map(|got| match got {
            Ok(Got::Bytes(bytes)) => stream::iter([Ok(bytes)]).left_stream(),
            Ok(Got::Zeroes(count)) => zeroes(count).left_stream().right_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream().right_stream(),
        })
        .boxed()
}

enum Got {
    Bytes(Bytes),
    Zeroes(u64),
}

async fn fetch(device: Arc<dyn BlockRead>, piece: Piece) -> Result<Got, Failure> {
    let range = match piece {
        Piece::Zeroes(count) => return Ok(Got::Zeroes(count)),
        Piece::Data(range) => range,
    };
    // A task of its own: reads go on while the socket is busy, and end when the client leaves.
    let task = tokio::spawn(async move {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        device.read_at(range.start, &mut bytes).await?;
        Ok(Got::Bytes(Bytes::from(bytes)))
    });
    AbortOnDropHandle::new(task)
        .await
        .unwrap_or_else(|error| Err(BlockError::io("reading crashed", io::Error::other(error))))
}

fn zeroes(count: u64) -> impl Stream<Item = Result<Bytes, Failure>> {
    stream::unfold(count, async |left| {
        let length = left.min(ZEROES.len() as u64);
        let bytes = Bytes::from_static(&ZEROES[..length as usize]);
        (length > 0).then(|| (Ok(bytes), left - length))
    })
}

/// Says why bytes could not be read, with all its causes.
pub(crate) fn log_failure(name: &str, error: &Failure) {
    let mut reasons = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        reasons += &format!(": {inner}");
        cause = inner.source();
    }
    tracing::error!(name, "cannot read: {reasons}");
}

/// Makes the first `count` parts of a body at once, to know whether it can be made at all.
pub(crate) async fn begun(mut bits: Bits, count: usize) -> Result<Bits, Failure> {
    let mut first = Vec::with_capacity(count);
    while first.len() < count {
        match bits.next().await {
            Some(bytes) => first.push(Ok(bytes?)),
            None => break,
        }
    }
    Ok(stream::iter(first).chain(bits).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_block::{BlockWrite, ErrorKind, FaultyRead, MemoryDisk};

    async fn collect(mut bits: Bits) -> (Vec<u8>, Option<Failure>) {
        let mut all = vec![];
        while let Some(bytes) = bits.next().await {
            match bytes {
                Ok(bytes) => all.extend_from_slice(&bytes),
                Err(error) => return (all, Some(error)),
            }
        }
        (all, None)
    }

    #[tokio::test]
    async fn a_range_is_its_bytes() {
        let disk = MemoryDisk::new(8 << 20);
        for at in [0_u64, 100_000, 3 << 20, (8 << 20) - 9] {
            disk.write_at(at, &[at as u8 | 1; 9]).await.unwrap();
        }
        let mut expected = vec![0; 8 << 20];
        disk.read_at(0, &mut expected).await.unwrap();
        let disk: Arc<dyn BlockRead> = Arc::new(disk);
        for range in [0..8 << 20, 5..100_004, (3 << 20) + 4..8 << 20, 7..7] {
            let (bytes, error) = collect(read(Arc::clone(&disk), range.clone())).await;
            assert!(error.is_none());
            assert!(bytes == expected[range.start as usize..range.end as usize], "{range:?}");
        }
    }

    #[tokio::test]
    async fn a_failure_ends_a_body_before_the_bytes_that_failed() {
        let disk = MemoryDisk::from_bytes(&[5; 4 << 20]);
        let faulty = Arc::new(FaultyRead::new(disk, 3 << 20, ErrorKind::Io));
        let (bytes, error) = collect(read(faulty.clone(), 0..4 << 20)).await;
        assert!(error.is_some());
        assert!(bytes.len() <= 3 << 20 && bytes.iter().all(|byte| *byte == 5));
        assert!(begun(read(faulty.clone(), 3 << 20..4 << 20), 1).await.is_err());
        assert!(begun(read(faulty, 0..4 << 20), 1).await.is_ok());
    }
}
