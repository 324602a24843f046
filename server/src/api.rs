//! `/api/v1`: one file for each family of requests. The OpenAPI document is made of the same
//! declarations as the routes, so neither has what the other lacks.

pub(crate) mod approvals;
pub(crate) mod audit;
pub(crate) mod dashboard;
pub(crate) mod directory_logins;
mod document;
pub(crate) mod files;
pub(crate) mod filters;
pub(crate) mod groups;
pub(crate) mod inventories;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod node_configs;
pub(crate) mod nodes;
pub(crate) mod notifications;
pub(crate) mod open_sessions;
pub(crate) mod passkey_logins;
pub(crate) mod passkeys;
pub(crate) mod plans;
pub(crate) mod points;
pub(crate) mod policies;
pub(crate) mod provider_logins;
pub(crate) mod providers;
pub(crate) mod query;
pub(crate) mod quotas;
pub(crate) mod records;
pub(crate) mod reporting;
pub(crate) mod restore_tests;
pub(crate) mod retention_events;
pub(crate) mod rules;
pub(crate) mod second_factor;
pub(crate) mod self_backup;
pub(crate) mod sessions;
pub(crate) mod snapshots;
pub(crate) mod tasks;
pub(crate) mod usage;
pub(crate) mod users;

use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use axum::{Extension, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sluice_catalog::{Found, Page};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoParams, Modify, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zeroize::Zeroizing;

use crate::complaint::complain;
use crate::problem::{Problem, Result};
use crate::state::Shared;
use crate::{account, dispatch, docs, idempotency, metrics, validators};

/// How much is repeated of a name that is not known, in characters.
const LONGEST_NAME: usize = 64;
/// The most that a request may have, in bytes.
const LARGEST_REQUEST: usize = 2 << 20;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sluice",
        description = "Backups: what is protected, how, and what became of it.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(Problem, sluice_catalog::InventoryId)),
    modifiers(&Security),
    security(("token" = []))
)]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// What is shown of something, or the id of what cannot be shown, and why.
pub(crate) type Shown<T> = std::result::Result<T, (String, Problem)>;

/// A part of a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct List<T> {
    /// What is there.
    pub(crate) items: Vec<T>,
    /// What to give as `after` for the next part; nothing at the end.
    pub(crate) next: Option<String>,
    /// What should be there and cannot be read, because it was damaged or written by a release that
    /// knows more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unreadable: Vec<UnreadableView>,
}

/// Something that cannot be read.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct UnreadableView {
    /// Its id.
    id: String,
    /// Its name, where it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    /// What is wrong with it.
    why: String,
}

impl<T> List<T> {
    /// A part that was asked for with `limit`; `name` tells what the next part comes after.
    pub(crate) fn new(items: Vec<T>, limit: u32, name: impl Fn(&T) -> String) -> Self {
        let full = items.len() >= limit.min(Page::LARGEST) as usize;
        let next = items.last().filter(|_| full).map(name);
        Self { items, next, unreadable: Vec::new() }
    }

    /// All there is.
    pub(crate) fn all(items: Vec<T>) -> Self {
        Self { items, next: None, unreadable: Vec::new() }
    }

    /// What was found of things that are called `word`, as it is shown. What cannot be read, or
    /// cannot be shown, is told apart, and to whoever runs the server.
    pub(crate) fn found<F>(word: &str, found: Found<F>, view: impl Fn(F) -> Shown<T>) -> Self {
        let mut list = Self::all(Vec::with_capacity(found.items.len()));
        list.next = found.next;
        let mut told = |id: String, name: String, why: String| {
            let called = if name.is_empty() { &id } else { &name };
            complain(&format!("the {word} {called}"), &why);
            list.unreadable.push(UnreadableView { id, name, why });
        };
        for one in found.unreadable {
            told(one.id, one.name, one.error.to_string());
        }
        for item in found.items {
            match view(item) {
                Ok(item) => list.items.push(item),
                Err((id, problem)) => told(id, String::new(), problem.detail),
            }
        }
        list
    }
}

/// Which part of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Begin after this: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000, 100 when it is not said.
    pub(crate) limit: Option<u32>,
}

impl PageQuery {
    pub(crate) fn page(&self) -> Result<Page> {
        page(self.after.clone(), self.limit)
    }
}

/// The part of a list that begins after something and has so many at most.
///
/// # Errors
/// When the limit is none.
pub(crate) fn page(after: Option<String>, limit: Option<u32>) -> Result<Page> {
    Ok(Page { after, limit: most(limit)? })
}

/// How many a part of a list has at most.
///
/// # Errors
/// When none are asked for, or more than are told at once.
pub(crate) fn most(limit: Option<u32>) -> Result<u32> {
    let limit = limit.unwrap_or(100);
    match (1..=Page::LARGEST).contains(&limit) {
        true => Ok(limit),
        false => Err(Problem::invalid("a limit is 1 to 1000")),
    }
}

fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(sessions::setup))
        .routes(routes!(sessions::login))
        .routes(routes!(sessions::logout))
        .routes(routes!(sessions::me))
        .routes(routes!(sessions::tokens, sessions::create_token))
        .routes(routes!(sessions::delete_token))
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::remove))
        .routes(routes!(users::set_grants))
        .routes(routes!(users::set_password))
        .routes(routes!(records::projects::list, records::projects::create))
        .routes(routes!(records::projects::get, records::projects::put, records::projects::remove))
        .routes(routes!(records::destinations::list, records::destinations::create))
        .routes(routes!(
            records::destinations::get,
            records::destinations::put,
            records::destinations::remove
        ))
        .routes(routes!(records::instances::list, records::instances::create))
        .routes(routes!(
            records::instances::get,
            records::instances::put,
            records::instances::remove
        ))
        .routes(routes!(records::inventories::list, records::inventories::create))
        .routes(routes!(
            records::inventories::get,
            records::inventories::put,
            records::inventories::remove
        ))
        .routes(routes!(inventories::run))
        .routes(routes!(inventories::found))
        .routes(routes!(records::policies::list, records::policies::create))
        .routes(routes!(records::policies::get, records::policies::put, records::policies::remove))
        .routes(routes!(policies::secrets))
        .routes(routes!(policies::preview))
        .routes(routes!(policies::instances))
        .routes(routes!(policies::assign, policies::unassign))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::get, nodes::put, nodes::remove))
        .routes(routes!(nodes::create_token))
        .routes(routes!(nodes::upgrade, nodes::cancel_upgrade))
        .routes(routes!(nodes::for_instance))
        .routes(routes!(node_configs::list, node_configs::create))
        .routes(routes!(node_configs::get, node_configs::put, node_configs::remove))
        .routes(routes!(points::list))
        .routes(routes!(points::get))
        .routes(routes!(retention_events::list, retention_events::create))
        .routes(routes!(retention_events::remove))
        .routes(routes!(snapshots::list, snapshots::create))
        .routes(routes!(snapshots::get, snapshots::remove))
        .routes(routes!(mounts::list, mounts::create))
        .routes(routes!(mounts::get, mounts::remove))
        .routes(routes!(mounts::renew))
        .routes(routes!(files::list))
        .routes(routes!(files::get))
        .routes(routes!(files::content))
        .routes(routes!(records::plans::list, records::plans::create))
        .routes(routes!(records::plans::get, records::plans::put, records::plans::remove))
        .routes(routes!(plans::run))
        .routes(routes!(plans::list))
        .routes(routes!(plans::get))
        .routes(routes!(plans::cancel))
        .routes(routes!(restore_tests::list, restore_tests::create))
        .routes(routes!(restore_tests::get))
        .routes(routes!(restore_tests::screenshot))
        .routes(routes!(restore_tests::console))
        .routes(routes!(mounts::commit))
        .routes(routes!(tasks::list, tasks::create))
        .routes(routes!(tasks::get))
        .routes(routes!(tasks::cancel))
        .routes(routes!(tasks::log))
        .routes(routes!(tasks::events))
        .routes(routes!(limits::get, limits::put))
        .routes(routes!(limits::missed))
        .routes(routes!(quotas::get, quotas::put))
        .routes(routes!(usage::usage))
        .routes(routes!(usage::protection))
        .routes(routes!(reporting::sla))
        .routes(routes!(reporting::forecast))
        .routes(routes!(reporting::document))
        .routes(routes!(audit::list))
        .routes(routes!(audit::verify))
        .routes(routes!(open_sessions::list))
        .routes(routes!(open_sessions::end))
        .routes(routes!(open_sessions::end_all))
        .routes(routes!(open_sessions::tokens, open_sessions::create_token))
        .routes(routes!(open_sessions::delete_token))
        .routes(routes!(second_factor::enrol))
        .routes(routes!(second_factor::confirm))
        .routes(routes!(second_factor::remove))
        .routes(routes!(second_factor::reset))
        .routes(routes!(passkeys::list, passkeys::begin))
        .routes(routes!(passkeys::finish))
        .routes(routes!(passkeys::challenge))
        .routes(routes!(passkeys::rename))
        .routes(routes!(passkeys::remove))
        .routes(routes!(passkeys::reset))
        .routes(routes!(passkey_logins::begin))
        .routes(routes!(passkey_logins::finish))
        .routes(routes!(groups::list, groups::create))
        .routes(routes!(groups::get, groups::put, groups::remove))
        .routes(routes!(providers::list, providers::create))
        .routes(routes!(providers::get, providers::put, providers::remove))
        .routes(routes!(providers::secret))
        .routes(routes!(directory_logins::test))
        .routes(routes!(directory_logins::login))
        .routes(routes!(provider_logins::list))
        .routes(routes!(provider_logins::begin))
        .routes(routes!(provider_logins::finish))
        .routes(routes!(provider_logins::begin_device))
        .routes(routes!(provider_logins::finish_device))
        .routes(routes!(rules::get, rules::put))
        .routes(routes!(approvals::list))
        .routes(routes!(approvals::get))
        .routes(routes!(approvals::approve))
        .routes(routes!(approvals::reject))
        .routes(routes!(dashboard::dashboard))
        .routes(routes!(self_backup::get, self_backup::put, self_backup::run))
        .routes(routes!(self_backup::adopt))
        .routes(routes!(notifications::get, notifications::put))
        .routes(routes!(notifications::secret))
        .routes(routes!(notifications::test))
        .routes(routes!(notifications::send_report))
}

