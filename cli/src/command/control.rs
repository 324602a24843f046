//! The control plane: server and nodes run here, and what a server is asked.

mod apply;
mod approvals;
mod browser;
mod bundle;
mod difference;
mod filter;
mod groups;
mod inventories;
mod keep;
mod mounts;
mod node_configs;
mod nodes;
mod notify;
mod operate;
mod passkeys;
mod plans;
mod points;
mod policies;
mod profile;
mod providers;
mod records;
mod reports;
mod restore_tests;
mod roles;
mod serve;
mod shown;
mod snapshots;
mod survey;
mod tasks;
mod upgrade;
mod usage;
mod users;

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use sluice_node_api::Client;

use crate::args::{
    IdentityProviderCommand, Listing, NodeCommand, NodeConfigCommand, PlanCommand, RecordCommand,
    RemoteMountCommand, RestoreTestCommand, TaskCommand, TaskListArgs,
};
use crate::context::Context;
use crate::error::Exit;
use crate::output;

pub(crate) use apply::{config, run as apply};
pub(crate) use approvals::{access, run as approval};
pub(crate) use bundle::run as support_bundle;
pub(crate) use groups::run as group;
pub(crate) use inventories::{instance, run as inventory};
pub(crate) use notify::run as notify;
pub(crate) use operate::{catalog, restore, self_backup};
pub(crate) use points::run as point;
pub(crate) use policies::run as policy;
pub(crate) use profile::login;
pub(crate) use records::document;
pub(crate) use reports::report;
pub(crate) use serve::{server, up};
pub(crate) use snapshots::run as snapshot;
pub(crate) use usage::{quota, usage};
pub(crate) use users::run as user;

/// How often what is waited for is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Does something with nodes.
pub(crate) async fn node(context: &Context, command: NodeCommand) -> Result<Exit> {
    match command {
        NodeCommand::Join { name, token_file, state } => {
            serve::join(context, &name, &token_file, state).await
        }
        NodeCommand::Run(args) => serve::run_node(context, args).await,
        NodeCommand::Upgrade(args) => upgrade::run(context, args).await,
        NodeCommand::For { instance } => nodes::for_instance(context, &instance).await,
        NodeCommand::Check { mounts } => survey::check(context, mounts).await,
        NodeCommand::Version => survey::version(context),
        NodeCommand::Show { name } => nodes::show(context, &name).await,
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
        NodeCommand::List(args) => {
            let client = profile::client()?;
            let path = filter::Filter::new(&client).nodes(&args).path("/api/v1/nodes");
            let nodes = all(&client, &path).await?;
            let row = |node: &Value| {
                let told = &node["capabilities"];
                let (host, version) = (word(told, "host"), word(told, "version"));
                let running = node["running"].to_string();
                vec![word(node, "name"), nodes::state(node), host, version, running]
            };
            show_list(context, &["NAME", "STATE", "HOST", "VERSION", ">RUNNING"], &nodes, row)
        }
    }
}

/// Does something with records of a kind.
pub(crate) async fn record<L: Listing>(
    context: &Context,
    kind: &'static str,
    command: RecordCommand<L>,
) -> Result<Exit> {
    records::run(context, kind, command).await
}

/// Does something with tasks.
pub(crate) async fn task(context: &Context, command: Option<TaskCommand>) -> Result<Exit> {
    tasks::run(context, command.unwrap_or(TaskCommand::List(TaskListArgs::default()))).await
}

/// Does something with configurations of nodes.
pub(crate) async fn node_config(context: &Context, command: NodeConfigCommand) -> Result<Exit> {
    node_configs::run(context, command).await
}

/// Does something with identity providers.
pub(crate) async fn identity_provider(
    context: &Context,
    command: IdentityProviderCommand,
) -> Result<Exit> {
    providers::run(context, command).await
}

/// Does something with mounts.
pub(crate) async fn remote_mount(context: &Context, command: RemoteMountCommand) -> Result<Exit> {
    mounts::run(context, command).await
}

/// Does something with recovery plans.
pub(crate) async fn plan(context: &Context, command: PlanCommand) -> Result<Exit> {
    plans::run(context, command).await
}

/// Does something with restore tests.
pub(crate) async fn restore_test(context: &Context, command: RestoreTestCommand) -> Result<Exit> {
    restore_tests::run(context, command).await
}

/// All parts of a list.
async fn all(client: &Client, path: &str) -> Result<Vec<Value>> {
    let (mut items, mut after) = (Vec::new(), String::new());
    loop {
        let sign = if path.contains('?') { '&' } else { '?' };
        let from = match after.is_empty() {
            true => String::new(),
            false => format!("&after={}", filter::encoded(&after)),
        };
        let part: Value = client.get(&format!("{path}{sign}limit=1000{from}")).await?;
        items.extend(part["items"].as_array().cloned().unwrap_or_default());
        for one in part["unreadable"].as_array().into_iter().flatten() {
            let name = if one["name"].is_string() { word(one, "name") } else { word(one, "id") };
            output::warn(format_args!("{name} is not told: {}", word(one, "why")));
        }
        match part["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => return Ok(items),
        }
    }
}

/// What is told at a path, once it is settled.
async fn until(client: &Client, path: &str, settled: impl Fn(&Value) -> bool) -> Result<Value> {
    loop {
        let told: Value = client.get(path).await?;
        if settled(&told) {
            return Ok(told);
        }
        tokio::time::sleep(LOOK).await;
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

/// A moment as people read it; nothing when there is none.
fn moment(context: &Context, ms: &Value) -> String {
    ms.as_u64().map(|ms| output::local(ms, &context.zone)).unwrap_or_default()
}

fn word(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}
