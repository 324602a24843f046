//! Who used how much, and who is not protected.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use sluice_catalog::{
    Destination, DestinationId, Instance, InstanceId, Kind, Level, Page, Policy, PolicyId, Project,
    ProjectId, Record, Transfer, Tx, Visible,
};
use sluice_scheduler::metering::{self, By, Filter, Labels, Ledger, Period, Usage};
use sluice_scheduler::time::Span;
use sluice_scheduler::work::TaskKind;
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::Query;
use crate::api::query::{ProtectionQuery, UsageQuery};
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::queue::moment;
use crate::state::Shared;

/// What is told when nobody says from when.
const MONTH_MS: u64 = 30 * 86_400_000;

/// Usage of a group.
#[derive(Serialize, ToSchema)]
pub(crate) struct UsageRow {
    /// The id of what it is grouped by; empty for what has none.
    id: String,
    /// Its name, while it is there.
    name: Option<String>,
    /// Bytes stored in the mean.
    mean_stored_bytes: u64,
    usage: Usage,
}

/// Usage of all groups that have any.
#[derive(Serialize, ToSchema)]
pub(crate) struct UsageReport {
    from_ms: u64,
    until_ms: u64,
    by: By,
    items: Vec<UsageRow>,
}

fn text<I: ToString>(id: Option<I>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

fn wanted(
    query: &UsageQuery,
    project: Option<ProjectId>,
    instance: Option<InstanceId>,
    policy: Option<PolicyId>,
    destination: Option<DestinationId>,
) -> bool {
    (query.project.is_none() || query.project == project)
        && (query.instance.is_none() || query.instance == instance)
        && (query.policy.is_none() || query.policy == policy)
        && (query.destination.is_none() || query.destination == destination)
}

type Clusters = BTreeMap<InstanceId, String>;

fn labels(
    clusters: &Clusters,
    (project, instance): (Option<ProjectId>, Option<InstanceId>),
    policy: Option<PolicyId>,
    destination: Option<DestinationId>,
) -> Labels {
    let cluster = instance.and_then(|id| clusters.get(&id));
    Labels {
        project: text(project).into(),
        instance: text(instance).into(),
        cluster: cluster.map(|name| name.as_str().into()),
        policy: policy.map(|id| id.to_string().into()),
        destination: destination.map(|id| id.to_string().into()),
    }
}

fn transfer(line: Transfer, clusters: &Clusters) -> Option<metering::Transfer> {
    let whose = (line.project, line.instance);
    Some(metering::Transfer {
        at: moment(line.at_ms),
        labels: labels(clusters, whose, line.policy, line.destination),
        kind: TaskKind::from_name(&line.kind)?,
        logical_bytes: line.logical_bytes,
        unique_bytes: line.unique_bytes,
        shared_bytes: line.shared_bytes,
        transferred_bytes: line.transferred_bytes,
    })
}

fn level(line: Level, clusters: &Clusters) -> metering::Level {
    let whose = (line.project, Some(line.instance));
    metering::Level {
        at: moment(line.at_ms),
        labels: labels(clusters, whose, line.policy, line.destination),
        stored_bytes: line.stored_bytes,
        front_end_bytes: line.front_end_bytes,
    }
}

async fn every<K: Kind>(tx: &mut Tx, visible: &Visible) -> Result<Vec<Record<K>>> {
    let mut all = Vec::new();
    let mut page = Page { after: None, limit: Page::LARGEST };
    loop {
        let part = tx.list::<K>(visible, &page).await?;
        let Some(last) = part.last() else { return Ok(all) };
        page.after = Some(last.id.to_string());
        all.extend(part);
    }
}

/// The names of what usage is grouped by.
async fn names(tx: &mut Tx, visible: &Visible, by: By) -> Result<BTreeMap<String, String>> {
    fn named<K: Kind>(records: Vec<Record<K>>) -> BTreeMap<String, String> {
        records.into_iter().map(|record| (record.id.to_string(), record.name)).collect()
    }
    Ok(match by {
        By::Project => named(every::<Project>(tx, visible).await?),
        By::Instance => named(every::<Instance>(tx, visible).await?),
        By::Policy => named(every::<Policy>(tx, visible).await?),
        By::Destination => named(every::<Destination>(tx, visible).await?),
        By::Cluster => BTreeMap::new(),
    })
}

/// Read who used how much
///
/// Bytes that were moved are added up; what is stored and protected is that at the end. Bytes that
/// are protected count once for an instance, under no policy and at no destination.
#[utoipa::path(get, path = "/api/v1/usage", tag = "report", operation_id = "usage",
    params(UsageQuery), responses(
    (status = 200, body = UsageReport), (status = "4XX", body = Problem)))]