/// The OpenAPI document of `/api/v1`, as pretty JSON.
pub fn openapi() -> String {
    // What was derived can be written.
    document::completed(router().into_openapi())
        .to_pretty_json()
        .map(|text| text + "\n")
        .unwrap_or_default()
}

/// Everything that is answered.
pub(crate) fn service(shared: Shared) -> Router {
    let (api, document) = router().split_for_parts();
    let document = document::completed(document).to_json().unwrap_or_default();
    let json = [("content-type", "application/json")];
    let replay = crate::approvals::Replay(api.clone().with_state(shared.clone()));
    api.layer(from_fn(validators::layer))
        .layer(from_fn_with_state(shared.clone(), crate::approvals::layer))
        .layer(Extension(replay))
        .layer(from_fn_with_state(shared.clone(), idempotency::layer))
        .route("/api/v1/openapi.json", get(async move || (json, document)))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .merge(dispatch::router())
        .merge(account::router())
        .merge(docs::router())
        .fallback(async || Problem::not_found("path"))
        .method_not_allowed_fallback(async || {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            Problem::new(status, "method", "this path does not know this method")
        })
        .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
        .layer(from_fn_with_state(shared.clone(), metrics::layer))
        .with_state(shared)
}

async fn ready(State(shared): State<Shared>) -> Result<&'static str> {
    shared.catalog.ping().await?;
    Ok("ready\n")
}

/// A document in the body.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Shared> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self> {
        let axum::Json(document) = axum::Json::from_request(request, shared).await?;
        Ok(Self(document))
    }
}

/// Parameters in the path.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Shared> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self> {
        let found = axum::extract::Path::from_request_parts(parts, shared).await?;
        Ok(Self(found.0))
    }
}

/// Parameters behind the path: those that are declared, and no others. A name that nobody knows is
/// a mistake: what it was to leave out would be there, and nobody would notice.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned + IntoParams> FromRequestParts<Shared> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self> {
        let given = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)?.0;
        let bad = |text: String| Problem::new(StatusCode::BAD_REQUEST, "bad-query", text);
        if !given.is_empty() {
            let known: Vec<String> =
                T::into_params(|| None).into_iter().map(|known| known.name).collect();
            if let Some((odd, _)) = given.iter().find(|(name, _)| !known.contains(name)) {
                let odd: String = odd.chars().take(LONGEST_NAME).collect();
                let text = format!("{odd:?} is no parameter here; known are {}", known.join(", "));
                return Err(bad(text));
            }
            // Longer than any name, and what databases take for a pattern.
            if let Some((name, _)) = given.iter().find(|(_, value)| value.len() > 16_384) {
                return Err(bad(format!("{name} is too long")));
            }
            if let Some((name, _)) = given.iter().find(|(_, value)| value.contains('\0')) {
                return Err(bad(format!("{name} has a zero byte")));
            }
        }
        let found = axum::extract::Query::from_request_parts(parts, shared).await?;
        Ok(Self(found.0))
    }
}

/// A secret in a document: wiped after use.
#[derive(Deserialize, ToSchema)]
#[serde(from = "String")]
#[schema(value_type = String)]
pub(crate) struct Hidden(pub(crate) Zeroizing<String>);

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

#[cfg(test)]
mod tests {
    /// Regenerate with `SLUICE_WRITE_OPENAPI=1 cargo nextest run -p sluice-server openapi`.
    #[test]
    fn the_openapi_document_is_the_one_checked_in() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let now = super::openapi();
        if std::env::var_os("SLUICE_WRITE_OPENAPI").is_some() {
            std::fs::write(path, &now).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(now == kept, "the API has changed: see the comment of this test");
        assert!(now.contains("\"openapi\": \"3.1"));
    }
}
