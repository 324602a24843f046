//! The control plane: server and nodes run here, and what a server is asked.

mod apply;
mod difference;
mod keep;
mod mounts;
mod node_configs;
mod nodes;
mod profile;
mod records;
mod serve;
mod shown;
mod tasks;
mod usage;

use anyhow::Result;
use serde_json::Value;
use sluice_node_api::Client;

use crate::args::{NodeCommand, NodeConfigCommand, RecordCommand, RemoteMountCommand, TaskCommand};
use crate::context::Context;
use crate::error::Exit;
use crate::output;

pub(crate) use apply::{config, run as apply};
pub(crate) use profile::login;
pub(crate) use serve::{server, up};
pub(crate) use usage::{quota, report, usage};

/// Does something with nodes.
pub(crate) async fn node(context: &Context, command: NodeCommand) -> Result<Exit> {
    match command {
        NodeCommand::Join { name, token_file, state } => {
            serve::join(context, &name, &token_file, state).await
        }
        NodeCommand::Run(args) => serve::run_node(context, args).await,
        NodeCommand::Show { name } => {
            output::json(&nodes::one(&profile::client()?, &name).await?)?;
            Ok(Exit::Done)
        }
        NodeCommand::Enable { name } => nodes::set_state(context, &name, "enabled").await,
        NodeCommand::Drain { name } => nodes::set_state(context, &name, "draining").await,
        NodeCommand::Disable { name } => nodes::set_state(context, &name, "disabled").await,
        NodeCommand::Remove { name } => nodes::remove(context, &name).await,
        NodeCommand::Token { node } => {
            let client = profile::client()?;
            let answer = match node {
                Some(name) => nodes::token_for(&client, &name).await?,
                None => client.post("/api/v1/node-tokens", &()).await?,
            };
            if context.global.json {
                output::json(&answer)?;
            } else {
                output::print(&format!("{}\n", word(&answer, "token")))?;
            }
            Ok(Exit::Done)
        }
        NodeCommand::List => {
            let nodes = all(&profile::client()?, "/api/v1/nodes").await?;
            let row = |node: &Value| {
                let host = word(&node["capabilities"], "host");
                vec![word(node, "name"), word(node, "state"), host, node["running"].to_string()]
            };
            show_list(context, &["NAME", "STATE", "HOST", ">RUNNING"], &nodes, row)
        }
    }
}

/// Does something with records of a kind.
pub(crate) async fn record(
    context: &Context,
    kind: &'static str,
    command: RecordCommand,
) -> Result<Exit> {
    records::run(context, kind, command).await
}

/// Does something with tasks.
pub(crate) async fn task(context: &Context, command: Option<TaskCommand>) -> Result<Exit> {
    tasks::run(context, command.unwrap_or(TaskCommand::List { state: None })).await
}

/// Does something with configurations of nodes.
pub(crate) async fn node_config(context: &Context, command: NodeConfigCommand) -> Result<Exit> {
    node_configs::run(context, command).await
}

/// Does something with mounts.
pub(crate) async fn remote_mount(context: &Context, command: RemoteMountCommand) -> Result<Exit> {
    mounts::run(context, command).await
}

/// All parts of a list.
async fn all(client: &Client, path: &str) -> Result<Vec<Value>> {
    let (mut items, mut after) = (Vec::new(), String::new());
    loop {
        let sign = if path.contains('?') { '&' } else { '?' };
        let from = if after.is_empty() { after.clone() } else { format!("&after={after}") };
        let part: Value = client.get(&format!("{path}{sign}limit=1000{from}")).await?;
        items.extend(part["items"].as_array().cloned().unwrap_or_default());
        match part["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => return Ok(items),
        }
    }
}

/// A list as a table, or as the document.
fn show_list(
    context: &Context,
    headings: &[&str],
    items: &[Value],
    row: impl Fn(&Value) -> Vec<String>,
) -> Result<Exit> {
    if context.global.json {
        output::json(&serde_json::json!({ "items": items }))?;
    } else {
        output::print(&output::table(headings, items.iter().map(row).collect()))?;
    }
    Ok(Exit::Done)
}

fn word(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}
