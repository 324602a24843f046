//! Which reports there are, and each of them as a table for people.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sluice_catalog::{
    Destination, Instance, Kind, Policy, Project, ProjectId, Record, Tx, Visible, Within,
};
use sluice_scheduler::metering::By;
use sluice_scheduler::time::Span;
use utoipa::ToSchema;

use super::table::{Cell, Format, Table};
use super::{csv, forecast, html, pdf, sla};
use crate::api::query::{ForecastQuery, ProtectionQuery, SlaQuery, UsageQuery};
use crate::api::usage::{self, Protection};
use crate::complaint::readable;
use crate::problem::{Problem, Result};
use crate::verifications::DoubtState;

/// The most rows of a document; of more, the first are told.
const MOST_ROWS: usize = 10_000;

/// A report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    /// Who has no recent good backup.
    Protection,
    /// What was due and did not run.
    Missed,
    /// Who used how much.
    Usage,
    /// Whether instances were protected as promised.
    Sla,
    /// What schedules are going to ask for.
    Forecast,
}

/// Which report, of what, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// Which one.
    pub(crate) report: Report,
    /// In which form.
    #[serde(default)]
    pub(crate) format: Format,
    /// Only of this project.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
    /// How long a time it covers: back from now, and for a forecast from now on. What is usual for
    /// the report when it is not said.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(crate) period: Option<Span>,
    /// What usage is grouped by; projects when it is not said.
    #[serde(default)]
    pub(crate) by: Option<By>,
    /// How old a backup may be: for protection, and for promises where policies say nothing.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(crate) max_age: Option<Span>,
}

impl Asked {
    fn period_ms(&self) -> Option<u64> {
        self.period.map(|period| period.as_seconds().saturating_mul(1000))
    }
}

/// A report that is looked up, and not yet written.
pub(crate) struct Draft {
    table: Table,
    /// The name of its file.
    file: String,
    format: Format,
}

impl Draft {
    /// Writes it. Ten thousand rows take a while, and others want to be served.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) async fn write(self) -> Result<Document> {
        let Self { table, file, format } = self;
        let title = table.title.clone();
        let made = move || match format {
            Format::Csv => Ok(csv::write(&table)),
            Format::Html => Ok(html::write(&table)),
            Format::Pdf => pdf::write(&table),
        };
        let bytes = tokio::task::spawn_blocking(made).await;
        let bytes = bytes.map_err(|error| broken(error.to_string()))?.map_err(broken)?;
        Ok(Document { title, file, media_type: format.media_type(), bytes })
    }
}

/// A report as people get it.
pub(crate) struct Document {
    pub(crate) title: String,
    /// The name of its file.
    pub(crate) file: String,
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// Looks up what a report tells, of what the caller may know of.
///
/// # Errors
/// When what is asked makes no sense, and those of the database.
pub(crate) async fn look_up(
    tx: &mut Tx,
    visible: &Visible,
    asked: &Asked,
    now: u64,
) -> Result<Draft> {
    let mut table = table(tx, visible, asked, now).await?;
    if let Some(id) = asked.project {
        let project = tx.get::<Project>(id, visible).await?;
        table.about.insert(0, format!("Project {}", project.name));
    }
    table.about.push(format!("Made {}", Cell::Time(Some(now)).shown()));
    if table.rows.len() > MOST_ROWS {
        table.about.push(format!("The first {MOST_ROWS} of {} rows", table.rows.len()));
        table.rows.truncate(MOST_ROWS);
    }
    let word = serde_json::to_value(asked.report).ok();
    let word = word.as_ref().and_then(|word| word.as_str()).unwrap_or("report").to_owned();
    let day = crate::queue::moment(now).strftime("%F").to_string();
    let file = format!("sluice-{word}-{day}.{}", asked.format.extension());
    Ok(Draft { table, file, format: asked.format })
}

fn broken(detail: String) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
}

async fn table(tx: &mut Tx, visible: &Visible, asked: &Asked, now: u64) -> Result<Table> {
    match asked.report {
        Report::Protection => protection(tx, visible, asked, now).await,
        Report::Missed => missed(tx, visible, asked, now).await,
        Report::Usage => used(tx, visible, asked, now).await,
        Report::Sla => promises(tx, visible, asked, now).await,
        Report::Forecast => to_come(tx, visible, asked, now).await,
    }
}

/// `PROJECT/NAME` by id, of one kind.
struct Names(BTreeMap<String, String>);

impl Names {
    async fn of<K: Kind>(tx: &mut Tx, visible: &Visible) -> Result<Self> {
        let name = |record: Record<K>| {
            let name = match record.project_name {
                Some(project) => format!("{project}/{}", record.name),
                None => record.name,
            };
            (record.id.to_string(), name)
        };
        Ok(Self(readable::<K>(tx, visible).await?.into_iter().map(name).collect()))
    }

