//! Recovery plans of a server, and their runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::filter::Filter;
use super::records::{Records, document, set};
use super::{all, profile, show_list, word};
use crate::args::{PlanCommand, PlanRunArgs};
use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, local, note, seconds, warn};

/// How often a run that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Does it.
pub(crate) async fn run(context: &Context, command: PlanCommand) -> Result<Exit> {
    let client = profile::client()?;
    match command {
        PlanCommand::List { name, project } => {
            let filter = Filter::new(&client).word("name", name);
            let filter = filter.one("project", "projects", project.as_ref()).await?;
            let plans = Records::sought(&client, "plans", &filter).await?;
            let named: Vec<_> = plans.named().collect();
            let items: Vec<Value> = named.iter().map(|(_, plan)| (*plan).clone()).collect();
            let names: BTreeMap<String, String> =
                named.iter().map(|(name, plan)| (word(plan, "id"), name.clone())).collect();
            let row = |plan: &Value| {
                let groups = plan["spec"]["groups"].as_array().map_or(0, Vec::len);
                let id = word(plan, "id");
                vec![names[&id].clone(), groups.to_string(), id]
            };
            show_list(context, &["NAME", ">GROUPS", "ID"], &items, row)
        }
        PlanCommand::Show { name } => {
            output::json(Records::load(&client, "plans").await?.one(&name)?)?;
            Ok(Exit::Done)
        }
        PlanCommand::Set { name, spec } => {
            let change = set(&client, "plans", &name, document(&spec)?, false).await?.word;
            changed(context, &name, change)
        }
        PlanCommand::Remove { name } => {
            let plans = Records::load(&client, "plans").await?;
            let path = format!("/api/v1/plans/{}", word(plans.one(&name)?, "id"));
            client.send(Method::DELETE, &path, None, &[]).await?;
            changed(context, &name, "removed")
        }
        PlanCommand::Run(args) => start(context, &client, args).await,
        PlanCommand::Runs { id: Some(id), .. } => {
            let run: Value = client.get(&path(&id)).await?;
            show(context, &run)?;
            Ok(Exit::Done)
        }
        PlanCommand::Runs { id: None, plan, state, project, mode, time } => {
            let filter = Filter::new(&client).word("state", state).word("mode", mode).time(&time);
            let filter = filter.one("plan", "plans", plan.as_ref()).await?;
            let filter = filter.one("project", "projects", project.as_ref()).await?;
            let runs = all(&client, &filter.path("/api/v1/plan-runs")).await?;
            let headings = ["ID", "PLAN", "MODE", "STATE", "STEPS", "BEGUN", "TOOK", "WHY"];
            show_list(context, &headings, &runs, |run| row(context, run))
        }
        PlanCommand::Cancel { id } => {
            let cancelled = format!("{}/cancel", path(&id));
            let run = client.send(Method::POST, &cancelled, None, &[]).await?.body;
            if context.global.json {
                output::json(&run)?;
            } else if !context.global.quiet {
                note("it ends once what it has started has ended");
            }
            Ok(Exit::Done)
        }
    }
}

fn path(id: &str) -> String {
    format!("/api/v1/plan-runs/{id}")
}

fn changed(context: &Context, name: &str, change: &str) -> Result<Exit> {
    if context.global.json {
        output::json(&json!({"name": name, "change": change}))?;
    } else if !context.global.quiet {
        note(format_args!("{name}: {change}"));
    }
    Ok(Exit::Done)
}

async fn start(context: &Context, client: &Client, args: PlanRunArgs) -> Result<Exit> {
    let plans = Records::load(client, "plans").await?;
    let plan = word(plans.one(&args.name)?, "id");
    let mode = if args.test { "test" } else { "run" };
    let parameters: BTreeMap<String, String> = args.parameter.into_iter().collect();
    let body = json!({"mode": mode, "parameters": parameters});
    let mut run: Value = client.post(&format!("/api/v1/plans/{plan}/runs"), &body).await?;
    let id = word(&run, "id");
    let mut told = BTreeSet::new();
    while !args.no_wait && word(&run, "state") == "running" {
        tokio::time::sleep(LOOK).await;
        run = client.get(&path(&id)).await?;
        if !context.global.json && !context.global.quiet {
            tell_new(&run, &mut told);
        }
    }
    if context.global.json {
        output::json(&run)?;
    } else {
        output::print(&format!("{id}\n"))?;
        let message = word(&run, "message");
        match word(&run, "state").as_str() {
            "failed" | "warnings" => warn(message),
            state if !context.global.quiet => note(state),
            _ => {}
        }
    }
    Ok(match word(&run, "state").as_str() {
        "running" | "succeeded" => Exit::Done,
        "warnings" => Exit::Warnings,
        _ => Exit::Failed,
    })
}

/// Tells of steps that have changed.
fn tell_new(run: &Value, told: &mut BTreeSet<String>) {
    for step in run["steps"].as_array().into_iter().flatten() {
        let state = word(step, "state");
        let group = usize::try_from(step["group"].as_u64().unwrap_or(0)).unwrap_or(0);
        let group = run["groups"][group].as_str().unwrap_or_default();
        let line = format!("{group}: {}: {state} {}", word(step, "name"), word(step, "message"));
        if state != "waiting" && told.insert(format!("{}{}{line}", step["phase"], step["index"])) {
            note(line.trim_end());
        }
    }
}

