//! Reading messages from a connection.

use std::future::Future;
use std::io;
use std::time::Duration;

use sluice_iscsi_wire::{Digest, HEADER, Lengths, WireError, digest_parts, padding};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::time::timeout;

/// Bytes read ahead: the headers of many commands. Data goes past it.
const READ_AHEAD: usize = 32 << 10;
/// Bytes dropped in one step.
const DROP_STEP: usize = 16 << 10;

/// Why nothing more can be read.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error("the initiator does not speak the protocol: {0}")]
    Wire(#[from] WireError),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the initiator stopped in the middle of a message")]
    Stalled,
    #[error("the digest of {0} is wrong")]
    Digest(&'static str),
}

/// The side of a connection that is read.
pub(crate) struct Link<R> {
    input: BufReader<R>,
    stall: Duration,
    header_digest: Digest,
    data_digest: Digest,
}

impl<R: AsyncRead + Unpin> Link<R> {
    pub(crate) fn new(input: R, stall: Duration) -> Self {
        Self {
            input: BufReader::with_capacity(READ_AHEAD, input),
            stall,
            header_digest: Digest::None,
            data_digest: Digest::None,
        }
    }

    /// Has digests from the next message on.
    pub(crate) fn set_digests(&mut self, header: Digest, data: Digest) {
        (self.header_digest, self.data_digest) = (header, data);
    }

    /// Waits for the next message; false at the end of the stream. Loses nothing when dropped.
    pub(crate) async fn ready(&mut self) -> io::Result<bool> {
        Ok(!self.input.fill_buf().await?.is_empty())
    }

    /// Whether no further message has come yet.
    pub(crate) fn is_idle(&self) -> bool {
        self.input.buffer().is_empty()
    }

    /// Reads a header and skips additional ones. Data of at most `most` bytes is to be read next.
    pub(crate) async fn header(&mut self, most: usize) -> Result<([u8; HEADER], usize), LinkError> {
        let (input, stall) = (&mut self.input, self.stall);
        let mut header = [0; HEADER];
        exact(input, &mut header, stall).await?;
        let lengths = Lengths::decode(&header, most)?;
        let mut additional = vec![0; lengths.ahs];
        if !additional.is_empty() {
            exact(input, &mut additional, stall).await?;
        }
        if self.header_digest == Digest::Crc32c {
            let mut found = [0; 4];
            exact(input, &mut found, stall).await?;
            if found != digest_parts(&header, &additional) {
                return Err(LinkError::Digest("a header"));
            }
        }
        Ok((header, lengths.data))
    }

    /// Reads a data segment of `length` bytes: as much as fits into `into`, and drops the rest.
    pub(crate) async fn data(&mut self, into: &mut [u8], length: usize) -> Result<(), LinkError> {
        if length == 0 {
            return Ok(());
        }
        let stall = self.stall;
        let kept = into.len().min(length);
        exact(&mut self.input, &mut into[..kept], stall).await?;
        let mut rest = length - kept + padding(length);
        if self.data_digest == Digest::None {
            while rest > 0 {
                rest -= self.pass(rest).await?;
            }
            return Ok(());
        }
        let mut dropped = vec![0; rest.min(DROP_STEP)];
        let mut sum = digest_parts(&into[..kept], &[]);
        while rest > 0 {
            let step = rest.min(DROP_STEP);
            exact(&mut self.input, &mut dropped[..step], stall).await?;
            sum = sluice_iscsi_wire::digest_more(sum, &dropped[..step]);
            rest -= step;
        }
        let mut found = [0; 4];
        exact(&mut self.input, &mut found, stall).await?;
        if found == sum { Ok(()) } else { Err(LinkError::Digest("data")) }
    }

    /// Drops up to `most` bytes; returns how many.
    async fn pass(&mut self, most: usize) -> Result<usize, LinkError> {
        let there = alive(self.input.fill_buf(), self.stall).await?.len().min(most);
        if there == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.input.consume(there);
        Ok(there)
    }
}

/// Fills `into`; each step of progress has its own time.
async fn exact<R: AsyncRead + Unpin>(
    input: &mut BufReader<R>,
    mut into: &mut [u8],
    stall: Duration,
) -> Result<(), LinkError> {
    while !into.is_empty() {
        // What is there already needs no timer.
        let count = if input.buffer().is_empty() {
            alive(input.read(into), stall).await?
        } else {
            input.read(into).await?
        };
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        into = &mut into[count..];
    }
    Ok(())
}

async fn alive<T>(
    step: impl Future<Output = io::Result<T>>,
    stall: Duration,
) -> Result<T, LinkError> {
    Ok(timeout(stall, step).await.map_err(|_| LinkError::Stalled)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(5);

    /// A message with both digests, of ten bytes of data.
    fn message() -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[7] = 10;
        bytes.extend(sluice_iscsi_wire::digest(&bytes.clone()));
        let data = b"0123456789\0\0";
        bytes.extend(data);
        bytes.extend(sluice_iscsi_wire::digest(data));
        bytes
    }

    async fn read(bytes: &[u8], room: usize) -> Result<Vec<u8>, LinkError> {
        let mut link = Link::new(bytes, STALL);
        link.set_digests(Digest::Crc32c, Digest::Crc32c);
        let (_, length) = link.header(100).await?;
        let mut data = vec![0; room];
        link.data(&mut data, length).await?;
        assert!(!link.ready().await?, "the message was read to its end");
        Ok(data)
    }

    #[tokio::test]
    async fn data_is_kept_as_far_as_there_is_room() {
        assert_eq!(read(&message(), 10).await.unwrap(), b"0123456789");
        assert_eq!(read(&message(), 4).await.unwrap(), b"0123");
        assert_eq!(read(&message(), 0).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_flipped_bit_is_noticed_wherever_it_is() {
        for at in [0, 20, 49, 53, 63, 64, 67] {
            let mut bytes = message();
            bytes[at] ^= 1;
            for room in [10, 3] {
                assert!(matches!(read(&bytes, room).await, Err(LinkError::Digest(_))), "{at}");
            }
        }
        let cut = message();
        assert!(matches!(read(&cut[..cut.len() - 1], 10).await, Err(LinkError::Io(_))));
    }
}
