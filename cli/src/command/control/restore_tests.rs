//! Restore tests of a server.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::filter::Filter;
use super::records::{Records, document};
use super::{all, mounts, profile, show_list, until, word};
use crate::args::{RestoreTestCommand, RestoreTestRunArgs};
use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, local, note, seconds, warn};

/// Lines of the console that people are shown.
const LINES: usize = 20;

/// Does it.
pub(crate) async fn run(context: &Context, command: RestoreTestCommand) -> Result<Exit> {
    let client = profile::client()?;
    match command {
        RestoreTestCommand::Run(args) => start(context, &client, args).await,
        RestoreTestCommand::List(args) => {
            let instances = Records::load(&client, "instances").await?;
            let filter = Filter::new(&client).knowing(&instances).tests(&args).await?;
            let tests = all(&client, &filter.path("/api/v1/restore-tests")).await?;
            let headings = ["ID", "INSTANCE", "STATE", "ANSWERED", "WHEN", "WHY"];
            show_list(context, &headings, &tests, |test| {
                let when = local(test["created_ms"].as_u64().unwrap_or(0), &context.zone);
                let instance = instances.name_of(&test["instance"]);
                let (id, state) = (word(test, "id"), word(test, "state"));
                vec![id, instance, state, answered(test), when, word(test, "message")]
            })
        }
        RestoreTestCommand::Show { id, screenshot } => {
            show(context, &client, &id, screenshot.as_deref()).await
        }
    }
}

fn path(id: &str) -> String {
    format!("/api/v1/restore-tests/{id}")
}

/// How long it took until the guest answered.
fn answered(test: &Value) -> String {
    let after = test["report"]["timings"]["answer_ms"].as_u64();
    after.map_or_else(|| "-".to_owned(), |ms| seconds(Duration::from_millis(ms)))
}

async fn start(context: &Context, client: &Client, args: RestoreTestRunArgs) -> Result<Exit> {
    let mut body = json!({"point": mounts::point(client, &args.point, None).await?});
    if let Some(file) = &args.spec {
        body["boot"] = document(file)?;
    }
    if let Some(name) = &args.node {
        body["node"] = Records::load(client, "nodes").await?.one(name)?["id"].clone();
    }
    let mut test: Value = client.post("/api/v1/restore-tests", &body).await?;
    let id = word(&test, "id");
    if !args.no_wait {
        test = until(client, &path(&id), |test| word(test, "state") != "pending").await?;
    }
    if context.global.json {
        output::json(&test)?;
    } else {
        output::print(&format!("{id}\n"))?;
        if !context.global.quiet {
            tell(&test);
        }
    }
    Ok(exit(&test))
}

/// A test that says no is no failure of the command, and no success.
fn exit(test: &Value) -> Exit {
    match word(test, "state").as_str() {
        "ok" | "pending" => Exit::Done,
        "failed" => Exit::Warnings,
        _ => Exit::Failed,
    }
}

fn tell(test: &Value) {
    match word(test, "state").as_str() {
        "ok" => note(format_args!("ok: it answered after {}", answered(test))),
        "pending" => note("it is pending"),
        state => warn(format_args!("{state}: {}", word(test, "message"))),
    }
}

async fn show(
    context: &Context,
    client: &Client,
    id: &str,
    screenshot: Option<&Path>,
) -> Result<Exit> {
    let mut test: Value = client.get(&path(id)).await?;
    let console = client.fetch(&format!("{}/console", path(id))).await?;
    let console = String::from_utf8_lossy(&console).into_owned();
    if let Some(file) = screenshot {
        let image = client.fetch(&format!("{}/screenshot", path(id))).await?;
        std::fs::write(file, image).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if context.global.json {
        test["console"] = console.into();
        output::json(&test)?;
        return Ok(Exit::Done);
    }
    tell(&test);
    let report = &test["report"];
    for (what, name) in
        [("disks exported", "export_ms"), ("guest started", "start_ms"), ("answered", "answer_ms")]
    {
        if let Some(ms) = report["timings"][name].as_u64() {
            note(format_args!("  {what} after {}", seconds(Duration::from_millis(ms))));
        }
    }
    let lines: Vec<&str> = console.lines().collect();
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        output::print(&format!("{line}\n"))?;
    }
    Ok(Exit::Done)
}
