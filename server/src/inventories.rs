//! Inventories: places that nodes look through for instances.
//!
//! ```text
//!   schedule, or by hand ──► task ──► node: which disks are there? ──► judge ──► instances
//!                                                                     │
//!                                                     only tried: told, and nothing is changed
//! ```
//!
//! # Invariants
//!
//! * No instance is removed, and none that was made by hand is touched: what an inventory has found
//!   is listed beside instances, and everything else is by hand.
//! * What a look found, and what follows from it, is noted in the transaction in which its task
//!   ends.
//! * What another project reads, or what a node keeps as snapshots, is not found.
//! * What is found lies in the folder of its inventory, also when it is backed up.

mod judge;
pub(crate) mod schedule;

use std::collections::BTreeSet;

use axum::http::StatusCode;
use serde_json::{Value, json};
use sluice_catalog::{
    AuditEntry, Finding, Having, Instance, InstanceId, Inventory, InventoryId, Look, NewTask,
    NodeId, Page, Policy, Record, Task, TaskState, Tx, Visible, lies_in,
};
use sluice_node_api::{InventoryOrder, InventoryReport, TaskSpec, Work};

use crate::api::policies::EVERYTHING;
use crate::node_configs;
use crate::problem::{Problem, Result};
use judge::{Case, Verdict, judge};

/// Disks that one inventory may find: they are compared in memory, and noted in one transaction.
const MOST: u32 = 5000;
/// What is listed of each sort in the result of a task.
const LISTED: usize = 100;
/// What the spec of a task says that the node need not know.
const DRY_RUN: &str = "dry_run";
const ACCEPT_GONE: &str = "accept_gone";
/// What is told of policies whose names are not.
const UNKNOWN: &str = "one that you may not know of";

/// How somebody wants a place to be looked through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct How {
    /// Nothing is changed.
    pub(crate) dry_run: bool,
    /// What is not there is gone, however much it is.
    pub(crate) accept_gone: bool,
}

fn order(record: &Record<Inventory>) -> InventoryOrder {
    let (folder, names, except, depth) = match &record.body.look {
        Look::Files { folder, names, except, depth, .. } => (folder, names, except, *depth),
        Look::Devices { folder, names, except } => (folder, names, except, 0),
    };
    InventoryOrder {
        inventory: record.id.to_string(),
        revision: record.revision,
        folder: folder.clone(),
        devices: matches!(record.body.look, Look::Devices { .. }),
        names: names.iter().cloned().collect(),
        except: except.iter().cloned().collect(),
        depth,
        most: MOST,
    }
}

/// A task that looks through an inventory.
pub(crate) fn task(record: &Record<Inventory>, how: How, priority: u32, attempts: u32) -> NewTask {
    let spec = TaskSpec::Inventory { look: order(record) };
    let kind = spec.kind().to_owned();
    let mut spec = serde_json::to_value(spec).unwrap_or_default();
    (spec[DRY_RUN], spec[ACCEPT_GONE]) = (how.dry_run.into(), how.accept_gone.into());
    NewTask {
        project: record.project,
        instance: None,
        policy: None,
        destination: None,
        wanted_node: record.body.node,
        kind,
        priority,
        due_key: None,
        max_attempts: attempts,
        not_before_ms: 0,
        spec,
    }
}

/// What a node is told: what the inventory says now.
pub(crate) async fn work(tx: &mut Tx, look: &InventoryOrder, node: NodeId) -> Result<Work> {
    let record = tx.get::<Inventory>(look.inventory.parse()?, &EVERYTHING).await?;
    let folders = node_configs::only_paths(tx, node, record.body.look.folder()).await?;
    let spec = TaskSpec::Inventory { look: order(&record) };
    Ok(Work { spec, folders, ..Work::without_repository() })
}

/// How a task ended that has looked through an inventory.
pub(crate) struct End {
    pub(crate) state: TaskState,
    pub(crate) document: Value,
    pub(crate) message: String,
    /// Whether to look again may help: something was changed meanwhile.
    pub(crate) again: bool,
}

/// A node has looked: what follows from it is noted.
///
/// # Errors
/// When the database does not answer; everything else is how the task ended.
pub(crate) async fn looked(tx: &mut Tx, task: &Task, told: &Value, now: u64) -> Result<End> {
    let part = tx.begin_part().await?;
    match look_at(tx, task, told, now).await {
        Ok(end) => {
            tx.end_part(part).await?;
            Ok(end)
        }
        Err(problem) if problem.is_outage() => Err(problem),
        Err(problem) => {
            tx.undo_part(part).await?;
            let again = problem.status == StatusCode::CONFLICT.as_u16();
            let (state, document) = (TaskState::Failed, Value::Null);
            Ok(End { state, document, message: problem.detail, again })
        }
    }
}

