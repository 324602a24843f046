//! Copies of restore points at other destinations: when they are made, what comes of them, and
//! which are overdue.
//!
//! ```text
//!   backup ends ──► copy, after the delay ──┐
//!   a schedule is due ──────────────────────┴─► task `copy` ──► points at the destination
//! ```
//!
//! A copy takes all restore points of an instance that the other destination lacks and keeps. So
//! one that waits is enough, however many backups there were; and one that was cut off is gone on
//! with by the next attempt, which also tells of what the ones before have copied.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use sluice_catalog::{
    CopyRule, Destination, DestinationId, Held, Instance, InstanceId, NewPoint, NewTask, NodeId,
    Point, Policy, PolicyId, Record, Task, TaskId, Tx,
};
use sluice_node_api::TaskSpec;
use sluice_scheduler::plan::MissReason;
use utoipa::ToSchema;

use crate::api::policies::EVERYTHING;
use crate::complaint::{all_readable, go_on};
use crate::destinations;
use crate::dispatch::kept;
use crate::events;
use crate::ledger;
use crate::node_configs::Configs;
use crate::problem::{Problem, Result};
use crate::state::Shared;
use crate::ticker::{Batch, Due};
use crate::verifications;

/// Attempts of a copy: with the pauses between them, a far destination may be away for hours.
const ATTEMPTS: u32 = 10;
/// What stands before the variables of the destination that is read.
const OTHER: &str = "SLUICE_DEST_";

/// A copy to make.
pub(crate) struct Order<'a> {
    pub(crate) instance: &'a Record<Instance>,
    pub(crate) policy: Option<PolicyId>,
    pub(crate) priority: u32,
    /// From where, and where to.
    pub(crate) between: (DestinationId, DestinationId),
    pub(crate) not_before_ms: u64,
    pub(crate) due_key: Option<String>,
}

/// Adds a task that copies, unless one waits that will copy the same.
pub(crate) async fn add(tx: &mut Tx, order: Order<'_>, now: u64) -> Result<Option<TaskId>> {
    let (from, to) = order.between;
    if tx.copy_waits(order.instance.id, order.between).await? {
        return Ok(None);
    }
    let instance = ledger::name(tx, order.instance).await?;
    let spec = TaskSpec::Copy { instance, from: String::new(), keep: BTreeMap::new() };
    let task = NewTask {
        project: order.instance.project,
        instance: Some(order.instance.id),
        policy: order.policy,
        destination: Some(to),
        wanted_node: None,
        kind: spec.kind().to_owned(),
        priority: order.priority,
        due_key: order.due_key,
        max_attempts: ATTEMPTS,
        not_before_ms: order.not_before_ms,
        spec: serde_json::to_value(&spec).unwrap_or_default(),
    };
    let added = tx.add_task(&task, now).await?;
    if let Some(id) = added {
        tx.set_from(id, from).await?;
    }
    Ok(added)
}

/// A restore point was made: it is copied to where policies want it, those with schedules apart.
pub(crate) async fn after_backup(tx: &mut Tx, task: &Task, now: u64) -> Result<()> {
    let (Some(instance), Some(from)) = (task.new.instance, task.new.destination) else {
        return Ok(());
    };
    let instance = tx.get::<Instance>(instance, &EVERYTHING).await?;
    for policy in tx.readable_policies_of(&instance).await? {
        for (at, copy) in copies(&policy.body) {
            if at != from || !copy.schedules.is_empty() {
                continue;
            }
            let delay = copy.delay_seconds.saturating_mul(1000);
            let order = Order {
                instance: &instance,
                policy: Some(policy.id),
                priority: policy.body.priority,
                between: (from, copy.destination),
                not_before_ms: if delay == 0 { 0 } else { now.saturating_add(delay) },
                due_key: None,
            };
            add(tx, order, now).await?;
        }
    }
    Ok(())
}

/// The copies that a policy wants now, each with where its rule's backups go.
fn copies(policy: &Policy) -> impl Iterator<Item = (DestinationId, &CopyRule)> {
    let rules = policy.rules.iter().filter(|_| !policy.paused);
    rules
        .flat_map(|rule| rule.copies.iter().map(|copy| (rule.destination, copy)))
        .filter(|(_, copy)| !copy.paused)
}

