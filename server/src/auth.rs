//! Who sends a request.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use sluice_catalog::{
    AuditEntry, ErrorKind, Grant, NodeId, ProjectId, Resource, Scope, Session, Tx, User, UserId,
    Visible, token_hash,
};

use crate::access::{self, At, Permission};
use crate::problem::{Problem, Result};
use crate::rules::AccessRules;
use crate::state::Shared;
use utoipa::ToSchema;

/// Somebody who has logged in.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    pub(crate) user: User,
    pub(crate) grants: Vec<Grant>,
    /// The hash of what was shown.
    pub(crate) shown: String,
    /// Whether that was a session; without, it was an API token.
    pub(crate) logged_in: bool,
    /// Whether logging in takes a second factor.
    pub(crate) second_factor: bool,
}

/// What a session must do before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum First {
    /// Change the password, which somebody else has set.
    ChangePassword,
    /// Begin to use a second factor, which the rules want: codes of an app, or a passkey.
    EnrolTotp,
}

/// Says in whose name a request is done that was asked before. Only the server itself puts it
/// there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnBehalf(pub(crate) UserId);

/// What somebody who has logged in must do before anything else.
pub(crate) async fn first(
    tx: &mut Tx,
    user: &User,
    grants: &[Grant],
    second_factor: bool,
) -> Result<Option<First>> {
    if user.must_change {
        return Ok(Some(First::ChangePassword));
    }
    // How strong a login by a provider is, the provider sees to.
    let enough = second_factor || user.provider.is_some();
    if enough || !AccessRules::load(tx).await?.wants_second_factor(grants) {
        return Ok(None);
    }
    Ok(Some(First::EnrolTotp))
}

/// How a second factor is begun to be used.
const ENROL: [&str; 4] = ["me/totp", "me/totp/confirm", "me/passkeys", "me/passkeys/finish"];

/// Whether a session may ask for this while it must do something else first.
fn open_to(first: First, user: UserId, path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/api/v1/") else { return false };
    let always = ["me", "sessions/current"].contains(&rest)
        || rest.strip_prefix("users/").and_then(|rest| rest.strip_suffix("/password"))
            == Some(&user.to_string());
    always || (first == First::EnrolTotp && ENROL.contains(&rest))
}

impl Actor {
    pub(crate) fn id(&self) -> String {
        self.user.id.to_string()
    }

    /// Refuses API tokens: what this is takes a person.
    pub(crate) fn require_login(&self) -> Result<()> {
        if self.logged_in {
            return Ok(());
        }
        let text = "an API token is not enough for this: log in";
        Err(Problem::new(StatusCode::FORBIDDEN, "login-needed", text))
    }

    /// What it may know of.
    pub(crate) fn visible(&self) -> Visible {
        access::visible(&self.grants)
    }

    /// Refuses what it may not do on a resource, in a project, or in the system. A project of
    /// which it may not see this is not there.
    pub(crate) fn require(&self, permission: Permission, at: impl Into<At>) -> Result<()> {
        let at = at.into();
        if access::granted(&self.grants, permission, at) {
            return Ok(());
        }
        match at.project {
            Some(_) if !self.visible().sees(at.project, at.resource) => {
                Err(Problem::not_found("project"))
            }
            _ => Err(Problem::forbidden()),
        }
    }

    /// Refuses whoever has a permission on no node.
    pub(crate) fn require_some_node(&self, permission: Permission) -> Result<()> {
        let on_node = |grant: &Grant| {
            matches!(grant.scope, Scope::System | Scope::Resource(Resource::Node(_)))
                && access::allows(grant.role, permission)
        };
        if self.grants.iter().any(on_node) { Ok(()) } else { Err(Problem::forbidden()) }
    }

    /// Refuses whoever has a permission nowhere.
    pub(crate) fn require_anywhere(&self, permission: Permission) -> Result<()> {
        let has = self.grants.iter().any(|grant| access::allows(grant.role, permission));
        if has { Ok(()) } else { Err(Problem::forbidden()) }
    }

    /// An entry of the audit log.
    pub(crate) fn did(
        &self,
        action: &'static str,
        object: impl ToString,
        project: Option<ProjectId>,
        detail: Value,
    ) -> AuditEntry {
        let actor = self.user.login.clone();
        AuditEntry { actor, action, object: object.to_string(), project, detail }
    }
}

/// What stands behind `Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str> {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, token) = header.and_then(|text| text.split_once(' ')).unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > 200 {
        return Err(Problem::unauthorized());
    }
    Ok(token)
}

fn as_actor(session: Session, shown: String) -> Actor {
    let Session { user, grants, logged_in, second_factor } = session;
    Actor { user, grants, shown, logged_in, second_factor }
}

/// Who shows a session or an API token, and may ask for `path`.
pub(crate) async fn actor(shared: &Shared, headers: &HeaderMap, path: &str) -> Result<Actor> {
    let shown = token_hash(bearer(headers)?);
    let mut tx = shared.catalog.read().await?;
    let actor = match tx.who(&shown, shared.now()).await {
        Ok(session) => as_actor(session, shown),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Problem::unauthorized()),
        Err(error) => return Err(error.into()),
    };
    if actor.logged_in
        && let Some(first) = first(&mut tx, &actor.user, &actor.grants, actor.second_factor).await?
        && !open_to(first, actor.user.id, path)
    {
        let (code, text) = match first {
            First::ChangePassword => ("change-password", "change your password first"),
            First::EnrolTotp => ("enrol-totp", "your role takes a second factor: enrol one first"),
        };
        return Err(Problem::new(StatusCode::FORBIDDEN, code, text));
    }
    Ok(actor)
}

impl FromRequestParts<Shared> for Actor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self> {
        if let Some(OnBehalf(user)) = parts.extensions.get() {
            let session = shared.catalog.read().await?.as_if_logged_in(*user).await?;
            return Ok(as_actor(session, String::new()));
        }
        actor(shared, &parts.headers, parts.uri.path()).await
    }
}

/// A node that shows a certificate, or a token while it has none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeActor(pub(crate) NodeId);