async fn look_at(tx: &mut Tx, task: &Task, told: &Value, now: u64) -> Result<End> {
    let bad = |_| Problem::invalid("what the node told of this place cannot be understood");
    let spec: TaskSpec = serde_json::from_value(task.new.spec.clone()).map_err(bad)?;
    let TaskSpec::Inventory { look } = spec else {
        return Err(Problem::not_found("inventory"));
    };
    let report: InventoryReport = serde_json::from_value(told.clone()).map_err(bad)?;
    let record = tx.get::<Inventory>(look.inventory.parse()?, &EVERYTHING).await?;
    if report.order != order(&record).name() {
        let text = "the inventory was changed while it was looked through";
        return Err(Problem::new(StatusCode::CONFLICT, "stale", text));
    }
    if report.disks.len() > MOST as usize {
        return Err(Problem::invalid(format!("a node told of more than {MOST} disks")));
    }
    // What a node says is where others read, too.
    let folder = record.body.look.folder();
    if report.disks.iter().any(|disk| !lies_in(&disk.path, folder)) {
        return Err(Problem::invalid(format!("a node told of what does not lie in {folder}")));
    }
    let project = record.project.ok_or_else(|| Problem::not_found("project"))?;
    let known = all_found(tx, record.id).await?;
    let instances = all_instances(tx, &Visible::projects([project])).await?;
    let mut strangers: Vec<Record<Instance>> = crate::complaint::all_readable(tx).await?;
    strangers.retain(|one| one.project != record.project);
    let snapshot_folders = match task.node.or(record.body.node) {
        Some(node) => node_configs::snapshot_folders(tx, node).await?,
        None => BTreeSet::new(),
    };
    let last = tx.looked(record.id).await?.unwrap_or_default();
    let said = |name: &str| task.new.spec[name] == true;
    let accept_gone = said(ACCEPT_GONE);
    let case = Case {
        inventory: &record,
        report: &report,
        known: &known,
        instances: &instances,
        strangers: &strangers,
        snapshot_folders: &snapshot_folders,
        last: &last,
        accept_gone,
    };
    let verdict = judge(&case);
    let mut document = summary(&verdict, &instances);
    document[DRY_RUN] = said(DRY_RUN).into();
    let message = in_words(&verdict);
    let lines: Vec<(String, String)> = (verdict.lines.iter())
        .map(|(warns, line)| match warns {
            true => ("warning".to_owned(), format!("warning: {line}")),
            false => ("info".to_owned(), line.clone()),
        })
        .collect();
    tx.log(task.id, task.attempt, &lines, now).await?;
    let state = match verdict.warns() {
        true => TaskState::Warnings,
        false => TaskState::Succeeded,
    };
    if said(DRY_RUN) {
        foretell(tx, &record, &verdict, &mut document).await?;
        let message = format!("only tried: {message}");
        return Ok(End { state, document, message, again: false });
    }
    note(tx, &record, &verdict, &instances, now).await?;
    let looked = sluice_catalog::Looked {
        task: Some(task.id),
        at_ms: now,
        there: verdict.there as u64,
        held: verdict.held.len() as u64,
        message: message.clone(),
        mounts: verdict.mounts,
        mounted_on: verdict.mounted_on,
    };
    tx.set_looked(record.id, &looked).await?;
    Ok(End { state, document, message, again: false })
}

async fn all_found(tx: &mut Tx, inventory: InventoryId) -> Result<Vec<Finding>> {
    let (mut all, mut page) = (Vec::new(), Page { after: None, limit: Page::LARGEST });
    loop {
        let part = tx.found(inventory, &page).await?;
        let Some(last) = part.last() else { return Ok(all) };
        page.after = Some(last.place.clone());
        all.extend(part);
    }
}

async fn all_instances(tx: &mut Tx, visible: &Visible) -> Result<Vec<Record<Instance>>> {
    let (mut all, mut page) = (Vec::new(), Page { after: None, limit: Page::LARGEST });
    loop {
        // One that cannot be read might be one that was found: it must not be made again.
        let part = tx.list::<Instance>(visible, &page).await?;
        let Some(last) = part.last() else { return Ok(all) };
        page.after = Some(last.id.to_string());
        all.extend(part);
    }
}

/// Makes, and changes, what the verdict says.
async fn note(
    tx: &mut Tx,
    record: &Record<Inventory>,
    verdict: &Verdict,
    instances: &[Record<Instance>],
    now: u64,
) -> Result<()> {
    for instance in &verdict.left {
        tx.forget_found(*instance).await?;
        audit(tx, record, "instance.left", *instance, json!({}), now).await?;
    }
    for found in &verdict.noted {
        tx.set_found(found).await?;
    }
    let by_id = |id: InstanceId| instances.iter().find(|one| one.id == id).cloned();
    let touched = verdict.changed.iter().chain(verdict.back.iter().filter(|id| {
        // One that is back with other disks is changed once.
        !verdict.changed.contains(id)
    }));
    for id in touched {
        let Some(mut one) = by_id(*id) else { continue };
        let back = verdict.back.contains(id);
        one.body.present = true;
        if let Some(found) = verdict.noted.iter().find(|found| found.instance == *id) {
            one.body.source.clone_from(&found.source);
        }
        tx.update(&mut one, now).await?;
        let action = if back { "instance.back" } else { "instance.disks" };
        audit(tx, record, action, *id, json!({"source": one.body.source}), now).await?;
    }
    for found in &verdict.gone {
        let Some(mut one) = by_id(found.instance) else { continue };
        one.body.present = false;
        tx.update(&mut one, now).await?;
        tx.set_found(&Finding { gone_ms: Some(now), ..found.clone() }).await?;
        audit(tx, record, "instance.gone", one.id, json!({"place": found.place}), now).await?;
    }
    for (name, unit) in &verdict.add {
        let body = draft(record, unit);
        let made = tx.insert(record.project, name, body, now).await?;
        // Only somebody with a role in the system may say which places are looked through. Who may
        // write there must not lead out of it.
        match &record.body.look {
            Look::Files { folder, .. } => tx.trust_source_within(made.id, folder).await?,
            // Names of devices are links to where they are.
            Look::Devices { .. } => tx.trust_source(made.id, true).await?,
        }
        let judge::Unit { place, source, identity, format, size_bytes } = unit.clone();
        let (instance, inventory) = (made.id, record.id);
        let found = Finding {
            instance,
            inventory,
            place,
            source,
            identity,
            format,
            size_bytes,
            gone_ms: None,
        };
        tx.set_found(&found).await?;
        let detail = json!({"name": name, "place": found.place});
        audit(tx, record, "instance.found", made.id, detail, now).await?;
    }
    Ok(())
}

