//! Inventories that are looked through by themselves. What is due while the place is still looked
//! through is not due twice.

use std::sync::Arc;

use sluice_catalog::{Inventory, Record, Schedule, Tx};
use sluice_scheduler::plan::MissReason;

use super::How;
use crate::complaint::all_readable;
use crate::problem::Result;
use crate::ticker::{Clockwork, Scheduled, Timetable};

/// Before backups: what is not known is not backed up.
const PRIORITY: u32 = 55;
/// Attempts of a task that became due.
const ATTEMPTS: u32 = 3;

/// The schedules of all inventories.
pub(crate) type Planner = Timetable<Slot>;

/// A schedule of one inventory.
#[derive(Debug)]
pub(crate) struct Slot {
    inventory: Arc<Record<Inventory>>,
    name: String,
    clockwork: Clockwork,
}

impl Scheduled for Slot {
    type Of = Inventory;
    const MISSED: &'static str = "inventory.missed";

    async fn load(tx: &mut Tx, now: u64) -> Result<Vec<Self>> {
        let marks = tx.marks::<Inventory>().await?;
        let mut slots = Vec::new();
        for inventory in all_readable::<Inventory>(tx).await? {
            let inventory = Arc::new(inventory);
            slots.extend(inventory.body.schedules.iter().filter_map(|schedule| {
                let name = schedule.name.clone();
                let mark = marks.get(&(inventory.id, name.clone())).copied();
                let paused = schedule.paused || inventory.body.paused;
                let schedule = Schedule { paused, ..schedule.clone() };
                let clockwork = Clockwork::of(&schedule, mark, inventory.updated_ms, now)?;
                Some(Self { inventory: inventory.clone(), name, clockwork })
            }));
        }
        Ok(slots)
    }

    fn clockwork(&mut self) -> &mut Clockwork {
        &mut self.clockwork
    }

    fn name(&self) -> String {
        format!("the inventory {}", self.inventory.name)
    }

    fn owner(&self) -> (&Record<Inventory>, &str) {
        (&self.inventory, &self.name)
    }

    async fn begin(&self, tx: &mut Tx, at: u64, now: u64) -> Result<Option<MissReason>> {
        let inventory = &self.inventory;
        if tx.is_looked_through(inventory.id, true).await? {
            return Ok(Some(MissReason::StillActive));
        }
        let mut task = super::task(inventory, How::default(), PRIORITY, ATTEMPTS);
        task.due_key = Some(format!("inventory/{}/{}/{at}", inventory.id, self.name));
        tx.add_task(&task, now).await?;
        Ok(None)
    }
}
