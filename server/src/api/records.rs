//! Records: one set of requests for each kind.

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{
    Destination, Instance, Inventory, Kind, Node, Plan, Policy, Project, ProjectId, Record, Tx,
};
use utoipa::ToSchema;

use crate::access::{Permission, granted};
use crate::api::List;
use crate::api::filters::{self, Filter};
use crate::api::policies::{EVERYTHING, check_calendars, check_destination, check_policy};
use crate::auth::Actor;
use crate::destinations as allowed;
use crate::node_configs;
use crate::problem::{Problem, Result};
use crate::state::Shared;
use crate::validators;

/// A record.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct View<B> {
    /// Its id.
    id: String,
    /// The project it belongs to; none for what belongs to the system.
    project: Option<ProjectId>,
    /// The name of that project: also for whoever has a role on the record alone, and may not read
    /// the project.
    #[serde(default)]
    project_name: Option<String>,
    /// Its name, unique among its kind in its project.
    name: String,
    /// Grows with every change; the same as in the header `ETag`.
    revision: u64,
    /// When it was made, in milliseconds since 1970.
    created_ms: u64,
    /// When it was changed last, in milliseconds since 1970.
    updated_ms: u64,
    /// What it says.
    spec: B,
}

/// A record to make.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Create<B> {
    /// The project it will belong to.
    #[serde(default)]
    project: Option<ProjectId>,
    /// Its name.
    name: String,
    /// What it says.
    spec: B,
}

/// What a record is to say.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change<B> {
    /// Its name.
    name: String,
    /// What it says.
    spec: B,
}

impl<B> Create<B> {
    /// The project, the name, and what it says.
    pub(crate) fn parts(self) -> (Option<ProjectId>, String, B) {
        (self.project, self.name, self.spec)
    }
}

impl<B> Change<B> {
    /// The name, and what it says.
    pub(crate) fn parts(self) -> (String, B) {
        (self.name, self.spec)
    }
}

impl<K: Kind> From<Record<K>> for View<K> {
    fn from(record: Record<K>) -> Self {
        Self {
            id: record.id.to_string(),
            project: record.project,
            project_name: record.project_name,
            name: record.name,
            revision: record.revision,
            created_ms: record.created_ms,
            updated_ms: record.updated_ms,
            spec: record.body,
        }
    }
}

/// A record with its revision in the header.
pub(crate) fn tagged<K: Kind>(status: StatusCode, record: Record<K>) -> Response {
    let tag = AppendHeaders([(header::ETAG, format!("\"{}\"", record.revision))]);
    (status, tag, Json(View::from(record))).into_response()
}

