//! One connection, from login to its end.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sluice_block::Pool;
use sluice_door::Ticket;
use sluice_iscsi_wire::{
    AsyncEvent, DataOut, HEADER, LogoutReason, LogoutRequest, NO_TAG, NopOut, Parameters,
    RejectReason, Request, Response, ScsiCommand, TaskRequest, TextRequest,
};
use sluice_scsi::{Command, Sense, lun_from_wire};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::Limits;
use crate::conversation::Conversation;
use crate::execute::{GRAIN, Place, Work};
use crate::link::{Link, LinkError};
use crate::login::{Agreement, LoginError, MOST_TO_US, login};
use crate::management::{Management, manage};
use crate::outgoing::{Outgoing, write};
use crate::perform::{Answer, perform, refused};
use crate::target::{Session, Shared};
use crate::transfer::{Next, Transfer};
use crate::unit::{self, BLOCK, MOST_BLOCKS, Unit};
use crate::window::{Arrivals, Slot, Window, places};

/// Bytes of data that one command may take.
const MOST_DATA: u64 = MOST_BLOCKS as u64 * BLOCK as u64;
/// Seconds after which an initiator may come back when the server shuts down.
const COME_BACK: u16 = 2;

/// Why a connection ended before its initiator said goodbye.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("login took longer than {0:?}")]
    LoginTimeout(Duration),
    #[error("it had not logged in, or only to ask for names, when others came")]
    CrowdedOut,
    #[error("it had nothing to ask for {0:?}")]
    Idle(Duration),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the writer failed: {0}")]
    Io(#[from] io::Error),
    #[error("commands of the session before it have not ended yet")]
    FormerLives,
    #[error("commands were not finished {0:?} after the shutdown began")]
    Overdue(Duration),
    #[error("the writer crashed: {0}")]
    Crashed(#[from] JoinError),
}

/// Where a connection comes from and goes to.
pub(crate) struct Ends {
    pub(crate) peer: IpAddr,
    pub(crate) local: SocketAddr,
    pub(crate) listening: Arc<[SocketAddr]>,
}

/// Serves one connection to its end.
pub(crate) async fn serve<R, W>(
    shared: Arc<Shared>,
    limits: Limits,
    ends: Ends,
    ticket: &Ticket,
    (input, mut output): (R, W),
    shutdown: CancellationToken,
) -> Result<(), SessionError>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let mut link = Link::new(input, limits.stall_timeout);
    let logging_in = timeout(
        limits.login_timeout,
        login(&shared, ends.peer, limits.commands, &mut link, &mut output, limits.stall_timeout),
    );
    let agreement = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = ticket.crowded_out() => return Err(SessionError::CrowdedOut),
        agreed = logging_in => {
            agreed.map_err(|_| SessionError::LoginTimeout(limits.login_timeout))??
        }
    };
    let Some(agreement) = agreement else { return Ok(()) };
    let Agreement { initiator, port, discovery, parameters, window, connection, composer } =
        agreement;
    // Who only asks for names has shown nothing, and stays a stranger.
    if !discovery {
        ticket.known();
    }
    tracing::info!(initiator, discovery, "session begins");
    // Room for an answer and a request to transfer of everything under way, and for what nobody
    // asked for.
    let (queue, answers) = mpsc::channel(2 * places(limits.commands) + 64);
    let most_to_peer = Arc::clone(&composer.most);
    let stall = limits.stall_timeout;
    let mut writer = AbortOnDropHandle::new(tokio::spawn(write(answers, composer, output, stall)));
    let presence = shared.begin(port.into(), discovery).await;
    let presence = presence.ok_or(SessionError::FormerLives)?;
    let session = Arc::clone(&presence.session);
    let grains = grains(limits.bytes_in_flight as u64).max(grains(MOST_DATA));
    let bytes_total = u32::try_from(grains).unwrap_or(u32::MAX);
    let conversation = Conversation::new(&shared, &initiator, ends, most_to_peer);
    let full = FullFeature {
        arrivals: Arrivals::new(&window),
        window,
        parameters,
        connection,
        discovery,
        idle: discovery.then_some(limits.discovery_idle),
        conversation,
        reads: Arc::new(Semaphore::new(bytes_total as usize)),
        writes: Arc::new(Semaphore::new(bytes_total as usize)),
        bytes_total,
        nowhere: Arc::new(unit::pool()),
        transfers: HashMap::new(),
        waiting: VecDeque::new(),
        next_transfer: 0,
        running: JoinSet::new(),
        session: Arc::clone(&session),
        shared,
        queue,
    };
    let ended = tokio::select! {
        biased;
        // Also in the middle of a message: nothing more may begin.
        () = session.stop.cancelled() => Ok(()),
        ended = full.run(&mut link, &shutdown) => ended,
        () = ticket.crowded_out(), if discovery => Err(SessionError::CrowdedOut),
        // The writer only ends early when the initiator is gone or does not read.
        written = &mut writer => Err(written.map(io_end).unwrap_or_else(SessionError::from)),
    };
    // Nothing of the session may go on once another takes its place.
    presence.leave().await;
    ended?;
    // `run` dropped the queue, so the writer ends once everything is written.
    Ok(writer.await??)
}

