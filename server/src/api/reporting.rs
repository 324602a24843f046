//! Whether promises were kept, and what is to come.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sluice_catalog::Within;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::access::Permission;
use crate::api::query::{DocumentQuery, ForecastQuery, SlaQuery};
use crate::api::{Path, Query};
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::reporting::document::{self, Asked, Report};
use crate::reporting::forecast::{self, ForecastReport, MOST_SLOTS};
use crate::reporting::sla::{self, SlaReport};
use crate::state::Shared;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// How long somebody waits for a report whose turn does not come.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest time that a report of promises looks at.
const LONGEST_MS: u64 = 400 * DAY_MS;
/// The recovery point objective of those that have none, in seconds.
const USUAL_RPO: u64 = 86_400;

/// A place among those who have long reports made: nodes and schedules need the database too.
async fn place() -> Result<SemaphorePermit<'static>> {
    static PLACES: Semaphore = Semaphore::const_new(2);
    place_among(&PLACES, PATIENCE).await
}

async fn place_among(places: &Semaphore, patience: Duration) -> Result<SemaphorePermit<'_>> {
    let waited = tokio::time::timeout(patience, places.acquire()).await;
    waited.ok().and_then(std::result::Result::ok).ok_or_else(|| {
        let text = "others have reports made at this moment: try again";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "slow-down", text)
    })
}

impl SlaQuery {
    /// What it asks for.
    ///
    /// # Errors
    /// When it makes no sense.
    pub(crate) fn asked(&self, now: u64) -> Result<(Within, u64)> {
        let until_ms = self.until_ms.unwrap_or(now).min(now);
        let from_ms = self.from_ms.unwrap_or(until_ms.saturating_sub(30 * DAY_MS));
        if from_ms >= until_ms || until_ms - from_ms > LONGEST_MS {
            let text = "a period ends after it begins, and is not longer than 400 days: see \
                        from_ms and until_ms";
            return Err(Problem::invalid(text));
        }
        let rpo = self.rpo.map_or(USUAL_RPO, |span| span.as_seconds()).max(1);
        Ok((Within { from_ms, until_ms, project: self.project }, rpo))
    }
}

impl ForecastQuery {
    /// What it asks for: the time and the length of a slot.
    ///
    /// # Errors
    /// When it makes no sense.
    pub(crate) fn asked(&self, now: u64) -> Result<(Within, u64)> {
        let slot_ms = self.slot.map_or(HOUR_MS, |span| span.as_seconds().saturating_mul(1000));
        // Slots begin where clocks show whole ones, in UTC.
        let from_ms = self.from_ms.unwrap_or(now).max(now);
        let from_ms = from_ms.checked_div(slot_ms).unwrap_or(0).saturating_mul(slot_ms);
        let until_ms = self.until_ms.unwrap_or_else(|| from_ms.saturating_add(DAY_MS));
        let many = until_ms.saturating_sub(from_ms).div_ceil(slot_ms.max(1));
        if slot_ms < 60_000 || !(1..=MOST_SLOTS).contains(&many) {
            let text = format!(
                "a slot has a minute at least, and a forecast 1 to {MOST_SLOTS} of them: see slot, \
                 from_ms and until_ms"
            );
            return Err(Problem::invalid(text));
        }
        Ok((Within { from_ms, until_ms, project: self.project }, slot_ms))
    }
}

/// Read whether instances were protected as their policies promise
///
/// The newest restore point of an instance must never be older than the recovery point objective.
/// Where a policy has a recovery time objective, a restore test must have been done within the time
/// that met it.
#[utoipa::path(get, path = "/api/v1/reports/sla", tag = "report", operation_id = "sla-report",
    params(SlaQuery), responses(
    (status = 200, body = SlaReport), (status = "4XX", body = Problem)))]
pub(crate) async fn sla(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<SlaQuery>,
) -> Result<Json<SlaReport>> {
    actor.require_anywhere(Permission::Read)?;
    let (within, rpo) = query.asked(shared.now())?;
    let _place = place().await?;
    let mut tx = shared.catalog.read().await?;
    sla::report(&mut tx, &actor.visible(), &within, rpo).await.map(Json)
}

/// Read what schedules are going to ask for, by slots of time and by schedule
///
/// What a backup takes is the mean of those of the last 30 days of the same instance to the same
/// destination.
#[utoipa::path(get, path = "/api/v1/reports/forecast", tag = "report",
    operation_id = "forecast-report", params(ForecastQuery), responses(
    (status = 200, body = ForecastReport), (status = "4XX", body = Problem)))]
pub(crate) async fn forecast(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<ForecastQuery>,
) -> Result<Json<ForecastReport>> {
    actor.require_anywhere(Permission::Read)?;
    let now = shared.now();
    let (within, slot_ms) = query.asked(now)?;
    let _place = place().await?;
    let mut tx = shared.catalog.read().await?;
    forecast::report(&mut tx, &actor.visible(), &within, (slot_ms, now)).await.map(Json)
}

/// Get a report as a document: a page, a PDF, or comma-separated values
#[utoipa::path(get, path = "/api/v1/reports/{report}/document", tag = "report",
    operation_id = "report-document", params(("report" = Report, Path), DocumentQuery),
    responses(
    (status = 200, content((String = "text/html"), (String = "application/pdf"),
        (String = "text/csv"))),
    (status = "4XX", body = Problem)))]
pub(crate) async fn document(
    State(shared): State<Shared>,
    actor: Actor,
    Path(report): Path<Report>,
    Query(query): Query<DocumentQuery>,
) -> Result<Response> {
    actor.require_anywhere(Permission::Read)?;
    let DocumentQuery { format, period, by, max_age, project } = query;
    let asked = Asked { report, format, project, period, by, max_age };
    let _place = place().await?;
    let mut tx = shared.catalog.read().await?;
    let draft = document::look_up(&mut tx, &actor.visible(), &asked, shared.now()).await?;
    drop(tx);
    let made = draft.write().await?;
    let name = format!("attachment; filename=\"{}\"", made.file);
    // Whatever a name says, nothing of a page runs.
    let headers = [
        (header::CONTENT_TYPE, made.media_type.to_owned()),
        (header::CONTENT_DISPOSITION, name),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'".into()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
    ];
    Ok((headers, made.bytes).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_finds_no_place_is_told_to_try_again_and_places_come_back() {
        let places = Semaphore::new(2);
        let place = || place_among(&places, Duration::ZERO);
        let first = place().await.unwrap();
        let second = place().await.unwrap();
        for _ in 0..3 {
            let refused = place().await.unwrap_err();
            assert_eq!((refused.status, refused.code.as_str()), (429, "slow-down"));
        }
        // However a report ends, its place ends with it, and who was refused has taken none.
        drop(first);
        let third = place().await.unwrap();
        assert_eq!(place().await.unwrap_err().status, 429);
        drop((second, third));
        assert_eq!(places.available_permits(), 2);
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_that_comes_free() {
        let places = Semaphore::new(1);
        let taken = place_among(&places, Duration::ZERO).await.unwrap();
        let mut waiting = std::pin::pin!(place_among(&places, Duration::MAX));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(taken);
        assert!(waiting.await.is_ok());
    }
}
