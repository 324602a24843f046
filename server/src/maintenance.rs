//! Work on destinations as a whole, by schedules: space is given back, and repositories are
//! checked.
//!
//! What is due while the same still waits or runs is not made twice, and what was due while no
//! server ran is made once.

use std::sync::Arc;

use sluice_catalog::{
    Destination, DestinationId, Instance, MaintenanceWork, NewTask, PolicyId, Record, Tx,
};
use sluice_node_api::TaskSpec;
use sluice_scheduler::plan::MissReason;

use crate::complaint::all_readable;
use crate::problem::Result;
use crate::ticker::{Clockwork, Scheduled, Timetable};

/// After backups, and before nothing: whoever waits for a restore or a backup waits less.
const PRIORITY: u32 = 30;
/// Attempts of a task that became due.
const ATTEMPTS: u32 = 3;

/// The schedules of the maintenance of all destinations.
pub(crate) type Planner = Timetable<Slot>;

/// A schedule of one destination.
#[derive(Debug)]
pub(crate) struct Slot {
    destination: Arc<Record<Destination>>,
    work: MaintenanceWork,
    /// `NAME/SCHEDULE`.
    key: String,
    clockwork: Clockwork,
}

impl Scheduled for Slot {
    type Of = Destination;
    const MISSED: &'static str = "maintenance.missed";

    async fn load(tx: &mut Tx, now: u64) -> Result<Vec<Self>> {
        let marks = tx.marks::<Destination>().await?;
        let mut slots = Vec::new();
        for destination in all_readable::<Destination>(tx).await? {
            let destination = Arc::new(destination);
            let all = destination.body.maintenance.iter();
            let all = all.flat_map(|one| one.schedules.iter().map(move |schedule| (one, schedule)));
            slots.extend(all.filter_map(|(one, schedule)| {
                let key = format!("{}/{}", one.name, schedule.name);
                let mark = marks.get(&(destination.id, key.clone())).copied();
                let clockwork = Clockwork::of(schedule, mark, destination.updated_ms, now)?;
                Some(Self { destination: destination.clone(), work: one.work, key, clockwork })
            }));
        }
        Ok(slots)
    }

    fn clockwork(&mut self) -> &mut Clockwork {
        &mut self.clockwork
    }

    fn name(&self) -> String {
        format!("the maintenance of {}", self.destination.name)
    }

    fn owner(&self) -> (&Record<Destination>, &str) {
        (&self.destination, &self.key)
    }

    async fn begin(&self, tx: &mut Tx, at: u64, now: u64) -> Result<Option<MissReason>> {
        begin(tx, self, at, now).await
    }
}

/// A task about what an instance has at a destination, for a policy: with the same rank as work on
/// the destination as a whole.
pub(crate) fn of_instance(
    instance: &Record<Instance>,
    (destination, policy): (DestinationId, PolicyId),
    (spec, max_attempts): (&TaskSpec, u32),
    due_key: Option<String>,
) -> NewTask {
    NewTask {
        project: instance.project,
        instance: Some(instance.id),
        policy: Some(policy),
        destination: Some(destination),
        wanted_node: None,
        kind: spec.kind().to_owned(),
        priority: PRIORITY,
        due_key,
        max_attempts,
        not_before_ms: 0,
        spec: serde_json::to_value(spec).unwrap_or_default(),
    }
}

/// A check of all that is there.
fn whole(data: bool) -> TaskSpec {
    TaskSpec::Verify { point: None, instance: None, sample: None, data }
}

async fn begin(tx: &mut Tx, slot: &Slot, at: u64, now: u64) -> Result<Option<MissReason>> {
    let spec = match slot.work {
        MaintenanceWork::Collect => TaskSpec::Collect {},
        MaintenanceWork::Verify => whole(false),
        MaintenanceWork::VerifyData => whole(true),
    };
    let destination = &slot.destination;
    if tx.is_maintained(destination.id, spec.kind()).await? {
        return Ok(Some(MissReason::StillActive));
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
    Ok(None)
}
