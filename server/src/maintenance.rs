//! Work on destinations as a whole, by schedules: space is given back, and repositories are
//! checked.
//!
//! What is due while the same still waits or runs is not made twice, and what was due while no
//! server ran is made once.

use std::collections::BTreeMap;

use sluice_catalog::{
    Destination, DestinationId, Maintenance, MaintenanceWork, NewTask, Record, Tx,
};
use sluice_node_api::TaskSpec;

use crate::complaint::{all_readable, go_on};
use crate::problem::Result;
use crate::state::Shared;
use crate::ticker::{AGAIN_MS, Times};

/// After backups, and before nothing: whoever waits for a restore or a backup waits less.
const PRIORITY: u32 = 30;
/// Attempts of a task that became due.
const ATTEMPTS: u32 = 3;

/// What destinations say, as of the last change.
#[derive(Debug, Default)]
pub(crate) struct Planner {
    /// The change that it has seen.
    changes: Option<String>,
    slots: Vec<Slot>,
    /// When it was looked last.
    now: u64,
}

/// A schedule of one destination.
#[derive(Debug)]
struct Slot {
    destination: Record<Destination>,
    work: MaintenanceWork,
    /// `NAME/SCHEDULE`.
    key: String,
    paused: bool,
    times: Times,
    mark: u64,
    next: Option<u64>,
}

impl Planner {
    /// Makes tasks of what is due.
    pub(crate) async fn tick(&mut self, shared: &Shared, now: u64) -> Result<()> {
        let changes = shared.catalog.read().await?.changes_of::<Destination>().await?;
        if self.changes.as_ref() != Some(&changes) || now < self.now {
            *self = Self::load(shared, changes, now).await?;
        }
        self.now = now;
        for slot in &mut self.slots {
            if slot.next.is_some_and(|next| next <= now) {
                let fired = fire(shared, slot, now).await;
                let name = format!("the maintenance of {}", slot.destination.name);
                if go_on(&name, fired)?.is_none() {
                    slot.next = Some(now + AGAIN_MS);
                }
            }
        }
        Ok(())
    }

    async fn load(shared: &Shared, changes: String, now: u64) -> Result<Self> {
        let mut tx = shared.catalog.read().await?;
        let marks = tx.maintenance_marks().await?;
        let mut slots = Vec::new();
        for destination in all_readable(&mut tx).await? {
            slots.extend(slots_of(&destination, &marks, now));
        }
        Ok(Self { changes: Some(changes), slots, now })
    }
}

fn slots_of(
    destination: &Record<Destination>,
    marks: &BTreeMap<(DestinationId, String), u64>,
    now: u64,
) -> Vec<Slot> {
    let slot = |one: &Maintenance, schedule: &sluice_catalog::Schedule| {
        let times = Times::of(schedule)?;
        let key = format!("{}/{}", one.name, schedule.name);
        // What is new owes nothing for the past; nothing is due in the future.
        let mark = marks.get(&(destination.id, key.clone())).copied();
        let mark = mark.unwrap_or(destination.updated_ms).min(now);
        let (next, paused) = (times.next(mark), schedule.paused);
        let destination = destination.clone();
        Some(Slot { destination, work: one.work, key, paused, times, mark, next })
    };
    let all = destination.body.maintenance.iter();
    all.flat_map(|one| one.schedules.iter().filter_map(move |schedule| slot(one, schedule)))
        .collect()
}

async fn fire(shared: &Shared, slot: &mut Slot, now: u64) -> Result<()> {
    let Some(due) = slot.times.due(slot.mark, now, slot.paused) else {
        slot.next = slot.times.next(now);
        return Ok(());
    };
    let mut tx = shared.catalog.begin().await?;
    tx.decide_alone().await?;
    tx.set_maintenance_mark(slot.destination.id, &slot.key, due.last).await?;
    if let Some((at, _)) = due.run.last() {
        begin(&mut tx, slot, *at, now).await?;
    }
    tx.commit().await?;
    shared.work.notify_one();
    slot.mark = due.last;
    slot.next = slot.times.next(due.last);
    Ok(())
}

/// A check of all that is there.
fn whole(data: bool) -> TaskSpec {
    TaskSpec::Verify { point: None, instance: None, sample: None, data }
}

async fn begin(tx: &mut Tx, slot: &Slot, at: u64, now: u64) -> Result<()> {
    let spec = match slot.work {
        MaintenanceWork::Collect => TaskSpec::Collect {},
        MaintenanceWork::Verify => whole(false),
        MaintenanceWork::VerifyData => whole(true),
    };
    let destination = &slot.destination;
    if tx.is_maintained(destination.id, spec.kind()).await? {
        return Ok(());
    }
    let task = NewTask {
        project: destination.project,
        instance: None,
        policy: None,
        destination: Some(destination.id),
        wanted_node: None,
        kind: spec.kind().to_owned(),
        priority: PRIORITY,
        due_key: Some(format!("maintenance/{}/{}/{at}", destination.id, slot.key)),
        max_attempts: ATTEMPTS,
        not_before_ms: 0,
        spec: serde_json::to_value(&spec).unwrap_or_default(),
    };
    tx.add_task(&task, now).await?;
    Ok(())
}
