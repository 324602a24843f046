//! Reports of a server.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::records::Records;
use super::usage::{by_word, csv_line, items};
use super::{profile, show_list, word};
use crate::args::ReportCommand;
use crate::context::Context;
use crate::error::{Exit, usage_error};
use crate::output::{self, bytes, note, seconds};

/// Shows a report.
pub(crate) async fn report(context: &Context, command: ReportCommand) -> Result<Exit> {
    let client = profile::client()?;
    match command {
        ReportCommand::Protection { max_age, late, csv } => {
            let age = max_age.as_secs();
            let path = format!("/api/v1/reports/protection?max_age={age}s&late={late}");
            let report: Value = client.get(&path).await?;
            if context.global.json {
                output::json(&report)?;
                return Ok(Exit::Done);
            }
            let instances = Records::load(&client, "instances").await?;
            let destinations = Records::load(&client, "destinations").await?;
            let rows = items(&report).iter().map(|row| {
                let last = row["last_good_ms"].as_u64();
                let last = last.map(sluice_repository::rfc3339).unwrap_or_default();
                let overdue = row["copies_overdue"].as_array().into_iter().flatten();
                let overdue: Vec<_> = overdue.map(|copy| word(copy, "copy")).collect();
                let name = instances.name_of(&row["instance"]);
                let (proof, places) = worst(row, &destinations);
                let doubts = row["doubts"].as_array().into_iter().flatten();
                let damaged = doubts.filter(|doubt| doubt["state"] == "damaged").count();
                let (damaged, newest) = (damaged.to_string(), word(row, "newest"));
                let overdue = overdue.join(" ");
                vec![name, word(row, "protection"), last, overdue, proof, places, damaged, newest]
            });
            let rows: Vec<_> = rows.collect();
            if csv {
                let lines: String = rows.iter().map(|row| csv_line(row)).collect();
                output::print(&format!(
                    "instance,protection,last_good,copies_overdue,proof,proof_at,damaged,newest\n\
                     {lines}"
                ))?;
            } else {
                output::print(&output::table(
                    &[
                        "INSTANCE",
                        "PROTECTION",
                        "LAST GOOD",
                        "COPIES OVERDUE",
                        "PROOF",
                        "AT",
                        ">DAMAGED",
                        "NEWEST",
                    ],
                    rows,
                ))?;
            }
            Ok(Exit::Done)
        }
        ReportCommand::Missed => {
            let report: Value = client.get("/api/v1/reports/missed").await?;
            let policies = Records::load(&client, "policies").await?;
            let instances = Records::load(&client, "instances").await?;
            let row = |row: &Value| {
                let time = |name: &str| sluice_repository::rfc3339(row[name].as_u64().unwrap_or(0));
                let instance = match row["instance"].is_null() {
                    true => "all".to_owned(),
                    false => instances.name_of(&row["instance"]),
                };
                vec![
                    time("last_ms"),
                    word(row, "reason"),
                    row["times"].to_string(),
                    policies.name_of(&row["policy"]),
                    word(row, "schedule"),
                    instance,
                ]
            };
            let headings = ["LAST", "REASON", ">TIMES", "POLICY", "SCHEDULE", "INSTANCE"];
            show_list(context, &headings, items(&report), row)
        }
        ReportCommand::Sla { from, until, rpo, project } => {
            let mut query = vec![format!("rpo={}s", rpo.as_secs())];
            query.extend(from.map(|at| format!("from_ms={at}")));
            query.extend(until.map(|at| format!("until_ms={at}")));
            query.extend(of_project(&client, project.as_deref()).await?);
            sla(context, &client, &query.join("&")).await
        }
        ReportCommand::Forecast { period, slot, project, by_schedule } => {
            let now = client.get::<Value>("/api/v1/dashboard").await?["now_ms"].as_u64();
            let until = now.unwrap_or(0).saturating_add(milliseconds(period));
            let mut query = vec![format!("until_ms={until}&slot={}s", slot.as_secs())];
            query.extend(of_project(&client, project.as_deref()).await?);
            forecast(context, &client, &query.join("&"), by_schedule).await
        }
        ReportCommand::Save { report, file, period, by, max_age, project } => {
            let format = match file.extension().and_then(|end| end.to_str()) {
                Some(end @ ("html" | "pdf" | "csv")) => end,
                _ => {
                    let text = format!("{}: a report is .html, .pdf or .csv", file.display());
                    return Err(usage_error(text));
                }
            };
            let mut query = vec![format!("format={format}")];
            query.extend(period.map(|period| format!("period={}s", period.as_secs())));
            query.extend(max_age.map(|age| format!("max_age={}s", age.as_secs())));
            query.extend(by.map(|by| format!("by={}", by_word(by))));
            query.extend(of_project(&client, project.as_deref()).await?);
            let word = report.to_possible_value().map(|value| value.get_name().to_owned());
            let word = word.unwrap_or_default();
            let path = format!("/api/v1/reports/{word}/document?{}", query.join("&"));
            let made = client.fetch(&path).await?;
            std::fs::write(&file, &made)
                .with_context(|| format!("cannot write {}", file.display()))?;
            if context.global.json {
                output::json(&json!({"file": file.display().to_string(), "bytes": made.len()}))?;
            } else if !context.global.quiet {
                note(format_args!("{}: {}", file.display(), bytes(made.len() as u64)));
            }
            Ok(Exit::Done)
        }
    }
}

