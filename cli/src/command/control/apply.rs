//! Configuration as a file.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use sluice_node_api::Client;

use super::difference::{Difference, without_defaults};
use super::plans::Named;
use super::{inventories, profile, providers, records, word};
use crate::args::{ApplyArgs, ConfigCommand};
use crate::context::Context;
use crate::error::{Exit, usage_error};
use crate::output;

/// What comes later refers to what comes earlier.
const ORDER: [&str; 8] = [
    "projects",
    "destinations",
    "node-configs",
    "instances",
    inventories::KIND,
    "policies",
    "plans",
    providers::KIND,
];

/// Makes the server's configuration what the file says.
pub(crate) async fn run(context: &Context, args: ApplyArgs) -> Result<Exit> {
    let file: Map<String, Value> = records::document(&args.file)?;
    if let Some(odd) = file.keys().find(|key| !ORDER.contains(&key.as_str())) {
        return Err(usage_error(format!("{odd}: a file has {}", ORDER.join(", "))));
    }
    // A list would be passed over in silence.
    if let Some((kind, _)) = file.iter().find(|(_, all)| !all.is_object() && !all.is_null()) {
        let text = format!("{kind}: a file has its records by their names, as `NAME: {{...}}`");
        return Err(usage_error(text));
    }
    let client = profile::client()?;
    let plan = args.plan || args.check;
    let mut changes = Vec::new();
    for kind in ORDER {
        let wanted = file.get(kind).and_then(Value::as_object);
        for (name, spec) in wanted.into_iter().flatten() {
            // `shop:` with nothing behind it is a record that says nothing.
            let spec = if spec.is_null() { json!({}) } else { spec.clone() };
            let change = records::set(&client, kind, name, spec, plan)
                .await
                .with_context(|| format!("{kind}: {name}"))?;
            changes.push((kind, name, change));
        }
    }
    let differs = changes.iter().any(|(.., change)| change.word != "unchanged");
    if context.global.json {
        let told = changes.iter().map(|(kind, name, change)| {
            let differences: Vec<_> = change.differences.iter().map(Difference::json).collect();
            json!({"kind": kind, "name": name, "change": change.word, "differences": differences})
        });
        let told: Vec<_> = told.collect();
        output::json(&json!({"plan": plan, "differs": differs, "changes": told}))?;
    } else {
        if changes.is_empty() {
            output::print("the file says nothing\n")?;
        }
        for (kind, name, change) in &changes {
            output::print(&format!("{} {kind} {name}\n", change.word))?;
            for difference in &change.differences {
                output::print(&format!("  {}\n", difference.text()))?;
            }
        }
    }
    Ok(if args.check && differs { Exit::Warnings } else { Exit::Done })
}

/// What is done with the configuration as a whole.
pub(crate) async fn config(context: &Context, command: ConfigCommand) -> Result<Exit> {
    let ConfigCommand::Export = command;
    let client = profile::client()?;
    let file = exported(&client).await?;
    if context.global.json {
        output::json(&file)?;
    } else {
        output::print(&serde_saphyr::to_string(&file)?)?;
    }
    Ok(Exit::Done)
}

/// The server's configuration as a file says it: by names, and without what is so anyway.
async fn exported(client: &Client) -> Result<Value> {
    let destinations = records::Records::load(client, "destinations").await?;
    let projects = records::Records::load(client, "projects").await?;
    let named = Named::load(client).await?;
    // Where an inventory is, they are found again.
    let found = inventories::all_found(client).await?;
    // Nodes are the system's affair, and what names them can be read without.
    let nodes = records::Records::load(client, "nodes").await.ok();
    let mut file = Map::new();
    for kind in ORDER {
        let all = match records::Records::load(client, kind).await {
            // They are the administrators' affair, and everything else is not.
            Err(error) if kind == providers::KIND && providers::not_ours(&error) => continue,
            all => all?,
        };
        let people = match kind {
            providers::KIND => Some(providers::Names::load(client).await?),
            _ => None,
        };
        let all_but_found = all
            .named()
            .filter(|(_, record)| kind != "instances" || !found.contains(&word(record, "id")));
        let of_kind = all_but_found.map(|(name, record)| {
            let mut spec = record["spec"].clone();
            for part in ["rules", "tests"] {
                let rules = spec.get_mut(part).and_then(Value::as_array_mut);
                for rule in rules.into_iter().flatten() {
                    for place in records::destinations_of(rule) {
                        *place = destinations.name_of(place).into();
                    }
                }
            }
            for place in records::PROJECTS {
                let own = spec.pointer_mut(place).and_then(Value::as_array_mut);
                for project in own.into_iter().flatten() {
                    *project = projects.name_of(project).into();
                }
            }
            if let Some(nodes) = &nodes {
                records::nodes_to_names(nodes, kind, &mut spec);
            }
            if kind == "plans" {
                named.to_names(&mut spec);
            }
            if let Some(people) = &people {
                people.to_names(&mut spec);
            }
            let named = spec.get_mut("destinations").and_then(Value::as_array_mut);
            for named in named.into_iter().flatten() {
                *named = destinations.name_of(named).into();
            }
            (name, without_defaults(&spec))
        });
        file.insert(kind.to_owned(), Value::Object(of_kind.collect()));
    }
    Ok(Value::Object(file))
}
