//! One connection, from its greeting to its end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sluice_door::Ticket;
use sluice_nbd_wire::{Command, CommandFlags, Errno, Request, StatusFilter, WireError};
use thiserror::Error;
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::command::{Agreement, Incoming, Link, Payload, answer, answer_at_hand, weight};
use crate::export::Exports;
use crate::handshake::{HandshakeError, Outcome, greet, negotiate};
use crate::limits::Limits;
use crate::negotiation::Secrecy;
use crate::read::is_short;
use crate::reply::{Permits, Reply, ReplyBuilder, write_replies};
use crate::tls::Encryption;

/// Bytes that one byte permit stands for: permits are counted in 32 bits.
const GRAIN: u64 = 4096;
/// Bytes read ahead from the socket: a full pipeline of requests.
const READ_AHEAD: usize = 16 << 10;
/// Bytes of replies gathered before they are encrypted: four full records of TLS.
const TLS_BATCH: usize = 64 << 10;
/// Bytes of one request that each connection may have beyond the budget of all: however much
/// others hold, requests up to this size go on, one at a time.
const RESERVE: u64 = 256 << 10;

/// Why a connection ended before its client said goodbye.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("the negotiation took longer than {0:?}")]
    HandshakeTimeout(Duration),
    #[error("the negotiation had to make room for newer connections")]
    Crowded,
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

/// What all connections of a server share.
pub(crate) struct Shared {
    pub(crate) exports: Exports,
    pub(crate) encryption: Encryption,
    pub(crate) limits: Limits,
    pub(crate) shutdown: CancellationToken,
    /// Grains of content that all connections together may have unanswered.
    budget: Arc<Semaphore>,
    budget_total: u32,
}

impl Shared {
    pub(crate) fn new(
        exports: Exports,
        encryption: Encryption,
        limits: Limits,
        shutdown: CancellationToken,
    ) -> Self {
        let budget_total = grains(limits.total_bytes_in_flight);
        let budget = Arc::new(Semaphore::new(budget_total as usize));
        Self { exports, encryption, limits, shutdown, budget, budget_total }
    }

    /// Waits for a part of a negotiation, which must not hold a place for ever. `None` when the
    /// server is shutting down.
    async fn within<T>(
        &self,
        deadline: Instant,
        ticket: &Ticket,
        part: impl Future<Output = Result<T, HandshakeError>>,
    ) -> Result<Option<T>, SessionError> {
        let limit = self.limits.handshake_timeout;
        tokio::select! {
            () = self.shutdown.cancelled() => Ok(None),
            () = ticket.crowded_out() => Err(SessionError::Crowded),
            done = timeout_at(deadline, part) => {
                let done = done.map_err(|_| SessionError::HandshakeTimeout(limit))?;
                Ok(Some(done?))
            }
        }
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve<R, W>(
    shared: &Shared,
    ticket: &Ticket,
    input: R,
    mut output: W,
) -> Result<(), SessionError>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let deadline = Instant::now() + shared.limits.handshake_timeout;
    let mut input = BufReader::with_capacity(READ_AHEAD, input);
    let (secrecy, tls) = match &shared.encryption {
        Encryption::Off => (Secrecy::Never, None),
        Encryption::Offered(tls) => (Secrecy::Offered, Some(tls)),
        Encryption::Required(tls) => (Secrecy::Required, Some(tls)),
    };
    let exports = &shared.exports;
    let plain = async {
        let client = greet(&mut input, &mut output).await?;
        let outcome = negotiate(exports, client, secrecy, &mut input, &mut output).await?;
        Ok((client, outcome))
    };
    let Some((client, outcome)) = shared.within(deadline, ticket, plain).await? else {
        return Ok(());
    };
    let tls = match (outcome, tls) {
        (Outcome::Transmission(agreement), _) => {
            ticket.known();
            return transmit(shared, agreement, input, output).await;
        }
        (Outcome::Upgrade, Some(tls)) => tls,
        (Outcome::End | Outcome::Upgrade, _) => return Ok(()),
    };
    if !input.buffer().is_empty() {
        // Somebody in between may have put them there: they must not count as encrypted.
        return Err(HandshakeError::Injected.into());
    }
    let secret = async {
        let stream = tls.accept(tokio::io::join(input.into_inner(), output)).await?;
        let (input, output) = tokio::io::split(stream);
        let mut input = BufReader::with_capacity(READ_AHEAD, input);
        let mut output = BufWriter::with_capacity(TLS_BATCH, output);
        let known = Secrecy::Established;
        let outcome = negotiate(exports, client, known, &mut input, &mut output).await?;
        if matches!(outcome, Outcome::End) {
            output.shutdown().await?;
        }
        Ok((outcome, input, output))
    };
    match shared.within(deadline, ticket, secret).await? {
        Some((Outcome::Transmission(agreement), input, output)) => {
            ticket.known();
            transmit(shared, agreement, input, output).await
        }
        _ => Ok(()),
    }
}

/// Serves requests until the client is done.
async fn transmit<R, W>(
    shared: &Shared,
    agreement: Agreement,
    input: BufReader<R>,
    output: W,
) -> Result<(), SessionError>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    tracing::debug!(
        export = agreement.open.name,
        framing = ?agreement.framing,
        "transmission begins"
    );
    let link = Link::new(agreement);
    let ended = requests(shared, link.clone(), input, output).await;
    link.settle().await;
    ended
}

