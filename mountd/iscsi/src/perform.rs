//! From a command whose data is there to its answer.

use std::sync::Arc;

use sluice_iscsi_wire::{Residual, ScsiCommand};
use sluice_scsi::{Command, Sense, Status};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::execute::{Data, Outcome, Place, Work, run};
use crate::outgoing::{Outgoing, Reply};
use crate::target::{Session, Shared};
use crate::task::Task;
use crate::unit::BLOCK;
use crate::window::Slot;

/// What belongs to the answer of a command.
pub(crate) struct Answer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: Arc<Session>,
    pub(crate) queue: mpsc::Sender<Outgoing>,
    pub(crate) task: Arc<Task>,
    pub(crate) command: ScsiCommand,
    /// Requests to transfer that were sent.
    pub(crate) transfers: u32,
    pub(crate) slot: Slot,
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// Forgets a command in whatever way its future ends.
struct Ending(Arc<Session>, Arc<Task>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.tasks.end(&self.1);
    }
}

/// Runs a command and answers it, unless it was ended meanwhile.
pub(crate) async fn perform(place: Place, work: Work, answer: Answer) {
    let _ending = Ending(Arc::clone(&answer.session), Arc::clone(&answer.task));
    let lun = answer.command.lun;
    let Some((outcome, removed)) = run(place, work).await else { return };
    if !removed.is_empty() {
        // Preempted initiators have nothing under way any more when this is answered.
        for task in answer.shared.abort(Some(lun), Some(&removed)) {
            task.ended().await;
        }
    }
    if answer.task.answer() {
        let queue = answer.queue.clone();
        // An error means that the writer has ended, and with it the session.
        let _ = queue.send(answer.reply(outcome)).await;
    }
}

impl Answer {
    fn reply(self, outcome: Outcome) -> Outgoing {
        let command = &self.command;
        let Outcome { status, sense, mut data, wanted, permit } = outcome;
        let room = if command.read { command.length as usize } else { 0 };
        match &mut data {
            Data::Bytes(bytes) => bytes.truncate(room),
            Data::Blocks(buffer) => buffer.truncate(room),
            Data::None => {}
        }
        let takes = data.as_slice().is_empty()
            && Command::parse(&command.cdb).is_ok_and(|parsed| parsed.data_out(BLOCK) > 0);
        let residual = residual(command, takes, wanted);
        Outgoing::Command(Box::new(Reply {
            tag: command.tag,
            status,
            sense,
            data,
            residual,
            transfers: self.transfers,
            slot: Some(self.slot),
            _permits: [permit, self.permit],
        }))
    }
}

/// What the transfer lacks, when the command would have liked to take or to give `wanted` bytes.
fn residual(command: &ScsiCommand, takes: bool, wanted: u64) -> Residual {
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    let expected = if command.read || command.write { command.length } else { 0 };
    let announced = if takes { command.write } else { command.read };
    // Of what was announced in the other direction nothing is moved.
    let wanted = if announced || expected == 0 { wanted } else { 0 };
    match (expected.checked_sub(wanted), wanted.checked_sub(expected)) {
        (Some(0), _) | (None, None) => Residual::None,
        (Some(missing), _) => Residual::Under(missing),
        (None, Some(beyond)) => Residual::Over(beyond),
    }
}

/// The answer to a command that is not even begun.
pub(crate) fn refused(command: &ScsiCommand, sense: Sense, slot: Slot) -> Outgoing {
    let wanted = Command::parse(&command.cdb).map_or(0, |parsed| parsed.data_out(BLOCK));
    Outgoing::Command(Box::new(Reply {
        tag: command.tag,
        status: Status::CheckCondition,
        sense: sense.encode(false),
        data: Data::None,
        residual: residual(command, true, wanted),
        transfers: 0,
        slot: Some(slot),
        _permits: [None, None],
    }))
}
