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

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use sluice_catalog::{
    Approval, Consent, Destination, DestinationId, Instance, InstanceId, Keep, NewApproval, Policy,
    PolicyId, ProjectId, Tx, rehearsed,
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
pub(crate) const MAY_WAIT: [(&str, &str, &[Action]); 20] = [
    ("DELETE", "/api/v1/projects/{id}", &[Action::RemoveProject]),
    ("DELETE", "/api/v1/destinations/{id}", &[Action::RemoveDestination]),
    ("DELETE", "/api/v1/instances/{id}", &[Action::RemoveInstance]),
    ("DELETE", "/api/v1/policies/{id}", &[Action::RemovePolicy]),
    ("DELETE", "/api/v1/nodes/{id}", &[Action::RemoveNode]),
    ("DELETE", "/api/v1/users/{id}", &[Action::RemoveUser]),
    ("DELETE", "/api/v1/users/{id}/totp", &[Action::ChangeUsers]),
    ("POST", "/api/v1/users", &[Action::ChangeUsers]),
    ("PUT", "/api/v1/users/{id}/grants", &[Action::ChangeUsers]),
    ("PUT", "/api/v1/users/{id}/password", &[Action::ChangeUsers]),
    ("POST", "/api/v1/groups", &[Action::ChangeUsers]),
    ("PUT", "/api/v1/groups/{id}", &[Action::ChangeUsers]),
    ("DELETE", "/api/v1/groups/{id}", &[Action::ChangeUsers]),
    ("POST", "/api/v1/identity-providers", &[Action::ChangeUsers]),
    ("PUT", "/api/v1/identity-providers/{id}", &[Action::ChangeUsers]),
    ("DELETE", "/api/v1/identity-providers/{id}", &[Action::ChangeUsers]),
    ("PUT", "/api/v1/identity-providers/{id}/secret", &[Action::ChangeUsers]),
    ("PUT", "/api/v1/policies/{id}", &[Action::ShortenRetention]),
    ("POST", "/api/v1/tasks", &[Action::Prune, Action::Collect]),
    ("PUT", "/api/v1/access-rules", &[Action::ChangeRules]),
];

/// What a request may be, and the id in its path.
fn candidate<'p>(method: &Method, path: &'p str) -> Option<(&'static [Action], &'p str)> {
    MAY_WAIT.iter().find_map(|(word, template, actions)| {
        if method != word {
            return None;
        }
        let (mut id, mut given) = ("", path.split('/'));
        for part in template.split('/') {
            let word = given.next()?;
            match part == "{id}" {
                true => id = word,
                false if part == word => {}
                false => return None,
            }
        }
        given.next().is_none().then_some((*actions, id))
    })
}

/// Keeps requests that must wait; all others go on.
pub(crate) async fn layer(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let waits = candidate(request.method(), request.uri().path())
        .map(|(actions, id)| (actions, id.to_owned()));
    match waits {
        None => next.run(request).await,
        // Handlers would decode it, and no id needs that: nothing goes past by another spelling.
        Some((_, id)) if id.contains('%') => Problem::not_found("thing").into_response(),
        Some((actions, id)) => {
            judge(&shared, actions, id, request, next).await.unwrap_or_else(Problem::into_response)
        }
    }
}

async fn judge(
    shared: &Shared,
    actions: &[Action],
    id: String,
    request: Request,
    next: Next,
) -> Result<Response> {
    let rules = AccessRules::load(&mut shared.catalog.read().await?).await?;
    if !actions.iter().any(|action| rules.waits(*action)) {
        return Ok(next.run(request).await);
    }
    let (head, body) = request.into_parts();
    let actor = auth::actor(shared, &head.headers, head.uri.path()).await?;
    let body = to_bytes(body, LARGEST).await.map_err(|_| {
        let text = format!("a document has at most {LARGEST} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", text)
    })?;
    let document: Value = serde_json::from_slice(&body).unwrap_or_default();
    let found = what(&mut shared.catalog.read().await?, &actor, actions, &id, &document).await?;
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
        object: id,
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
    let view = ApprovalView::from(tx.approval(&shared.sealer, kept, &EVERYTHING, now).await?);
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, axum::Json(view)).into_response())
}

/// What a request is, and the project it concerns: for what the actor may know of. `None` when it
/// is nothing that could wait, or the handler will refuse it anyway.
async fn what(
    tx: &mut Tx,
    actor: &Actor,
    actions: &[Action],
    id: &str,
    document: &Value,
) -> Result<Option<(Action, Option<ProjectId>)>> {
    let Some(&first) = actions.first() else { return Ok(None) };
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
        Action::RemovePolicy | Action::ShortenRetention => {
            let Ok(id) = id.parse::<PolicyId>() else { return Ok(None) };
            let policy = tx.get::<Policy>(id, &visible).await?;
            if first == Action::ShortenRetention {
                let spec = serde_json::from_value::<Policy>(document["spec"].clone());
                if !spec.is_ok_and(|new| shortens(&policy.body, &new)) {
                    return Ok(None);
                }
            }
            policy.project
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

/// Whether restore points at some destination are kept for a shorter time than before. A rule that
/// is gone shortens too: who knows what takes its place.
fn shortens(old: &Policy, new: &Policy) -> bool {
    old.rules.iter().any(|rule| {
        let same = |policy: &Policy| {
            let rules = policy.rules.iter().filter(|one| one.destination == rule.destination);
            rules.map(|one| one.keep).reduce(Keep::union)
        };
        match (same(old), same(new)) {
            (Some(before), Some(after)) => !covers(after, before),
            _ => true,
        }
    })
}

/// Whether `more` keeps everything that `less` keeps.
fn covers(more: Keep, less: Keep) -> bool {
    more.union(less) == more
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

    fn keep(last: u32, daily: u32) -> Keep {
        Keep { last, daily, ..Keep::default() }
    }

    fn policy(rules: &[(DestinationId, Keep)]) -> Policy {
        let rules: Vec<Value> = rules
            .iter()
            .map(|(destination, keep)| {
                json!({"name": destination.to_string(), "destination": destination, "keep": keep,
                    "schedules": []})
            })
            .collect();
        serde_json::from_value(json!({ "rules": rules })).unwrap()
    }

    #[test]
    fn keeping_less_anywhere_is_shorter() {
        let (one, two) = (DestinationId::new(1), DestinationId::new(2));
        let old = policy(&[(one, keep(3, 7)), (two, Keep::default())]);
        for (new, shorter) in [
            (policy(&[(one, keep(3, 7)), (two, Keep::default())]), false),
            (policy(&[(one, keep(4, 7)), (two, Keep::default())]), false),
            (policy(&[(one, Keep::default()), (two, Keep::default())]), false),
            (policy(&[(one, keep(9, 6)), (two, Keep::default())]), true),
            (policy(&[(one, keep(3, 7)), (two, keep(99, 99))]), true),
            (policy(&[(one, keep(3, 7))]), true),
            (policy(&[(one, keep(3, 0)), (one, keep(0, 7)), (two, Keep::default())]), false),
        ] {
            assert_eq!(shortens(&old, &new), shorter, "{new:?}");
        }
    }

    #[test]
    fn paths_are_known_by_all_their_parts() {
        let word = |method: Method, path| candidate(&method, path).map(|(_, id)| id.to_owned());
        assert_eq!(word(Method::DELETE, "/api/v1/projects/x"), Some("x".into()));
        assert_eq!(word(Method::POST, "/api/v1/tasks"), Some(String::new()));
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
