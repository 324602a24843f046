//! Requests that wait for a second person.

use axum::body::to_bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_catalog::{
    Approval, ApprovalFilter, ApprovalId, ApprovalState, Consent, ProjectId, UserId,
};
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::query::{ApprovalQuery, span};
use crate::api::{Body, List, PageQuery, Path, Query};
use crate::approvals::{Replay, without_secrets};
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// Bytes of a reason.
const LONGEST_REASON: usize = 1000;
/// The most of an answer that is looked at for what went wrong, in bytes.
const LARGEST_ANSWER: usize = 64 << 10;

/// A request that waits, or has waited, for a second person.
#[derive(Serialize, ToSchema)]
pub(crate) struct ApprovalView {
    id: ApprovalId,
    state: ApprovalState,
    /// What it does.
    action: String,
    /// To what: an id; empty when there is none.
    object: String,
    /// Where it belongs; the system when there is none.
    project: Option<ProjectId>,
    /// Who asked.
    requester: UserId,
    requester_login: String,
    created_ms: u64,
    /// Nobody can decide from then on.
    expires_ms: u64,
    decided_ms: Option<u64>,
    /// Who decided.
    decider: String,
    /// What they said, or what went wrong.
    reason: String,
    method: String,
    path: String,
    /// The revision that it is based on.
    based_on: Option<String>,
    /// What was sent, without its secrets.
    document: Value,
}

impl From<Approval> for ApprovalView {
    fn from(approval: Approval) -> Self {
        let new = approval.new;
        let document = serde_json::from_str(&new.body).unwrap_or_default();
        let tag = new.headers.into_iter().find(|(name, _)| name == "if-match");
        Self {
            id: approval.id,
            state: approval.state,
            action: new.action,
            object: new.object,
            project: new.project,
            requester: new.requester,
            requester_login: new.requester_login,
            created_ms: approval.created_ms,
            expires_ms: new.expires_ms,
            decided_ms: approval.decided_ms,
            decider: approval.decider,
            reason: approval.reason,
            method: new.method,
            path: new.path,
            based_on: tag.map(|(_, value)| value),
            document: without_secrets(document),
        }
    }
}

/// A decision.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Decision {
    /// Why; up to 1000 bytes.
    #[serde(default)]
    reason: String,
}

/// List requests that wait, or have waited, for a second person, oldest first
#[utoipa::path(get, path = "/api/v1/approvals", tag = "access", operation_id = "list-approvals",
    params(ApprovalQuery), responses(
    (status = 200, body = List<ApprovalView>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<ApprovalQuery>,
) -> Result<Json<List<ApprovalView>>> {
    actor.require_anywhere(Permission::Read)?;
    let page = PageQuery { after: query.after, limit: query.limit }.page()?;
    let (now, visible) = (shared.now(), actor.visible());
    let mut tx = shared.catalog.read().await?;
    let who = (&visible, actor.user.id);
    let filter = ApprovalFilter {
        state: query.state,
        action: query.action,
        project: query.project,
        requester: query.requester,
        asked: span(query.since_ms, query.until_ms)?,
    };
    let found = tx.approvals(&shared.sealer, who, &filter, &page, now).await?;
    Ok(Json(List::found("approval", found, |approval| Ok(approval.into()))))
}

/// Read a request that waits, or has waited, for a second person
#[utoipa::path(get, path = "/api/v1/approvals/{id}", tag = "access", operation_id = "get-approval",
    params(("id" = ApprovalId, Path)), responses(
    (status = 200, body = ApprovalView), (status = "4XX", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<ApprovalId>,
) -> Result<Json<ApprovalView>> {
    actor.require_anywhere(Permission::Read)?;
    let mut tx = shared.catalog.read().await?;
    let found =
        tx.approval(&shared.sealer, id, (&actor.visible(), actor.user.id), shared.now()).await?;
    Ok(Json(found.into()))
}

fn decided(state: ApprovalState) -> Problem {
    let text = format!("it does not wait any more: {}", state.word());
    Problem::new(StatusCode::CONFLICT, "decided", text)
}

/// A request that waits, if the caller may say something to it.
async fn waiting(shared: &Shared, actor: &Actor, id: ApprovalId) -> Result<Approval> {
    let mut tx = shared.catalog.read().await?;
    let found =
        tx.approval(&shared.sealer, id, (&actor.visible(), actor.user.id), shared.now()).await?;
    if found.new.requester != actor.user.id {
        actor.require(Permission::Administer, found.new.project)?;
    }
    actor.require_login()?;
    match found.state {
        ApprovalState::Pending => Ok(found),
        state => Err(decided(state)),
    }
}

fn consent(approval: ApprovalId, actor: &Actor, reason: String, now_ms: u64) -> Result<Consent> {
    if reason.len() > LONGEST_REASON {
        return Err(Problem::invalid("a reason has at most 1000 bytes"));
    }
    Ok(Consent { approval, decider: actor.user.login.clone(), reason, now_ms })
}

/// Agree to somebody else's request, which is done at once
///
/// It is done in the requester's name, with the rights they have now, and only if what it changes
/// is still what it was: otherwise it has failed, and the reason says why.
#[utoipa::path(post, path = "/api/v1/approvals/{id}/approve", tag = "access",
    operation_id = "approve", params(("id" = ApprovalId, Path)), request_body = Decision,
    responses((status = 200, body = ApprovalView), (status = "4XX", body = Problem)))]