fn io_end(written: io::Result<()>) -> SessionError {
    let gone = || io::ErrorKind::ConnectionAborted.into();
    SessionError::Io(written.err().unwrap_or_else(gone))
}

/// Permits for so many bytes.
fn grains(bytes: u64) -> u64 {
    bytes.div_ceil(GRAIN).clamp(1, Semaphore::MAX_PERMITS as u64)
}

/// The full feature phase of one session.
struct FullFeature {
    shared: Arc<Shared>,
    session: Arc<Session>,
    window: Arc<Window>,
    arrivals: Arrivals,
    parameters: Parameters,
    connection: u16,
    discovery: bool,
    /// Time that may go by between messages.
    idle: Option<Duration>,
    conversation: Conversation,
    /// Memory for data to the initiator, and from it.
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    bytes_total: u32,
    /// Buffers of commands to logical units that are not there.
    nowhere: Arc<Pool>,
    transfers: HashMap<u32, Transfer>,
    /// Tags of transfers that wait for memory before they ask for data.
    waiting: VecDeque<u32>,
    next_transfer: u32,
    running: JoinSet<()>,
    queue: mpsc::Sender<Outgoing>,
}

/// What follows from a message.
enum Flow {
    GoOn,
    End,
}

impl Drop for FullFeature {
    fn drop(&mut self) {
        // Commands are ended by being told so, never in the middle of what the device does.
        self.running.detach_all();
    }
}

impl FullFeature {
    async fn run<R: AsyncRead + Unpin>(
        mut self,
        link: &mut Link<R>,
        shutdown: &CancellationToken,
    ) -> Result<(), SessionError> {
        let (session, idle) = (Arc::clone(&self.session), self.idle);
        loop {
            let (writes, wanted) = (Arc::clone(&self.writes), self.wanted());
            tokio::select! {
                biased;
                () = session.stop.cancelled() => return Ok(()),
                () = shutdown.cancelled() => {
                    let event = AsyncEvent::DropAll { wait: COME_BACK, retain: 0 };
                    self.send(Outgoing::plain(Response::Async { lun: 0, event })).await;
                    break;
                }
                () = session.swept.notified() => self.sweep(),
                permit = writes.acquire_many_owned(wanted), if wanted > 0 => {
                    self.grant(permit.ok()).await;
                }
                ready = ready(link, idle) => {
                    if !ready? {
                        return Ok(());
                    }
                    if let Flow::End = self.message(link).await? {
                        break;
                    }
                    // Finished ones are forgotten; crashes were answered already.
                    while self.running.try_join_next().is_some() {}
                }
            }
        }
        // What only collects data will not get any more of it.
        self.transfers.clear();
        while self.running.join_next().await.is_some() {}
        Ok(())
    }

    async fn send(&self, outgoing: Outgoing) {
        // An error means that the writer has ended, and with it the session.
        let _ = self.queue.send(outgoing).await;
    }