async fn requests<R, W>(
    shared: &Shared,
    link: Link,
    input: BufReader<R>,
    output: W,
) -> Result<(), SessionError>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let (queue, replies) = mpsc::channel(places(&shared.limits));
    // Ends with the session: a session that is given up must not leave a writer behind.
    let writing = tokio::spawn(write_replies(replies, output, shared.limits.clone()));
    let mut writer = AbortOnDropHandle::new(writing);
    let transmission = Transmission::new(shared, link, queue);
    let ended = tokio::select! {
        ended = transmission.run(input) => ended,
        // The writer only ends early when the client is gone or does not read.
        written = &mut writer => return Ok(written??),
    };
    ended?;
    // `run` dropped the queue, so the writer ends once everything is written.
    Ok(writer.await??)
}

/// The transmission phase of one connection.
struct Transmission<'a> {
    shared: &'a Shared,
    link: Link,
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_total: u32,
    reserve: Arc<Semaphore>,
    /// As long as there are places, so that it is never full.
    queue: mpsc::Sender<(Reply, Permits)>,
    /// Dropped with the session, which ends what is still running.
    running: JoinSet<()>,
}

impl<'a> Transmission<'a> {
    fn new(shared: &'a Shared, link: Link, queue: mpsc::Sender<(Reply, Permits)>) -> Self {
        let bytes_total = grains(shared.limits.bytes_in_flight);
        Self {
            shared,
            link,
            places: Arc::new(Semaphore::new(places(&shared.limits))),
            bytes: Arc::new(Semaphore::new(bytes_total as usize)),
            bytes_total,
            reserve: Arc::new(Semaphore::new(1)),
            queue,
            running: JoinSet::new(),
        }
    }

    /// Reads and starts requests until the client is done, then lets the started ones finish.
    async fn run<R: AsyncRead + Unpin>(
        mut self,
        mut input: BufReader<R>,
    ) -> Result<(), SessionError> {
        loop {
            // Only the wait for a request may be cut off by the shutdown: cancelling in the
            // middle of one would lose the place in the stream.
            tokio::select! {
                biased;
                () = self.shared.shutdown.cancelled() => {
                    return self.wind_down(&mut input).await;
                }
                filled = input.fill_buf() => { filled?; }
            }
            let Some(request) = self.head(&mut input).await? else { break };
            let permits = self.admit(&request, weight(&self.link.agreement, &request)).await;
            let payload = self.payload(&mut input, &request).await?;
            // Finished ones are forgotten; crashes were answered already.
            while self.running.try_join_next().is_some() {}
            let idle = input.buffer().is_empty();
            self.start(Incoming { request, payload }, permits, idle).await;
        }
        while self.running.join_next().await.is_some() {}
        Ok(())
    }

    /// The next request; `None` when the client is done.
    ///
    /// Something must be in the buffer, or the end of the stream be reached.
    async fn head<R: AsyncRead + Unpin>(
        &self,
        input: &mut BufReader<R>,
    ) -> Result<Option<Request>, SessionError> {
        if input.buffer().is_empty() {
            return Ok(None);
        }
        let framing = self.link.agreement.framing;
        let mut bytes = [0; 32];
        let head = &mut bytes[..Request::len(framing)];
        let reading = timeout(self.shared.limits.stall_timeout, input.read_exact(head));
        reading.await.map_err(|_| SessionError::Stalled)??;
        let request = Request::decode(framing, head)?;
        Ok((request.command != Command::Disconnect).then_some(request))
    }

    /// What follows a request that was admitted.
    async fn payload<R: AsyncRead + Unpin>(
        &self,
        input: &mut BufReader<R>,
        request: &Request,
    ) -> Result<Payload, SessionError> {
        let (agreement, limits) = (&self.link.agreement, &self.shared.limits);
        let length = request.payload(agreement.framing);
        let content = request.command == Command::Write
            && agreement.open.device.writer().is_some()
            && length <= u64::from(agreement.open.sizes.maximum);
        let filter = request.command == Command::BlockStatus
            && request.flags.contains(CommandFlags::PAYLOAD_LEN)
            && length > 0;
        let reading = async {
            if content {
                // The payload was limited when the request was decoded.
                let mut content = agreement.open.pool.take(length as usize);
                read_steadily(input, &mut content, limits.stall_timeout).await?;
                Ok(Payload::Content(content))
            } else if filter && length <= StatusFilter::MAX_LEN as u64 {
                let mut bytes = vec![0; length as usize];
                read_steadily(input, &mut bytes, limits.stall_timeout).await?;
                let decoded = StatusFilter::decode(&bytes);
                Ok(decoded
                    .map_or_else(|error| Payload::Invalid(error.to_string()), Payload::Filter))
            } else {
                drop_payload(input, length, limits.stall_timeout).await?;
                let dropped = "the payload is too long";
                Ok(if filter { Payload::Invalid(dropped.to_owned()) } else { Payload::None })
            }
        };
        timeout(limits.patience(length), reading).await.map_err(|_| SessionError::Stalled)?
    }

