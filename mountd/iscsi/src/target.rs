//! What all sessions of a target share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_iscsi_wire::{AsyncEvent, Response};
use sluice_scsi::{Sense, lun_to_wire};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::ServeError;
use crate::config::{Access, Target};
use crate::outgoing::Outgoing;
use crate::reservation::Port;
use crate::task::{Task, Tasks};
use crate::unit::Unit;

/// All portals lead to one target port.
pub(crate) const PORTAL_GROUP: u16 = 1;
/// Time that a session gets to end before the one that takes its place begins anyway.
const REPLACE: Duration = Duration::from_secs(5);

/// A target, as its sessions see it.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) units: Arc<[Arc<Unit>]>,
    pub(crate) access: Access,
    pub(crate) announced: Vec<SocketAddr>,
    sessions: Mutex<HashMap<u64, Arc<Session>>>,
    next_session: AtomicU64,
    next_handle: AtomicU16,
}

/// A session, as others see it.
pub(crate) struct Session {
    id: u64,
    pub(crate) port: Port,
    pub(crate) tasks: Tasks,
    /// Set when the session is to end.
    pub(crate) stop: CancellationToken,
    /// Set when nothing of the session goes on any more.
    pub(crate) ended: CancellationToken,
    /// Told when commands were ended whose data is on the way.
    pub(crate) swept: Notify,
    queue: mpsc::WeakSender<Outgoing>,
}

impl Shared {
    pub(crate) fn new(target: Target) -> Result<Self, ServeError> {
        target.check()?;
        let unit = |(number, lun)| {
            // Checked above to be few.
            Arc::new(Unit::new(number as u16, lun, &target.name, PORTAL_GROUP))
        };
        let units = target.luns.into_iter().enumerate().map(unit).collect();
        Ok(Self {
            name: target.name.clone(),
            alias: target.alias,
            units,
            access: target.access,
            announced: target.announced,
            sessions: Mutex::default(),
            next_session: AtomicU64::new(1),
            next_handle: AtomicU16::new(1),
        })
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<u64, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle for a new session; never zero.
    pub(crate) fn handle(&self) -> u16 {
        self.next_handle.fetch_add(1, Ordering::Relaxed).max(1)
    }

    /// Begins a session. One of the same initiator port ends first ("Session Reinstatement"). One
    /// for discovery has no access to units, which learn nothing of it.
    pub(crate) async fn begin(
        &self,
        port: Port,
        discovery: bool,
        queue: &mpsc::Sender<Outgoing>,
    ) -> Arc<Session> {
        let id = self.next_session.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(Session {
            id,
            port,
            tasks: Tasks::default(),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
            swept: Notify::new(),
            queue: queue.downgrade(),
        });
        let before = {
            let mut all = self.sessions();
            let before = all.values().filter(|other| other.port == session.port).cloned();
            let before: Vec<_> = before.collect();
            all.insert(id, Arc::clone(&session));
            before
        };
        for other in before {
            other.stop.cancel();
            if timeout(REPLACE, other.ended.cancelled()).await.is_err() {
                tracing::warn!(port = &*other.port, "the session before does not end");
            }
        }
        if !discovery {
            self.units.iter().for_each(|unit| unit.attach(&session.port));
        }
        session
    }

    /// Ends a session: its registrations stay, everything else goes.
    pub(crate) fn end(&self, session: &Session) {
        let mut all = self.sessions();
        all.remove(&session.id);
        if !all.values().any(|other| other.port == session.port) {
            self.units.iter().for_each(|unit| unit.detach(&session.port));
        }
        session.ended.cancel();
    }

    /// All sessions.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.sessions().values().cloned().collect()
    }

    /// Ends the commands on a logical unit, or all; those of some initiators, or of everybody.
    /// Returns those to wait for.
    pub(crate) fn abort(&self, lun: Option<u64>, ports: Option<&[Port]>) -> Vec<Arc<Task>> {
        let mut aborted = Vec::new();
        for session in self.all() {
            if ports.is_none_or(|ports| ports.contains(&session.port)) {
                aborted.extend(session.tasks.abort_all(lun));
                session.swept.notify_one();
            }
        }
        aborted
    }

    /// Tells everybody that a disk has another size now.
    pub(crate) fn capacity_changed(&self, number: u16) {
        let Some(unit) = self.units.get(usize::from(number)) else { return };
        unit.state().raise(Sense::CAPACITY_CHANGED, None);
        let sense = Sense::CAPACITY_CHANGED.encode(unit.state().mode.descriptors);
        for session in self.all() {
            let mut data = (sense.len() as u16).to_be_bytes().to_vec();
            data.extend(&sense);
            let lun = lun_to_wire(number);
            let response = Response::Async { lun, event: AsyncEvent::Sense };
            session.tell(Outgoing::Message { response, data, slot: None });
        }
    }
}

impl Session {
    /// Sends a message that nobody asked for, if there is room: it is news, not an answer.
    pub(crate) fn tell(&self, outgoing: Outgoing) {
        if let Some(queue) = self.queue.upgrade() {
            let _ = queue.try_send(outgoing);
        }
    }
}
