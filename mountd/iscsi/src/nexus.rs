//! An initiator's place at a target without a connection: commands as they are once they and their
//! data are there, and what they are answered with before it is cut into messages. Whatever an
//! initiator puts into a command comes to this.

use std::fmt;
use std::sync::Arc;

use sluice_iscsi_wire::{Residual, Response, ScsiCommand, Serial, TaskAnswer, TaskRequest};
use tokio::sync::{Semaphore, mpsc};

use crate::carried::Carried;
use crate::execute::{Place, Work};
use crate::management::{Management, manage};
use crate::outgoing::Outgoing;
use crate::perform::{Answer, perform};
use crate::session::{data_wanted, unit_of};
use crate::target::{Presence, Shared};
use crate::unit;
use crate::window::Window;

/// Memory for data to the initiator, in grains: what one session has by default.
const GRAINS: u32 = 8192;
/// Answers that wait to be taken: there is one at a time.
const QUEUE: usize = 1;

/// An initiator's place at a target. Dropping it is the end of its session.
pub struct Nexus {
    shared: Arc<Shared>,
    presence: Presence,
    /// Lets everything through: its places are given back with each answer.
    window: Arc<Window>,
    reads: Arc<Semaphore>,
    queue: mpsc::Sender<Outgoing>,
    answers: mpsc::Receiver<Outgoing>,
}

/// How a command ended, as its initiator learns it.
#[derive(Debug)]
pub struct Answered {
    /// The SCSI status.
    pub status: u8,
    /// Sense data, where the status comes with some.
    pub sense: Vec<u8>,
    /// Data for the initiator.
    pub data: Vec<u8>,
    /// What the transfer lacks.
    pub residual: Residual,
}

impl Nexus {
    /// Begins the session of the initiator port `port`; one that it has already ends. None when
    /// that does not end.
    pub async fn begin(target: &Carried, port: &str) -> Option<Self> {
        let shared = Arc::clone(&target.shared);
        let (queue, answers) = mpsc::channel(QUEUE);
        let presence = shared.begin(port.into(), false).await?;
        let window = Window::new(Serial(0), 1);
        let reads = Arc::new(Semaphore::new(GRAINS as usize));
        Some(Self { shared, presence, window, reads, queue, answers })
    }

    /// Does a command. `data` is given the place for as many bytes as the command takes of what it
    /// announces. None when the session was ended, or the command was.
    pub async fn command(
        &mut self,
        command: ScsiCommand,
        data: impl FnOnce(&mut [u8]),
    ) -> Option<Answered> {
        let session = Arc::clone(&self.presence.session);
        if session.stop.is_cancelled() {
            return None;
        }
        let unit = unit_of(&self.shared, command.lun).cloned();
        let pool = unit.as_ref().map_or_else(|| Arc::new(unit::pool()), |u| Arc::clone(&u.pool));
        let mut buffer = pool.take(data_wanted(&command, unit.as_ref()));
        data(&mut buffer);
        let slot = self.window.immediate()?;
        let task = session.tasks.begin(command.tag, command.lun)?;
        task.start();
        let place = Place {
            unit,
            units: Arc::clone(&self.shared.units),
            port: Arc::clone(&session.port),
            bytes: Arc::clone(&self.reads),
            bytes_total: GRAINS,
        };
        let work = Work::new(&command, buffer, &task);
        let (shared, queue) = (Arc::clone(&self.shared), self.queue.clone());
        let (transfers, permit) = (0, None);
        let answer = Answer { shared, session, queue, task, command, transfers, slot, permit };
        perform(place, work, answer).await;
        let Outgoing::Command(reply) = self.answers.try_recv().ok()? else { return None };
        let data = reply.data.as_slice().to_vec();
        let (status, residual) = (reply.status.code(), reply.residual);
        Some(Answered { status, sense: reply.sense, data, residual })
    }

    /// Ends commands, or resets units. None when the session was ended.
    pub async fn manage(&mut self, request: TaskRequest) -> Option<TaskAnswer> {
        let session = Arc::clone(&self.presence.session);
        if session.stop.is_cancelled() {
            return None;
        }
        let unit = unit_of(&self.shared, request.lun).cloned();
        let (shared, queue) = (Arc::clone(&self.shared), self.queue.clone());
        let slot = self.window.immediate()?;
        manage(Management { shared, session, queue, unit }, request, slot).await;
        match self.answers.try_recv().ok()? {
            Outgoing::Message { response: Response::Task { answer, .. }, .. } => Some(answer),
            _ => None,
        }
    }

