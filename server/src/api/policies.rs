//! What goes beyond single records: secrets of destinations, and which instances a policy has.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use sluice_catalog::{
    Assign, Destination, DestinationId, Instance, InstanceId, NewTask, Node, Objectives, Policy,
    PolicyId, Project, ProjectId, Record, Schedule, Tx, Visible, When,
};
use sluice_node_api::TaskSpec;
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::records::View;
use crate::api::{Body, Hidden, List, Path};
use crate::auth::Actor;
use crate::destinations;
use crate::problem::{Problem, Result};
use crate::restore_tests;
use crate::state::Shared;
use crate::ticker::compiled;

/// Attempts of a task that sees to a repository.
const INIT_ATTEMPTS: u32 = 3;

/// Repositories are reached over a network, or lie in a folder of their own.
pub(crate) fn check_destination(destination: &Destination) -> Result<()> {
    for one in &destination.maintenance {
        check_calendars(&one.schedules)?;
    }
    let url = &destination.url;
    let known = ["file://", "s3://", "swift://", "azblob://", "gcs://", "sftp://"];
    if url.starts_with('/') || known.iter().any(|scheme| url.starts_with(scheme)) {
        return Ok(());
    }
    let text = format!("{url} is no repository: /path or one of {}", known.join(", "));
    Err(Problem::invalid(text))
}

/// A policy uses destinations that its project may use.
pub(crate) async fn check_policy(
    policy: &Policy,
    tx: &mut Tx,
    project: Option<ProjectId>,
    actor: &Actor,
) -> Result<()> {
    for rule in &policy.rules {
        check_calendars(&rule.schedules)?;
        usable(tx, rule.destination, project, actor).await?;
        for copy in &rule.copies {
            check_calendars(&copy.schedules)?;
            usable(tx, copy.destination, project, actor).await?;
        }
        for verify in &rule.verify {
            check_calendars(&verify.schedules)?;
        }
    }
    for test in &policy.tests {
        check_calendars(&test.schedules)?;
        restore_tests::check(&test.boot)?;
        usable(tx, test.destination, project, actor).await?;
        if let Some(node) = test.node {
            tx.get::<Node>(node, &EVERYTHING).await?;
        }
    }
    for rule in &policy.snapshots {
        check_calendars(&rule.schedules)?;
    }
    Ok(())
}

/// A destination of the project, or of the system.
async fn usable(
    tx: &mut Tx,
    id: DestinationId,
    project: Option<ProjectId>,
    actor: &Actor,
) -> Result<()> {
    check_usable(actor, &tx.get::<Destination>(id, &actor.visible()).await?, project)
}

/// A destination is the project's own, or the system's and visible to it. Whoever manages the
/// system may use those that projects do not see.
pub(crate) fn check_usable(
    actor: &Actor,
    destination: &Record<Destination>,
    project: Option<ProjectId>,
) -> Result<()> {
    let everywhere =
        destination.project.is_none() && actor.require(Permission::Manage, None).is_ok();
    match destination.usable_in(project) || everywhere {
        true => Ok(()),
        false => Err(Problem::not_found("destination")),
    }
}

/// Calendars are ones that the scheduler can read.
pub(crate) fn check_calendars(schedules: &[Schedule]) -> Result<()> {
    for schedule in schedules {
        if let When::Calendar { calendar } = &schedule.when {
            compiled(calendar)
                .map_err(|what| Problem::invalid(format!("schedule {}: {what}", schedule.name)))?;
        }
    }
    Ok(())
}

/// Secrets of a destination.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Secrets {
    /// By the names of the variables that `sluice` reads them from.
    secrets: BTreeMap<String, Hidden>,
}

/// Replace the secrets of a destination
///
/// Names are those of variables: `SLUICE_PASSPHRASE`, `AWS_SECRET_ACCESS_KEY`, ... They cannot be
/// read back. Afterwards a node sees whether the repository can be used, and makes it where there
/// is none.
#[utoipa::path(put, path = "/api/v1/destinations/{id}/secrets", tag = "destination",
    operation_id = "set-destination-secrets", params(("id" = DestinationId, Path)),
    request_body = Secrets, responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn secrets(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<DestinationId>,
    Body(new): Body<Secrets>,
) -> Result<StatusCode> {
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let record = tx.get::<Destination>(id, &actor.visible()).await?;
    actor.require(Permission::Manage, &record)?;
    destinations::check_secrets(&mut tx, id, &actor, new.secrets.keys()).await?;
    let secrets = new.secrets.into_iter().map(|(name, secret)| (name, secret.0)).collect();
    tx.set_secrets(&shared.sealer, &id.to_string(), &secrets).await?;
    let names: Vec<&String> = secrets.keys().collect();
    let detail = json!({"names": names});
    tx.audit(actor.did("destination.secrets", id, record.project, detail), now).await?;
    tx.add_task(&init_task(&record), now).await?;
    tx.commit().await?;
    shared.work.notify_one();
    Ok(StatusCode::NO_CONTENT)
}

