//! Whether what a backup protects fits a hard limit of protected bytes.
//!
//! ```text
//!   report: total ──► counts while the task runs ──┬──► within the limit: goes on
//!                                                  └──► above: cancelled, failed
//! ```
//!
//! How large the disks of an instance are is known only to the node that opens them: before its
//! first restore point an instance counts for nothing, and a disk may have grown since the last.
//! So what a task tells first is judged, and counts for all that are judged after it.

use serde_json::Value;
use sluice_catalog::{Instance, Task, TaskId, Tx};
use sluice_scheduler::quota::{Caps, Measure, Notice, Scope};

use crate::api::policies::EVERYTHING;
use crate::problem::Result;
use crate::quota;

/// How the message of a task begins that is stopped for its quota.
const QUOTA: &str = "quota: ";

/// A node tells how large what it backs up is. Returns whether the task is to end for that.
pub(crate) async fn under_way(tx: &mut Tx, task: &Task, line: &Value) -> Result<bool> {
    let size = line["total"].as_u64().unwrap_or(0);
    let new = &task.new;
    // What was told before was judged then.
    if new.kind != "backup" || size == 0 || size == task.progress.total {
        return Ok(false);
    }
    let (Some(project), Some(instance)) = (new.project, new.instance) else { return Ok(false) };
    let Some(quota) = quota::of(tx, project).await? else { return Ok(false) };
    let name = match quota.instances.is_empty() {
        true => String::new(),
        false => tx.get::<Instance>(instance, &EVERYTHING).await?.name,
    };
    let hard = |caps: &Caps| caps.front_end_bytes.and_then(|limit| limit.hard);
    let limits = [
        (Scope::Project, hard(&quota.project), None),
        (Scope::Instance, hard(quota.of_instance(&name)), Some(instance)),
    ];
    if limits.iter().all(|(_, limit, _)| limit.is_none()) {
        return Ok(false);
    }
    tx.set_size(task.id, size).await?;
    for (scope, limit, only) in limits {
        let Some(limit) = limit else { continue };
        let would_be = tx.in_use(project, only).await?.front_end_bytes;
        if would_be > limit {
            let (measure, window, again) = (Measure::FrontEndBytes, None, None);
            let notice = Notice { scope, measure, hard: true, limit, would_be, window, again };
            tx.set_size(task.id, 0).await?;
            tx.stop_with(task.id, &format!("{QUOTA}{notice}")).await?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Why a task was stopped, if that was for its quota.
pub(crate) async fn refused(tx: &mut Tx, id: TaskId) -> Result<Option<String>> {
    let task = tx.task(id, &EVERYTHING).await?;
    Ok(Some(task.message).filter(|why| task.cancel_requested && why.starts_with(QUOTA)))
}
