//! Events that have happened, for which the retention of policies was waiting.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{
    EventFilter, Instance, InstanceId, NewRetentionEvent, PointId, ProjectId, RetentionEvent,
    RetentionEventId, Tx, Visible,
};
use utoipa::ToSchema;

use crate::access::{At, Permission};
use crate::api::query::EventQuery;
use crate::api::{Body, List, Path, Query, page};
use crate::auth::Actor;
use crate::events;
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// An event that has happened.
#[derive(Serialize, ToSchema)]
pub(crate) struct RetentionEventView {
    id: RetentionEventId,
    project: Option<ProjectId>,
    /// Whose restore points it is about.
    instance: InstanceId,
    /// The only restore point that it is about, with its copies.
    point: Option<PointId>,
    /// What policies call it.
    event: String,
    /// When it happened, in milliseconds since 1970.
    at_ms: u64,
}

impl From<RetentionEvent> for RetentionEventView {
    fn from(event: RetentionEvent) -> Self {
        let RetentionEvent { id, project, instance, point, event, at_ms } = event;
        Self { id, project, instance, point, event, at_ms }
    }
}

/// An event that has happened to an instance, or to one restore point.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Happened {
    /// All restore points of this instance, those that are made later too.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    instance: Option<InstanceId>,
    /// Or this restore point, with its copies.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    point: Option<PointId>,
    /// What policies call it.
    event: String,
    /// When it happened, in milliseconds since 1970; now when it is not said.
    #[serde(default)]
    at_ms: Option<u64>,
}

/// What the event is about: project, instance, restore point.
pub(crate) type About = (Option<ProjectId>, InstanceId, Option<PointId>);

/// What an event is about, for what somebody may know of.
pub(crate) async fn about(
    tx: &mut Tx,
    visible: &Visible,
    (instance, point): (Option<InstanceId>, Option<PointId>),
) -> Result<About> {
    match (instance, point) {
        (Some(id), None) => Ok((tx.get::<Instance>(id, visible).await?.project, id, None)),
        (None, Some(id)) => {
            let point = tx.point(id, visible).await?;
            // What happens to a copy happens to the original, and to all copies.
            Ok((point.project, point.instance, Some(point.copy_of.unwrap_or(point.id))))
        }
        _ => Err(Problem::invalid("an event happens to an instance, or to a restore point")),
    }
}

/// List the events that have happened, for which retention was waiting
#[utoipa::path(get, path = "/api/v1/retention-events", tag = "policy",
    operation_id = "list-retention-events", params(EventQuery), responses(
    (status = 200, body = List<RetentionEventView>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<EventQuery>,
) -> Result<Json<List<RetentionEventView>>> {
    actor.require_anywhere(Permission::Read)?;
    let page = page(query.after, query.limit)?;
    let (instance, project, event) = (query.instance, query.project, query.event);
    let filter = EventFilter { instance, project, event };
    let found = shared.catalog.read().await?.events(&actor.visible(), &filter, &page).await?;
    Ok(Json(List::found("event", found, |one| Ok(one.into()))))
}

/// Tell that an event has happened: the retention that waits for it begins
///
/// Heard of twice, the later time counts: to bring it forward, take it back first. What policies
/// keep no longer afterwards is pruned.
#[utoipa::path(post, path = "/api/v1/retention-events", tag = "policy",
    operation_id = "tell-retention-event", request_body = Happened, responses(
    (status = 201, body = RetentionEventView), (status = "4XX", body = Problem)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    actor: Actor,
    Body(told): Body<Happened>,
) -> Result<(StatusCode, Json<RetentionEventView>)> {
    actor.require_anywhere(Permission::Manage)?;
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let of = (told.instance, told.point);
    let (project, instance, point) = about(&mut tx, &actor.visible(), of).await?;
    actor.require(Permission::Manage, At::instance(project, instance))?;
    let at_ms = told.at_ms.unwrap_or(now);
    let new = NewRetentionEvent { project, instance, point, event: told.event, at_ms };
    let event = tx.set_event(&new, now).await?;
    events::settle(&mut tx, instance, now).await?;
    let detail = json!({"event": event.event, "at_ms": event.at_ms, "point": event.point});
    tx.audit(actor.did("retention-event.set", instance, project, detail), now).await?;
    tx.commit().await?;
    shared.work.notify_one();
    Ok((StatusCode::CREATED, Json(event.into())))
}

/// Take back that an event has happened: retention waits for it again
#[utoipa::path(delete, path = "/api/v1/retention-events/{id}", tag = "policy",
    operation_id = "remove-retention-event", params(("id" = RetentionEventId, Path)), responses(
    (status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<RetentionEventId>,
) -> Result<StatusCode> {
    let mut tx = shared.catalog.begin().await?;
    let event = tx.event(id, &actor.visible()).await?;
    actor.require(Permission::Manage, At::instance(event.project, event.instance))?;
    tx.remove_event(id).await?;
    let detail = json!({"event": event.event, "point": event.point});
    let did = actor.did("retention-event.remove", event.instance, event.project, detail);
    tx.audit(did, shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
