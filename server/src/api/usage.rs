//! Who used how much, and who is not protected.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use sluice_catalog::{
    Destination, DestinationId, Instance, InstanceId, Kind, Policy, Project, ProjectId, Record, Tx,
    UsageBy, UsageFilter, Visible,
};
use sluice_scheduler::metering::{By, Period, Total, Usage};
use sluice_scheduler::time::Span;
use sluice_scheduler::work::TaskKind;
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::Query;
use crate::api::query::{ProtectionQuery, UsageQuery};
use crate::auth::Actor;
use crate::complaint::readable;
use crate::copies::{self, Overdue};
use crate::problem::{Problem, Result};
use crate::queue::moment;
use crate::state::Shared;
use crate::verifications::{self, Doubt, DoubtState};

/// What is told when nobody says from when.
const MONTH_MS: u64 = 30 * 86_400_000;

/// Usage of a group.
#[derive(Serialize, ToSchema)]
pub(crate) struct UsageRow {
    /// The id of what it is grouped by; empty for what has none.
    pub(crate) id: String,
    /// Its name, while it is there.
    pub(crate) name: Option<String>,
    /// Bytes stored in the mean.
    pub(crate) mean_stored_bytes: u64,
    pub(crate) usage: Usage,
}

/// Usage of all groups that have any.
#[derive(Serialize, ToSchema)]
pub(crate) struct UsageReport {
    pub(crate) from_ms: u64,
    pub(crate) until_ms: u64,
    by: By,
    pub(crate) items: Vec<UsageRow>,
}