    fn cell(&self, id: impl ToString) -> Cell {
        Cell::Text(self.text(id))
    }

    fn text(&self, id: impl ToString) -> String {
        let id = id.to_string();
        self.0.get(&id).cloned().unwrap_or(id)
    }

    fn list<I: ToString>(&self, ids: impl IntoIterator<Item = I>) -> Cell {
        let names: BTreeSet<String> = ids.into_iter().map(|id| self.text(id)).collect();
        Cell::Text(names.into_iter().collect::<Vec<_>>().join(" "))
    }
}

async fn protection(tx: &mut Tx, visible: &Visible, asked: &Asked, now: u64) -> Result<Table> {
    let query = ProtectionQuery { max_age: asked.max_age, project: asked.project, late: false };
    let report = usage::protection_report(tx, visible, &query, now).await?;
    let names = Names::of::<Instance>(tx, visible).await?;
    let destinations = Names::of::<Destination>(tx, visible).await?;
    let row = |row: &usage::ProtectionRow| {
        let word = match row.protection {
            Protection::Never => "never",
            Protection::Late => "late",
            Protection::Recent => "recent",
        };
        vec![
            names.cell(row.instance),
            Cell::Text(word.into()),
            Cell::Time(row.last_good_ms),
            destinations.list(&row.destinations),
            Cell::Text(
                row.copies_overdue
                    .iter()
                    .map(|one| one.copy.as_str())
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
            Cell::Text(doubted(row, &destinations)),
            Cell::Count(row.damaged()),
            Cell::Text(row.newest.map_or("", in_doubt).into()),
        ]
    };
    let age = Cell::Span(Some(report.max_age.as_seconds().saturating_mul(1000))).shown();
    Ok(Table {
        title: "Protection".into(),
        about: vec![format!(
            "{} of {} instances have no good backup of the last {age}; {} lack a copy; {} have a \
             damaged restore point, {} as their newest",
            report.late, report.total, report.copies_overdue, report.damaged, report.newest_damaged
        )],
        columns: vec![
            "Instance",
            "Protection",
            "Last good",
            "Destinations",
            "Copies overdue",
            "Proof",
            "Damaged",
            "Newest",
        ],
        rows: report.items.iter().map(row).collect(),
    })
}

/// What is wrong with a restore point, or missing.
fn in_doubt(state: DoubtState) -> &'static str {
    match state {
        DoubtState::Damaged => "damaged",
        DoubtState::Unproven => "unproven",
    }
}

/// What is wrong with restore points of an instance, or missing: the worst of it, and where.
fn doubted(row: &usage::ProtectionRow, destinations: &Names) -> String {
    let worst = row.doubts.iter().map(|doubt| doubt.state).min();
    let Some(word) = worst.map(in_doubt) else { return String::new() };
    let there = row.doubts.iter().filter(|doubt| Some(doubt.state) == worst);
    let there: BTreeSet<String> = there.map(|one| destinations.text(one.destination)).collect();
    format!("{word} at {}", there.into_iter().collect::<Vec<_>>().join(" "))
}

async fn missed(tx: &mut Tx, visible: &Visible, asked: &Asked, now: u64) -> Result<Table> {
    let since = now.saturating_sub(asked.period_ms().unwrap_or(7 * 86_400_000));
    let mut all = tx.missed(visible, since).await?;
    all.retain(|one| asked.project.is_none() || one.project == asked.project);
    let instances = Names::of::<Instance>(tx, visible).await?;
    let policies = Names::of::<Policy>(tx, visible).await?;
    let row = |one: &sluice_catalog::Missed| {
        let instance = one.instance.map_or_else(|| "all".to_owned(), |id| instances.text(id));
        vec![
            Cell::Time(Some(one.last_ms)),
            Cell::Text(one.reason.clone()),
            Cell::Count(one.times),
            policies.cell(one.policy),
            Cell::Text(one.schedule.clone()),
            Cell::Text(instance),
        ]
    };
    Ok(Table {
        title: "Missed runs".into(),
        about: vec![format!("Since {}", Cell::Time(Some(since)).shown())],
        columns: vec!["Last", "Reason", "Times", "Policy", "Schedule", "Instance"],
        rows: all.iter().map(row).collect(),
    })
}

fn window(from_ms: u64, until_ms: u64) -> String {
    let time = |ms| Cell::Time(Some(ms)).shown();
    format!("From {} until {}", time(from_ms), time(until_ms))
}