/// What is particular about a kind.
pub(crate) trait Rules: Kind {
    /// The words of the audit log: created, changed, removed.
    const ACTIONS: [&'static str; 3];

    /// What it takes to make, change and remove one.
    const NEEDS: Permission = Permission::Manage;
    /// Whether it takes that in the system, wherever the record is.
    const OF_SYSTEM: bool = false;

    /// Where a record is: the project that decides who may do something with it.
    fn scope(record: &Record<Self>) -> Option<ProjectId>
    where
        Self: Sized,
    {
        record.project
    }

    /// Whether it fits to the other records. `project` is where it is or will be.
    fn fits(
        &self,
        tx: &mut Tx,
        project: Option<ProjectId>,
        actor: &Actor,
    ) -> impl Future<Output = Result<()>> + Send;

    /// What follows from who has made or changed it. `before` is what it said.
    fn named(
        record: &Record<Self>,
        before: Option<&serde_json::Value>,
        actor: &Actor,
        tx: &mut Tx,
    ) -> impl Future<Output = Result<()>> + Send
    where
        Self: Sized,
    {
        let _ = (record, before, actor, tx);
        async { Ok(()) }
    }

    /// What follows from a new one.
    fn made(
        record: &Record<Self>,
        tx: &mut Tx,
        now_ms: u64,
    ) -> impl Future<Output = Result<()>> + Send
    where
        Self: Sized,
    {
        let _ = (record, tx, now_ms);
        async { Ok(()) }
    }
}

impl Rules for Project {
    const ACTIONS: [&'static str; 3] = ["project.create", "project.change", "project.remove"];
    const NEEDS: Permission = Permission::Administer;

    fn scope(record: &Record<Self>) -> Option<ProjectId> {
        Some(record.id)
    }

    async fn fits(&self, _: &mut Tx, project: Option<ProjectId>, _: &Actor) -> Result<()> {
        match project {
            Some(_) => Err(Problem::invalid("a project is in no project")),
            None => Ok(()),
        }
    }
}

impl Rules for Destination {
    const ACTIONS: [&'static str; 3] =
        ["destination.create", "destination.change", "destination.remove"];

    async fn fits(&self, _: &mut Tx, _: Option<ProjectId>, _: &Actor) -> Result<()> {
        check_destination(self)
    }

    async fn named(
        record: &Record<Self>,
        before: Option<&serde_json::Value>,
        actor: &Actor,
        tx: &mut Tx,
    ) -> Result<()> {
        allowed::named(tx, record, before, actor).await
    }
}

impl Rules for Instance {
    const ACTIONS: [&'static str; 3] = ["instance.create", "instance.change", "instance.remove"];

    async fn fits(&self, _: &mut Tx, project: Option<ProjectId>, _: &Actor) -> Result<()> {
        match project {
            Some(_) => Ok(()),
            None => Err(Problem::invalid("an instance belongs to a project")),
        }
    }

    async fn named(
        record: &Record<Self>,
        before: Option<&serde_json::Value>,
        actor: &Actor,
        tx: &mut Tx,
    ) -> Result<()> {
        node_configs::named(tx, record, before, actor).await
    }
}

impl Rules for Policy {
    const ACTIONS: [&'static str; 3] = ["policy.create", "policy.change", "policy.remove"];

    async fn fits(&self, tx: &mut Tx, project: Option<ProjectId>, actor: &Actor) -> Result<()> {
        check_policy(self, tx, project, actor).await
    }

    /// Which instances it takes is not a matter of the policy alone.
    async fn named(
        record: &Record<Self>,
        before: Option<&serde_json::Value>,
        actor: &Actor,
        _: &mut Tx,
    ) -> Result<()> {
        let now = serde_json::to_value(&record.body.assign).unwrap_or_default();
        let same = before.is_none_or(|before| before["assign"] == now);
        if same || granted(&actor.grants, Self::NEEDS, record.project) {
            return Ok(());
        }
        Err(Problem::forbidden())
    }
}

impl Rules for Plan {
    const ACTIONS: [&'static str; 3] = ["plan.create", "plan.change", "plan.remove"];

    async fn fits(&self, tx: &mut Tx, project: Option<ProjectId>, actor: &Actor) -> Result<()> {
        crate::plans::check(self, tx, project, actor).await
    }
}

impl Rules for Inventory {
    const ACTIONS: [&'static str; 3] = ["inventory.create", "inventory.change", "inventory.remove"];
    /// It names paths of nodes, and what is found there is a source like any other.
    const OF_SYSTEM: bool = true;

    async fn fits(&self, tx: &mut Tx, project: Option<ProjectId>, _: &Actor) -> Result<()> {
        if project.is_none() {
            return Err(Problem::invalid("an inventory belongs to the project of what it finds"));
        }
        if let Some(node) = self.node {
            tx.get::<Node>(node, &EVERYTHING).await?;
        }
        check_calendars(&self.schedules)
    }
}

/// Refuses who may not change what takes a role in the system, before anything is told of it.
fn require_system<K: Rules>(actor: &Actor) -> Result<()> {
    if K::OF_SYSTEM { actor.require(K::NEEDS, None) } else { Ok(()) }
}

async fn list<K: Rules>(
    shared: &Shared,
    actor: &Actor,
    filter: &impl Filter<K>,
) -> Result<Json<List<View<K>>>> {
    actor.require_anywhere(Permission::Read)?;
    let mut tx = shared.catalog.read().await?;
    filters::list(&mut tx, &actor.visible(), filter, View::from).await.map(Json)
}

async fn create<K: Rules>(shared: &Shared, actor: &Actor, new: Create<K>) -> Result<Response> {
    require_system::<K>(actor)?;
    actor.require(K::NEEDS, new.project)?;
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    if let Some(project) = new.project {
        tx.get::<Project>(project, &actor.visible()).await?;
    }
    new.spec.fits(&mut tx, new.project, actor).await?;
    let record = tx.insert(new.project, &new.name, new.spec, now).await?;
    K::made(&record, &mut tx, now).await?;
    K::named(&record, None, actor, &mut tx).await?;
    let detail = json!({"name": record.name, "spec": record.body});
    tx.audit(actor.did(K::ACTIONS[0], record.id, K::scope(&record), detail), now).await?;
    tx.commit().await?;
    Ok(tagged(StatusCode::CREATED, record))
}

async fn get<K: Rules>(shared: &Shared, actor: &Actor, id: K::Id) -> Result<Response> {
    actor.require_anywhere(Permission::Read)?;
    let record = shared.catalog.read().await?.get::<K>(id, &actor.visible()).await?;
    Ok(tagged(StatusCode::OK, record))
}

async fn put<K: Rules>(
    shared: &Shared,
    actor: &Actor,
    id: K::Id,
    headers: &HeaderMap,
    change: Change<K>,
) -> Result<Response> {
    require_system::<K>(actor)?;
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let mut record = tx.get::<K>(id, &actor.visible()).await?;
    actor.require(K::NEEDS, &record)?;
    validators::require(headers, &record.revision.to_string())?;
    change.spec.fits(&mut tx, record.project, actor).await?;
    let before = serde_json::to_value(&record.body).unwrap_or_default();
    record.name = change.name;
    record.body = change.spec;
    tx.update(&mut record, now).await?;
    K::named(&record, Some(&before), actor, &mut tx).await?;
    let detail = json!({"name": record.name, "spec": record.body});
    tx.audit(actor.did(K::ACTIONS[1], record.id, K::scope(&record), detail), now).await?;
    tx.commit().await?;
    Ok(tagged(StatusCode::OK, record))
}

async fn remove<K: Rules>(
    shared: &Shared,
    actor: &Actor,
    id: K::Id,
    headers: &HeaderMap,
) -> Result<StatusCode> {
    require_system::<K>(actor)?;
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let record = tx.get::<K>(id, &actor.visible()).await?;
    actor.require(K::NEEDS, &record)?;
    validators::check(headers, &record.revision.to_string())?;
    tx.refuse_if_used::<K>(&record, &actor.visible()).await?;
    tx.delete::<K>(id).await?;
    tx.remove_secrets(&id.to_string()).await?;
    let detail = json!({"name": record.name});
    tx.audit(actor.did(K::ACTIONS[2], record.id, K::scope(&record), detail), now).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The five requests of a kind.
macro_rules! requests {
    (
        $module:ident, $body:ident, $id:ident, $query:ident,
        $tag:literal, $all:literal, $one:literal
    ) => {
        #[doc = concat!("`", $all, "`")]
        pub(crate) mod $module {
            use axum::Json;
            use axum::extract::State;
            use axum::http::{HeaderMap, StatusCode};
            use axum::response::Response;
            use sluice_catalog::{$body, $id};

            use super::{Change, Create, View};
            use crate::api::filters::$query;
            use crate::api::{Body, List, Path, Query};
            use crate::auth::Actor;
            use crate::problem::{Problem, Result};
            use crate::state::Shared;

            /// List them
            #[utoipa::path(get, path = $all, tag = $tag, operation_id = concat!("list-", $tag),
                        params($query), responses((status = 200, body = List<View<$body>>),
                        (status = "4XX", body = Problem)))]
            pub(crate) async fn list(
                State(shared): State<Shared>,
                actor: Actor,
                Query(query): Query<$query>,
            ) -> Result<Json<List<View<$body>>>> {
                super::list(&shared, &actor, &query).await
            }

            /// Make one
            #[utoipa::path(post, path = $all, tag = $tag, operation_id = concat!("create-", $tag),
                        request_body = Create<$body>, responses(
                        (status = 201, body = View<$body>), (status = "4XX", body = Problem)))]
            pub(crate) async fn create(
                State(shared): State<Shared>,
                actor: Actor,
                Body(new): Body<Create<$body>>,
            ) -> Result<Response> {
                super::create(&shared, &actor, new).await
            }