/// A schedule of copies is due: those of a policy's instances that have anything to copy. What is
/// not copied now is missed.
pub(crate) async fn due(
    batch: &mut Batch<'_>,
    (from, copy): (DestinationId, &CopyRule),
    due: &Due,
) -> Result<()> {
    if copy.paused {
        return batch.none_runs(MissReason::Paused, due).await;
    }
    for instance in batch.tx.instances_of(batch.policy, &EVERYTHING).await? {
        let added = add_due(batch, &instance, (from, copy.destination), due.last).await;
        batch.came(&instance, "copy", added, due).await?;
    }
    Ok(())
}

/// Adds the copy of one instance, if it has anything to copy; or tells why there is none.
async fn add_due(
    batch: &mut Batch<'_>,
    instance: &Record<Instance>,
    between: (DestinationId, DestinationId),
    at: u64,
) -> Result<Option<MissReason>> {
    let held = batch.tx.held_at(instance.id, between.0).await?;
    if held.is_none_or(|held| held.last_good_ms == 0) {
        return Ok(None);
    }
    if instance.body.paused {
        return Ok(Some(MissReason::Paused));
    }
    // The one that waits takes this one's restore points too.
    if batch.tx.copy_waits(instance.id, between).await? {
        return Ok(Some(MissReason::StillActive));
    }
    let order = Order {
        instance,
        policy: Some(batch.policy.id),
        priority: batch.policy.body.priority,
        between,
        not_before_ms: 0,
        due_key: Some(batch.due_key(instance.id, at)),
    };
    add(batch.tx, order, batch.now).await?;
    Ok(None)
}

/// Completes what a node is told of a copy: where it reads, with what, and what is kept. Returns
/// the variables, and whether the node may use its own identity there.
pub(crate) async fn complete(
    shared: &Shared,
    tx: &mut Tx,
    task: &Task,
    spec: &mut TaskSpec,
) -> Result<(BTreeMap<String, String>, bool)> {
    let TaskSpec::Copy { from: url, keep, .. } = spec else { return Ok((BTreeMap::new(), true)) };
    let (Some(instance), Some(from), Some(to)) =
        (task.new.instance, task.from, task.new.destination)
    else {
        return Err(Problem::invalid("this copy does not say from where to where"));
    };
    // Policies may have changed since it was added.
    if task.new.policy.is_some() {
        let instance = tx.get::<Instance>(instance, &EVERYTHING).await?;
        let policies = tx.policies_of(&instance).await?;
        let mut wanted = policies.iter().flat_map(|policy| copies(&policy.body));
        if !wanted.any(|(at, copy)| at == from && copy.destination == to) {
            let text = "nothing is copied: its policies want no copy there now";
            return Err(Problem::new(StatusCode::CONFLICT, "moot", text));
        }
    }
    *keep = match kept(tx, instance, to).await? {
        Some(keep) => events::told_to_copy(tx, instance, &keep, shared.now()).await?,
        None => BTreeMap::new(),
    };
    let source = tx.get::<Destination>(from, &EVERYTHING).await?.body;
    *url = source.url;
    let mut own = source.environment;
    for (name, secret) in tx.secrets(&shared.sealer, &from.to_string()).await? {
        own.insert(name, secret.to_string());
    }
    let identity = destinations::check_task(tx, from, url, &own).await?;
    // With this one, none is looked for among the usual variables.
    let mut variables = BTreeMap::from([(format!("{OTHER}OWN"), "1".to_owned())]);
    variables.extend(own.into_iter().map(|(name, value)| (other(&name), value)));
    Ok((variables, identity))
}

/// What a variable is called when it is of the destination that is read.
fn other(name: &str) -> String {
    match name {
        "SLUICE_PASSPHRASE" | "SLUICE_PASSPHRASE_FILE" => {
            format!("{OTHER}{}", name.trim_start_matches("SLUICE_"))
        }
        _ => format!("{OTHER}{name}"),
    }
}

