//! Requests that wait for a second person.
//!
//! ```text
//!   request ──► layer ── waits? ──► rehearsal: the handler runs, nothing is committed
//!                 │                     │ refused: that is the answer
//!                 │ no                  ▼
//!                 ▼                  kept, sealed; 202
//!              handler  ◄── replay ── approve, by somebody else: the same request again, committed
//!                                     together with the approval, or not at all
//! ```
//!
//! # Invariants
//!
//! * What is approved is what was asked: method, path, revision and document are kept, and run
//!   through the same handler in the requester's name, with the rights they have *then*.
//! * It is done once: the approval changes its state in the transaction of the request itself.

mod retention;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use sluice_catalog::{
    Approval, Consent, Destination, DestinationId, Instance, InstanceId, NewApproval, Plan, PlanId,
    Policy, PolicyId, ProjectId, Tx, rehearsed,
};
use zeroize::Zeroizing;

use crate::api::approvals::ApprovalView;
use crate::api::policies::EVERYTHING;
use crate::auth::{self, Actor, OnBehalf};
use crate::problem::{Problem, Result};
use crate::rules::{AccessRules, Action};
use crate::state::Shared;

/// The most that a request may have, in bytes.
const LARGEST: usize = 2 << 20;
/// How long requests are kept that do not wait any more.
const KEPT_MS: u64 = 366 * 86_400_000;
/// The headers that a request is kept with.
const HEADERS: [header::HeaderName; 2] = [header::IF_MATCH, header::CONTENT_TYPE];

/// Everything that can be asked for, without what lies before it: for requests that were approved.
#[derive(Clone)]
pub(crate) struct Replay(pub(crate) Router);

impl Replay {
    /// Does what was asked, committed together with the consent.
    pub(crate) async fn run(&self, approval: &Approval, consent: Consent) -> Result<Response> {
        let new = &approval.new;
        let mut request = Request::builder().method(new.method.as_str()).uri(new.path.as_str());
        for (name, value) in &new.headers {
            request = request.header(name, value);
        }
        let request = request.extension(OnBehalf(new.requester));
        let request = request.body(Body::from(new.body.to_string())).map_err(|error| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", error.to_string())
        })?;
        let mut router = self.0.clone();
        let run = async move {
            use tower_service::Service as _;
            match router.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        };
        Ok(sluice_catalog::approved(consent, run).await)
    }
}

/// Which requests may have to wait, by method and path as the OpenAPI document has them.
pub(crate) const MAY_WAIT: [(&str, &str, &[Action]); 28] = [
    ("DELETE", "/api/v1/projects/{id}", &[Action::RemoveProject]),
    ("DELETE", "/api/v1/destinations/{id}", &[Action::RemoveDestination]),
    ("DELETE", "/api/v1/instances/{id}", &[Action::RemoveInstance]),
    ("DELETE", "/api/v1/policies/{id}", &[Action::RemovePolicy]),
    ("DELETE", "/api/v1/nodes/{id}", &[Action::RemoveNode]),
    ("DELETE", "/api/v1/users/{id}", &[Action::RemoveUser]),
    ("DELETE", "/api/v1/users/{id}/totp", &[Action::ChangeUsers]),
    ("DELETE", "/api/v1/users/{id}/passkeys", &[Action::ChangeUsers]),
    ("POST", "/api/v1/users", &[Action::ChangeUsers]),
    ("PUT", "/api/v1/users/{id}/grants", &[Action::ChangeUsers]),
    ("PUT", "/api/v1/users/{id}/password", &[Action::ChangeUsers]),
    ("POST", "/api/v1/groups", &[Action::ChangeUsers]),
    ("PUT", "/api/v1/groups/{id}", &[Action::ChangeUsers]),
    ("DELETE", "/api/v1/groups/{id}", &[Action::ChangeUsers]),
    ("DELETE", "/api/v1/plans/{id}", &[Action::RemovePlan]),
    ("POST", "/api/v1/identity-providers", &[Action::ChangeUsers]),
    ("PUT", "/api/v1/identity-providers/{id}", &[Action::ChangeUsers]),
    ("DELETE", "/api/v1/identity-providers/{id}", &[Action::ChangeUsers]),
    ("PUT", "/api/v1/identity-providers/{id}/secret", &[Action::ChangeUsers]),
    ("PUT", "/api/v1/policies/{id}", &[Action::ShortenRetention]),
    ("POST", "/api/v1/policies", &[Action::ShortenRetention]),
    ("PUT", "/api/v1/policies/{id}/instances/{instance}", &[Action::ShortenRetention]),
    ("DELETE", "/api/v1/policies/{id}/instances/{instance}", &[Action::ShortenRetention]),
    ("PUT", "/api/v1/instances/{id}", &[Action::ShortenRetention]),
    ("POST", "/api/v1/retention-events", &[Action::ShortenRetention]),
    ("PUT", "/api/v1/self-backup", &[Action::ChangeSelfBackup]),
    ("POST", "/api/v1/tasks", &[Action::Prune, Action::Collect]),
    ("PUT", "/api/v1/access-rules", &[Action::ChangeRules]),
];