/// The names of what usage is grouped by.
async fn names(tx: &mut Tx, visible: &Visible, by: By) -> Result<BTreeMap<String, String>> {
    fn named<K: Kind>(records: Vec<Record<K>>) -> BTreeMap<String, String> {
        records.into_iter().map(|record| (record.id.to_string(), record.name)).collect()
    }
    Ok(match by {
        By::Project => {
            let mut names = named(readable::<Project>(tx, visible).await?);
            // What is used of a project counts also for who sees single instances of it only.
            if visible.has_single() {
                for one in readable::<Instance>(tx, visible).await? {
                    names.extend(one.project.map(|id| id.to_string()).zip(one.project_name));
                }
            }
            names
        }
        By::Instance => named(readable::<Instance>(tx, visible).await?),
        By::Policy => named(readable::<Policy>(tx, visible).await?),
        By::Destination => named(readable::<Destination>(tx, visible).await?),
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
    let mut tx = shared.catalog.read().await?;
    usage_report(&mut tx, &actor.visible(), &query, shared.now()).await.map(Json)
}

/// Who used how much, of what the caller may know of.
///
/// # Errors
/// When what is asked makes no sense, and those of the database.
pub(crate) async fn usage_report(
    tx: &mut Tx,
    visible: &Visible,
    query: &UsageQuery,
    now: u64,
) -> Result<UsageReport> {
    let until_ms = query.until_ms.unwrap_or(now);
    let from_ms = query.from_ms.unwrap_or(until_ms.saturating_sub(MONTH_MS));
    if from_ms >= until_ms {
        return Err(Problem::invalid("a period ends after it begins: see from_ms and until_ms"));
    }
    let by = query.by.unwrap_or(By::Project);
    let filter = UsageFilter {
        from_ms,
        until_ms,
        project: query.project,
        instance: query.instance,
        policy: query.policy,
        destination: query.destination,
        without_destination: query.without_destination,
    };
    let groups = used(tx, visible, by, &filter).await?;
    let names = names(tx, visible, by).await?;
    let period = Period { from: moment(from_ms), until: moment(until_ms) };
    let items = groups.into_iter().map(|(id, usage)| {
        let name = names.get(&id).cloned();
        UsageRow { id, name, mean_stored_bytes: usage.mean_stored(period), usage }
    });
    Ok(UsageReport { from_ms, until_ms, by, items: items.collect() })
}

/// Usage of each group that has any. The database adds up; what it cannot tell is the cluster.
async fn used(
    tx: &mut Tx,
    visible: &Visible,
    by: By,
    filter: &UsageFilter,
) -> Result<BTreeMap<String, Usage>> {
    let group = match by {
        By::Project => UsageBy::Project,
        By::Policy => UsageBy::Policy,
        By::Destination => UsageBy::Destination,
        By::Instance | By::Cluster => UsageBy::Instance,
    };
    let mut clusters = BTreeMap::new();
    if by == By::Cluster {
        for instance in readable::<Instance>(tx, visible).await? {
            clusters.extend(instance.body.cluster.map(|name| (instance.id.to_string(), name)));
        }
    }
    let name = |group: String| match by {
        By::Cluster => clusters.get(&group).cloned().unwrap_or_default(),
        _ => group,
    };
    let mut groups: BTreeMap<String, Usage> = BTreeMap::new();
    for moved in tx.moved(visible, group, filter).await? {
        // Kinds that another release knows are no usage here.
        let Some(kind) = TaskKind::from_name(&moved.kind) else { continue };
        groups.entry(name(moved.group)).or_default().add(&Total {
            kind,
            tasks: moved.tasks,
            logical_bytes: moved.logical_bytes,
            unique_bytes: moved.unique_bytes,
            shared_bytes: moved.shared_bytes,
            transferred_bytes: moved.transferred_bytes,
        });
    }
    for stored in tx.stored(visible, group, filter).await? {
        let usage = groups.entry(name(stored.group)).or_default();
        usage.stored_byte_seconds += stored.byte_seconds;
        usage.stored_bytes = usage.stored_bytes.saturating_add(stored.stored_bytes);
        usage.front_end_bytes = usage.front_end_bytes.saturating_add(stored.front_end_bytes);
    }
    Ok(groups)
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
    pub(crate) instance: InstanceId,
    name: String,
    project: Option<ProjectId>,
    pub(crate) protection: Protection,
    /// What moment its last good backup holds, in milliseconds since 1970.
    pub(crate) last_good_ms: Option<u64>,
    /// The destinations that have backups of it.
    pub(crate) destinations: Vec<DestinationId>,
    /// Copies that policies want and that were not made in time.
    pub(crate) copies_overdue: Vec<Overdue>,
    /// What moment its newest restore point holds whose backup was full, in milliseconds since
    /// 1970.
    last_full_ms: Option<u64>,
    /// Restore points that are damaged, and the newest where a rule wants it verified and that was
    /// not done yet.
    pub(crate) doubts: Vec<Doubt>,
    /// What is wrong with its newest restore point, of which one copy is enough.
    pub(crate) newest: Option<DoubtState>,
}

impl ProtectionRow {
    /// Whether one of its restore points is so.
    pub(crate) fn is_doubted(&self, state: DoubtState) -> bool {
        self.doubts.iter().any(|doubt| doubt.state == state)
    }

    /// How many of its restore points are damaged.
    pub(crate) fn damaged(&self) -> u64 {
        self.doubts.iter().filter(|doubt| doubt.state == DoubtState::Damaged).count() as u64
    }
}

/// How well instances are protected.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProtectionReport {
    pub(crate) max_age: Span,
    /// How many instances were looked at: those whose sources are still there.
    pub(crate) total: usize,
    /// How many of them have no recent good backup.
    pub(crate) late: usize,
    /// How many of them lack a copy that is overdue.
    pub(crate) copies_overdue: usize,
    /// How many of them have a damaged restore point.
    pub(crate) damaged: usize,
    /// How many of them have a newest restore point that is damaged.
    pub(crate) newest_damaged: usize,
    /// How many of them have a newest restore point that is to be verified and was not yet.
    pub(crate) unproven: usize,
    /// The worst first.
    pub(crate) items: Vec<ProtectionRow>,
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
    let mut tx = shared.catalog.read().await?;
    protection_report(&mut tx, &actor.visible(), &query, shared.now()).await.map(Json)
}

/// Who has no recent good backup, of those that the caller may know of.
///
/// # Errors
/// Those of the database.
pub(crate) async fn protection_report(
    tx: &mut Tx,
    visible: &Visible,
    query: &ProtectionQuery,
    now: u64,
) -> Result<ProtectionReport> {
    let max_age = query.max_age.unwrap_or(Span::hours(24));
    let since = now.saturating_sub(max_age.as_seconds().saturating_mul(1000));
    let mut held: BTreeMap<InstanceId, (u64, Vec<DestinationId>)> = BTreeMap::new();
    for one in tx.held(visible).await?.into_iter().filter(|held| held.last_good_ms > 0) {
        let found = held.entry(one.instance).or_default();
        found.0 = found.0.max(one.last_good_ms);
        found.1.push(one.destination);
    }
    let mut overdue = copies::overdue(tx, now).await?;
    let mut doubts = verifications::doubts(tx, visible, query.project).await?;
    let mut newest = verifications::newest(tx, &doubts).await?;
    let mut full = tx.last_full(visible, query.project).await?;
    let mut items = Vec::new();
    for instance in readable::<Instance>(tx, visible).await? {
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
            copies_overdue: overdue.remove(&instance.id).unwrap_or_default(),
            last_full_ms: full.remove(&instance.id),
            doubts: doubts.remove(&instance.id).unwrap_or_default(),
            newest: newest.remove(&instance.id),
        });
    }
    let (total, recent) = (items.len(), Protection::Recent);
    let late = items.iter().filter(|row| row.protection != recent).count();
    let copies_overdue = items.iter().filter(|row| !row.copies_overdue.is_empty()).count();
    let doubted = |state| items.iter().filter(|row| row.is_doubted(state)).count();
    let (damaged, unproven) = (doubted(DoubtState::Damaged), doubted(DoubtState::Unproven));
    let lost = |row: &&ProtectionRow| row.newest == Some(DoubtState::Damaged);
    let newest_damaged = items.iter().filter(lost).count();
    let is_fine = |row: &ProtectionRow| {
        row.protection == recent && row.copies_overdue.is_empty() && row.doubts.is_empty()
    };
    items.retain(|row| !query.late || !is_fine(row));
    items.sort_by_key(|row| {
        let sound = !row.is_doubted(DoubtState::Damaged);
        let newest = row.newest != Some(DoubtState::Damaged);
        (row.protection, newest, sound, row.copies_overdue.is_empty(), row.last_good_ms)
    });
    Ok(ProtectionReport {
        max_age,
        total,
        late,
        copies_overdue,
        damaged,
        newest_damaged,
        unproven,
        items,
    })
}