    /// Whether nothing is held for commands: neither memory nor places.
    pub fn is_idle(&self) -> bool {
        let tasks = self.presence.session.tasks.is_empty();
        tasks && self.reads.available_permits() == GRAINS as usize && self.window.is_free()
    }
}

impl fmt::Debug for Nexus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nexus").field("port", &self.presence.session.port).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, Limits, Lun, Server, Target};
    use sluice_block::{BlockRead, MemoryDisk};
    use sluice_iscsi_wire::TaskAttribute;
    use tokio_util::sync::CancellationToken;

    fn target(disk: &Arc<MemoryDisk>) -> Carried {
        let lun = Lun::writable(disk.clone(), Identity::from_digest([1; 32]));
        let target = Target::new("iqn.2026-01.test:a", vec![lun]);
        Carried::new(Server::new(target, Limits::default()).unwrap(), CancellationToken::new())
    }

    /// READ (10), WRITE (10) or the like of the first block.
    fn command(code: u8, (read, write): (bool, bool), length: u32) -> ScsiCommand {
        let mut cdb = [0; 16];
        (cdb[0], cdb[8]) = (code, 1);
        ScsiCommand {
            immediate: false,
            last: true,
            read,
            write,
            attribute: TaskAttribute::Simple,
            lun: 0,
            tag: 1,
            length,
            number: Serial(0),
            expected: Serial(0),
            cdb,
        }
    }

    async fn told(nexus: &mut Nexus) {
        let power_on = nexus.command(command(0, (false, false), 0), |_| {}).await.unwrap();
        assert_eq!((power_on.status, power_on.sense[12]), (2, 0x29));
    }

    #[tokio::test]
    async fn a_command_is_done_and_answered() {
        let disk = Arc::new(MemoryDisk::new(4096));
        let target = target(&disk);
        let mut nexus = Nexus::begin(&target, "one").await.unwrap();
        told(&mut nexus).await;
        let write = command(0x2a, (false, true), 512);
        let written = nexus.command(write, |place| place.fill(7)).await.unwrap();
        assert_eq!((written.status, written.residual), (0, Residual::None));
        let read = nexus.command(command(0x28, (true, false), 600), |_| {}).await.unwrap();
        assert_eq!((read.data, read.residual), (vec![7; 512], Residual::Under(88)));
        assert!(nexus.is_idle());
    }

    #[tokio::test]
    async fn data_announced_in_the_other_direction_is_not_said_to_have_been_moved() {
        let disk = Arc::new(MemoryDisk::from_bytes(&[5; 4096]));
        let target = target(&disk);
        let mut nexus = Nexus::begin(&target, "one").await.unwrap();
        told(&mut nexus).await;
        let refused = nexus.command(command(0x2a, (true, false), 512), |_| {}).await.unwrap();
        assert_eq!((refused.status, &refused.sense[12..14]), (2, &[0x0e, 0x03][..]));
        assert_eq!(refused.residual, Residual::Under(512), "nothing was moved");
        let read = nexus.command(command(0x28, (false, true), 512), |_| {}).await.unwrap();
        assert_eq!((read.status, read.data.len()), (0, 0));
        assert_eq!(read.residual, Residual::Under(512), "it was announced to be sent");
        let mut block = [0; 512];
        disk.read_at(0, &mut block).await.unwrap();
        assert_eq!(block, [5; 512]);
    }

    #[tokio::test]
    async fn a_cold_reset_ends_all_sessions() {
        let target = target(&Arc::new(MemoryDisk::new(4096)));
        let mut one = Nexus::begin(&target, "one").await.unwrap();
        let mut other = Nexus::begin(&target, "other").await.unwrap();
        let request = TaskRequest {
            immediate: true,
            function: sluice_iscsi_wire::TaskFunction::TargetColdReset,
            lun: 0,
            tag: 9,
            task: 0,
            number: Serial(0),
            expected: Serial(0),
            task_number: Serial(0),
        };
        assert_eq!(one.manage(request).await, Some(TaskAnswer::Complete));
        assert!(other.command(command(0, (false, false), 0), |_| {}).await.is_none());
        drop((one, other));
        assert_eq!(target.sessions(), 0);
    }
}
