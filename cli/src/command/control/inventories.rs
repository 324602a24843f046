//! Inventories of a server, and instances by what they are.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::filter::Filter;
use super::records::{self, Records, document, set};
use super::{all, moment, profile, show_list, until, word};
use crate::args::{
    InstanceCommand, InstanceListArgs, InventoryCommand, InventoryRunArgs, RecordFilter,
};
use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, bytes, note, warn};

/// The records.
pub(super) const KIND: &str = "inventories";

/// Does something with inventories.
pub(crate) async fn run(context: &Context, command: InventoryCommand) -> Result<Exit> {
    match command {
        InventoryCommand::List => {
            let inventories = Records::load(&profile::client()?, KIND).await?;
            let items: Vec<Value> = inventories.named().map(named).collect();
            let row = |one: &Value| {
                let look = &one["spec"]["look"];
                vec![word(one, "full_name"), word(look, "kind"), word(look, "folder")]
            };
            show_list(context, &["NAME", "KIND", "FOLDER"], &items, row)
        }
        InventoryCommand::Show { name } => records::show(KIND, &name).await,
        InventoryCommand::Set { name, spec } => {
            let client = profile::client()?;
            let change = set(&client, KIND, &name, document(&spec)?, false).await?.word;
            if context.global.json {
                output::json(&json!({"name": name, "change": change}))?;
            } else if !context.global.quiet {
                note(format_args!("{name}: {change}"));
            }
            Ok(Exit::Done)
        }
        InventoryCommand::Remove { name } => records::remove(context, KIND, &name).await,
        InventoryCommand::Run(args) => start(context, args).await,
        InventoryCommand::Found { name } => {
            let client = profile::client()?;
            let items = found(&client, &id_of(&client, &name).await?).await?;
            let row = |one: &Value| {
                let gone = match moment(context, &one["gone_ms"]) {
                    gone if gone.is_empty() && one["present"] == false => "gone".to_owned(),
                    gone => gone,
                };
                let size = bytes(one["size_bytes"].as_u64().unwrap_or(0));
                vec![word(one, "name"), word(one, "format"), size, gone, word(one, "place")]
            };
            show_list(context, &["NAME", "FORMAT", ">SIZE", "GONE", "PLACE"], &items, row)
        }
    }
}

/// A record with the name by which people know it.
fn named((name, record): (String, &Value)) -> Value {
    let mut record = record.clone();
    record["full_name"] = name.into();
    record
}

async fn id_of(client: &Client, name: &str) -> Result<String> {
    Ok(word(Records::load(client, KIND).await?.one(name)?, "id"))
}

async fn found(client: &Client, id: &str) -> Result<Vec<Value>> {
    all(client, &format!("/api/v1/{KIND}/{id}/found")).await
}

/// The ids of all instances that any inventory has found.
pub(super) async fn all_found(client: &Client) -> Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    for inventory in all(client, &format!("/api/v1/{KIND}")).await? {
        let items = found(client, &word(&inventory, "id")).await?;
        ids.extend(items.iter().map(|one| word(one, "instance")));
    }
    Ok(ids)
}

async fn start(context: &Context, args: InventoryRunArgs) -> Result<Exit> {
    let client = profile::client()?;
    let id = id_of(&client, &args.name).await?;
    let body = json!({"dry_run": args.dry_run, "accept_gone": args.accept_gone});
    let mut task: Value = client.post(&format!("/api/v1/{KIND}/{id}/runs"), &body).await?;
    let id = word(&task, "id");
    let open = |task: &Value| ["queued", "running"].contains(&word(task, "state").as_str());
    if !args.no_wait && open(&task) {
        task = until(&client, &format!("/api/v1/tasks/{id}"), |task| !open(task)).await?;
    }
    if context.global.json {
        output::json(&task)?;
    } else {
        tell(context, &client, &task).await?;
    }
    Ok(match word(&task, "state").as_str() {
        "failed" | "cancelled" => Exit::Failed,
        "warnings" => Exit::Warnings,
        _ => Exit::Done,
    })
}