    /// Reads one message and begins what it asks for.
    async fn message<R: AsyncRead + Unpin>(
        &mut self,
        link: &mut Link<R>,
    ) -> Result<Flow, SessionError> {
        let (header, length) = link.header(MOST_TO_US as usize).await?;
        let request = match Request::decode(&header) {
            Ok(Request::DataOut(data)) => {
                self.data_out(link, &data, length).await?;
                return Ok(Flow::GoOn);
            }
            Ok(Request::Login(_)) | Err(_) => {
                link.data(&mut [], length).await?;
                let snack = header[0] & 0x3f == 0x10;
                let reason = if snack { RejectReason::SnackReject } else { RejectReason::Protocol };
                self.reject(reason, &header).await;
                return Ok(Flow::GoOn);
            }
            Ok(request) => request,
        };
        let Some((number, immediate)) = request.order() else { return Ok(Flow::GoOn) };
        let slot = if immediate { self.window.immediate() } else { self.arrivals.take(number) };
        let Some(slot) = slot else {
            link.data(&mut [], length).await?;
            // A command outside the window is dropped without a word, as the RFC has it.
            if immediate {
                self.reject(RejectReason::TooManyImmediate, &header).await;
            }
            return Ok(Flow::GoOn);
        };
        match request {
            Request::Command(command) => {
                self.command(link, &header, command, length, slot).await?;
            }
            Request::NopOut(nop) => self.nop(link, &header, nop, length, slot).await?,
            Request::Text(request) => self.text(link, &header, request, length, slot).await?,
            Request::Task(request) => {
                link.data(&mut [], length).await?;
                self.task(request, slot);
            }
            Request::Logout(request) => {
                link.data(&mut [], length).await?;
                return Ok(self.logout(request, slot).await);
            }
            _ => {}
        }
        Ok(Flow::GoOn)
    }

    async fn reject(&self, reason: RejectReason, header: &[u8; HEADER]) {
        tracing::debug!(?reason, opcode = header[0] & 0x3f, "message rejected");
        let response = Response::Reject { reason };
        self.send(Outgoing::Message { response, data: header.to_vec(), slot: None }).await;
    }

    /// A SCSI command, with data that came along.
    async fn command<R: AsyncRead + Unpin>(
        &mut self,
        link: &mut Link<R>,
        header: &[u8; HEADER],
        mut command: ScsiCommand,
        length: usize,
        slot: Slot,
    ) -> Result<(), SessionError> {
        // Nothing follows a command that sends nothing, whatever it says.
        command.last |= !command.write;
        let task =
            if self.discovery { None } else { self.session.tasks.begin(command.tag, command.lun) };
        let Some(task) = task else {
            link.data(&mut [], length).await?;
            drop(slot);
            let in_use = RejectReason::TaskInProgress;
            let reason = if self.discovery { RejectReason::Protocol } else { in_use };
            self.reject(reason, header).await;
            return Ok(());
        };
        let unit = self.unit(command.lun);
        let pool = unit.map_or(&self.nowhere, |unit| &unit.pool);
        let mut buffer = pool.take(data_wanted(&command, unit));
        link.data(&mut buffer, length).await?;
        let most = self.parameters.first_burst.min(command.length) as usize;
        let unsolicited = length > 0 && !self.parameters.immediate_data
            || !command.last && self.parameters.initial_r2t
            || length > most;
        if command.write && unsolicited {
            self.send(refused(&command, Sense::UNEXPECTED_DATA, slot)).await;
            self.session.tasks.end(&task);
            return Ok(());
        }
        let mut transfer = Transfer::new(task, command, buffer, slot, length, &self.parameters);
        if !command.write {
            transfer.buffer.truncate(0);
        }
        let idle = link.is_idle();
        self.proceed(transfer, idle).await;
        Ok(())
    }

    fn unit(&self, lun: u64) -> Option<&Arc<Unit>> {
        unit_of(&self.shared, lun)
    }

