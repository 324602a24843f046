//! Plans that run by themselves.

use sluice_catalog::{AuditEntry, Page, Plan, PlanMode, PlanRunFilter, PlanRunState, Record, Tx};

use crate::api::policies::EVERYTHING;
use crate::complaint::{all_readable, go_on};
use crate::problem::Result;
use crate::state::Shared;
use crate::ticker::{AGAIN_MS, Times};

/// What plans say, as of the last change.
#[derive(Debug, Default)]
pub(crate) struct Planner {
    /// The change that it has seen.
    changes: Option<String>,
    plans: Vec<(Record<Plan>, Vec<Slot>)>,
    /// When it was looked last.
    now: u64,
}

/// A schedule of a plan.
#[derive(Debug)]
struct Slot {
    name: String,
    mode: PlanMode,
    paused: bool,
    times: Times,
    mark: u64,
    next: Option<u64>,
}

impl Planner {
    /// Begins what is due.
    pub(crate) async fn tick(&mut self, shared: &Shared, now: u64) -> Result<()> {
        let changes = shared.catalog.read().await?.changes_of::<Plan>().await?;
        if self.changes.as_ref() != Some(&changes) || now < self.now {
            *self = Self::load(shared, changes, now).await?;
        }
        self.now = now;
        for (plan, slots) in &mut self.plans {
            for slot in slots {
                if slot.next.is_some_and(|next| next <= now) {
                    let fired = fire(shared, plan, slot, now).await;
                    if go_on(&format!("the plan {}", plan.name), fired)?.is_none() {
                        slot.next = Some(now + AGAIN_MS);
                    }
                }
            }
        }
        Ok(())
    }

    async fn load(shared: &Shared, changes: String, now: u64) -> Result<Self> {
        let mut tx = shared.catalog.read().await?;
        let marks = tx.plan_marks().await?;
        let mut plans = Vec::new();
        for plan in all_readable::<Plan>(&mut tx).await? {
            let slots = plan.body.schedules.iter().filter_map(|one| {
                let times = Times::of(&one.schedule)?;
                let name = one.schedule.name.clone();
                // What is new owes nothing for the past; nothing is due in the future.
                let mark = marks.get(&(plan.id, name.clone())).copied();
                let mark = mark.unwrap_or(plan.updated_ms).min(now);
                let next = times.next(mark);
                let paused = one.schedule.paused;
                Some(Slot { name, mode: one.mode, paused, times, mark, next })
            });
            let slots: Vec<Slot> = slots.collect();
            if !slots.is_empty() {
                plans.push((plan, slots));
            }
        }
        Ok(Self { changes: Some(changes), plans, now })
    }
}

async fn fire(shared: &Shared, plan: &Record<Plan>, slot: &mut Slot, now: u64) -> Result<()> {
    let Some(due) = slot.times.due(slot.mark, now, slot.paused) else {
        slot.next = slot.times.next(now);
        return Ok(());
    };
    let mut tx = shared.catalog.begin().await?;
    tx.decide_alone().await?;
    tx.set_plan_mark(plan.id, &slot.name, due.last).await?;
    if let Some((at, _)) = due.run.last() {
        begin(&mut tx, plan, slot, *at, now).await?;
    }
    tx.commit().await?;
    slot.mark = due.last;
    slot.next = slot.times.next(due.last);
    Ok(())
}

/// Begins a run, unless one of the plan is under way.
async fn begin(tx: &mut Tx, plan: &Record<Plan>, slot: &Slot, at: u64, now: u64) -> Result<()> {
    let state = Some(PlanRunState::Running);
    let filter = PlanRunFilter { state, plan: Some(plan.id), ..PlanRunFilter::default() };
    let page = Page { after: None, limit: 1 };
    let busy = !tx.plan_runs(&EVERYTHING, &filter, &page).await?.is_empty();
    let key = format!("{}/{}/{at}", plan.id, slot.name);
    let who = (format!("schedule {}", slot.name), plan.body.parameters.clone());
    let (action, object) = match busy {
        true => ("plan-run.missed", plan.id.to_string()),
        false => {
            let who = (who.0.as_str(), who.1);
            let begun = super::begin(tx, plan, slot.mode, who, Some(key), now).await?;
            let Some(id) = begun else { return Ok(()) };
            ("plan-run.start", id.to_string())
        }
    };
    let entry = AuditEntry {
        actor: "server".to_owned(),
        action,
        object,
        project: plan.project,
        detail: serde_json::json!({"plan": plan.name, "schedule": slot.name, "due_ms": at}),
    };
    tx.audit(entry, now).await?;
    Ok(())
}