/// A task that sees whether a repository can be used, and makes it where there is none.
pub(crate) fn init_task(destination: &Record<Destination>) -> NewTask {
    NewTask {
        project: destination.project,
        instance: None,
        policy: None,
        destination: Some(destination.id),
        wanted_node: None,
        kind: TaskSpec::Init {}.kind().to_owned(),
        priority: 90,
        due_key: None,
        max_attempts: INIT_ATTEMPTS,
        not_before_ms: 0,
        spec: serde_json::to_value(TaskSpec::Init {}).unwrap_or_default(),
    }
}

/// List the instances that a policy has now, by hand and by itself
#[utoipa::path(get, path = "/api/v1/policies/{id}/instances", tag = "policy",
    operation_id = "list-policy-instances", params(("id" = PolicyId, Path)),
    responses((status = 200, body = List<View<Instance>>), (status = "4XX", body = Problem)))]
pub(crate) async fn instances(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<PolicyId>,
) -> Result<Json<List<View<Instance>>>> {
    actor.require_anywhere(Permission::Read)?;
    let mut tx = shared.catalog.read().await?;
    let policy = tx.get::<Policy>(id, &actor.visible()).await?;
    let instances = tx.instances_of(&policy, &actor.visible()).await?;
    Ok(Json(List::all(instances.into_iter().map(View::from).collect())))
}

/// A policy as it might be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Draft {
    /// The policy that is to say so, with what it has by hand; none for a new one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    policy: Option<PolicyId>,
    /// The project of a new one; none for a policy of the system.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// How it is to find instances.
    assign: Assign,
}

/// List the instances that a policy would have, if it found them like this
///
/// Nothing is changed. Only instances that the caller may know of are told.
#[utoipa::path(post, path = "/api/v1/policies/preview", tag = "policy",
    operation_id = "preview-policy", request_body = Draft,
    responses((status = 200, body = List<View<Instance>>), (status = "4XX", body = Problem)))]
pub(crate) async fn preview(
    State(shared): State<Shared>,
    actor: Actor,
    Body(draft): Body<Draft>,
) -> Result<Json<List<View<Instance>>>> {
    actor.require_anywhere(Permission::Read)?;
    draft.assign.sense()?;
    let visible = actor.visible();
    let mut tx = shared.catalog.read().await?;
    let body = Policy {
        description: String::new(),
        paused: true,
        priority: 0,
        assign: draft.assign,
        objectives: Objectives::default(),
        rules: Vec::new(),
        tests: Vec::new(),
        snapshots: Vec::new(),
        visible_to: None,
    };
    let policy = match draft.policy {
        Some(id) => Record { body, ..tx.get::<Policy>(id, &visible).await? },
        None => {
            if let Some(project) = draft.project {
                tx.get::<Project>(project, &visible).await?;
            }
            Record::draft(draft.project, body)
        }
    };
    let instances = tx.instances_of(&policy, &visible).await?;
    Ok(Json(List::all(instances.into_iter().map(View::from).collect())))
}

/// Both, if the caller may change what becomes of the instance.
async fn both(tx: &mut Tx, actor: &Actor, ids: (PolicyId, InstanceId)) -> Result<ProjectId> {
    let policy = tx.get::<Policy>(ids.0, &actor.visible()).await?;
    let instance = tx.get::<Instance>(ids.1, &actor.visible()).await?;
    actor.require(Permission::Manage, &instance)?;
    if policy.project.is_some() && policy.project != instance.project {
        return Err(Problem::invalid("the policy belongs to another project"));
    }
    let everywhere = actor.require(Permission::Manage, None).is_ok();
    if !policy.usable_in(instance.project) && !everywhere {
        return Err(Problem::not_found("policy"));
    }
    instance.project.ok_or_else(|| Problem::not_found("instance"))
}

/// Assign an instance to a policy by hand
#[utoipa::path(put, path = "/api/v1/policies/{id}/instances/{instance}", tag = "policy",
    operation_id = "assign-instance",
    params(("id" = PolicyId, Path), ("instance" = InstanceId, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn assign(
    State(shared): State<Shared>,
    actor: Actor,
    Path(ids): Path<(PolicyId, InstanceId)>,
) -> Result<StatusCode> {
    let mut tx = shared.catalog.begin().await?;
    let project = both(&mut tx, &actor, ids).await?;
    tx.assign(ids.0, ids.1).await?;
    let detail = json!({"instance": ids.1});
    tx.audit(actor.did("policy.assign", ids.0, Some(project), detail), shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Take an instance from a policy that it was assigned to by hand
#[utoipa::path(delete, path = "/api/v1/policies/{id}/instances/{instance}", tag = "policy",
    operation_id = "unassign-instance",
    params(("id" = PolicyId, Path), ("instance" = InstanceId, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn unassign(
    State(shared): State<Shared>,
    actor: Actor,
    Path(ids): Path<(PolicyId, InstanceId)>,
) -> Result<StatusCode> {
    let mut tx = shared.catalog.begin().await?;
    let project = both(&mut tx, &actor, ids).await?;
    if !tx.unassign(ids.0, ids.1).await? {
        return Err(Problem::not_found("assignment"));
    }
    let detail = json!({"instance": ids.1});
    tx.audit(actor.did("policy.unassign", ids.0, Some(project), detail), shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who looks at everything, for the server's own purposes.
pub(crate) const EVERYTHING: Visible = Visible::All;
