//! Ending commands, and resets ("Task Management Function Request").

use std::future::Future;
use std::sync::Arc;

use sluice_iscsi_wire::{Response, TaskAnswer, TaskFunction, TaskRequest};
use sluice_scsi::{Sense, lun_normal};
use tokio::sync::mpsc;

use crate::outgoing::Outgoing;
use crate::target::{Session, Shared};
use crate::task::Task;
use crate::unit::Unit;
use crate::window::Slot;

/// Where a request for task management comes from.
pub(crate) struct Management {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: Arc<Session>,
    pub(crate) queue: mpsc::Sender<Outgoing>,
    /// None for a number that no logical unit has.
    pub(crate) unit: Option<Arc<Unit>>,
}

/// Marks what is to end at once, and returns a future that answers when all of it has ended.
pub(crate) fn manage(
    management: Management,
    request: TaskRequest,
    slot: Slot,
) -> impl Future<Output = ()> + Send + 'static {
    let (answer, ending) = management.mark(&request);
    tracing::debug!(function = ?request.function, ?answer, count = ending.len(), "tasks ended");
    async move {
        for task in ending {
            task.ended().await;
        }
        management.finish(&request, answer);
        let response = Response::Task { tag: request.tag, answer };
        // An error means that the writer has ended, and with it the session.
        let message = Outgoing::Message { response, data: Vec::new(), slot: Some(slot) };
        let _ = management.queue.send(message).await;
        if request.function == TaskFunction::TargetColdReset {
            management.shared.all().iter().for_each(|session| session.stop.cancel());
        }
    }
}

impl Management {
    /// Ends commands; returns the answer, and the commands that still go on for a moment.
    fn mark(&self, request: &TaskRequest) -> (TaskAnswer, Vec<Arc<Task>>) {
        let lun = Some(request.lun);
        let own = std::slice::from_ref(&self.session.port);
        let for_unit = |ending: &dyn Fn() -> Vec<Arc<Task>>| match self.unit {
            Some(_) => (TaskAnswer::Complete, ending()),
            None => (TaskAnswer::NoUnit, Vec::new()),
        };
        match request.function {
            TaskFunction::AbortTask => match self.session.tasks.find(request.task) {
                Some(task) if task.lun != lun_normal(request.lun) => {
                    (TaskAnswer::NoTask, Vec::new())
                }
                Some(task) if self.session.tasks.abort(&task) => (TaskAnswer::Complete, vec![task]),
                // Its answer is on the way, and comes before this one.
                Some(task) => (TaskAnswer::NoTask, vec![task]),
                None => (TaskAnswer::NoTask, Vec::new()),
            },
            TaskFunction::AbortTaskSet => for_unit(&|| self.shared.abort(lun, Some(own))),
            TaskFunction::ClearTaskSet | TaskFunction::LogicalUnitReset => {
                for_unit(&|| self.shared.abort(lun, None))
            }
            TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset => {
                (TaskAnswer::Complete, self.shared.abort(None, None))
            }
            TaskFunction::TaskReassign => (TaskAnswer::NoReassign, Vec::new()),
            TaskFunction::ClearAca | TaskFunction::Other(_) => {
                (TaskAnswer::Unsupported, Vec::new())
            }
        }
    }

    /// What happens to logical units once their commands have ended.
    fn finish(&self, request: &TaskRequest, answer: TaskAnswer) {
        if answer != TaskAnswer::Complete {
            return;
        }
        match (request.function, &self.unit) {
            (TaskFunction::ClearTaskSet, Some(unit)) => {
                unit.state().raise(Sense::COMMANDS_CLEARED, Some(&self.session.port));
            }
            (TaskFunction::LogicalUnitReset, Some(unit)) => unit.reset(),
            (TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset, _) => {
                self.shared.units.iter().for_each(|unit| unit.reset());
            }
            _ => {}
        }
    }
}
