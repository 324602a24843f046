//! Quotas and usage of a server.

use std::path::Path;

use anyhow::{Context as _, Result};
use http::Method;
use serde_json::Value;
use sluice_node_api::Client;

use super::filter::Filter;
use super::records::{self, Records};
use super::{profile, show_list, word};
use crate::args::{GroupBy, QuotaCommand, UsageArgs};
use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, bytes, fields};

/// Shows or sets a quota.
pub(crate) async fn quota(context: &Context, command: QuotaCommand) -> Result<Exit> {
    let client = profile::client()?;
    let view = match command {
        QuotaCommand::Show { project } => client.get(&path_of(&client, &project).await?).await?,
        QuotaCommand::Set { project, spec } => {
            let limits = limits(&spec)?;
            let path = path_of(&client, &project).await?;
            client.send(Method::PUT, &path, Some(&limits), &[]).await?.body
        }
    };
    if context.global.json {
        output::json(&view)?;
    } else {
        output::print(&shown(&view))?;
    }
    Ok(Exit::Done)
}

async fn path_of(client: &Client, project: &str) -> Result<String> {
    let projects = Records::load(client, "projects").await?;
    Ok(format!("/api/v1/projects/{}/quota", word(projects.one(project)?, "id")))
}

fn limits(spec: &Path) -> Result<Value> {
    let text = records::read(spec)?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", spec.display()))
}

fn shown(view: &Value) -> String {
    let used = &view["used"];
    let mut rows = vec![
        ("protected", bytes(used["front_end_bytes"].as_u64().unwrap_or(0))),
        ("stored", bytes(used["stored_bytes"].as_u64().unwrap_or(0))),
    ];
    for kind in ["backups", "restores"] {
        if let Some(count) = used[kind].as_u64() {
            rows.push((kind, count.to_string()));
        }
    }
    for (name, scope) in [("limits", "project"), ("limits of each instance", "instance")] {
        let caps = &view["quota"][scope];
        if caps.as_object().is_some_and(|caps| !caps.is_empty()) {
            rows.push((name, caps.to_string()));
        }
    }
    fields(rows)
}

/// Shows who used how much.
pub(crate) async fn usage(context: &Context, args: UsageArgs) -> Result<Exit> {
    let client = profile::client()?;
    let by = by_word(args.by);
    let filter = Filter::new(&client).word("by", Some(by));
    let filter = filter.word("from_ms", args.from).word("until_ms", args.until);
    let filter = filter.whose_by_policy(&args.whose).await?;
    let without = args.without_destination.as_ref();
    let filter = filter.one("without_destination", "destinations", without).await?;
    let report: Value = client.get(&filter.path("/api/v1/usage")).await?;
    if args.csv && !context.global.json {
        output::print(&usage_csv(&report))?;
    } else if context.global.json {
        output::json(&report)?;
    } else {
        let headings =
            ["NAME", ">BACKUPS", ">RESTORES", ">LOGICAL", ">NEW", ">SENT", ">STORED", ">PROTECTED"];
        return show_list(context, &headings, items(&report), |row| {
            let usage = &row["usage"];
            let size = |name: &str| bytes(usage[name].as_u64().unwrap_or(0));
            let tasks = |kind: &str| usage["tasks"][kind].as_u64().unwrap_or(0).to_string();
            vec![
                label(row),
                tasks("backup"),
                tasks("restore"),
                size("logical_bytes"),
                size("unique_bytes"),
                size("transferred_bytes"),
                size("stored_bytes"),
                size("front_end_bytes"),
            ]
        });
    }
    Ok(Exit::Done)
}

/// The server's word for it.
pub(super) fn by_word(by: GroupBy) -> &'static str {
    match by {
        GroupBy::Project => "project",
        GroupBy::Instance => "instance",
        GroupBy::Cluster => "cluster",
        GroupBy::Policy => "policy",
        GroupBy::Destination => "destination",
    }
}

pub(super) fn items(report: &Value) -> &[Value] {
    report["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The name of a group; its id when it is gone.
fn label(row: &Value) -> String {
    let name = row["name"].as_str().or_else(|| row["id"].as_str()).unwrap_or_default();
    if name.is_empty() { "(none)".to_owned() } else { name.to_owned() }
}

const NUMBERS: [&str; 6] = [
    "logical_bytes",
    "unique_bytes",
    "shared_bytes",
    "transferred_bytes",
    "stored_bytes",
    "front_end_bytes",
];

fn usage_csv(report: &Value) -> String {
    let mut text = format!("id,name,backups,restores,{},mean_stored_bytes\n", NUMBERS.join(","));
    for row in items(report) {
        let usage = &row["usage"];
        let number = |value: &Value| value.as_u64().unwrap_or(0).to_string();
        let mut line = vec![word(row, "id"), word(row, "name")];
        line.extend(["backup", "restore"].map(|kind| number(&usage["tasks"][kind])));
        line.extend(NUMBERS.map(|name| number(&usage[name])));
        line.push(number(&row["mean_stored_bytes"]));
        text.push_str(&csv_line(&line));
    }
    text
}

/// A line of comma-separated values. What a spreadsheet would take for a formula is text.
pub(super) fn csv_line(values: &[String]) -> String {
    let quoted = values.iter().map(|value| {
        let formula = value.starts_with(['=', '+', '-', '@']);
        let value = if formula { format!("'{value}") } else { value.clone() };
        if value.contains(['"', ',', '\n', '\r']) {
            format!("\"{}\"", value.replace('"', "\"\""))
        } else {
            value
        }
    });
    quoted.collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn csv_keeps_what_names_say() {
        let values = ["plain", "a,b", "say \"no\"", "=1+1"].map(str::to_owned);
        assert_eq!(csv_line(&values), "plain,\"a,b\",\"say \"\"no\"\"\",'=1+1\n");
        let row = json!({"id": "7", "name": "shop", "mean_stored_bytes": 5,
            "usage": {"tasks": {"backup": 2}, "logical_bytes": 9, "stored_bytes": 4}});
        let text = usage_csv(&json!({"items": [row]}));
        let (head, line) = text.trim_end().split_once('\n').unwrap();
        assert_eq!(head.split(',').count(), line.split(',').count());
        assert_eq!(line, "7,shop,2,0,9,0,0,0,4,0,5");
        assert_eq!(label(&json!({"id": "", "name": null})), "(none)");
    }
}
