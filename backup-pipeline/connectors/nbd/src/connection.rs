//! One connection in transmission: a writer task, a reader task, and the requests between them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use sluice_nbd_wire::{Chunk, ChunkHeader, ChunkType, Framing, ReplyFlags, ReplyHeader, Request};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::handshake::{Agreement, Negotiation, lost};
use crate::pending::{Answer, Ask, Pending, Waiting};
use crate::{NbdError, NbdUri, Target};

/// Requests that may wait to be written; more only wait with their callers.
const QUEUE: usize = 64;
/// Bytes read ahead: headers come in bunches, long content goes past the buffer.
const READ_AHEAD: usize = 64 << 10;
/// Bytes of the longest reply header.
const LONGEST_HEADER: usize = ChunkHeader::len(Framing::Extended);

/// A byte stream of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}
type BoxStream = Pin<Box<dyn Stream>>;

/// Connects and negotiates up to the point where contexts are chosen.
pub(crate) async fn open(uri: &NbdUri) -> Result<Negotiation<BoxStream>, NbdError> {
    let failed = |source| NbdError::Connect { target: uri.target.to_string(), source };
    let stream: BoxStream = match &uri.target {
        Target::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            Box::pin(stream)
        }
        Target::Unix(path) => Box::pin(UnixStream::connect(path).await.map_err(failed)?),
    };
    Negotiation::begin(stream).await
}

/// A connection in transmission. Dropping it ends it.
pub(crate) struct Connection {
    pub(crate) agreement: Agreement,
    pending: Arc<Pending>,
    cookies: AtomicU64,
    queue: mpsc::Sender<Request>,
    tasks: [JoinHandle<()>; 2],
}

impl Connection {
    /// Enters transmission and starts the tasks.
    pub(crate) async fn start(
        negotiation: Negotiation<BoxStream>,
        export: &str,
        contexts: Vec<(u32, String)>,
    ) -> Result<Self, NbdError> {
        let (stream, agreement) = negotiation.go(export, contexts).await?;
        let (input, output) = tokio::io::split(stream);
        let (queue, requests) = mpsc::channel(QUEUE);
        let pending = Arc::new(Pending::new());
        let framing = agreement.framing;
        let reader = read_replies(framing, input, Arc::clone(&pending));
        let writer = write_requests(framing, requests, output, Arc::clone(&pending));
        let tasks = [tokio::spawn(reader), tokio::spawn(writer)];
        Ok(Self { agreement, pending, cookies: AtomicU64::new(1), queue, tasks })
    }

    /// Whether the connection can be used no more.
    pub(crate) fn is_lost(&self) -> bool {
        self.pending.is_lost()
    }

    /// Sends a request and waits for its answer. After a timeout the connection is given up:
    /// a server that skips one request is not to be trusted with the next.
    pub(crate) async fn ask(&self, ask: Ask, patience: Duration) -> Result<Answer, NbdError> {
        let answered = timeout(patience, async {
            // The place in the queue comes first: a caller that gives up while waiting for one
            // must not leave a request behind that is never sent.
            let place = self.queue.reserve().await.map_err(|_| self.closed())?;
            let (done, answer) = oneshot::channel();
            let cookie = self.cookies.fetch_add(1, Ordering::Relaxed);
            self.pending.insert(cookie, Waiting::new(ask, done))?;
            let Ask { command, flags, offset, length } = ask;
            place.send(Request { flags, command, cookie, offset, length });
            answer.await.unwrap_or_else(|_| Err(self.closed()))
        });
        answered.await.unwrap_or_else(|_| {
            self.pending.lose("the server stopped answering");
            Err(NbdError::Timeout { after: patience })
        })
    }

    fn closed(&self) -> NbdError {
        NbdError::Lost { why: "it was closed".to_owned() }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.pending.lose("it was closed");
    }
}

async fn write_requests(
    framing: Framing,
    mut requests: mpsc::Receiver<Request>,
    mut output: impl AsyncWrite + Unpin,
    pending: Arc<Pending>,
) {
    let mut batch = Vec::with_capacity(QUEUE);
    let mut out = BytesMut::new();
    while requests.recv_many(&mut batch, QUEUE).await > 0 {
        batch.drain(..).for_each(|request: Request| request.encode(framing, &mut out));
        if let Err(error) = output.write_all_buf(&mut out).await {
            return pending.lose(&error.to_string());
        }
    }
}

async fn read_replies(framing: Framing, input: impl AsyncRead + Unpin, pending: Arc<Pending>) {
    let mut input = BufReader::with_capacity(READ_AHEAD, input);
    loop {
        if let Err(error) = read_reply(framing, &mut input, &pending).await {
            tracing::debug!("NBD connection ends: {error}");
            let why = match error {
                NbdError::Lost { why } => why,
                other => other.to_string(),
            };
            return pending.lose(&why);
        }
    }
}

/// Reads one simple reply or chunk and gives it to the request it answers.
async fn read_reply(
    framing: Framing,
    input: &mut BufReader<impl AsyncRead + Unpin>,
    pending: &Pending,
) -> Result<(), NbdError> {
    let mut head = [0; LONGEST_HEADER];
    input.read_exact(&mut head[..ReplyHeader::PREFIX]).await.map_err(lost)?;
    let length = ReplyHeader::len(framing, &head)?;
    if length > ReplyHeader::PREFIX {
        input.read_exact(&mut head[ReplyHeader::PREFIX..length]).await.map_err(lost)?;
    }
    match ReplyHeader::decode(framing, &head[..length])? {
        ReplyHeader::Simple(reply) => {
            let mut waiting = pending.take(reply.cookie)?;
            match reply.error {
                Some(error) => waiting.fail(error, String::new()),
                None if waiting.is_read() && framing != Framing::Simple => {
                    return Err(NbdError::Protocol("a simple reply to a read"));
                }
                None if waiting.is_read() => {
                    input.read_exact(waiting.whole()).await.map_err(lost)?;
                }
                None => {}
            }
            waiting.finish();
        }
        ReplyHeader::Chunk(header) => {
            let mut waiting = pending.take(header.cookie)?;
            read_chunk(&header, input, &mut waiting).await?;
            if header.flags.contains(ReplyFlags::DONE) {
                waiting.finish();
            } else {
                pending.insert(header.cookie, waiting)?;
            }
        }
    }
    Ok(())
}

async fn read_chunk(
    header: &ChunkHeader,
    input: &mut BufReader<impl AsyncRead + Unpin>,
    waiting: &mut Waiting,
) -> Result<(), NbdError> {
    let length = header.length as usize;
    if header.kind == ChunkType::OffsetData && length > Chunk::DATA_PREFIX {
        // Content goes straight to its place.
        let offset = input.read_u64().await.map_err(lost)?;
        let part = waiting.part(offset, (length - Chunk::DATA_PREFIX) as u64)?;
        input.read_exact(part).await.map_err(lost)?;
        return Ok(());
    }
    // The header was admitted, so this is at most `limits::CHUNK`; it only grows as bytes come.
    let mut payload = Vec::new();
    input.take(length as u64).read_to_end(&mut payload).await.map_err(lost)?;
    if payload.len() < length {
        return Err(NbdError::Lost { why: "the server closed it".to_owned() });
    }
    waiting.chunk(Chunk::decode(header.kind, &payload)?)
}
