//! Replies, and the task that writes them.

use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
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
    content: Content,
    /// Lengths of alternating slices of `heads` and `content`, in order.
    parts: Vec<(usize, usize)>,
}

/// The bytes that a read asked for.
pub(crate) enum Content {
    None,
    /// In one piece.
    Own(PoolBuffer),
    /// In the pieces that a cache has.
    Shared(Vec<Bytes>),
}

impl Content {
    fn piece(&self, number: usize) -> &[u8] {
        match self {
            Self::Own(bytes) if number == 0 => bytes,
            Self::Shared(pieces) => pieces.get(number).map_or(&[], |piece| piece),
            Self::None | Self::Own(_) => &[],
        }
    }
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
        let reply =
            Reply { heads: BytesMut::with_capacity(64), content: Content::None, parts: vec![] };
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

    /// The whole content of a read, of so many bytes, as a simple reply.
    pub(crate) fn content(mut self, content: Content, length: usize) -> Reply {
        self.reply.content = content;
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
    pub(crate) fn finish(mut self, content: Content) -> Reply {
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
        let (mut content, mut number) = (self.content.piece(0), 1);
        for (head, body) in &self.parts {
            let (this_head, next_heads) = heads.split_at(*head);
            heads = next_heads;
            out.push(IoSlice::new(this_head));
            let mut left = *body;
            while left > 0 {
                if content.is_empty() {
                    (content, number) = (self.content.piece(number), number + 1);
                }
                // Parts speak of no more than there is.
                let (this_body, next_content) = content.split_at(left.min(content.len()));
                (content, left) = (next_content, left - this_body.len());
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
