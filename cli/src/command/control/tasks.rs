//! Tasks of a server.

use std::collections::BTreeMap;

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};

use super::approvals::waits;
use super::filter::Filter;
use super::records::Records;
use super::{all, mounts, profile, show_list, word};
use crate::args::{TargetFormat, TaskCommand};
use crate::context::Context;
use crate::error::{Exit, usage_error};
use crate::output::{self, bytes, note};

/// Does it.
pub(crate) async fn run(context: &Context, command: TaskCommand) -> Result<Exit> {
    let client = profile::client()?;
    match command {
        TaskCommand::List(args) => {
            let filter = Filter::new(&client).tasks(&args).await?;
            let tasks = all(&client, &filter.path("/api/v1/tasks")).await?;
            let headings = ["ID", "KIND", "STATE", ">DONE", ">RATE", "MESSAGE"];
            return show_list(context, &headings, &tasks, row);
        }
        TaskCommand::Show { id } => {
            output::json(&client.get::<Value>(&format!("/api/v1/tasks/{id}")).await?)?;
        }
        TaskCommand::Log { id } => {
            let lines = all(&client, &format!("/api/v1/tasks/{id}/log")).await?;
            if context.global.json {
                output::json(&json!({ "items": lines }))?;
            } else {
                for line in &lines {
                    output::print(&format!("{}\n", word(line, "line")))?;
                }
            }
        }
        TaskCommand::Cancel { id } => {
            let path = format!("/api/v1/tasks/{id}/cancel");
            let answer = client.send(Method::POST, &path, None, &[]).await?;
            told(context, &answer.body)?;
        }
        TaskCommand::Backup { instance, to, no_hooks, full, from_snapshot, snapshot } => {
            let instances = Records::load(&client, "instances").await?;
            let destinations = Records::load(&client, "destinations").await?;
            let mut start = json!({
                "kind": "backup",
                "instance": instances.one(&instance)?["id"],
                "destination": destinations.one(&to)?["id"],
            });
            if full {
                start["type"] = Value::from("full");
            }
            if no_hooks {
                start["no_hooks"] = Value::from(true);
            }
            if let Some(fresh) = from_snapshot {
                start["from_snapshot"] = Value::from(fresh);
            }
            if let Some(id) = snapshot {
                start["snapshot"] = Value::from(id);
            }
            told(context, &client.post("/api/v1/tasks", &start).await?)?;
        }
        TaskCommand::Restore { point, target, node, from } => {
            let nodes = Records::load(&client, "nodes").await?;
            let start = json!({
                "kind": "restore",
                "point": mounts::point(&client, &point, from.as_deref()).await?,
                "node": nodes.one(&node)?["id"],
                "target": target,
            });
            told(context, &client.post("/api/v1/tasks", &start).await?)?;
        }
        TaskCommand::Import { point, name, node, format, tags } => {
            let nodes = Records::load(&client, "nodes").await?;
            let (project, name) = name
                .split_once('/')
                .ok_or_else(|| usage_error("a new instance is called PROJECT/NAME"))?;
            let format = match format {
                TargetFormat::Raw => "raw",
                TargetFormat::Qcow2 => "qcow2",
            };
            let start = json!({
                "kind": "import",
                "point": mounts::point(&client, &point, None).await?,
                "node": nodes.one(&node)?["id"],
                "project": nodes.project(project)?["id"],
                "name": name,
                "format": format,
                "tags": tags,
            });
            told(context, &client.post("/api/v1/tasks", &start).await?)?;
        }
        TaskCommand::Prune(args) => {
            let destinations = Records::load(&client, "destinations").await?;
            let keep = &args.periods;
            let periods = [
                ("last", keep.keep_last),
                ("hourly", keep.keep_hourly),
                ("daily", keep.keep_daily),
                ("weekly", keep.keep_weekly),
                ("monthly", keep.keep_monthly),
                ("yearly", keep.keep_yearly),
            ];
            let keep: BTreeMap<&str, u32> =
                periods.into_iter().filter_map(|(name, many)| Some((name, many?))).collect();
            let destination = &destinations.one(&args.destination)?["id"];
            let start = json!({"kind": "prune", "destination": destination, "keep": keep});
            let answer = client.send(Method::POST, "/api/v1/tasks", Some(&start), &[]).await?;
            match waits(&answer) {
                Some(id) => {
                    note(format_args!("a second person decides: sluice approval approve {id}"));
                }
                None => told(context, &answer.body)?,
            }
        }
        TaskCommand::Copy { instance, from, to } => {
            let instances = Records::load(&client, "instances").await?;
            let destinations = Records::load(&client, "destinations").await?;
            let start = json!({
                "kind": "copy",
                "instance": instances.one(&instance)?["id"],
                "destination": destinations.one(&from)?["id"],
                "to": destinations.one(&to)?["id"],
            });
            told(context, &client.post("/api/v1/tasks", &start).await?)?;
        }
    }
    Ok(Exit::Done)
}

fn told(context: &Context, task: &Value) -> Result<()> {
    if context.global.json {
        return output::json(task);
    }
    output::print(&format!("{}\n", word(task, "id")))
}

fn row(task: &Value) -> Vec<String> {
    let progress = &task["progress"];
    let number = |name: &str| progress[name].as_u64().unwrap_or(0);
    let done = match number("total") {
        0 => String::new(),
        total => format!("{} %", number("done").saturating_mul(100) / total),
    };
    let rate = match number("rate") {
        0 => String::new(),
        rate => format!("{}/s", bytes(rate)),
    };
    let kind = match task["type"] == "full" {
        true => format!("{} (full)", word(task, "kind")),
        false => word(task, "kind"),
    };
    vec![word(task, "id"), kind, word(task, "state"), done, rate, word(task, "message")]
}