/// What came of it, for people.
async fn tell(context: &Context, client: &Client, task: &Value) -> Result<()> {
    let result = &task["result"];
    for one in result["added"].as_array().into_iter().flatten() {
        let policies: Vec<&str> =
            one["policies"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let taken = match policies.is_empty() {
            true => String::new(),
            false => format!(" (policies: {})", policies.join(", ")),
        };
        output::print(&format!("+ {} {}{taken}\n", word(one, "name"), word(one, "place")))?;
    }
    for (list, sign) in [("gone", "-"), ("back", "^"), ("changed", "~"), ("held", "?")] {
        for name in result[list].as_array().into_iter().flatten().filter_map(Value::as_str) {
            output::print(&format!("{sign} {name}\n"))?;
        }
    }
    if !context.global.quiet {
        let path = format!("/api/v1/tasks/{}/log", word(task, "id"));
        for line in all(client, &path).await? {
            // What the node says of itself is told by what the server makes of it.
            if word(&line, "level") != "error" {
                note(word(&line, "line"));
            }
        }
    }
    match word(task, "state").as_str() {
        "failed" | "cancelled" => warn(word(task, "message")),
        "queued" | "running" => output::print(&format!("{}\n", word(task, "id")))?,
        _ if context.global.quiet => {}
        _ => note(word(task, "message")),
    }
    Ok(())
}

/// Does something with instances.
pub(crate) async fn instance(context: &Context, command: InstanceCommand) -> Result<Exit> {
    const KIND: &str = "instances";
    match command {
        InstanceCommand::List(args) => list(context, args).await,
        InstanceCommand::Show { name } => records::show(KIND, &name).await,
        InstanceCommand::Set(args) => records::save(context, KIND, &args).await,
        InstanceCommand::Remove { name } => records::remove(context, KIND, &name).await,
    }
}

async fn list(context: &Context, args: InstanceListArgs) -> Result<Exit> {
    let client = profile::client()?;
    let of = match &args.inventory {
        Some(name) => {
            let items = found(&client, &id_of(&client, name).await?).await?;
            Some(items.iter().map(|one| word(one, "instance")).collect::<BTreeSet<_>>())
        }
        None => None,
    };
    let filter = RecordFilter {
        name: args.name,
        project: args.project,
        node: args.node,
        cluster: args.cluster,
        policy: args.policy,
        source: args.source,
        paused: args.paused,
        present: (args.present || args.absent).then_some(args.present),
        ..RecordFilter::default()
    };
    let filter = Filter::new(&client).records(&filter).await?;
    let instances = Records::sought(&client, "instances", &filter).await?;
    let wanted = |one: &Value| {
        let tags = &one["spec"]["tags"];
        let tagged = |word: &String| {
            tags.as_array().is_some_and(|tags| tags.iter().any(|tag| *tag == **word))
        };
        (args.tag.is_empty() || args.tag.iter().any(tagged))
            && of.as_ref().is_none_or(|ids| ids.contains(&word(one, "id")))
    };
    let chosen: Vec<(String, &Value)> =
        instances.named().filter(|(_, record)| wanted(record)).collect();
    if context.global.json {
        let items: Vec<&Value> = chosen.iter().map(|(_, record)| *record).collect();
        output::json(&json!({ "items": items }))?;
        return Ok(Exit::Done);
    }
    let row = |(name, one): &(String, &Value)| {
        let spec = &one["spec"];
        let state = match (spec["present"] == false, spec["paused"] == true) {
            (true, _) => "absent",
            (false, true) => "paused",
            (false, false) => "",
        };
        vec![name.clone(), word(one, "id"), one["revision"].to_string(), state.to_owned()]
    };
    let rows = chosen.iter().map(row).collect();
    output::print(&output::table(&["NAME", "ID", ">REVISION", "STATE"], rows))?;
    Ok(Exit::Done)
}