/// The instance that becomes of something.
fn draft(record: &Record<Inventory>, unit: &judge::Unit) -> Instance {
    Instance {
        description: String::new(),
        source: unit.source.clone(),
        tags: record.body.tags.clone(),
        node: record.body.node,
        manager: record.body.manager.clone(),
        cluster: record.body.cluster.clone(),
        host: None,
        paused: false,
        present: true,
        block_size: record.body.block_size,
    }
}

async fn audit(
    tx: &mut Tx,
    record: &Record<Inventory>,
    action: &'static str,
    instance: InstanceId,
    mut detail: Value,
    now: u64,
) -> Result<()> {
    detail["inventory"] = record.name.clone().into();
    let (actor, object) = ("server".to_owned(), instance.to_string());
    let entry = AuditEntry { actor, action, object, project: record.project, detail };
    Ok(tx.audit(entry, now).await?)
}

/// What came of it, in one line.
fn in_words(verdict: &Verdict) -> String {
    let Verdict { there, add, back, gone, held, changed, .. } = verdict;
    let parts = [
        (add.len(), "new"),
        (gone.len(), "gone"),
        (back.len(), "back"),
        (changed.len(), "with other disks"),
        (held.len(), "gone and not noted as gone"),
    ];
    let parts = parts.iter().filter(|(many, _)| *many > 0);
    let parts: String = parts.map(|(many, word)| format!(", {many} {word}")).collect();
    format!("{there} there{parts}")
}

/// The result of the task.
fn summary(verdict: &Verdict, instances: &[Record<Instance>]) -> Value {
    let name = |id: &InstanceId| -> Option<String> {
        instances.iter().find(|one| one.id == *id).map(|one| one.name.clone())
    };
    let names = |ids: &mut dyn Iterator<Item = &InstanceId>| -> Vec<String> {
        ids.take(LISTED).filter_map(name).collect()
    };
    let added: Vec<Value> = (verdict.add.iter().take(LISTED))
        .map(|(name, unit)| {
            let (format, size_bytes) = (&unit.format, unit.size_bytes);
            json!({"name": name, "place": unit.place, "format": format, "size_bytes": size_bytes})
        })
        .collect();
    json!({
        "there": verdict.there,
        "counts": {
            "added": verdict.add.len(),
            "gone": verdict.gone.len(),
            "back": verdict.back.len(),
            "changed": verdict.changed.len(),
            "left": verdict.left.len(),
            "held": verdict.held.len(),
        },
        "added": added,
        "gone": names(&mut verdict.gone.iter().map(|found| &found.instance)),
        "back": names(&mut verdict.back.iter()),
        "changed": names(&mut verdict.changed.iter()),
        "left": names(&mut verdict.left.iter()),
        "held": names(&mut verdict.held.iter()),
    })
}

/// Tells which policies would take what is new.
async fn foretell(
    tx: &mut Tx,
    record: &Record<Inventory>,
    verdict: &Verdict,
    document: &mut Value,
) -> Result<()> {
    let by_hand = BTreeSet::new();
    let policies: Vec<Record<Policy>> = crate::complaint::all_readable(tx).await?;
    let having: Vec<Having<'_>> =
        policies.iter().map(|policy| Having::of(policy, &by_hand)).collect();
    for (at, (name, unit)) in verdict.add.iter().take(LISTED).enumerate() {
        let mut one = Record::draft(record.project, draft(record, unit));
        one.name.clone_from(name);
        let takes = having.iter().filter(|having| having.has(&one)).map(Having::policy);
        // Who reads this may be of the project alone.
        let (known, others): (Vec<_>, Vec<_>) =
            takes.partition(|policy| policy.usable_in(record.project));
        let mut names: Vec<&str> = known.iter().map(|policy| policy.name.as_str()).collect();
        names.extend((!others.is_empty()).then_some(UNKNOWN));
        document["added"][at]["policies"] = json!(names);
    }
    Ok(())
}