            /// Read one
            #[utoipa::path(get, path = $one, tag = $tag, operation_id = concat!("get-", $tag),
                        params(("id" = $id, Path)), responses(
                        (status = 200, body = View<$body>), (status = "4XX", body = Problem)))]
            pub(crate) async fn get(
                State(shared): State<Shared>,
                actor: Actor,
                Path(id): Path<$id>,
            ) -> Result<Response> {
                super::get::<$body>(&shared, &actor, id).await
            }

            /// Change one
            #[utoipa::path(put, path = $one, tag = $tag, operation_id = concat!("change-", $tag),
                        params(("id" = $id, Path), ("If-Match" = String, Header,
                        description = "The revision that the change is based on")),
                        request_body = Change<$body>, responses(
                        (status = 200, body = View<$body>), (status = "4XX", body = Problem)))]
            pub(crate) async fn put(
                State(shared): State<Shared>,
                actor: Actor,
                Path(id): Path<$id>,
                headers: HeaderMap,
                Body(change): Body<Change<$body>>,
            ) -> Result<Response> {
                super::put(&shared, &actor, id, &headers, change).await
            }

            /// Remove one
            #[utoipa::path(delete, path = $one, tag = $tag, operation_id = concat!("remove-", $tag),
                        params(("id" = $id, Path), ("If-Match" = Option<String>, Header,
                        description = "The revision that is to be removed")), responses(
                        (status = 204), (status = "4XX", body = Problem)))]
            pub(crate) async fn remove(
                State(shared): State<Shared>,
                actor: Actor,
                Path(id): Path<$id>,
                headers: HeaderMap,
            ) -> Result<StatusCode> {
                super::remove::<$body>(&shared, &actor, id, &headers).await
            }
        }
    };
}

requests!(
    projects,
    Project,
    ProjectId,
    NameQuery,
    "project",
    "/api/v1/projects",
    "/api/v1/projects/{id}"
);
requests!(
    destinations,
    Destination,
    DestinationId,
    DestinationQuery,
    "destination",
    "/api/v1/destinations",
    "/api/v1/destinations/{id}"
);
requests!(
    instances,
    Instance,
    InstanceId,
    InstanceQuery,
    "instance",
    "/api/v1/instances",
    "/api/v1/instances/{id}"
);
requests!(
    inventories,
    Inventory,
    InventoryId,
    InventoryQuery,
    "inventory",
    "/api/v1/inventories",
    "/api/v1/inventories/{id}"
);
requests!(
    policies,
    Policy,
    PolicyId,
    PolicyQuery,
    "policy",
    "/api/v1/policies",
    "/api/v1/policies/{id}"
);
requests!(plans, Plan, PlanId, PlanQuery, "plan", "/api/v1/plans", "/api/v1/plans/{id}");
