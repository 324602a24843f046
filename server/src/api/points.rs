//! Restore points.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use sluice_catalog::{DestinationId, InstanceId, Page, Point, PointId, ProjectId, TaskId};
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::query::PointQuery;
use crate::api::{List, Path, Query};
use crate::auth::Actor;
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
    let limit = query.limit.unwrap_or(100).clamp(1, Page::LARGEST);
    let page = Page { after: query.after, limit };
    let mut tx = shared.catalog.read().await?;
    let points = tx.points(&actor.visible(), query.instance, &page).await?;
    let views = points.into_iter().map(PointView::from).collect();
    Ok(Json(List::new(views, limit, |view: &PointView| view.id.to_string())))
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
    let point = shared.catalog.read().await?.point(id, &actor.visible()).await?;
    Ok(Json(point.into()))
}
