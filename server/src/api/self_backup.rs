//! Backups of the control plane, and what is found again in repositories.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{
    Destination, DestinationId, Held, Instance, NewPoint, Project, ProjectId, Record, Source,
    SourceImage, Tx,
};
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::policies::EVERYTHING;
use crate::api::{Body, Path};
use crate::auth::Actor;
use crate::destinations;
use crate::problem::{Problem, Result};
use crate::self_backup::{SelfBackup, SelfBackupState};
use crate::state::Shared;
use crate::validators::{self, base_of};

/// Restore points in one request.
const MOST: usize = 1000;

/// Where the control plane is backed up, and what became of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct SelfBackupView {
    /// What is wanted; nothing when it is not backed up.
    wanted: Option<SelfBackup>,
    state: SelfBackupState,
}

async fn view(tx: &mut Tx) -> Result<Response> {
    let (wanted, state) = (SelfBackup::load(tx).await?, SelfBackupState::load(tx).await?);
    Ok(validators::tagged(&base_of(&wanted), SelfBackupView { wanted, state }))
}

/// Read where the control plane is backed up, and what became of it
#[utoipa::path(get, path = "/api/v1/self-backup", tag = "operation",
    operation_id = "get-self-backup",
    responses((status = 200, body = SelfBackupView), (status = "4XX", body = Problem)))]
pub(crate) async fn get(State(shared): State<Shared>, actor: Actor) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    view(&mut shared.catalog.read().await?).await
}

/// Say where the control plane is backed up, and how often
///
/// A first backup is made at once. The destination must be encrypted.
#[utoipa::path(put, path = "/api/v1/self-backup", tag = "operation",
    operation_id = "set-self-backup", params(("If-Match" = Option<String>, Header,
    description = "The tag of what the change is based on")),
    request_body = SelfBackup,
    responses((status = 200, body = SelfBackupView), (status = "4XX", body = Problem)))]
pub(crate) async fn put(
    State(shared): State<Shared>,
    actor: Actor,
    headers: HeaderMap,
    Body(wanted): Body<SelfBackup>,
) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    wanted.check()?;
    let mut tx = shared.catalog.begin().await?;
    tx.alone_with_settings().await?;
    validators::check(&headers, &base_of(&SelfBackup::load(&mut tx).await?))?;
    tx.get::<Destination>(wanted.destination, &EVERYTHING).await?;
    destinations::check_own(&mut tx, wanted.destination).await?;
    wanted.store(&mut tx).await?;
    SelfBackupState::hurry(&mut tx).await?;
    let entry = actor.did("self-backup.set", wanted.destination, None, json!(wanted));
    tx.audit(entry, shared.now()).await?;
    let answer = view(&mut tx).await?;
    tx.commit().await?;
    Ok(answer)
}

/// Back up the control plane now
#[utoipa::path(post, path = "/api/v1/self-backup", tag = "operation",
    operation_id = "run-self-backup",
    responses((status = 202), (status = "4XX", body = Problem)))]
pub(crate) async fn run(State(shared): State<Shared>, actor: Actor) -> Result<StatusCode> {
    actor.require(Permission::Administer, None)?;
    let mut tx = shared.catalog.begin().await?;
    if SelfBackup::load(&mut tx).await?.is_none() {
        let text = "nobody has said where the control plane is backed up";
        return Err(Problem::new(StatusCode::CONFLICT, "not-set", text));
    }
    SelfBackupState::hurry(&mut tx).await?;
    tx.audit(actor.did("self-backup.run", "", None, json!({})), shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::ACCEPTED)
}

/// A restore point that was found in a repository.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Found {
    /// Its name there: `PROJECT.INSTANCE@ID`.
    point: String,
    /// What moment it holds, in milliseconds since 1970.
    taken_ms: u64,
    /// Size of its disks, in bytes.
    image_bytes: u64,
    /// Bytes that were new to the repository.
    new_bytes: u64,
    /// Bytes that were stored for it.
    stored_bytes: u64,
    /// Where its disks came from, as far as that is known.
    #[serde(default)]
    sources: Vec<String>,
}