    /// Waits for a place in the pipeline and for memory.
    async fn admit(&self, request: &Request, weight: u64) -> Permits {
        const OPEN: &str = "the semaphore lives as long as the session and is never closed";
        let place = Arc::clone(&self.places).acquire_owned().await.expect(OPEN);
        let wanted = weight.div_ceil(GRAIN);
        if wanted == 0 {
            return Permits { _place: place, _bytes: [None, None] };
        }
        // At most their totals, which are 32 bits.
        let own = wanted.min(u64::from(self.bytes_total)) as u32;
        let common = wanted.min(u64::from(self.shared.budget_total)) as u32;
        let own = Arc::clone(&self.bytes).acquire_many_owned(own).await.expect(OPEN);
        let budget = Arc::clone(&self.shared.budget).acquire_many_owned(common);
        let reserve = async {
            if weight > RESERVE {
                tracing::trace!(?request, "waiting for memory");
                std::future::pending::<()>().await;
            }
            Arc::clone(&self.reserve).acquire_owned().await
        };
        let common = tokio::select! {
            biased;
            common = budget => common.expect(OPEN),
            reserved = reserve => reserved.expect(OPEN),
        };
        Permits { _place: place, _bytes: [Some(own), Some(common)] }
    }

    /// Starts a request. A short read from a cache is answered in place, and so is what is ready
    /// at once when no other request is waiting: a detour through the scheduler would take longer.
    /// A short read that no cache answers decodes a block, which beside others is work for another
    /// core.
    async fn start(&mut self, incoming: Incoming, permits: Permits, idle: bool) {
        let queue = self.queue.clone();
        if let Some(reply) = answer_at_hand(&self.link, &incoming) {
            // An error means that the writer has ended, and with it the session.
            let _ = queue.send((reply, permits)).await;
            return;
        }
        let decodes = is_short(&incoming.request) && !self.running.is_empty();
        let mut work = Box::pin(answer(self.link.clone(), incoming));
        if idle
            && !decodes
            && let Some(reply) = poll_once(work.as_mut()).await
        {
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
        let all = places(&self.shared.limits) as u32;
        loop {
            let places = Arc::clone(&self.places);
            tokio::select! {
                biased;
                filled = input.fill_buf() => { filled?; }
                _ = places.acquire_many(all) => return Ok(()),
            }
            let Some(request) = self.head(input).await? else { break };
            let permits = self.admit(&request, 0).await;
            let framing = self.link.agreement.framing;
            let length = request.payload(framing);
            let limits = &self.shared.limits;
            let dropping = drop_payload(input, length, limits.stall_timeout);
            let dropped = timeout(limits.patience(length), dropping).await;
            dropped.map_err(|_| SessionError::Stalled)??;
            let reply = ReplyBuilder::new(framing, &request)
                .error(Errno::Shutdown, "the server is shutting down");
            let _ = self.queue.send((reply, permits)).await;
        }
        while self.running.join_next().await.is_some() {}
        Ok(())
    }
}

/// Permits for as many bytes.
fn grains(bytes: usize) -> u32 {
    // Far below what a semaphore can count.
    (bytes as u64 / GRAIN).clamp(1, 1 << 30) as u32
}

/// Requests a connection may have under way.
fn places(limits: &Limits) -> usize {
    // Far below what a semaphore and a channel can count.
    limits.requests_in_flight.clamp(1, 1 << 16)
}

/// Fills `bytes`; each part of it must come within `stall`.
async fn read_steadily<R: AsyncRead + Unpin>(
    input: &mut BufReader<R>,
    bytes: &mut [u8],
    stall: Duration,
) -> Result<(), SessionError> {
    let mut done = 0;
    while done < bytes.len() {
        let reading = timeout(stall, input.read(&mut bytes[done..]));
        match reading.await.map_err(|_| SessionError::Stalled)?? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            read => done += read,
        }
    }
    Ok(())
}

/// Reads a payload that nobody wants, likewise.
async fn drop_payload<R: AsyncRead + Unpin>(
    input: &mut BufReader<R>,
    length: u64,
    stall: Duration,
) -> Result<(), SessionError> {
    let mut left = length;
    while left > 0 {
        let filled =
            timeout(stall, input.fill_buf()).await.map_err(|_| SessionError::Stalled)??;
        if filled.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let take = left.min(filled.len() as u64);
        // At most what is in the buffer.
        input.consume(take as usize);
        left -= take;
    }
    Ok(())
}

/// The result of a future that is ready at once.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