pub(crate) async fn usage(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<UsageQuery>,
) -> Result<Json<UsageReport>> {
    actor.require_anywhere(Permission::Read)?;
    let until_ms = query.until_ms.unwrap_or(shared.now());
    let from_ms = query.from_ms.unwrap_or(until_ms.saturating_sub(MONTH_MS));
    if from_ms >= until_ms {
        return Err(Problem::invalid("a period ends after it begins: see from_ms and until_ms"));
    }
    let by = query.by.unwrap_or(By::Project);
    let visible = actor.visible();
    let mut tx = shared.catalog.read().await?;
    let mut clusters = Clusters::new();
    if by == By::Cluster {
        for instance in every::<Instance>(&mut tx, &visible).await? {
            clusters.extend(instance.body.cluster.map(|cluster| (instance.id, cluster)));
        }
    }
    let transfers = tx.transfers(&visible, from_ms, until_ms).await?.into_iter();
    let transfers: Vec<_> = transfers
        .filter(|line| wanted(&query, line.project, line.instance, line.policy, line.destination))
        .filter_map(|line| transfer(line, &clusters))
        .collect();
    let levels = tx.levels(&visible, from_ms, until_ms).await?.into_iter();
    let levels: Vec<_> = levels
        .filter(|line| {
            wanted(&query, line.project, Some(line.instance), line.policy, line.destination)
        })
        .map(|line| level(line, &clusters))
        .collect();
    let names = names(&mut tx, &visible, by).await?;
    let period = Period { from: moment(from_ms), until: moment(until_ms) };
    let ledger = Ledger { transfers: &transfers, levels: &levels };
    let items = ledger.usage(period, by, &Filter::default()).into_iter().map(|(id, usage)| {
        let name = names.get(&id).cloned();
        UsageRow { id, name, mean_stored_bytes: usage.mean_stored(period), usage }
    });
    Ok(Json(UsageReport { from_ms, until_ms, by, items: items.collect() }))
}

/// How well an instance is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protection {
    /// It has no backup at all.
    Never,
    /// Its last good backup is too old.
    Late,
    /// It has a recent good backup.
    Recent,
}

/// How well an instance is protected.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProtectionRow {
    instance: InstanceId,
    name: String,
    project: Option<ProjectId>,
    protection: Protection,
    /// What moment its last good backup holds, in milliseconds since 1970.
    last_good_ms: Option<u64>,
    /// The destinations that have backups of it.
    destinations: Vec<DestinationId>,
}

/// How well instances are protected.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProtectionReport {
    max_age: Span,
    /// How many instances were looked at: those whose sources are still there.
    total: usize,
    /// How many of them have no recent good backup.
    late: usize,
    /// The worst first.
    items: Vec<ProtectionRow>,
}

/// Read who has no recent good backup
#[utoipa::path(get, path = "/api/v1/reports/protection", tag = "report",
    operation_id = "protection-report", params(ProtectionQuery), responses(
    (status = 200, body = ProtectionReport), (status = "4XX", body = Problem)))]
pub(crate) async fn protection(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<ProtectionQuery>,
) -> Result<Json<ProtectionReport>> {
    actor.require_anywhere(Permission::Read)?;
    let max_age = query.max_age.unwrap_or(Span::hours(24));
    let since = shared.now().saturating_sub(max_age.as_seconds().saturating_mul(1000));
    let visible = actor.visible();
    let mut tx = shared.catalog.read().await?;
    let mut held: BTreeMap<InstanceId, (u64, Vec<DestinationId>)> = BTreeMap::new();
    for one in tx.held(&visible).await?.into_iter().filter(|held| held.last_good_ms > 0) {
        let found = held.entry(one.instance).or_default();
        found.0 = found.0.max(one.last_good_ms);
        found.1.push(one.destination);
    }
    let mut items = Vec::new();
    for instance in every::<Instance>(&mut tx, &visible).await? {
        let other = query.project.is_some() && query.project != instance.project;
        if other || !instance.body.present {
            continue;
        }
        let (last, destinations) = held.remove(&instance.id).unwrap_or_default();
        let protection = match last {
            0 => Protection::Never,
            last if last < since => Protection::Late,
            _ => Protection::Recent,
        };
        items.push(ProtectionRow {
            instance: instance.id,
            name: instance.name,
            project: instance.project,
            protection,
            last_good_ms: (last > 0).then_some(last),
            destinations,
        });
    }
    let (total, recent) = (items.len(), Protection::Recent);
    let late = items.iter().filter(|row| row.protection != recent).count();
    items.retain(|row| !query.late || row.protection != recent);
    items.sort_by_key(|row| (row.protection, row.last_good_ms));
    Ok(Json(ProtectionReport { max_age, total, late, items }))
}