/// What was done with restore points that were found.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct Adopted {
    /// Restore points that were not known.
    points: u64,
    /// Instances that were not known.
    instances: u64,
    /// Projects that were not known.
    projects: u64,
    /// Those whose names are not those of a server's instances; they are left alone.
    foreign: u64,
}

/// Note restore points that were found in a repository
///
/// Projects and instances that are not known are made; such an instance counts as gone from its
/// source until somebody says where it is. What is known stays as it is.
#[utoipa::path(post, path = "/api/v1/destinations/{id}/points", tag = "destination",
    operation_id = "adopt-points", params(("id" = DestinationId, Path)),
    request_body = Vec<Found>,
    responses((status = 200, body = Adopted), (status = "4XX", body = Problem)))]
pub(crate) async fn adopt(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<DestinationId>,
    Body(found): Body<Vec<Found>>,
) -> Result<Json<Adopted>> {
    actor.require(Permission::Administer, None)?;
    if found.len() > MOST {
        return Err(Problem::invalid(format!("at most {MOST} restore points at a time")));
    }
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    tx.get::<Destination>(id, &EVERYTHING).await?;
    let mut told = Adopted::default();
    for found in found {
        let name = found.point.split('@').next().unwrap_or_default();
        let Some((project, name)) = name.split_once('.') else {
            told.foreign += 1;
            continue;
        };
        let (project, name) = (project.to_owned(), name.to_owned());
        let project = match tx.find::<Project>(None, &project).await? {
            Some(known) => known.id,
            None => {
                told.projects += 1;
                tx.insert(None, &project, Project::default(), now).await?.id
            }
        };
        let instance = match tx.find::<Instance>(Some(project), &name).await? {
            Some(known) => known,
            None => {
                told.instances += 1;
                tx.insert(Some(project), &name, gone(&found.sources), now).await?
            }
        };
        told.points += u64::from(note(&mut tx, id, project, &instance, found, now).await?);
    }
    let detail = json!(told);
    tx.audit(actor.did("destination.adopt", id, None, detail), now).await?;
    tx.commit().await?;
    Ok(Json(told))
}

/// An instance of which nothing but restore points is known.
fn gone(sources: &[String]) -> Instance {
    let known = sources.iter().filter(|path| path.starts_with('/') && !path.contains('\0'));
    let mut images: Vec<SourceImage> =
        known.map(|path| SourceImage { name: None, path: path.clone() }).collect();
    if images.is_empty() {
        images.push(SourceImage { name: None, path: "/unknown".to_owned() });
    }
    Instance {
        description: "found in a repository".to_owned(),
        source: Source::DiskFiles { images },
        tags: [].into(),
        node: None,
        manager: None,
        cluster: None,
        host: None,
        paused: false,
        present: false,
        block_size: None,
    }
}

/// Notes a restore point and what is held because of it; whether it was not known.
async fn note(
    tx: &mut Tx,
    destination: DestinationId,
    project: ProjectId,
    instance: &Record<Instance>,
    found: Found,
    now: u64,
) -> Result<bool> {
    let new = NewPoint {
        destination,
        task: None,
        point: found.point,
        taken_ms: found.taken_ms,
        image_bytes: found.image_bytes,
        new_bytes: found.new_bytes,
        stored_bytes: found.stored_bytes,
    };
    if tx.point_known(destination, &new.point).await? {
        return Ok(false);
    }
    tx.add_point(instance.id, Some(project), &new, now).await?;
    let before = tx.held_at(instance.id, destination).await?;
    let (policy, stored, last, size) = match before {
        Some(held) => (held.policy, held.stored_bytes, held.last_good_ms, held.front_end_bytes),
        None => (None, 0, 0, 0),
    };
    let held = Held {
        instance: instance.id,
        destination,
        project: Some(project),
        policy,
        stored_bytes: stored.saturating_add(new.stored_bytes),
        front_end_bytes: if new.taken_ms >= last { new.image_bytes } else { size },
        last_good_ms: last.max(new.taken_ms),
    };
    tx.set_held(&held, now).await?;
    Ok(true)
}