    /// Data of a command that was begun earlier.
    async fn data_out<R: AsyncRead + Unpin>(
        &mut self,
        link: &mut Link<R>,
        message: &DataOut,
        length: usize,
    ) -> Result<(), SessionError> {
        let Some(mut transfer) = self.transfers.remove(&message.tag) else {
            // Data of a command that was ended or answered before it all had come.
            return Ok(link.data(&mut [], length).await?);
        };
        match transfer.place(message, length) {
            Ok(place) => link.data(place, length).await?,
            Err(sense) => {
                link.data(&mut [], length).await?;
                let Transfer { task, command, slot, .. } = transfer;
                if task.answer() {
                    self.send(refused(&command, sense, slot)).await;
                }
                self.session.tasks.end(&task);
                return Ok(());
            }
        }
        let idle = link.is_idle();
        self.proceed(transfer, idle).await;
        Ok(())
    }

    /// Does what a transfer needs next.
    async fn proceed(&mut self, mut transfer: Transfer, idle: bool) {
        match transfer.next() {
            Next::More => {}
            Next::Complete => return self.start(transfer, idle).await,
            // Memory is given once, for all of the data.
            Next::Request if transfer.permit.is_some() => self.ask(&mut transfer).await,
            Next::Request => self.waiting.push_back(transfer.command.tag),
        }
        self.transfers.insert(transfer.command.tag, transfer);
    }

    async fn ask(&mut self, transfer: &mut Transfer) {
        let tag = self.next_transfer;
        self.next_transfer = if tag == NO_TAG - 1 { 0 } else { tag + 1 };
        let request = transfer.request(tag, self.parameters.max_burst);
        self.send(Outgoing::plain(Response::Ready(request))).await;
    }

    /// Memory that the first of those waiting needs; zero when nobody waits.
    fn wanted(&mut self) -> u32 {
        while let Some(tag) = self.waiting.front() {
            if let Some(transfer) = self.transfers.get(tag) {
                let wanted = grains(transfer.buffer.len() as u64).min(self.bytes_total.into());
                // At most the total, which has 32 bits.
                return wanted as u32;
            }
            self.waiting.pop_front();
        }
        0
    }

    /// Gives memory to the first of those waiting.
    async fn grant(&mut self, permit: Option<OwnedSemaphorePermit>) {
        let Some(tag) = self.waiting.pop_front() else { return };
        let Some(mut transfer) = self.transfers.remove(&tag) else { return };
        transfer.permit = permit;
        self.ask(&mut transfer).await;
        self.transfers.insert(tag, transfer);
    }

    /// Forgets transfers of commands that were ended.
    fn sweep(&mut self) {
        self.transfers.retain(|_, transfer| !transfer.task.cancel.is_cancelled());
        // Their tags may be used again, by a transfer that does not wait for memory yet.
        self.waiting.retain(|tag| self.transfers.contains_key(tag));
    }

    /// Starts a command whose data is there. When no other message is waiting it is tried in place
    /// first: an answer from a cache is then ready without a detour through the scheduler.
    async fn start(&mut self, transfer: Transfer, idle: bool) {
        let Transfer { task, command, buffer, slot, permit, requests, .. } = transfer;
        if self.session.stop.is_cancelled() || !task.start() {
            return;
        }
        let place = Place {
            unit: self.unit(command.lun).cloned(),
            units: Arc::clone(&self.shared.units),
            port: Arc::clone(&self.session.port),
            bytes: Arc::clone(&self.reads),
            bytes_total: self.bytes_total,
        };
        let work = Work::new(&command, buffer, &task);
        let answer = Answer {
            shared: Arc::clone(&self.shared),
            session: Arc::clone(&self.session),
            queue: self.queue.clone(),
            task,
            command,
            transfers: requests,
            slot,
            permit,
        };
        let mut running = Box::pin(perform(place, work, answer));
        if !(idle && poll_once(running.as_mut()).await.is_some()) {
            self.running.spawn(running);
        }
    }

