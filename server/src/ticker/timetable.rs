//! Schedules of records, each of which makes something of its latest occurrence: recovery plans,
//! the maintenance of destinations, inventories.
//!
//! What was due while no server ran is made once, what is new owes nothing for the past, and of
//! several servers on one database one makes it: up to when a schedule was decided is written in
//! the transaction that makes what is due, by who knows up to when it was decided before. What was
//! due and is not made stands in the audit log, with the reason; of what is paused, that it was
//! paused stands there already.

use serde_json::json;
use sluice_catalog::{AuditEntry, Kind, Marked, Record, Schedule, Tx};
use sluice_scheduler::plan::MissReason;

use super::{AGAIN_MS, Due, Times};
use crate::complaint::go_on;
use crate::problem::Result;
use crate::state::Shared;

/// When one schedule is due.
#[derive(Debug)]
pub(crate) struct Clockwork {
    times: Times,
    paused: bool,
    /// Where its mark stands in the database, as far as it is known.
    stored: Option<u64>,
    /// Up to when it was decided.
    mark: u64,
    next: Option<u64>,
}

impl Clockwork {
    /// Of a schedule that was decided up to `mark`, or is as new as `since`; nothing for one that
    /// is never due by itself.
    pub(crate) fn of(schedule: &Schedule, mark: Option<u64>, since: u64, now: u64) -> Option<Self> {
        let (times, paused) = (Times::of(schedule)?, schedule.paused);
        // Nothing is due in the future.
        let mut new = Self { times, paused, stored: None, mark: since.min(now), next: None };
        new.follow(mark, now);
        Some(new)
    }

    /// Goes on from where its mark stands. One that is one occurrence ahead is right: other servers
    /// have other clocks. What is further ahead was written by a clock that was wrong.
    fn follow(&mut self, stored: Option<u64>, now: u64) {
        self.stored = stored;
        if let Some(stored) = stored {
            let wrong = self.times.next(now).is_some_and(|next| stored > next);
            self.mark = if wrong { now } else { stored };
        }
        self.next = self.times.next(self.mark);
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
        (self.stored, self.mark) = (Some(due.last), due.last);
        self.next = self.times.next(due.last);
    }
}

/// One schedule of one record, and what it makes.
pub(crate) trait Slot: Sized + Send + Sync {
    /// Whose schedules these are.
    type Of: Marked;
    /// What the audit log calls one that is not made.
    const MISSED: &'static str;

    /// All there are.
    fn load(tx: &mut Tx, now: u64) -> impl Future<Output = Result<Vec<Self>>> + Send;

    /// When it is due.
    fn clockwork(&mut self) -> &mut Clockwork;

    /// What it is called where it cannot be seen to.
    fn name(&self) -> String;

    /// The record, and what the schedule is called in it.
    fn owner(&self) -> (&Record<Self::Of>, &str);

    /// Makes what was due at a moment; or tells why not.
    fn begin(
        &self,
        tx: &mut Tx,
        at: u64,
        now: u64,
    ) -> impl Future<Output = Result<Option<MissReason>>> + Send;
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
    let from = slot.clockwork().stored;
    let (record, key) = slot.owner();
    let id = record.id;
    if !tx.move_mark::<S::Of>(id, key, from, due.last).await? {
        // Another server was faster. What it has left is due at the next look.
        let stored = tx.mark::<S::Of>(id, key).await?;
        slot.clockwork().follow(stored, now);
        return Ok(());
    }
    if let Some((reason, first, last, times)) = due.missed {
        missed(&mut tx, slot, reason, (first, last, times), now).await?;
    }
    if let Some(((at, _), before)) = due.run.split_last() {
        if let (Some((first, _)), Some((last, _))) = (before.first(), before.last()) {
            let all = (*first, *last, before.len() as u64);
            missed(&mut tx, slot, MissReason::Superseded, all, now).await?;
        }
        if let Some(reason) = slot.begin(&mut tx, *at, now).await? {
            missed(&mut tx, slot, reason, (*at, *at, 1), now).await?;
        }
    }
    tx.commit().await?;
    shared.work.notify_one();
    slot.clockwork().decided(&due);
    Ok(())
}

/// Writes down that something was due and is not made.
async fn missed<S: Slot>(
    tx: &mut Tx,
    slot: &S,
    reason: MissReason,
    (first_ms, due_ms, times): (u64, u64, u64),
    now: u64,
) -> Result<()> {
    if reason == MissReason::Paused {
        return Ok(());
    }
    let (record, schedule) = slot.owner();
    let entry = AuditEntry {
        actor: "server".to_owned(),
        action: S::MISSED,
        object: record.id.to_string(),
        project: record.project,
        detail: json!({S::Of::WORD: record.name, "schedule": schedule, "reason": reason.name(),
            "first_ms": first_ms, "due_ms": due_ms, "times": times}),
    };
    Ok(tx.audit(entry, now).await?)
}

#[cfg(test)]
mod tests {
    use sluice_catalog::When;

    use super::*;

    #[test]
    fn a_mark_that_another_server_moved_is_followed_and_one_of_a_wrong_clock_is_not() {
        let when = When::Every { seconds: 60 };
        let minute = Schedule { name: "m".into(), paused: false, when, backup_type: None };
        let at = |mark| Clockwork::of(&minute, mark, 90_000, 600_000).unwrap();
        let told = |one: &Clockwork| (one.stored, one.mark, one.next);
        assert_eq!(told(&at(None)), (None, 90_000, Some(120_000)));
        // Another server's clock is a little ahead: what it has decided is not due again.
        let mut ahead = at(Some(660_000));
        assert_eq!(told(&ahead), (Some(660_000), 660_000, Some(720_000)));
        assert!(ahead.due(700_000).is_none() && !ahead.is_due(719_999));
        assert_eq!(told(&at(Some(9_000_000))), (Some(9_000_000), 600_000, Some(660_000)));
        // It has decided one of two that are due here.
        let mut late = at(Some(480_000));
        assert_eq!(late.due(600_000).unwrap().run, [(600_000, None)]);
        late.follow(Some(540_000), 600_000);
        let due = late.due(600_000).unwrap();
        assert_eq!((due.run.len(), due.missed), (1, None), "the other one was not missed");
    }
}