/// What a request may be, and what it is about.
struct Candidate {
    actions: &'static [Action],
    /// The path as the OpenAPI document has it.
    template: &'static str,
    /// The ids in the path, with slashes between them.
    ids: String,
}

fn candidate(method: &Method, path: &str) -> Option<Candidate> {
    MAY_WAIT.iter().find_map(|(word, template, actions)| {
        if method != word {
            return None;
        }
        let (mut ids, mut given) = (Vec::new(), path.split('/'));
        for part in template.split('/') {
            let word = given.next()?;
            match part.starts_with('{') {
                true => ids.push(word),
                false if part == word => {}
                false => return None,
            }
        }
        given.next().is_none().then(|| Candidate { actions, template, ids: ids.join("/") })
    })
}

/// Keeps requests that must wait; all others go on.
pub(crate) async fn layer(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    match candidate(request.method(), request.uri().path()) {
        None => next.run(request).await,
        // Handlers would decode it, and no id needs that: nothing goes past by another spelling.
        Some(found) if found.ids.contains('%') => Problem::not_found("thing").into_response(),
        Some(found) => {
            judge(&shared, found, request, next).await.unwrap_or_else(Problem::into_response)
        }
    }
}

async fn judge(
    shared: &Shared,
    candidate: Candidate,
    request: Request,
    next: Next,
) -> Result<Response> {
    let rules = AccessRules::load(&mut shared.catalog.read().await?).await?;
    if !candidate.actions.iter().any(|action| rules.waits(*action)) {
        return Ok(next.run(request).await);
    }
    let (head, body) = request.into_parts();
    let actor = auth::actor(shared, &head.headers, head.uri.path()).await?;
    let body = to_bytes(body, LARGEST).await.map_err(|_| {
        let text = format!("a document has at most {LARGEST} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", text)
    })?;
    let document: Value = serde_json::from_slice(&body).unwrap_or_default();
    let method = &head.method;
    let found =
        what(&mut shared.catalog.read().await?, &actor, (&candidate, method), &document).await?;
    let again = Request::from_parts(head.clone(), Body::from(body.clone()));
    let Some((action, project)) = found.filter(|(action, _)| rules.waits(*action)) else {
        return Ok(next.run(again).await);
    };
    let told = rehearsed(next.run(again)).await;
    if !told.status().is_success() {
        return Ok(told);
    }
    let now = shared.now();
    let header = |name: &header::HeaderName| {
        let value = head.headers.get(name)?.to_str().ok()?;
        Some((name.as_str().to_owned(), value.to_owned()))
    };
    let new = NewApproval {
        project,
        action: action.word().to_owned(),
        object: candidate.ids,
        requester: actor.user.id,
        requester_login: actor.user.login.clone(),
        expires_ms: now + u64::from(rules.approvals.hours) * 3_600_000,
        method: head.method.to_string(),
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: HEADERS.iter().filter_map(header).collect(),
        body: Zeroizing::new(String::from_utf8_lossy(&body).into_owned()),
    };
    let mut tx = shared.catalog.begin().await?;
    tx.forget_approvals(now.saturating_sub(KEPT_MS), now).await?;
    let kept = tx.add_approval(&shared.sealer, &new, now).await?;
    let detail = json!({"action": new.action, "object": new.object, "path": new.path});
    tx.audit(actor.did("approval.request", kept, project, detail), now).await?;
    let view = ApprovalView::from(
        tx.approval(&shared.sealer, kept, (&EVERYTHING, actor.user.id), now).await?,
    );
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, axum::Json(view)).into_response())
}