/// A restore point of the document of a copy.
fn read(copy: &Value, destination: DestinationId, task: &Task) -> Option<(NewPoint, String)> {
    let bytes = |name: &str| copy[name].as_u64().unwrap_or(0);
    let new = NewPoint {
        destination,
        task: Some(task.id),
        point: copy["point"].as_str()?.to_owned(),
        taken_ms: copy["created_ms"].as_u64()?,
        image_bytes: bytes("image_bytes"),
        new_bytes: bytes("new_bytes"),
        stored_bytes: bytes("stored_bytes"),
    };
    Some((new, copy["of"].as_str()?.to_owned()))
}

/// Restore points were copied: they are noted, also those of attempts that could not tell.
pub(crate) async fn copied(tx: &mut Tx, task: &Task, now: u64) -> Result<()> {
    let (Some(instance), Some(from), Some(to)) =
        (task.new.instance, task.from, task.new.destination)
    else {
        return Ok(());
    };
    let Some(told) = task.result["copies"].as_array() else { return Ok(()) };
    let told: Vec<_> = told.iter().filter_map(|copy| read(copy, to, task)).collect();
    let (mut brought, mut fresh) = (0u64, Vec::new());
    for (new, of) in &told {
        if !tx.point_known(to, &new.point).await? {
            brought = brought.saturating_add(new.stored_bytes);
            fresh.push(new.point.as_str());
            tx.add_point(instance, task.new.project, new, now).await?;
        }
        if let Some(original) = tx.point_named(from, of).await? {
            tx.set_copy_of(to, &new.point, original.copy_of.unwrap_or(original.id)).await?;
            if let Some(backup_type) = original.backup_type {
                tx.set_backup_type(to, &new.point, backup_type).await?;
            }
        }
    }
    // What events keep, the copy does not judge.
    if let Some(policy) = task.new.policy
        && let Some(keep) = kept(tx, instance, to).await?
        && !keep.after_event.is_empty()
    {
        let instance = tx.get::<Instance>(instance, &EVERYTHING).await?;
        events::prune(tx, &instance, (to, policy), None, now).await?;
    }
    let names: BTreeSet<String> = told.iter().map(|(new, _)| new.point.clone()).collect();
    let pruned = task.result["pruned"].as_array().map(Vec::as_slice).unwrap_or_default();
    let pruned: Vec<String> =
        pruned.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    let mut gone = tx.points_removed(to, &pruned, now).await?;
    gone += tx.copies_left(to, instance, &names, now).await?;
    let put = task.result["bytes"].as_u64().unwrap_or(0).max(brought);
    grown(tx, task, (instance, from, to), &told, put, now).await?;
    if gone > 0 {
        ledger::shrunk(tx, task, now).await?;
    }
    // They are there, whatever hinders that they are read back.
    let verified = verifications::after(tx, task, &fresh, now).await;
    go_on(&format!("verifications of instance {instance}"), verified)?;
    Ok(())
}

/// Notes what there is at a destination after a copy.
async fn grown(
    tx: &mut Tx,
    task: &Task,
    (instance, from, to): (InstanceId, DestinationId, DestinationId),
    told: &[(NewPoint, String)],
    put: u64,
    now: u64,
) -> Result<()> {
    let Some(newest) = told.iter().map(|(new, _)| new).max_by_key(|new| new.taken_ms) else {
        return Ok(());
    };
    let before = tx.held_at(instance, to).await?;
    let (stored, last) = before.map_or((0, 0), |held| (held.stored_bytes, held.last_good_ms));
    // What is protected is of the size that the last backup found.
    let front_end_bytes = tx.held_at(instance, from).await?.map(|held| held.front_end_bytes);
    let held = Held {
        instance,
        destination: to,
        project: task.new.project,
        policy: task.new.policy,
        stored_bytes: stored.saturating_add(put),
        front_end_bytes: front_end_bytes.unwrap_or(newest.image_bytes),
        last_good_ms: last.max(newest.taken_ms),
    };
    Ok(tx.set_held(&held, now).await?)
}

/// A copy that a policy wants and that was not made in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Overdue {
    /// The policy.
    pub(crate) policy: PolicyId,
    /// The copy's name in it.
    pub(crate) copy: String,
    /// Where it is to come from.
    pub(crate) from: DestinationId,
    /// Where it is to be.
    pub(crate) destination: DestinationId,
    /// What moment the oldest restore point holds that it lacks, in milliseconds since 1970.
    pub(crate) since_ms: u64,
}

