//! Who sends a request.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde_json::Value;
use sluice_catalog::{AuditEntry, ErrorKind, Grant, NodeId, ProjectId, User, Visible, token_hash};

use crate::access::{self, Permission};
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// Somebody who has logged in.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    pub(crate) user: User,
    pub(crate) grants: Vec<Grant>,
    /// The hash of what was shown.
    pub(crate) shown: String,
}

impl Actor {
    pub(crate) fn id(&self) -> String {
        self.user.id.to_string()
    }

    /// What it may know of.
    pub(crate) fn visible(&self) -> Visible {
        access::visible(&self.grants)
    }

    /// Refuses what it may not do in a project; or, without one, in the system. A project that it
    /// may not see is not there.
    pub(crate) fn require(&self, permission: Permission, project: Option<ProjectId>) -> Result<()> {
        if access::granted(&self.grants, permission, project) {
            return Ok(());
        }
        match project {
            Some(_) if !self.visible().covers(project) => Err(Problem::not_found("project")),
            _ => Err(Problem::forbidden()),
        }
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

/// Who shows a session or an API token.
pub(crate) async fn actor(shared: &Shared, headers: &HeaderMap) -> Result<Actor> {
    let shown = token_hash(bearer(headers)?);
    let session = shared.catalog.read().await?.who(&shown, shared.now()).await;
    match session {
        Ok(session) => Ok(Actor { user: session.user, grants: session.grants, shown }),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Problem::unauthorized()),
        Err(error) => Err(error.into()),
    }
}

impl FromRequestParts<Shared> for Actor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self> {
        actor(shared, &parts.headers).await
    }
}

/// A node that shows a certificate, or a token while it has none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeActor(pub(crate) NodeId);
