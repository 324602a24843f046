//! Plans that run by themselves.

use std::sync::Arc;

use sluice_catalog::{AuditEntry, Page, Plan, PlanMode, PlanRunFilter, PlanRunState, Record, Tx};
use sluice_scheduler::plan::MissReason;

use crate::api::policies::EVERYTHING;
use crate::complaint::all_readable;
use crate::problem::Result;
use crate::ticker::{Clockwork, Scheduled, Timetable};

/// The schedules of all plans.
pub(crate) type Planner = Timetable<Slot>;

/// A schedule of a plan.
#[derive(Debug)]
pub(crate) struct Slot {
    plan: Arc<Record<Plan>>,
    name: String,
    mode: PlanMode,
    clockwork: Clockwork,
}

impl Scheduled for Slot {
    type Of = Plan;
    const MISSED: &'static str = "plan-run.missed";

    async fn load(tx: &mut Tx, now: u64) -> Result<Vec<Self>> {
        let marks = tx.marks::<Plan>().await?;
        let mut slots = Vec::new();
        for plan in all_readable::<Plan>(tx).await? {
            let plan = Arc::new(plan);
            slots.extend(plan.body.schedules.iter().filter_map(|one| {
                let name = one.schedule.name.clone();
                let mark = marks.get(&(plan.id, name.clone())).copied();
                let clockwork = Clockwork::of(&one.schedule, mark, plan.updated_ms, now)?;
                Some(Self { plan: plan.clone(), name, mode: one.mode, clockwork })
            }));
        }
        Ok(slots)
    }

    fn clockwork(&mut self) -> &mut Clockwork {
        &mut self.clockwork
    }

    fn name(&self) -> String {
        format!("the plan {}", self.plan.name)
    }

    fn owner(&self) -> (&Record<Plan>, &str) {
        (&self.plan, &self.name)
    }

    async fn begin(&self, tx: &mut Tx, at: u64, now: u64) -> Result<Option<MissReason>> {
        begin(tx, &self.plan, self, at, now).await
    }
}

/// Begins a run, unless one of the plan is under way.
async fn begin(
    tx: &mut Tx,
    plan: &Record<Plan>,
    slot: &Slot,
    at: u64,
    now: u64,
) -> Result<Option<MissReason>> {
    let state = Some(PlanRunState::Running);
    let filter = PlanRunFilter { state, plan: Some(plan.id), ..PlanRunFilter::default() };
    let page = Page { after: None, limit: 1 };
    // One that cannot be read has not ended either.
    let found = tx.plan_runs_found(&EVERYTHING, &filter, &page).await?;
    if !found.items.is_empty() || !found.unreadable.is_empty() {
        return Ok(Some(MissReason::StillActive));
    }
    let key = format!("{}/{}/{at}", plan.id, slot.name);
    let who = (format!("schedule {}", slot.name), plan.body.parameters.clone());
    let who = (who.0.as_str(), who.1);
    let begun = super::begin(tx, plan, slot.mode, who, Some(key), now).await?;
    let Some(id) = begun else { return Ok(None) };
    let entry = AuditEntry {
        actor: "server".to_owned(),
        action: "plan-run.start",
        object: id.to_string(),
        project: plan.project,
        detail: serde_json::json!({"plan": plan.name, "schedule": slot.name, "due_ms": at}),
    };
    tx.audit(entry, now).await?;
    Ok(None)
}
