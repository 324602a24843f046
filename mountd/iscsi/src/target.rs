//! What all sessions of a target share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_door::Guard;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::ServeError;
use crate::config::{Access, Target};
use crate::reservation::Port;
use crate::task::{Task, Tasks};
use crate::unit::Unit;

/// All portals lead to one target port.
pub(crate) const PORTAL_GROUP: u16 = 1;
/// Time that a session gets to end before the one that would take its place is refused.
const REPLACE: Duration = Duration::from_secs(5);

/// A target, as its sessions see it.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) units: Arc<[Arc<Unit>]>,
    pub(crate) access: Access,
    pub(crate) announced: Vec<SocketAddr>,
    /// Slows down who guesses at the secret.
    pub(crate) guard: Guard,
    sessions: Mutex<HashMap<u64, Arc<Session>>>,
    next_session: AtomicU64,
    next_handle: AtomicU16,
}

/// A session, as others see it.
pub(crate) struct Session {
    id: u64,
    pub(crate) port: Port,
    /// Such a session has no access to units, and is no nexus of its port with the target.
    discovery: bool,
    pub(crate) tasks: Tasks,
    /// Set when the session is to end.
    pub(crate) stop: CancellationToken,
    /// Set when nothing of the session goes on any more.
    pub(crate) ended: CancellationToken,
    /// Told when commands were ended whose data is on the way.
    pub(crate) swept: Notify,
}

/// A session's place among the others, which is given up once nothing of it goes on any more.
pub(crate) struct Presence {
    shared: Arc<Shared>,
    pub(crate) session: Arc<Session>,
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
            guard: Guard::default(),
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

    /// Ends the session of an initiator port, for another to take its place ("Session
    /// Reinstatement"); false when something of it still goes on after a while. One for discovery
    /// has nothing that another could take.
    pub(crate) async fn replace(&self, port: &str) -> bool {
        let before = former(&self.sessions(), port);
        away(&before).await
    }

    /// Begins a session, which nothing of a former one of its port outlives; none when that does
    /// not end. Units learn nothing of one for discovery.
    pub(crate) async fn begin(self: &Arc<Self>, port: Port, discovery: bool) -> Option<Presence> {
        let id = self.next_session.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(Session {
            id,
            port,
            discovery,
            tasks: Tasks::default(),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
            swept: Notify::new(),
        });
        // Of two that begin at once, the one that comes second here sees the other.
        let before = {
            let mut all = self.sessions();
            let before = if discovery { Vec::new() } else { former(&all, &session.port) };
            all.insert(id, Arc::clone(&session));
            before
        };
        let presence = Presence { shared: Arc::clone(self), session };
        if !away(&before).await {
            return None;
        }
        if !discovery {
            self.units.iter().for_each(|unit| unit.attach(&presence.session.port));
        }
        Some(presence)
    }

    /// Ends a session: its registrations stay, everything else goes.
    fn end(&self, session: &Session) {
        let mut all = self.sessions();
        all.remove(&session.id);
        if !session.discovery && former(&all, &session.port).is_empty() {
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
}

/// The sessions of an initiator port that are nexuses.
fn former(all: &HashMap<u64, Arc<Session>>, port: &str) -> Vec<Arc<Session>> {
    all.values().filter(|other| !other.discovery && *other.port == *port).cloned().collect()
}

/// Ends sessions; false when that takes too long.
async fn away(sessions: &[Arc<Session>]) -> bool {
    sessions.iter().for_each(|session| session.stop.cancel());
    let ended = async {
        for session in sessions {
            session.ended.cancelled().await;
        }
    };
    timeout(REPLACE, ended).await.is_ok()
}

impl Presence {
    /// Ends the session with all of its commands.
    pub(crate) async fn leave(self) {
        for task in self.session.tasks.abort_all(None) {
            task.ended().await;
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let going = self.session.tasks.abort_all(None);
        let (shared, session) = (Arc::clone(&self.shared), Arc::clone(&self.session));
        match Handle::try_current() {
            // Only where serving was cut off: whoever wants the place waits for what goes on.
            Ok(runtime) if !going.is_empty() => drop(runtime.spawn(async move {
                for task in going {
                    task.ended().await;
                }
                shared.end(&session);
            })),
            _ => shared.end(&session),
        }
    }
}