    /// A ping.
    async fn nop<R: AsyncRead + Unpin>(
        &self,
        link: &mut Link<R>,
        header: &[u8; HEADER],
        nop: NopOut,
        length: usize,
        slot: Slot,
    ) -> Result<(), SessionError> {
        if nop.tag == NO_TAG {
            return Ok(link.data(&mut [], length).await?);
        }
        // No more than the initiator would take back, and nothing to one that is not known.
        let most = if self.discovery { 0 } else { self.conversation.most_to_peer() };
        let echoed = length.min(most);
        let Some(room) = self.conversation.room(echoed) else {
            link.data(&mut [], length).await?;
            drop(slot);
            self.reject(RejectReason::OutOfResources, header).await;
            return Ok(());
        };
        let mut data = vec![0; echoed];
        link.data(&mut data, length).await?;
        let response = Response::NopIn { lun: 0, tag: nop.tag, target_tag: NO_TAG };
        self.send(Outgoing::Talk { response, data, slot: Some(slot), _room: room }).await;
        Ok(())
    }

    async fn text<R: AsyncRead + Unpin>(
        &mut self,
        link: &mut Link<R>,
        header: &[u8; HEADER],
        request: TextRequest,
        length: usize,
        slot: Slot,
    ) -> Result<(), SessionError> {
        let mut said = vec![0; length];
        link.data(&mut said, length).await?;
        let (response, data) = self.conversation.step(&request, &said).map_err(LinkError::from)?;
        // There is one exchange at a time, so that whoever takes its answers has room for one.
        let Some(room) = self.conversation.room(data.len()) else {
            drop(slot);
            self.reject(RejectReason::OutOfResources, header).await;
            return Ok(());
        };
        self.send(Outgoing::Talk { response, data, slot: Some(slot), _room: room }).await;
        Ok(())
    }

    fn task(&mut self, request: TaskRequest, slot: Slot) {
        let management = Management {
            shared: Arc::clone(&self.shared),
            session: Arc::clone(&self.session),
            queue: self.queue.clone(),
            unit: self.unit(request.lun).cloned(),
        };
        // What is to end is marked now, so that nothing which comes later is meant.
        let answered = manage(management, request, slot);
        self.sweep();
        self.running.spawn(answered);
    }

    async fn logout(&self, request: LogoutRequest, slot: Slot) -> Flow {
        let own = request.connection == self.connection;
        let (response, flow) = match request.reason {
            LogoutReason::Session => (0, Flow::End),
            LogoutReason::Connection if own => (0, Flow::End),
            LogoutReason::Connection => (1, Flow::GoOn),
            LogoutReason::Recovery | LogoutReason::Other(_) => (2, Flow::GoOn),
        };
        let response = Response::Logout { tag: request.tag, response };
        self.send(Outgoing::Message { response, data: Vec::new(), slot: Some(slot) }).await;
        flow
    }
}

/// Waits for the next message, no longer than it may take; false at the end of the stream.
async fn ready<R: AsyncRead + Unpin>(
    link: &mut Link<R>,
    idle: Option<Duration>,
) -> Result<bool, SessionError> {
    let Some(idle) = idle else { return Ok(link.ready().await?) };
    Ok(timeout(idle, link.ready()).await.map_err(|_| SessionError::Idle(idle))??)
}

/// The unit of a number on the wire.
pub(crate) fn unit_of(shared: &Shared, lun: u64) -> Option<&Arc<Unit>> {
    shared.units.get(usize::from(lun_from_wire(lun)?))
}

/// Bytes of data that are asked for: none for a command that will be refused anyway.
pub(crate) fn data_wanted(command: &ScsiCommand, unit: Option<&Arc<Unit>>) -> usize {
    let Some(unit) = unit.filter(|_| command.write) else { return 0 };
    let Ok(parsed) = Command::parse(&command.cdb) else { return 0 };
    let takes = parsed.data_out(BLOCK);
    if takes > MOST_DATA || (parsed.changes_medium() && unit.is_read_only()) {
        return 0;
    }
    // Both are below the most there can be.
    takes.min(u64::from(command.length)) as usize
}

/// The result of a future that is ready at once.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