fn took(from: &Value, until: &Value) -> String {
    let (Some(from), Some(until)) = (from.as_u64(), until.as_u64()) else { return "-".into() };
    seconds(Duration::from_millis(until.saturating_sub(from)))
}

fn row(context: &Context, run: &Value) -> Vec<String> {
    let steps = run["steps"].as_array();
    let done = steps.into_iter().flatten().filter(|step| step["state"] == "done").count();
    vec![
        word(run, "id"),
        word(run, "plan_name"),
        word(run, "mode"),
        word(run, "state"),
        format!("{done}/{}", steps.map_or(0, Vec::len)),
        local(run["created_ms"].as_u64().unwrap_or(0), &context.zone),
        took(&run["created_ms"], &run["finished_ms"]),
        word(run, "message"),
    ]
}

fn show(context: &Context, run: &Value) -> Result<()> {
    if context.global.json {
        return output::json(run);
    }
    let steps = run["steps"].as_array().cloned().unwrap_or_default();
    let rows = steps.iter().map(|step| {
        let group = usize::try_from(step["group"].as_u64().unwrap_or(0)).unwrap_or(0);
        vec![
            run["groups"][group].as_str().unwrap_or_default().to_owned(),
            word(step, "phase"),
            word(step, "name"),
            word(step, "state"),
            took(&step["started_ms"], &step["finished_ms"]),
            word(step, "point"),
            word(step, "message"),
        ]
    });
    let headings = ["GROUP", "PHASE", "STEP", "STATE", "TOOK", "POINT", "WHY"];
    output::print(&output::table(&headings, rows.collect()))?;
    note(format_args!("{} {}: {}", word(run, "plan_name"), word(run, "mode"), word(run, "state")));
    Ok(())
}

/// Everything in a plan that names another record: which kind of record, and where it stands.
fn references<'v>(spec: &'v mut Value, change: &mut dyn FnMut(&'static str, &'v mut Value)) {
    let groups = spec.get_mut("groups").and_then(Value::as_array_mut);
    for group in groups.into_iter().flatten().filter_map(Value::as_object_mut) {
        for (part, inside) in group {
            if part == "network" {
                if let Some(node) = inside.get_mut("node") {
                    change("nodes", node);
                }
                continue;
            }
            for one in inside.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut)
            {
                for (name, value) in one {
                    match (part.as_str(), name.as_str()) {
                        ("items", "instance") => change("instances", value),
                        ("items", "destination") => change("destinations", value),
                        ("items", "target") => {
                            if let Some(node) = value.get_mut("node") {
                                change("nodes", node);
                            }
                        }
                        ("before" | "after", "node") => change("nodes", value),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// All records that plans name.
pub(super) struct Named(BTreeMap<&'static str, Records>);

impl Named {
    pub(super) async fn load(client: &Client) -> Result<Self> {
        let mut all = BTreeMap::new();
        for kind in ["instances", "destinations", "nodes"] {
            // Who may see no nodes writes their ids.
            match Records::load(client, kind).await {
                Ok(records) => drop(all.insert(kind, records)),
                Err(_) if kind == "nodes" => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self(all))
    }

    /// Names become ids. Instances may be named without the project, which is the plan's.
    pub(super) fn to_ids(&self, plan: &str, spec: &mut Value, lenient: bool) -> Result<()> {
        let project = plan.split_once('/').map(|(project, _)| project);
        let mut failed = Ok(());
        references(spec, &mut |kind, value| {
            let (Some(name), Some(records)) = (value.as_str(), self.0.get(kind)) else { return };
            let mut found = records.one(name);
            if let (Err(_), Some(project), "instances") = (&found, project, kind) {
                found = records.one(&format!("{project}/{name}")).or(found);
            }
            match found {
                Ok(record) => *value = record["id"].clone(),
                Err(_) if lenient => {}
                Err(error) => failed = Err(error),
            }
        });
        failed
    }

    /// Ids become names.
    pub(super) fn to_names(&self, spec: &mut Value) {
        references(spec, &mut |kind, value| {
            if let Some(records) = self.0.get(kind) {
                *value = records.name_of(value).into();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_in_a_plan_is_found() {
        let mut spec = json!({"groups": [{
            "name": "node",
            "network": {"node": "n"},
            "before": [{"name": "node", "node": "n", "command": ["node"]}],
            "items": [
                {"instance": "i", "destination": "d", "target": {"kind": "file", "node": "n"}},
                {"instance": "i", "target": {"kind": "boot-test"}},
            ],
            "after": [{"name": "instance", "node": "n", "command": ["instance"]}],
        }]});
        let mut found = Vec::new();
        references(&mut spec, &mut |kind, value| found.push((kind, value.clone())));
        found.sort_by_key(|(kind, _)| *kind);
        let wanted = [
            ("destinations", "d"),
            ("instances", "i"),
            ("instances", "i"),
            ("nodes", "n"),
            ("nodes", "n"),
            ("nodes", "n"),
            ("nodes", "n"),
        ];
        assert_eq!(found, wanted.map(|(kind, name)| (kind, Value::from(name))));
    }
}
