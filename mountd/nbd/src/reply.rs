//! Replies, and the task that writes them.

use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::BytesMut;
use sluice_block::PoolBuffer;
use sluice_nbd_wire::{Chunk, ChunkHeader, Errno, Framing, ReplyFlags, Request, SimpleReply};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::limits::Limits;

/// Replies gathered into one system call.
const BATCH: usize = 64;

/// What a request holds until its reply is on the wire.
pub(crate) struct Permits {
    pub(crate) _place: OwnedSemaphorePermit,
    /// Of the connection's budget and of the common one.
    pub(crate) _bytes: [Option<OwnedSemaphorePermit>; 2],
}

/// A finished reply: headers, interleaved with content that is not copied.
pub(crate) struct Reply {
    heads: BytesMut,
    content: Option<PoolBuffer>,
    /// Lengths of alternating slices of `heads` and `content`, in order.
    parts: Vec<(usize, usize)>,
}

/// Builds the reply to one request.
pub(crate) struct ReplyBuilder {
    framing: Framing,
    cookie: u64,
    offset: u64,
    reply: Reply,
}

impl ReplyBuilder {
    pub(crate) fn new(framing: Framing, request: &Request) -> Self {
        let reply = Reply { heads: BytesMut::with_capacity(64), content: None, parts: vec![] };
        Self { framing, cookie: request.cookie, offset: request.offset, reply }
    }

    /// Success without content.
    pub(crate) fn success(mut self) -> Reply {
        if self.framing == Framing::Simple {
            return self.simple(None, 0);
        }
        self.chunk(&Chunk::None, true);
        self.reply
    }

    /// Failure; the text reaches the client where the framing has room for one.
    pub(crate) fn error(mut self, error: Errno, message: &str) -> Reply {
        if self.framing == Framing::Simple {
            return self.simple(Some(error), 0);
        }
        let message = message.chars().take(200).collect();
        self.chunk(&Chunk::Error { error, message, offset: None }, true);
        self.reply
    }

    /// The whole content of a read as a simple reply.
    pub(crate) fn content(mut self, content: PoolBuffer) -> Reply {
        let length = content.len();
        self.reply.content = Some(content);
        self.simple(None, length)
    }

    /// Appends a chunk without content.
    pub(crate) fn chunk(&mut self, chunk: &Chunk<'_>, last: bool) {
        let mut payload = BytesMut::new();
        chunk.encode(self.framing, &mut payload);
        self.header(chunk, payload.len(), last);
        self.reply.heads.extend_from_slice(&payload);
        self.part(0);
    }

    /// Appends a data chunk over the next `length` bytes of the content.
    pub(crate) fn data(&mut self, offset: u64, length: usize, last: bool) {
        let head = Chunk::OffsetData { offset, data: &[] };
        self.header(&head, Chunk::DATA_PREFIX + length, last);
        head.encode(self.framing, &mut self.reply.heads);
        self.part(length);
    }

    /// The chunks so far, with the content that [`data`](Self::data) spoke of.
    pub(crate) fn finish(mut self, content: Option<PoolBuffer>) -> Reply {
        self.reply.content = content;
        self.reply
    }

    fn header(&mut self, chunk: &Chunk<'_>, length: usize, last: bool) {
        let header = ChunkHeader {
            flags: if last { ReplyFlags::DONE } else { ReplyFlags::empty() },
            kind: chunk.kind(self.framing),
            cookie: self.cookie,
            offset: self.offset,
            length: length as u32,
        };
        header.encode(self.framing, &mut self.reply.heads);
    }

    fn simple(mut self, error: Option<Errno>, length: usize) -> Reply {
        SimpleReply { error, cookie: self.cookie }.encode(&mut self.reply.heads);
        self.part(length);
        self.reply
    }

    fn part(&mut self, content: usize) {
        let before: usize = self.reply.parts.iter().map(|(head, _)| head).sum();
        self.reply.parts.push((self.reply.heads.len() - before, content));
    }
}

impl Reply {
    fn slices<'a>(&'a self, out: &mut Vec<IoSlice<'a>>) {
        let mut heads = &self.heads[..];
        let mut content = self.content.as_deref().unwrap_or_default();
        for (head, body) in &self.parts {
            let (this_head, next_heads) = heads.split_at(*head);
            let (this_body, next_content) = content.split_at(*body);
            (heads, content) = (next_heads, next_content);
            out.push(IoSlice::new(this_head));
            if !this_body.is_empty() {
                out.push(IoSlice::new(this_body));
            }
        }
    }
}

/// Writes replies as they come, until the queue is closed and empty.
pub(crate) async fn write_replies<W: AsyncWrite + Unpin>(
    mut queue: mpsc::Receiver<(Reply, Permits)>,
    mut out: W,
    limits: Limits,
) -> io::Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let mut slices = Vec::with_capacity(batch.len() * 2);
        batch.iter().for_each(|(reply, _): &(Reply, Permits)| reply.slices(&mut slices));
        let bytes = slices.iter().map(|slice| slice.len() as u64).sum();
        let writing = write_all(&mut out, &mut slices, limits.stall_timeout);
        within(limits.patience(bytes), writing).await?;
        // Buffers and permits go back here.
        batch.clear();
    }
    within(limits.stall_timeout, out.shutdown()).await
}

/// Gives up on a client that does not take what it asked for, or takes it too slowly.
async fn within(
    patience: Duration,
    writing: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    timeout(patience, writing).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take its replies"))
    })
}

async fn write_all<W: AsyncWrite + Unpin>(
    out: &mut W,
    mut slices: &mut [IoSlice<'_>],
    stall: Duration,
) -> io::Result<()> {
    while !slices.is_empty() {
        let writing = timeout(stall, out.write_vectored(slices));
        let written = writing.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut slices, written);
    }
    // Encryption gathers what is small.
    out.flush().await
}
