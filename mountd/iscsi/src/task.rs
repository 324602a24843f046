//! Commands under way, and ending them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_scsi::lun_normal;
use tokio_util::sync::CancellationToken;

/// A command under way.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) tag: u32,
    /// In its normal form.
    pub(crate) lun: u64,
    /// Set when the command is to end without an answer.
    pub(crate) cancel: CancellationToken,
    /// Set when nothing of the command goes on any more.
    done: CancellationToken,
    phase: Mutex<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its data is on the way.
    Collecting,
    /// The device is at work.
    Running,
    /// The answer is on the way.
    Answered,
}

impl Task {
    pub(crate) fn new(tag: u32, lun: u64) -> Arc<Self> {
        Arc::new(Self {
            tag,
            lun,
            cancel: CancellationToken::new(),
            done: CancellationToken::new(),
            phase: Mutex::new(Phase::Collecting),
        })
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the device begin, unless the command was ended before.
    pub(crate) fn start(&self) -> bool {
        let mut phase = self.phase();
        *phase = Phase::Running;
        !self.cancel.is_cancelled()
    }

    /// Takes the decision to answer, unless the command was ended before. Afterwards it cannot be
    /// ended any more.
    pub(crate) fn answer(&self) -> bool {
        let mut phase = self.phase();
        *phase = Phase::Answered;
        !self.cancel.is_cancelled()
    }

    fn is_answered(&self) -> bool {
        *self.phase() == Phase::Answered
    }

    /// Ends the command, unless its answer is on the way.
    pub(crate) fn abort(&self) -> bool {
        let phase = self.phase();
        if *phase == Phase::Answered {
            return false;
        }
        self.cancel.cancel();
        if *phase == Phase::Collecting {
            self.done.cancel();
        }
        true
    }

    /// Waits until nothing of the command goes on any more.
    pub(crate) async fn ended(&self) {
        self.done.cancelled().await;
    }
}

/// The commands of a session, by their tags.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Mutex<HashMap<u32, Arc<Task>>>);

impl Tasks {
    fn all(&self) -> MutexGuard<'_, HashMap<u32, Arc<Task>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a command in; not if its tag is in use. One whose answer is on the way may have
    /// reached the initiator before it is forgotten here: its tag is free.
    pub(crate) fn begin(&self, tag: u32, lun: u64) -> Option<Arc<Task>> {
        let mut all = self.all();
        if all.get(&tag).is_some_and(|task| !task.is_answered()) {
            return None;
        }
        let task = Task::new(tag, lun_normal(lun));
        all.insert(tag, Arc::clone(&task));
        Some(task)
    }

    /// Forgets a command of which nothing goes on any more.
    pub(crate) fn end(&self, task: &Arc<Task>) {
        let mut all = self.all();
        // A tag may be in use again already.
        if all.get(&task.tag).is_some_and(|other| Arc::ptr_eq(other, task)) {
            all.remove(&task.tag);
        }
        task.done.cancel();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    pub(crate) fn find(&self, tag: u32) -> Option<Arc<Task>> {
        self.all().get(&tag).cloned()
    }

    /// Ends one command, unless its answer is on the way.
    pub(crate) fn abort(&self, task: &Arc<Task>) -> bool {
        let aborted = task.abort();
        if task.done.is_cancelled() {
            // What only collected data has ended with this, and its tag is free.
            self.end(task);
        }
        aborted
    }

    /// Ends all commands, or those of one logical unit. Returns those to wait for.
    pub(crate) fn abort_all(&self, lun: Option<u64>) -> Vec<Arc<Task>> {
        let (mut all, lun) = (self.all(), lun.map(lun_normal));
        let chosen = all.values().filter(|task| lun.is_none_or(|lun| lun == task.lun)).cloned();
        let aborted: Vec<_> = chosen.filter(|task| task.abort()).collect();
        // What only collected data has ended with this.
        all.retain(|_, task| !task.done.is_cancelled());
        aborted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_either_ended_or_answered() {
        let tasks = Tasks::default();
        let first = tasks.begin(1, 0).unwrap();
        assert!(tasks.begin(1, 0).is_none(), "the tag is in use");
        assert!(first.start() && first.answer());
        assert!(!first.abort(), "the answer is on the way");
        assert!(!tasks.abort(&first));
        tasks.end(&first);

        let second = tasks.begin(1, 0).unwrap();
        assert!(tasks.begin(1, 0).is_none(), "the tag is in use again");
        assert!(second.start() && tasks.abort(&second));
        assert!(tasks.find(1).is_some(), "the device is still at it");
        assert!(!second.answer(), "it was ended");
        tasks.end(&first);
        assert!(tasks.find(1).is_some(), "the tag belongs to another command");
    }

    #[test]
    fn a_tag_is_free_as_soon_as_its_answer_is_on_the_way() {
        let tasks = Tasks::default();
        let first = tasks.begin(1, 0).unwrap();
        assert!(first.start() && tasks.begin(1, 0).is_none());
        assert!(first.answer());
        let second = tasks.begin(1, 0).unwrap();
        tasks.end(&first);
        assert!(tasks.find(1).is_some_and(|found| Arc::ptr_eq(&found, &second)));
        assert!(tasks.abort(&second) && tasks.find(1).is_none());
    }

    #[tokio::test]
    async fn what_only_collected_data_ends_at_once() {
        let tasks = Tasks::default();
        let (one, other) = (tasks.begin(1, 5).unwrap(), tasks.begin(2, 6).unwrap());
        assert_eq!(tasks.abort_all(Some(5)).len(), 1);
        one.ended().await;
        assert!(!one.start() && other.start());
        assert!(tasks.find(1).is_none() && tasks.find(2).is_some());
        let alone = tasks.begin(3, 5).unwrap();
        assert!(tasks.abort(&alone) && tasks.begin(3, 5).is_some(), "the tag is free");
    }
}