async fn used(tx: &mut Tx, visible: &Visible, asked: &Asked, now: u64) -> Result<Table> {
    let from_ms = asked.period_ms().map(|period| now.saturating_sub(period));
    let query = UsageQuery {
        from_ms,
        until_ms: None,
        by: asked.by,
        project: asked.project,
        instance: None,
        policy: None,
        destination: None,
        without_destination: None,
    };
    let report = usage::usage_report(tx, visible, &query, now).await?;
    let row = |row: &usage::UsageRow| {
        let usage = &row.usage;
        let tasks = |kind| usage.tasks.get(&kind).copied().unwrap_or(0);
        vec![
            Cell::Text(row.name.clone().unwrap_or_else(|| row.id.clone())),
            Cell::Count(tasks(sluice_scheduler::work::TaskKind::Backup)),
            Cell::Count(tasks(sluice_scheduler::work::TaskKind::Restore)),
            Cell::Bytes(usage.logical_bytes),
            Cell::Bytes(usage.unique_bytes),
            Cell::Bytes(usage.transferred_bytes),
            Cell::Bytes(usage.stored_bytes),
            Cell::Bytes(row.mean_stored_bytes),
            Cell::Bytes(usage.front_end_bytes),
        ]
    };
    Ok(Table {
        title: "Usage".into(),
        about: vec![window(report.from_ms, report.until_ms)],
        columns: vec![
            "Name",
            "Backups",
            "Restores",
            "Logical",
            "New",
            "Sent",
            "Stored",
            "Stored in the mean",
            "Protected",
        ],
        rows: report.items.iter().map(row).collect(),
    })
}

async fn promises(tx: &mut Tx, visible: &Visible, asked: &Asked, now: u64) -> Result<Table> {
    let query = SlaQuery {
        from_ms: asked.period_ms().map(|period| now.saturating_sub(period)),
        until_ms: None,
        rpo: asked.max_age,
        project: asked.project,
    };
    let (within, rpo) = query.asked(now)?;
    let report = sla::report(tx, visible, &within, rpo).await?;
    let names = Names::of::<Instance>(tx, visible).await?;
    let policies = Names::of::<Policy>(tx, visible).await?;
    let row = |row: &sla::SlaRow| {
        let count = |state| row.backups.get(state).copied().unwrap_or(0);
        let test = row.test.as_ref();
        vec![
            names.cell(row.instance),
            Cell::Text(if row.met { "met" } else { "not met" }.into()),
            Cell::Percent(row.coverage.percent),
            Cell::Span(Some(row.rpo_seconds.saturating_mul(1000))),
            Cell::Span(Some(row.coverage.worst_ms)),
            Cell::Span(row.rto_seconds.map(|seconds| seconds.saturating_mul(1000))),
            Cell::Text(test.map(|test| test.state.word().to_owned()).unwrap_or_default()),
            Cell::Span(test.and_then(|test| test.answer_ms)),
            Cell::Count(count("succeeded") + count("warnings")),
            Cell::Count(count("failed")),
            Cell::Count(row.missed),
            Cell::Count(row.damaged),
            Cell::Text(row.newest.map_or("", in_doubt).into()),
            policies.list(&row.policies),
        ]
    };
    Ok(Table {
        title: "Service levels".into(),
        about: vec![
            window(report.from_ms, report.until_ms),
            format!("{} of {} instances were protected as promised", report.met, report.total),
        ],
        columns: vec![
            "Instance",
            "Promise",
            "Within RPO",
            "RPO",
            "Oldest",
            "RTO",
            "Test",
            "Answered after",
            "Backups",
            "Failed",
            "Missed",
            "Damaged",
            "Newest",
            "Policies",
        ],
        rows: report.items.iter().map(row).collect(),
    })
}

async fn to_come(tx: &mut Tx, visible: &Visible, asked: &Asked, now: u64) -> Result<Table> {
    let until_ms = asked.period_ms().map(|period| now.saturating_add(period));
    let query = ForecastQuery { from_ms: None, until_ms, slot: None, project: asked.project };
    let (within, slot_ms): (Within, u64) = query.asked(now)?;
    let report = forecast::report(tx, visible, &within, (slot_ms, now)).await?;
    let row = |slot: &forecast::SlotLoad| {
        vec![
            Cell::Time(Some(slot.at_ms)),
            Cell::Count(slot.load.backups),
            Cell::Count(slot.load.unknown),
            Cell::Bytes(slot.load.logical_bytes),
            Cell::Bytes(slot.load.transferred_bytes),
            Cell::Span(Some(slot.load.ran_ms)),
            Cell::Number(slot.side_by_side),
        ]
    };
    // What is due last is told too: the busiest slot is what people look for.
    let busiest = report.slots.iter().max_by_key(|slot| slot.load.ran_ms);
    let busiest = busiest.filter(|slot| slot.load.backups > 0);
    let mut about = vec![window(report.from_ms, report.until_ms)];
    about.extend(busiest.map(|slot| {
        let at = Cell::Time(Some(slot.at_ms)).shown();
        format!("Busiest at {at}: {:.1} tasks side by side", slot.side_by_side)
    }));
    Ok(Table {
        title: "Forecast".into(),
        about,
        columns: vec!["From", "Backups", "Unknown", "Logical", "Sent", "Running", "Side by side"],
        rows: report.slots.iter().map(row).collect(),
    })
}