/// The worst that is known of restore points of an instance, and at which destinations.
fn worst(row: &Value, destinations: &Records) -> (String, String) {
    let doubts = row["doubts"].as_array().into_iter().flatten();
    let all: BTreeSet<(String, String)> =
        doubts.map(|one| (word(one, "state"), destinations.name_of(&one["destination"]))).collect();
    let worst = all.first().map(|(state, _)| state.clone()).unwrap_or_default();
    let places = all.into_iter().filter(|(state, _)| *state == worst).map(|(_, at)| at);
    let places = places.collect::<Vec<_>>().join(" ");
    (worst, places)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The project of a report, as a part of the question.
async fn of_project(client: &Client, name: Option<&str>) -> Result<Option<String>> {
    let Some(name) = name else { return Ok(None) };
    let projects = Records::load(client, "projects").await?;
    Ok(Some(format!("project={}", word(projects.one(name)?, "id"))))
}

async fn sla(context: &Context, client: &Client, query: &str) -> Result<Exit> {
    let report: Value = client.get(&format!("/api/v1/reports/sla?{query}")).await?;
    if context.global.json {
        output::json(&report)?;
        return Ok(Exit::Done);
    }
    let instances = Records::load(client, "instances").await?;
    let span = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), output::span);
    let row = |row: &Value| {
        let count = |name: &str| row["backups"][name].as_u64().unwrap_or(0);
        let promised = |name: &str| row[name].as_u64().map(|seconds| seconds.saturating_mul(1000));
        let percent = row["coverage"]["percent"].as_f64().unwrap_or(0.0);
        vec![
            instances.name_of(&row["instance"]),
            if row["met"] == true { "met" } else { "NOT MET" }.to_owned(),
            // What is not whole must not look so.
            format!("{:.2} %", if percent < 100.0 { percent.min(99.99) } else { percent }),
            span(promised("rpo_seconds")),
            span(row["coverage"]["worst_ms"].as_u64()),
            span(promised("rto_seconds")),
            span(row["test"]["answer_ms"].as_u64()),
            (count("succeeded") + count("warnings")).to_string(),
            count("failed").to_string(),
            row["missed"].to_string(),
            row["damaged"].as_u64().unwrap_or(0).to_string(),
            word(row, "newest"),
        ]
    };
    let headings = [
        "INSTANCE",
        "PROMISE",
        ">WITHIN RPO",
        ">RPO",
        ">OLDEST",
        ">RTO",
        ">ANSWERED",
        ">BACKUPS",
        ">FAILED",
        ">MISSED",
        ">DAMAGED",
        "NEWEST",
    ];
    show_list(context, &headings, items(&report), row)?;
    if !context.global.quiet {
        let (met, total) = (&report["met"], &report["total"]);
        note(format_args!("{met} of {total} instances were protected as promised"));
    }
    Ok(Exit::Done)
}

async fn forecast(
    context: &Context,
    client: &Client,
    query: &str,
    by_schedule: bool,
) -> Result<Exit> {
    let report: Value = client.get(&format!("/api/v1/reports/forecast?{query}")).await?;
    if context.global.json {
        output::json(&report)?;
        return Ok(Exit::Done);
    }
    let load = |load: &Value| {
        let size = |name: &str| bytes(load[name].as_u64().unwrap_or(0));
        let ran = Duration::from_millis(load["ran_ms"].as_u64().unwrap_or(0));
        vec![
            load["backups"].to_string(),
            load["unknown"].to_string(),
            size("logical_bytes"),
            size("transferred_bytes"),
            seconds(ran),
        ]
    };
    let time = |ms: &Value| output::local(ms.as_u64().unwrap_or(0), &context.zone);
    if by_schedule {
        let policies = Records::load(client, "policies").await?;
        let rows = report["schedules"].as_array().cloned().unwrap_or_default();
        let row = |row: &Value| {
            let policy = policies.name_of(&row["policy"]);
            let head = vec![
                time(&row["next_ms"]),
                policy,
                word(row, "schedule"),
                row["times"].to_string(),
            ];
            [head, load(&row["each"])].concat()
        };
        let headings = [
            "NEXT", "POLICY", "SCHEDULE", ">TIMES", ">BACKUPS", ">UNKNOWN", ">LOGICAL", ">SENT",
            ">RUNNING",
        ];
        return show_list(context, &headings, &rows, row);
    }
    let rows = report["slots"].as_array().cloned().unwrap_or_default();
    let row = |row: &Value| {
        let side = format!("{:.1}", row["side_by_side"].as_f64().unwrap_or(0.0));
        [vec![time(&row["at_ms"])], load(row), vec![side]].concat()
    };
    let headings =
        ["FROM", ">BACKUPS", ">UNKNOWN", ">LOGICAL", ">SENT", ">RUNNING", ">SIDE BY SIDE"];
    show_list(context, &headings, &rows, row)
}
