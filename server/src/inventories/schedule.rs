//! Inventories that are looked through by themselves.
//!
//! What is due while the place is still looked through is not due twice, and what was due while no
//! server ran is made up for once.

use std::collections::BTreeMap;

use sluice_catalog::{Inventory, InventoryId, Record, Tx};

use super::How;
use crate::complaint::{all_readable, go_on};
use crate::problem::Result;
use crate::state::Shared;
use crate::ticker::{AGAIN_MS, Times};

/// Before backups: what is not known is not backed up.
const PRIORITY: u32 = 55;
/// Attempts of a task that became due.
const ATTEMPTS: u32 = 3;

/// What inventories say, as of the last change.
#[derive(Debug, Default)]
pub(crate) struct Planner {
    /// The change that it has seen.
    changes: Option<String>,
    slots: Vec<Slot>,
    /// When it was looked last.
    now: u64,
}

/// A schedule of one inventory.
#[derive(Debug)]
struct Slot {
    inventory: Record<Inventory>,
    /// The schedule's name.
    key: String,
    paused: bool,
    times: Times,
    mark: u64,
    next: Option<u64>,
}

impl Planner {
    /// Makes tasks of what is due.
    pub(crate) async fn tick(&mut self, shared: &Shared, now: u64) -> Result<()> {
        let changes = shared.catalog.read().await?.changes_of::<Inventory>().await?;
        if self.changes.as_ref() != Some(&changes) || now < self.now {
            *self = Self::load(shared, changes, now).await?;
        }
        self.now = now;
        for slot in &mut self.slots {
            if slot.next.is_some_and(|next| next <= now) {
                let fired = fire(shared, slot, now).await;
                let name = format!("the inventory {}", slot.inventory.name);
                if go_on(&name, fired)?.is_none() {
                    slot.next = Some(now + AGAIN_MS);
                }
            }
        }
        Ok(())
    }

    async fn load(shared: &Shared, changes: String, now: u64) -> Result<Self> {
        let mut tx = shared.catalog.read().await?;
        let marks = tx.inventory_marks().await?;
        let mut slots = Vec::new();
        for inventory in all_readable(&mut tx).await? {
            slots.extend(slots_of(&inventory, &marks, now));
        }
        Ok(Self { changes: Some(changes), slots, now })
    }
}

fn slots_of(
    inventory: &Record<Inventory>,
    marks: &BTreeMap<(InventoryId, String), u64>,
    now: u64,
) -> Vec<Slot> {
    let slot = |schedule: &sluice_catalog::Schedule| {
        let times = Times::of(schedule)?;
        let key = schedule.name.clone();
        // What is new owes nothing for the past; nothing is due in the future.
        let mark = marks.get(&(inventory.id, key.clone())).copied();
        let mark = mark.unwrap_or(inventory.updated_ms).min(now);
        let (next, paused) = (times.next(mark), schedule.paused || inventory.body.paused);
        Some(Slot { inventory: inventory.clone(), key, paused, times, mark, next })
    };
    inventory.body.schedules.iter().filter_map(slot).collect()
}

async fn fire(shared: &Shared, slot: &mut Slot, now: u64) -> Result<()> {
    let Some(due) = slot.times.due(slot.mark, now, slot.paused) else {
        slot.next = slot.times.next(now);
        return Ok(());
    };
    let mut tx = shared.catalog.begin().await?;
    tx.decide_alone().await?;
    tx.set_inventory_mark(slot.inventory.id, &slot.key, due.last).await?;
    if let Some((at, _)) = due.run.last() {
        begin(&mut tx, slot, *at, now).await?;
    }
    tx.commit().await?;
    shared.work.notify_one();
    slot.mark = due.last;
    slot.next = slot.times.next(due.last);
    Ok(())
}

async fn begin(tx: &mut Tx, slot: &Slot, at: u64, now: u64) -> Result<()> {
    let inventory = &slot.inventory;
    if tx.is_looked_through(inventory.id).await? {
        return Ok(());
    }
    let mut task = super::task(inventory, How::default(), PRIORITY, ATTEMPTS);
    task.due_key = Some(format!("inventory/{}/{}/{at}", inventory.id, slot.key));
    tx.add_task(&task, now).await?;
    Ok(())
}
