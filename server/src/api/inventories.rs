//! Looking through inventories by hand, and what was found.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{Finding, Instance, InstanceId, Inventory, InventoryId, Looked};
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::policies::EVERYTHING;
use crate::api::tasks::TaskView;
use crate::api::{Body, List, PageQuery, Path, Query};
use crate::auth::Actor;
use crate::inventories::{self, How};
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// Somebody waits for it.
const PRIORITY: u32 = 70;
/// Attempts of a task that was started by hand.
const ATTEMPTS: u32 = 2;

/// How a place is to be looked through.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Run {
    /// Only tell what would become of it, and which policies would take what is new.
    dry_run: bool,
    /// What is not there is gone, however much it is, and whatever is not mounted. Takes a manager.
    accept_gone: bool,
}

/// Look through an inventory now
///
/// The node lists what is there; instances are made of what is new, and what is gone is noted as
/// not present. The task's result tells it.
#[utoipa::path(post, path = "/api/v1/inventories/{id}/runs", tag = "inventory",
    operation_id = "run-inventory", params(("id" = InventoryId, Path)), request_body = Run,
    responses((status = 201, body = TaskView), (status = "4XX", body = Problem)))]
pub(crate) async fn run(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<InventoryId>,
    Body(run): Body<Run>,
) -> Result<(StatusCode, Json<TaskView>)> {
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    tx.decide_alone().await?;
    let record = tx.get::<Inventory>(id, &actor.visible()).await?;
    let needs = if run.accept_gone { Permission::Manage } else { Permission::Operate };
    actor.require(needs, &record)?;
    if tx.is_looked_through(id, false).await? {
        let text = "this inventory is being looked through: see its task";
        return Err(Problem::new(StatusCode::CONFLICT, "looked-through", text));
    }
    let Run { dry_run, accept_gone } = run;
    let task = inventories::task(&record, How { dry_run, accept_gone }, PRIORITY, ATTEMPTS);
    let task_id = tx.add_task(&task, now).await?;
    let task_id = task_id.ok_or_else(|| Problem::invalid("this task is there already"))?;
    let detail = json!({"task": task_id, "dry_run": dry_run, "accept_gone": accept_gone});
    tx.audit(actor.did("inventory.run", id, record.project, detail), now).await?;
    let view = tx.task(task_id, &EVERYTHING).await?.into();
    tx.commit().await?;
    shared.work.notify_one();
    Ok((StatusCode::CREATED, Json(view)))
}

/// An instance that was found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FoundView {
    /// The instance.
    instance: InstanceId,
    /// Its name.
    name: String,
    /// Where it was found: the path of a file, folder or device.
    place: String,
    /// Whether it is still there.
    present: bool,
    /// When it was seen to be gone, in milliseconds since 1970.
    gone_ms: Option<u64>,
    /// The format of its disks.
    format: String,
    /// How large its disks are.
    size_bytes: u64,
}

/// A part of what was found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FoundList {
    /// What came of the last look; nothing before the first.
    looked: Option<Looked>,
    /// What was found.
    items: Vec<FoundView>,
    /// What to give as `after` for the next part; nothing at the end.
    next: Option<String>,
}

/// List what an inventory has found
#[utoipa::path(get, path = "/api/v1/inventories/{id}/found", tag = "inventory",
    operation_id = "list-found", params(("id" = InventoryId, Path), PageQuery),
    responses((status = 200, body = FoundList), (status = "4XX", body = Problem)))]
pub(crate) async fn found(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<InventoryId>,
    Query(query): Query<PageQuery>,
) -> Result<Json<FoundList>> {
    actor.require_anywhere(Permission::Read)?;
    let page = query.page()?;
    let mut tx = shared.catalog.read().await?;
    tx.get::<Inventory>(id, &actor.visible()).await?;
    let looked = tx.looked(id).await?;
    let mut items = Vec::new();
    let found = tx.found(id, &page).await?;
    let ids: Vec<InstanceId> = found.iter().map(|one| one.instance).collect();
    let records = tx.get_many::<Instance>(&ids).await?.whole()?;
    let mut named: BTreeMap<InstanceId, (String, bool)> =
        records.into_iter().map(|one| (one.id, (one.name, one.body.present))).collect();
    for Finding { instance, place, gone_ms, format, size_bytes, .. } in found {
        let named = named.remove(&instance).ok_or_else(|| Problem::not_found("instance"));
        let (name, present) = named?;
        items.push(FoundView { instance, name, place, present, gone_ms, format, size_bytes });
    }
    let List { items, next, .. } =
        List::new(items, page.limit, |view: &FoundView| view.place.clone());
    Ok(Json(FoundList { looked, items, next }))
}
