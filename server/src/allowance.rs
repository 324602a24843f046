//! What a backup may store, where a project or an instance has a hard limit of stored bytes.
//!
//! ```text
//!   lease  ──► what is left of the limit ──► the node stops a backup that needs more
//!   report ──► what it has stored so far ──► what is left by now
//!   end    ──► restore point: held         | none: what was stored still counts, and the next
//!                                          | backup of the instance goes on with it
//! ```
//!
//! Backups of one project that run at once draw on the same rest: whoever stores first has it.
//! Each learns with every report what the others have stored, so together they pass a limit by no
//! more than they store between two reports; one alone never does.

use serde_json::Value;
use sluice_catalog::{DestinationId, Instance, InstanceId, ProjectId, Task, Tx};
use sluice_node_api::Finished;
use sluice_scheduler::quota::{Caps, Scope};

use crate::api::policies::EVERYTHING;
use crate::problem::Result;
use crate::quota;

/// What interrupted backups left is gone when a collection began so much later. Collections take
/// an interrupted backup for dead after a day.
const LEFT_MS: u64 = 2 * 86_400_000;

/// The limit that leaves a backup the least.
struct Rest {
    scope: Scope,
    limit: u64,
    /// Bytes of it that are in use without this backup.
    others: u64,
}

impl Rest {
    fn bytes(&self) -> u64 {
        self.limit.saturating_sub(self.others)
    }

    /// Why a backup was stopped.
    fn refusal(&self) -> String {
        let scope = match self.scope {
            Scope::Project => "the project",
            Scope::Instance => "the instance",
        };
        format!(
            "quota: {scope} has {} stored bytes without this backup, which needs more than the {} \
             that are left of its hard limit of {}; raise the limit, or remove what is not \
             needed: the next run goes on with what was stored",
            self.others,
            self.bytes(),
            self.limit,
        )
    }
}

/// Whose backup it is, and of what to where.
fn place(task: &Task) -> Option<(ProjectId, (InstanceId, DestinationId))> {
    let new = &task.new;
    if new.kind != "backup" {
        return None;
    }
    Some((new.project?, (new.instance?, new.destination?)))
}

async fn rest(tx: &mut Tx, task: &Task) -> Result<Option<Rest>> {
    let Some((project, place)) = place(task) else { return Ok(None) };
    let Some(quota) = quota::of(tx, project).await? else { return Ok(None) };
    let name = match quota.instances.is_empty() {
        true => String::new(),
        false => tx.get::<Instance>(place.0, &EVERYTHING).await?.name,
    };
    let hard = |caps: &Caps| caps.stored_bytes.and_then(|limit| limit.hard);
    let limits = [
        (Scope::Project, hard(&quota.project), None),
        (Scope::Instance, hard(quota.of_instance(&name)), Some(place.0)),
    ];
    let mut least: Option<Rest> = None;
    for (scope, limit, instance) in limits {
        let Some(limit) = limit else { continue };
        let used = tx.stored_in_use(project, instance).await?;
        let others = used.saturating_sub(tx.pending(place).await?);
        let rest = Rest { scope, limit, others };
        if least.as_ref().is_none_or(|least| rest.bytes() < least.bytes()) {
            least = Some(rest);
        }
    }
    Ok(least)
}

/// How many bytes a backup that begins may store; any without a limit.
pub(crate) async fn at_first(tx: &mut Tx, task: &Task) -> Result<Option<u64>> {
    Ok(rest(tx, task).await?.map(|rest| rest.bytes()))
}

/// A node tells how far a task is: what a backup has stored so far counts from now on. Returns how
/// much it may store in all.
pub(crate) async fn under_way(
    tx: &mut Tx,
    task: &Task,
    line: &Value,
    now: u64,
) -> Result<Option<u64>> {
    let (Some(charged), Some((project, at))) = (line["charged"].as_u64(), place(task)) else {
        return Ok(None);
    };
    let Some(rest) = rest(tx, task).await? else { return Ok(None) };
    tx.set_pending(at, project, charged, now).await?;
    Ok(Some(rest.bytes()))
}

/// A task has failed. Returns why, if its allowance was not enough: it has stored as much then.
pub(crate) async fn refused(
    tx: &mut Tx,
    task: &Task,
    finished: &Finished,
    now: u64,
) -> Result<Option<String>> {
    if finished.document["error"]["kind"] != "quota" {
        return Ok(None);
    }
    let (Some((project, at)), Some(rest)) = (place(task), rest(tx, task).await?) else {
        return Ok(None);
    };
    let stored = rest.bytes().max(tx.pending(at).await?);
    tx.set_pending(at, project, stored, now).await?;
    Ok(Some(rest.refusal()))
}

/// A backup has become a restore point.
pub(crate) async fn became_point(tx: &mut Tx, task: &Task) -> Result<()> {
    match place(task) {
        Some((_, at)) => Ok(tx.end_pending(at).await?),
        None => Ok(()),
    }
}

/// A collection has ended well: what was left long before it began is gone.
pub(crate) async fn collected(tx: &mut Tx, task: &Task) -> Result<()> {
    if let (Some(destination), Some(began)) = (task.new.destination, task.started_ms) {
        tx.forget_pending(destination, began.saturating_sub(LEFT_MS)).await?;
    }
    Ok(())
}
