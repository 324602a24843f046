//! Schedules of records, each of which makes something of its latest occurrence: recovery plans,
//! the maintenance of destinations, inventories.
//!
//! What was due while no server ran is made once, what is new owes nothing for the past, and of
//! several servers on one database one makes it: up to when a schedule was decided is written in
//! the transaction that makes what is due.

use sluice_catalog::{Kind, Schedule, Tx};

use super::{AGAIN_MS, Due, Times};
use crate::complaint::go_on;
use crate::problem::Result;
use crate::state::Shared;

/// When one schedule is due.
#[derive(Debug)]
pub(crate) struct Clockwork {
    times: Times,
    paused: bool,
    /// Up to when it was decided.
    mark: u64,
    next: Option<u64>,
}

impl Clockwork {
    /// Of a schedule that was decided up to `mark`, or is as new as `since`; nothing for one that
    /// is never due by itself.
    pub(crate) fn of(schedule: &Schedule, mark: Option<u64>, since: u64, now: u64) -> Option<Self> {
        let times = Times::of(schedule)?;
        // Nothing is due in the future.
        let mark = mark.unwrap_or(since).min(now);
        let next = times.next(mark);
        Some(Self { times, paused: schedule.paused, mark, next })
    }

    fn is_due(&self, now: u64) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    /// What became due.
    fn due(&mut self, now: u64) -> Option<Due> {
        let due = self.times.due(self.mark, now, self.paused);
        if due.is_none() {
            self.next = self.times.next(now);
        }
        due
    }

    /// It was decided.
    fn decided(&mut self, due: &Due) {
        self.mark = due.last;
        self.next = self.times.next(due.last);
    }
}

/// One schedule of one record, and what it makes.
pub(crate) trait Slot: Sized + Send + Sync {
    /// Whose schedules these are.
    type Of: Kind;

    /// All there are.
    fn load(tx: &mut Tx, now: u64) -> impl Future<Output = Result<Vec<Self>>> + Send;

    /// When it is due.
    fn clockwork(&mut self) -> &mut Clockwork;

    /// What it is called where it cannot be seen to.
    fn name(&self) -> String;

    /// Writes down up to when it was decided.
    fn set_mark(&self, tx: &mut Tx, at: u64) -> impl Future<Output = Result<()>> + Send;

    /// Makes what was due at a moment.
    fn begin(&self, tx: &mut Tx, at: u64, now: u64) -> impl Future<Output = Result<()>> + Send;
}

/// All schedules of a kind of records, as of the last change.
#[derive(Debug)]
pub(crate) struct Timetable<S> {
    /// The change that it has seen.
    changes: Option<String>,
    slots: Vec<S>,
    /// When it was looked last.
    now: u64,
}

impl<S> Default for Timetable<S> {
    fn default() -> Self {
        Self { changes: None, slots: Vec::new(), now: 0 }
    }
}

impl<S: Slot> Timetable<S> {
    /// Makes what is due.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn tick(&mut self, shared: &Shared, now: u64) -> Result<()> {
        let changes = shared.catalog.read().await?.changes_of::<S::Of>().await?;
        if self.changes.as_ref() != Some(&changes) || now < self.now {
            let slots = S::load(&mut shared.catalog.read().await?, now).await?;
            (self.changes, self.slots) = (Some(changes), slots);
        }
        self.now = now;
        for slot in self.slots.iter_mut() {
            if slot.clockwork().is_due(now) {
                let fired = fire(shared, slot, now).await;
                if go_on(&slot.name(), fired)?.is_none() {
                    slot.clockwork().next = Some(now + AGAIN_MS);
                }
            }
        }
        Ok(())
    }
}

async fn fire<S: Slot>(shared: &Shared, slot: &mut S, now: u64) -> Result<()> {
    let Some(due) = slot.clockwork().due(now) else { return Ok(()) };
    let mut tx = shared.catalog.begin().await?;
    tx.decide_alone().await?;
    slot.set_mark(&mut tx, due.last).await?;
    if let Some((at, _)) = due.run.last() {
        slot.begin(&mut tx, *at, now).await?;
    }
    tx.commit().await?;
    shared.work.notify_one();
    slot.clockwork().decided(&due);
    Ok(())
}
