//! Restore points.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use sluice_catalog::{
    BackupType, DestinationId, InstanceId, Point, PointFilter, PointId, ProjectId, Proof, TaskId,
    Tx,
};
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::query::{Order, PointQuery, span};
use crate::api::{List, Path, Query, page};
use crate::auth::Actor;
use crate::events::{Keeping, Keepings};
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// A restore point.
#[derive(Serialize, ToSchema)]
pub(crate) struct PointView {
    id: PointId,
    instance: InstanceId,
    project: Option<ProjectId>,
    destination: DestinationId,
    task: Option<TaskId>,
    /// As `sluice` takes it.
    point: String,
    /// What moment it holds, in milliseconds since 1970.
    taken_ms: u64,
    image_bytes: u64,
    new_bytes: u64,
    stored_bytes: u64,
    /// What its backup took for granted; nothing when that is not known.
    #[serde(rename = "type")]
    backup_type: Option<BackupType>,
    /// What its last verification found; nothing while it is unproven.
    proof: Option<Proof>,
    /// Events that keep it, by the policies of its instance, whatever else they say.
    events: Vec<Keeping>,
    /// The restore point at another destination that it is a copy of.
    copy_of: Option<PointId>,
    /// Where copies of it are.
    copies: Vec<CopyView>,
}

/// A copy of a restore point.
#[derive(Serialize, ToSchema)]
pub(crate) struct CopyView {
    /// It is a restore point itself.
    id: PointId,
    destination: DestinationId,
    /// As `sluice` takes it.
    point: String,
    /// What its last verification found; nothing while it is unproven.
    proof: Option<Proof>,
}

/// Restore points with the copies that there are of them.
async fn views(tx: &mut Tx, points: Vec<Point>) -> Result<Vec<PointView>> {
    let ids: Vec<PointId> = points.iter().map(|point| point.id).collect();
    let mut copies: BTreeMap<PointId, Vec<CopyView>> = BTreeMap::new();
    for copy in tx.copies_of(&ids).await? {
        let (destination, point) = (copy.new.destination, copy.new.point);
        let Some(original) = copy.copy_of else { continue };
        let copy = CopyView { id: copy.id, destination, point, proof: copy.proof };
        copies.entry(original).or_default().push(copy);
    }
    let keepings = Keepings::load_of(tx, &points).await?;
    let mut views = Vec::with_capacity(points.len());
    for point in points {
        let copies = copies.remove(&point.id).unwrap_or_default();
        let events = keepings.of(&point);
        views.push(PointView { copies, events, ..PointView::from(point) });
    }
    Ok(views)
}

impl From<Point> for PointView {
    fn from(point: Point) -> Self {
        Self {
            id: point.id,
            instance: point.instance,
            project: point.project,
            destination: point.new.destination,
            task: point.new.task,
            point: point.new.point,
            taken_ms: point.new.taken_ms,
            image_bytes: point.new.image_bytes,
            new_bytes: point.new.new_bytes,
            stored_bytes: point.new.stored_bytes,
            backup_type: point.backup_type,
            proof: point.proof,
            events: Vec::new(),
            copy_of: point.copy_of,
            copies: Vec::new(),
        }
    }
}

/// List restore points
#[utoipa::path(get, path = "/api/v1/points", tag = "point", operation_id = "list-points",
    params(PointQuery), responses(
    (status = 200, body = List<PointView>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<PointQuery>,
) -> Result<Json<List<PointView>>> {
    actor.require_anywhere(Permission::Read)?;
    let page = page(query.after, query.limit)?;
    let filter = PointFilter {
        instance: query.instance,
        project: query.project,
        destination: query.destination,
        taken: span(query.since_ms, query.until_ms)?,
        newest_first: query.order.map(|order| order == Order::Newest),
    };
    let mut tx = shared.catalog.read().await?;
    let mut found = tx.points_found(&actor.visible(), &filter, &page).await?;
    let views = views(&mut tx, std::mem::take(&mut found.items)).await?;
    Ok(Json(List { items: views, ..List::found("restore point", found, |one| Ok(one.into())) }))
}

/// Read a restore point
#[utoipa::path(get, path = "/api/v1/points/{id}", tag = "point", operation_id = "get-point",
    params(("id" = PointId, Path)), responses(
    (status = 200, body = PointView), (status = "4XX", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<PointId>,
) -> Result<Json<PointView>> {
    actor.require_anywhere(Permission::Read)?;
    let mut tx = shared.catalog.read().await?;
    let point = tx.point(id, &actor.visible()).await?;
    let view = views(&mut tx, vec![point]).await?.pop();
    view.map(Json).ok_or_else(|| Problem::not_found("restore point"))
}