/// What a request is, and the project it concerns: for what the actor may know of. `None` when it
/// is nothing that could wait, or the handler will refuse it anyway.
async fn what(
    tx: &mut Tx,
    actor: &Actor,
    (candidate, method): (&Candidate, &Method),
    document: &Value,
) -> Result<Option<(Action, Option<ProjectId>)>> {
    let Some(&first) = candidate.actions.first() else { return Ok(None) };
    let id = candidate.ids.as_str();
    let visible = actor.visible();
    let project = match first {
        Action::RemoveProject => match id.parse::<ProjectId>() {
            Ok(project) => Some(project),
            Err(_) => return Ok(None),
        },
        Action::RemoveDestination => {
            let Ok(id) = id.parse::<DestinationId>() else { return Ok(None) };
            tx.get::<Destination>(id, &visible).await?.project
        }
        Action::RemoveInstance => {
            let Ok(id) = id.parse::<InstanceId>() else { return Ok(None) };
            tx.get::<Instance>(id, &visible).await?.project
        }
        Action::RemovePolicy => {
            let Ok(id) = id.parse::<PolicyId>() else { return Ok(None) };
            tx.get::<Policy>(id, &visible).await?.project
        }
        Action::RemovePlan => {
            let Ok(id) = id.parse::<PlanId>() else { return Ok(None) };
            tx.get::<Plan>(id, &visible).await?.project
        }
        Action::ShortenRetention => {
            let request = (method, candidate.template, id);
            match retention::shortened(tx, actor, request, document).await? {
                Some(project) => project,
                None => return Ok(None),
            }
        }
        Action::Prune | Action::Collect => {
            let action = match document["kind"].as_str() {
                Some("prune") => Action::Prune,
                Some("collect") => Action::Collect,
                _ => return Ok(None),
            };
            let id = document["destination"].as_str().unwrap_or_default();
            let Ok(id) = id.parse::<DestinationId>() else { return Ok(None) };
            return Ok(Some((action, tx.get::<Destination>(id, &visible).await?.project)));
        }
        // One's own password is one's own affair.
        Action::ChangeUsers if id == actor.id() && document.get("current").is_some() => {
            return Ok(None);
        }
        _ => None,
    };
    Ok(Some((first, project)))
}

/// A document without what is nobody's business: passwords, secrets, tokens, codes.
pub(crate) fn without_secrets(mut document: Value) -> Value {
    match &mut document {
        Value::Object(fields) => {
            for (name, value) in fields {
                let secret = ["password", "current", "secret", "secrets", "token", "code"];
                *value = match secret.contains(&name.as_str()) {
                    true => Value::from("(not shown)"),
                    false => without_secrets(value.take()),
                };
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = without_secrets(item.take());
            }
        }
        _ => {}
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_known_by_all_their_parts() {
        let word = |method: Method, path| candidate(&method, path).map(|found| found.ids);
        assert_eq!(word(Method::DELETE, "/api/v1/projects/x"), Some("x".into()));
        assert_eq!(word(Method::POST, "/api/v1/tasks"), Some(String::new()));
        assert_eq!(word(Method::PUT, "/api/v1/policies/x/instances/y"), Some("x/y".into()));
        assert_eq!(word(Method::GET, "/api/v1/projects/x"), None);
        assert_eq!(word(Method::DELETE, "/api/v1/projects/x/y"), None);
        assert_eq!(word(Method::DELETE, "/api/v1/projects"), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = without_secrets(json!({"login": "a", "password": "p", "l": [{"token": "t"}]}));
        let hidden = "(not shown)";
        let expected = json!({"login": "a", "password": hidden, "l": [{"token": hidden}]});
        assert_eq!(shown, expected);
    }
}
