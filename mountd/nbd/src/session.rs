//! One connection, from its greeting to its end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sluice_nbd_wire::{Command, Errno, Framing, Request, WireError};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::command::{Agreement, answer, weight};
use crate::export::{Exports, Limits};
use crate::handshake::{HandshakeError, negotiate};
use crate::reply::{Permits, Reply, ReplyBuilder, write_replies};

/// Bytes that one byte permit stands for: permits are counted in 32 bits.
const GRAIN: u64 = 4096;
/// Bytes read ahead from the socket: a full pipeline of requests.
const READ_AHEAD: usize = 16 << 10;

/// Why a connection ended before its client said goodbye.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("the negotiation took longer than {0:?}")]
    HandshakeTimeout(Duration),
    #[error("the client does not speak the protocol: {0}")]
    Wire(#[from] WireError),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the client stopped in the middle of a request")]
    Stalled,
    #[error("requests were not finished {0:?} after the shutdown began")]
    Overdue(Duration),
    #[error("the writer crashed: {0}")]
    Crashed(#[from] JoinError),
}

/// Serves one connection to its end.
pub(crate) async fn serve<R, W>(
    exports: Arc<Exports>,
    limits: Limits,
    input: R,
    mut output: W,
    shutdown: CancellationToken,
) -> Result<(), SessionError>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let mut input = BufReader::with_capacity(READ_AHEAD, input);
    let handshake = timeout(limits.handshake_timeout, negotiate(&exports, &mut input, &mut output));
    let agreement = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        agreed = handshake => {
            agreed.map_err(|_| SessionError::HandshakeTimeout(limits.handshake_timeout))??
        }
    };
    let Some(agreement) = agreement else { return Ok(()) };
    tracing::debug!(
        export = agreement.served.export.name,
        framing = ?agreement.framing,
        "transmission begins"
    );

    let (queue, replies) = mpsc::channel(places(&limits));
    // Ends with the session: a session that is given up must not leave a writer behind.
    let mut writer =
        AbortOnDropHandle::new(tokio::spawn(write_replies(replies, output, limits.stall_timeout)));
    let transmission = Transmission::new(agreement, limits, queue);
    let ended = tokio::select! {
        ended = transmission.run(input, shutdown) => ended,
        // The writer only ends early when the client is gone or does not read.
        written = &mut writer => return Ok(written??),
    };
    ended?;
    // `run` dropped the queue, so the writer ends once everything is written.
    Ok(writer.await??)
}

/// The transmission phase of one connection.
struct Transmission {
    agreement: Agreement,
    limits: Limits,
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_total: u32,
    /// As long as there are places, so that it is never full.
    queue: mpsc::Sender<(Reply, Permits)>,
    /// Dropped with the session, which ends what is still running.
    running: JoinSet<()>,
}

impl Transmission {
    fn new(agreement: Agreement, limits: Limits, queue: mpsc::Sender<(Reply, Permits)>) -> Self {
        let grains =
            (limits.bytes_in_flight as u64 / GRAIN).clamp(1, Semaphore::MAX_PERMITS as u64);
        let bytes_total = u32::try_from(grains).unwrap_or(u32::MAX);
        Self {
            agreement,
            places: Arc::new(Semaphore::new(places(&limits))),
            bytes: Arc::new(Semaphore::new(bytes_total as usize)),
            bytes_total,
            limits,
            queue,
            running: JoinSet::new(),
        }
    }

