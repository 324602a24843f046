//! Who is told what.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::Tx;
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::{Body, Hidden, Path};
use crate::auth::Actor;
use crate::notify::{self, Event, Occurrence, Wanted};
use crate::problem::{Problem, Result};
use crate::state::Shared;
use crate::validators::{self, base_of};

/// What waits for a channel.
#[derive(Serialize, ToSchema)]
pub(crate) struct Waiting {
    channel: String,
    /// Messages that wait to be sent.
    waiting: u64,
    /// Why the last of them could not be sent.
    failure: Option<String>,
}

/// Who is told what, and what waits to be told.
#[derive(Serialize, ToSchema)]
pub(crate) struct NotificationView {
    wanted: Wanted,
    waiting: Vec<Waiting>,
}

async fn view(tx: &mut Tx) -> Result<Response> {
    let wanted = Wanted::load(tx).await?;
    let mut all = Vec::new();
    for channel in &wanted.channels {
        let (waiting, failure) = tx.notices_waiting(&channel.name).await?;
        all.push(Waiting { channel: channel.name.clone(), waiting, failure });
    }
    Ok(validators::tagged(&base_of(&wanted), NotificationView { wanted, waiting: all }))
}

/// Read who is told what, and what waits to be told
#[utoipa::path(get, path = "/api/v1/notifications", tag = "operation",
    operation_id = "get-notifications",
    responses((status = 200, body = NotificationView), (status = "4XX", body = Problem)))]
pub(crate) async fn get(State(shared): State<Shared>, actor: Actor) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    view(&mut shared.catalog.read().await?).await
}

/// Say who is told what
///
/// Secrets of channels are set apart, and stay.
#[utoipa::path(put, path = "/api/v1/notifications", tag = "operation",
    operation_id = "set-notifications", params(("If-Match" = Option<String>, Header,
    description = "The tag of what the change is based on")),
    request_body = Wanted,
    responses((status = 200, body = NotificationView), (status = "4XX", body = Problem)))]
pub(crate) async fn put(
    State(shared): State<Shared>,
    actor: Actor,
    headers: HeaderMap,
    Body(wanted): Body<Wanted>,
) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    wanted.check()?;
    let mut tx = shared.catalog.begin().await?;
    tx.alone_with_settings().await?;
    validators::check(&headers, &base_of(&Wanted::load(&mut tx).await?))?;
    wanted.store(&mut tx).await?;
    let names: Vec<&str> = wanted.channels.iter().map(|one| one.name.as_str()).collect();
    let detail = json!({"channels": names, "rules": wanted.rules});
    tx.audit(actor.did("notifications.set", "", None, detail), shared.now()).await?;
    let answer = view(&mut tx).await?;
    tx.commit().await?;
    Ok(answer)
}

/// The secret of a channel.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChannelSecret {
    /// The key of signatures, or the password of a mail account. It cannot be read back.
    secret: Hidden,
}

/// Set the secret of a channel
#[utoipa::path(put, path = "/api/v1/notifications/{channel}/secret", tag = "operation",
    operation_id = "set-notification-secret", params(("channel" = String, Path)),
    request_body = ChannelSecret,
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn secret(
    State(shared): State<Shared>,
    actor: Actor,
    Path(channel): Path<String>,
    Body(new): Body<ChannelSecret>,
) -> Result<StatusCode> {
    actor.require(Permission::Administer, None)?;
    let mut tx = shared.catalog.begin().await?;
    known(&mut tx, &channel).await?;
    notify::set_secret(&shared, &mut tx, &channel, new.secret.0).await?;
    let entry = actor.did("notifications.secret", &channel, None, json!({}));
    tx.audit(entry, shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Send a message by a channel, to see whether it arrives
#[utoipa::path(post, path = "/api/v1/notifications/{channel}/test", tag = "operation",
    operation_id = "test-notification", params(("channel" = String, Path)),
    responses((status = 202), (status = "4XX", body = Problem)))]
pub(crate) async fn test(
    State(shared): State<Shared>,
    actor: Actor,
    Path(channel): Path<String>,
) -> Result<StatusCode> {
    actor.require(Permission::Administer, None)?;
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    known(&mut tx, &channel).await?;
    let text = format!("{} wants to see whether this arrives", actor.user.login);
    let (event, key) = (Event::Test, String::new());
    let one = Occurrence { event, at_ms: now, project: None, text, key };
    tx.add_notice(&channel, &json!({"events": [one], "more": 0}), now).await?;
    tx.audit(actor.did("notifications.test", &channel, None, json!({})), now).await?;
    tx.commit().await?;
    Ok(StatusCode::ACCEPTED)
}

/// Send a report now that is otherwise sent by itself
#[utoipa::path(post, path = "/api/v1/notifications/reports/{name}/send", tag = "operation",
    operation_id = "send-report", params(("name" = String, Path)),
    responses((status = 202), (status = "4XX", body = Problem)))]
pub(crate) async fn send_report(
    State(shared): State<Shared>,
    actor: Actor,
    Path(name): Path<String>,
) -> Result<StatusCode> {
    actor.require(Permission::Administer, None)?;
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let wanted = Wanted::load(&mut tx).await?;
    let report = wanted.reports.iter().find(|report| report.name == name);
    report.ok_or_else(|| Problem::not_found("report"))?.send(&mut tx, now).await?;
    let entry = actor.did("notifications.report", &name, None, json!({}));
    tx.audit(entry, now).await?;
    tx.commit().await?;
    Ok(StatusCode::ACCEPTED)
}

async fn known(tx: &mut Tx, channel: &str) -> Result<()> {
    let wanted = Wanted::load(tx).await?;
    match wanted.channels.iter().any(|one| one.name == channel) {
        true => Ok(()),
        false => Err(Problem::not_found("channel")),
    }
}