pub(crate) async fn approve(
    State(shared): State<Shared>,
    Extension(replay): Extension<Replay>,
    actor: Actor,
    Path(id): Path<ApprovalId>,
    Body(decision): Body<Decision>,
) -> Result<Json<ApprovalView>> {
    let approval = waiting(&shared, &actor, id).await?;
    if approval.new.requester == actor.user.id {
        let text = "you have asked for this yourself: a second person decides";
        return Err(Problem::new(StatusCode::FORBIDDEN, "own-request", text));
    }
    let now = shared.now();
    let consent = consent(id, &actor, decision.reason, now)?;
    let answer = replay.run(&approval, consent.clone()).await?;
    let status = answer.status();
    if !status.is_success() {
        let body = to_bytes(answer.into_body(), LARGEST_ANSWER).await.unwrap_or_default();
        let told: Value = serde_json::from_slice(&body).unwrap_or_default();
        let why = told["detail"].as_str().unwrap_or("no answer").to_owned();
        if status.is_server_error() {
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", why));
        }
        fail(&shared, &actor, &approval, consent, why).await?;
    }
    shared.work.notify_one();
    let mut tx = shared.catalog.read().await?;
    Ok(Json(tx.approval(&shared.sealer, id, (&actor.visible(), actor.user.id), now).await?.into()))
}

/// Notes that it was agreed to and could not be done.
async fn fail(
    shared: &Shared,
    actor: &Actor,
    approval: &Approval,
    consent: Consent,
    why: String,
) -> Result<()> {
    let (project, now) = (approval.new.project, consent.now_ms);
    let mut tx = shared.catalog.begin().await?;
    let detail = json!({"requester": approval.new.requester_login, "why": why});
    let consent = Consent { reason: why, ..consent };
    // When somebody else was faster, what they said counts.
    tx.end_approval(ApprovalState::Failed, &consent).await?;
    tx.audit(actor.did("approval.fail", approval.id, project, detail), now).await?;
    Ok(tx.commit().await?)
}

/// Do not agree to a request, or withdraw one of your own
#[utoipa::path(post, path = "/api/v1/approvals/{id}/reject", tag = "access",
    operation_id = "reject", params(("id" = ApprovalId, Path)), request_body = Decision,
    responses((status = 200, body = ApprovalView), (status = "4XX", body = Problem)))]
pub(crate) async fn reject(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<ApprovalId>,
    Body(decision): Body<Decision>,
) -> Result<Json<ApprovalView>> {
    let approval = waiting(&shared, &actor, id).await?;
    let own = approval.new.requester == actor.user.id;
    let state = if own { ApprovalState::Withdrawn } else { ApprovalState::Rejected };
    let now = shared.now();
    let consent = consent(id, &actor, decision.reason, now)?;
    let mut tx = shared.catalog.begin().await?;
    tx.end_approval(state, &consent).await?;
    let detail = json!({"requester": approval.new.requester_login, "reason": consent.reason});
    let word = if own { "approval.withdraw" } else { "approval.reject" };
    tx.audit(actor.did(word, id, approval.new.project, detail), now).await?;
    let view =
        tx.approval(&shared.sealer, id, (&actor.visible(), actor.user.id), now).await?.into();
    tx.commit().await?;
    Ok(Json(view))
}