    /// Reads and starts requests until the client is done, then lets the started ones finish.
    async fn run<R: AsyncRead + Unpin>(
        mut self,
        mut input: BufReader<R>,
        shutdown: CancellationToken,
    ) -> Result<(), SessionError> {
        loop {
            // Only the wait for a request may be cut off by the shutdown: cancelling in the
            // middle of one would lose the place in the stream.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    return self.wind_down(&mut input).await;
                }
                filled = input.fill_buf() => { filled?; }
            }
            let Some(request) = self.next(&mut input).await? else { break };
            let permits = self.admit(&request).await;
            let idle = input.buffer().is_empty();
            self.start(request, permits, idle).await;
            // Finished ones are forgotten; crashes were answered already.
            while self.running.try_join_next().is_some() {}
        }
        while self.running.join_next().await.is_some() {}
        Ok(())
    }

    /// The next request, its payload dropped; `None` when the client is done.
    ///
    /// Something must be in the buffer, or the end of the stream be reached.
    async fn next<R: AsyncRead + Unpin>(
        &self,
        input: &mut BufReader<R>,
    ) -> Result<Option<Request>, SessionError> {
        if input.buffer().is_empty() {
            return Ok(None);
        }
        let framing = self.agreement.framing;
        timeout(self.limits.stall_timeout, receive(framing, input))
            .await
            .map_err(|_| SessionError::Stalled)?
    }

    /// Waits for a place in the pipeline and for memory.
    async fn admit(&self, request: &Request) -> Permits {
        const OPEN: &str = "the semaphore lives as long as the session and is never closed";
        let place = Arc::clone(&self.places).acquire_owned().await.expect(OPEN);
        let grains = weight(request).div_ceil(GRAIN).min(u64::from(self.bytes_total));
        let bytes = match grains {
            0 => None,
            // At most `bytes_total`, which is 32 bits.
            n => Some(Arc::clone(&self.bytes).acquire_many_owned(n as u32).await.expect(OPEN)),
        };
        Permits { _place: place, _bytes: bytes }
    }

    /// Starts a request. When no other is waiting it is tried in place first: an answer from a
    /// cache is then ready without a detour through the scheduler.
    async fn start(&mut self, request: Request, permits: Permits, idle: bool) {
        let queue = self.queue.clone();
        let mut work = Box::pin(answer(self.agreement.clone(), request));
        if idle && let Some(reply) = poll_once(work.as_mut()).await {
            // An error means that the writer has ended, and with it the session.
            let _ = queue.send((reply, permits)).await;
            return;
        }
        self.running.spawn(async move {
            let reply = work.await;
            let _ = queue.send((reply, permits)).await;
        });
    }

    /// Answers further requests with `ESHUTDOWN` until those under way are answered
    /// ("Terminating the transmission phase").
    async fn wind_down<R: AsyncRead + Unpin>(
        &mut self,
        input: &mut BufReader<R>,
    ) -> Result<(), SessionError> {
        let all = places(&self.limits) as u32;
        loop {
            let places = Arc::clone(&self.places);
            tokio::select! {
                biased;
                filled = input.fill_buf() => { filled?; }
                _ = places.acquire_many(all) => return Ok(()),
            }
            let Some(request) = self.next(input).await? else { return Ok(()) };
            let permits = self.admit(&Request { length: 0, ..request }).await;
            let reply = ReplyBuilder::new(self.agreement.framing, &request)
                .error(Errno::Shutdown, "the server is shutting down");
            let _ = self.queue.send((reply, permits)).await;
        }
    }
}

/// Requests a connection may have under way.
fn places(limits: &Limits) -> usize {
    // Far below what a semaphore and a channel can count.
    limits.requests_in_flight.clamp(1, 1 << 16)
}

/// Reads one request and drops its payload.
async fn receive<R: AsyncRead + Unpin>(
    framing: Framing,
    input: &mut BufReader<R>,
) -> Result<Option<Request>, SessionError> {
    let mut bytes = [0; 32];
    let head = &mut bytes[..Request::len(framing)];
    input.read_exact(head).await?;
    let request = Request::decode(framing, head)?;
    let payload = request.payload(framing);
    let dropped = tokio::io::copy_buf(&mut input.take(payload), &mut tokio::io::sink()).await?;
    if dropped < payload {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok((request.command != Command::Disconnect).then_some(request))
}

/// The result of a future that is ready at once.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
