//! The ledger: what tasks moved, and what there is because of them.

use std::collections::BTreeMap;

use serde_json::Value;
use sluice_catalog::{
    Destination, Held, Instance, NewPoint, NewTask, Project, Record, Task, Transfer, Tx,
};
use sluice_node_api::TaskSpec;

use crate::api::policies::EVERYTHING;
use crate::problem::Result;

const DAY_MS: u64 = 86_400_000;
/// It waits behind everything that people want.
const STAT_PRIORITY: u32 = 10;
const STAT_ATTEMPTS: u32 = 2;

/// Bytes that a backup's document tells.
fn bytes(task: &Task, name: &str) -> u64 {
    task.result["point"]["stats"][name].as_u64().unwrap_or(0)
}

/// Notes what a task moved that has ended well.
pub(crate) async fn moved(tx: &mut Tx, task: &Task, now: u64) -> Result<()> {
    let mut transfer = Transfer {
        task: task.id,
        at_ms: now,
        project: task.new.project,
        instance: task.new.instance,
        policy: task.new.policy,
        destination: task.new.destination,
        kind: task.new.kind.clone(),
        logical_bytes: 0,
        unique_bytes: 0,
        shared_bytes: 0,
        transferred_bytes: 0,
    };
    match task.new.kind.as_str() {
        "backup" | "commit" => {
            transfer.logical_bytes = bytes(task, "image_bytes");
            transfer.unique_bytes = bytes(task, "new_bytes");
            transfer.shared_bytes =
                bytes(task, "dedup_bytes").saturating_add(bytes(task, "unchanged_bytes"));
            transfer.transferred_bytes = put(task);
        }
        "copy" => transfer.transferred_bytes = task.result["bytes"].as_u64().unwrap_or(0),
        "restore" => transfer.logical_bytes = task.progress.done,
        _ => {}
    }
    Ok(tx.add_transfer(&transfer).await?)
}

/// Bytes that a backup put to its destination.
fn put(task: &Task) -> u64 {
    bytes(task, "stored_bytes").saturating_add(bytes(task, "meta_bytes"))
}

/// Bytes that are there for a restore point and were not before: what interrupted backups had left
/// was nobody's until now.
fn brought(task: &Task) -> u64 {
    put(task).saturating_add(task.result["resumed_bytes"].as_u64().unwrap_or(0))
}

/// Notes what there is after a backup.
pub(crate) async fn grown(
    tx: &mut Tx,
    instance: sluice_catalog::InstanceId,
    point: &NewPoint,
    task: &Task,
    now: u64,
) -> Result<()> {
    let before = tx.held_at(instance, point.destination).await?;
    let (stored, last) = before.map_or((0, 0), |held| (held.stored_bytes, held.last_good_ms));
    let held = Held {
        instance,
        destination: point.destination,
        project: task.new.project,
        policy: task.new.policy,
        stored_bytes: stored.saturating_add(brought(task)),
        front_end_bytes: point.image_bytes,
        last_good_ms: last.max(point.taken_ms),
    };
    Ok(tx.set_held(&held, now).await?)
}

/// What was stored for points that are gone is needed by others, or not: once a day the
/// repository is asked.
pub(crate) async fn shrunk(tx: &mut Tx, task: &Task, now: u64) -> Result<()> {
    let Some(destination) = task.new.destination else { return Ok(()) };
    let project = tx.get::<Destination>(destination, &EVERYTHING).await?.project;
    let spec = TaskSpec::Stat {};
    let stat = NewTask {
        project,
        instance: None,
        policy: None,
        destination: Some(destination),
        wanted_node: None,
        kind: spec.kind().to_owned(),
        priority: STAT_PRIORITY,
        due_key: Some(format!("stat/{destination}/{}", now / DAY_MS)),
        max_attempts: STAT_ATTEMPTS,
        not_before_ms: 0,
        spec: serde_json::to_value(&spec).unwrap_or_default(),
    };
    tx.add_task(&stat, now).await?;
    Ok(())
}

/// What the repository says is stored for each instance, by its name there.
fn measured(document: &Value) -> Option<BTreeMap<&str, u64>> {
    // What could not be read was not counted.
    if document["damaged_points"].as_u64() != Some(0) {
        return None;
    }
    let rows = document["by_instance"].as_array()?;
    rows.iter()
        .map(|row| Some((row["instance"].as_str()?, row["stored_bytes"].as_u64()?)))
        .collect()
}

/// Notes what the repository says is stored. That is never more than was put there for an
/// instance: what it shares with others was counted for whoever brought it.
pub(crate) async fn counted(tx: &mut Tx, task: &Task, now: u64) -> Result<()> {
    let Some(stored) = measured(&task.result) else { return Ok(()) };
    let held = tx.held(&EVERYTHING).await?;
    let here = held.into_iter().filter(|held| Some(held.destination) == task.new.destination);
    for held in here {
        let Ok(instance) = tx.get::<Instance>(held.instance, &EVERYTHING).await else { continue };
        let name = name(tx, &instance).await?;
        let now_stored = stored.get(name.as_str()).copied().unwrap_or(0);
        // A backup since the count began is not in it.
        let since = held.last_good_ms > task.started_ms.unwrap_or(0);
        if now_stored < held.stored_bytes && !since {
            tx.set_held(&Held { stored_bytes: now_stored, ..held }, now).await?;
        }
    }
    Ok(())
}

/// What an instance is called in repositories: by project and name, for several projects may use
/// one destination.
pub(crate) async fn name(tx: &mut Tx, instance: &Record<Instance>) -> Result<String> {
    let id = instance.project.ok_or_else(|| crate::problem::Problem::not_found("project"))?;
    let project = tx.get::<Project>(id, &EVERYTHING).await?.name;
    Ok(format!("{project}.{}", instance.name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_count_that_met_damage_is_not_believed() {
        let rows = json!([{"instance": "shop.web", "stored_bytes": 7}]);
        let good = json!({"damaged_points": 0, "by_instance": rows});
        assert_eq!(measured(&good), Some([("shop.web", 7)].into()));
        assert_eq!(measured(&json!({"damaged_points": 1, "by_instance": rows})), None);
        assert_eq!(measured(&json!({"by_instance": rows})), None, "another document");
    }
}