/// The copies that are overdue, by instance.
pub(crate) async fn overdue(tx: &mut Tx, now: u64) -> Result<BTreeMap<InstanceId, Vec<Overdue>>> {
    let mut found: BTreeMap<InstanceId, Vec<Overdue>> = BTreeMap::new();
    let mut held: Option<BTreeMap<(InstanceId, DestinationId), u64>> = None;
    let policies = all_readable::<Policy>(tx).await?;
    for policy in policies.iter().filter(|policy| copies(&policy.body).next().is_some()) {
        let held = match &mut held {
            Some(held) => held,
            None => {
                let all = tx.held(&EVERYTHING).await?.into_iter();
                let all = all.map(|one| ((one.instance, one.destination), one.last_good_ms));
                held.insert(all.collect())
            }
        };
        for instance in tx.instances_of(policy, &EVERYTHING).await? {
            for (from, copy) in copies(&policy.body) {
                let last = |at| held.get(&(instance.id, at)).copied().unwrap_or(0);
                let (here, there) = (last(from), last(copy.destination));
                let cutoff = now.saturating_sub(copy.overdue_ms());
                // What lacks a copy is later than the last one that has: too young to matter.
                if here <= there || there > cutoff {
                    continue;
                }
                let first = tx.first_point_after(instance.id, from, there).await?;
                if let Some(since_ms) = first.filter(|taken| *taken <= cutoff) {
                    found.entry(instance.id).or_default().push(Overdue {
                        policy: policy.id,
                        copy: copy.name.clone(),
                        from,
                        destination: copy.destination,
                        since_ms,
                    });
                }
            }
        }
    }
    Ok(found)
}

/// The restore point that a task is about, when it may be read at several destinations.
async fn read_by(tx: &mut Tx, task: &Task) -> Result<Option<Point>> {
    let spec = serde_json::from_value::<TaskSpec>(task.new.spec.clone());
    let name = match spec {
        Ok(TaskSpec::Restore { point, .. } | TaskSpec::Import { point, .. }) => point,
        Ok(TaskSpec::Mount { mount }) => mount.point,
        _ => return Ok(None),
    };
    let Some(destination) = task.new.destination else { return Ok(None) };
    Ok(tx.point_named(destination, &name).await?)
}

/// Whether a task that has failed may find the same at another destination.
pub(crate) async fn has_another(tx: &mut Tx, task: &Task) -> Result<bool> {
    match read_by(tx, task).await? {
        Some(point) => Ok(tx.holders(&point).await?.iter().any(|one| one.id != point.id)),
        None => Ok(false),
    }
}

/// Where an attempt of a task finds its restore point: where it was asked for first, and after
/// each failure at the next destination that has it and that the node may use.
pub(crate) async fn where_to_read(tx: &mut Tx, task: &Task, node: NodeId) -> Result<Option<Point>> {
    if task.attempt < 2 {
        return Ok(None);
    }
    let Some(point) = read_by(tx, task).await? else { return Ok(None) };
    let record = tx.get::<sluice_catalog::Node>(node, &EVERYTHING).await?;
    let allowed = Configs::load(tx).await?.narrow(record.body).destinations;
    let mut holders = tx.holders(&point).await?;
    holders.retain(|one| {
        allowed.as_ref().is_none_or(|allowed| allowed.contains(&one.new.destination))
    });
    if holders.is_empty() {
        return Ok(None);
    }
    let turn = (task.attempt as usize - 1) % holders.len();
    Ok(Some(holders.swap_remove(turn)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_what_is_read_are_those_of_its_own() {
        assert_eq!(other("SLUICE_PASSPHRASE"), "SLUICE_DEST_PASSPHRASE");
        assert_eq!(other("SLUICE_PASSPHRASE_FILE"), "SLUICE_DEST_PASSPHRASE_FILE");
        assert_eq!(other("AWS_ACCESS_KEY_ID"), "SLUICE_DEST_AWS_ACCESS_KEY_ID");
        assert_eq!(other("SLUICE_ARBITER"), "SLUICE_DEST_SLUICE_ARBITER");
    }
}
