//! Managing nodes.

use anyhow::Result;
use http::Method;
use serde_json::{Map, Value, json};
use sluice_node_api::Client;

use super::records::Records;
use super::{all, word};
use crate::context::Context;
use crate::error::{Exit, advise};
use crate::output::{self, note};

/// The node of that name or id.
pub(super) async fn one(client: &Client, name: &str) -> Result<Value> {
    let nodes = all(client, "/api/v1/nodes").await?;
    let found = nodes.into_iter().find(|node| node["name"] == name || node["id"] == name);
    let missing = || {
        let text = format!("there is no node {name}");
        advise("not-found", text, "sluice node list shows all")
    };
    found.ok_or_else(missing)
}

/// Shows a node: for people, with what works there as a table.
pub(super) async fn show(context: &Context, name: &str) -> Result<Exit> {
    let node = one(&super::profile::client()?, name).await?;
    if context.global.json {
        output::json(&node)?;
        return Ok(Exit::Done);
    }
    let told = &node["capabilities"];
    let seen = super::moment(context, &node["last_seen_ms"]);
    let mut lines = vec![
        ("name", word(&node, "name")),
        ("id", word(&node, "id")),
        ("state", state(&node)),
        ("host", word(told, "host")),
        ("version", format!("{}, contract {}", word(told, "version"), told["contract"])),
        ("running", format!("{} of {} tasks", node["running"], told["slots"])),
        ("heard of", seen),
        ("certificate ends", super::moment(context, &node["certificate_expires_ms"])),
    ];
    let installed = &told["installed"];
    if installed.is_object() {
        let text = match installed["problem"].as_str().filter(|problem| !problem.is_empty()) {
            Some(problem) => problem.to_owned(),
            None => format!("{}, contract {}", word(installed, "version"), installed["contract"]),
        };
        lines.push(("installed", text));
    }
    let why = word(&node["upgrade"], "message");
    if !why.is_empty() {
        lines.push(("upgrade", why));
    }
    for (what, text) in lines.iter().filter(|(_, text)| !text.is_empty()) {
        output::print(&format!("{what:<17} {text}\n"))?;
    }
    let abilities = told["abilities"].as_array().cloned().unwrap_or_default();
    if abilities.is_empty() {
        return Ok(Exit::Done);
    }
    output::print("\n")?;
    super::survey::show_abilities(context, &abilities)
}

/// Tells which nodes may back up an instance, and why.
pub(super) async fn for_instance(context: &Context, name: &str) -> Result<Exit> {
    let client = super::profile::client()?;
    let instances = Records::load(&client, "instances").await?;
    let id = word(instances.one(name)?, "id");
    let told: Value = client.get(&format!("/api/v1/instances/{id}/nodes")).await?;
    let items = told["items"].as_array().cloned().unwrap_or_default();
    let row = |one: &Value| {
        let may = if one["may"] == true { "yes" } else { "no" };
        vec![word(one, "name"), may.to_owned(), word(one, "because")]
    };
    super::show_list(context, &["NODE", "MAY", "BECAUSE"], &items, row)
}

/// A node's state in a word: what becomes of an upgrade goes before what was said of it.
pub(super) fn state(node: &Value) -> String {
    match node["upgrade"]["state"].as_str() {
        Some(upgrade) => format!("{}, upgrade {upgrade}", word(node, "state")),
        None => word(node, "state"),
    }
}

/// A token with which a node comes back.
pub(super) async fn token_for(client: &Client, name: &str) -> Result<Value> {
    let id = word(&one(client, name).await?, "id");
    Ok(client.post(&format!("/api/v1/node-tokens?node={id}"), &()).await?)
}

/// How often a change is tried that somebody else comes before: a node that starts does.
const TRIES: u32 = 5;

/// Changes some of what is said of a node; the rest stays.
pub(super) async fn change(client: &Client, name: &str, to: &[(&str, Value)]) -> Result<()> {
    let mut tries = 0;
    loop {
        let node = one(client, name).await?;
        let fields = ["description", "state", "destinations", "slots", "slots_by_kind", "config"];
        let mut body: Map<String, Value> =
            fields.iter().map(|&field| (field.to_owned(), node[field].clone())).collect();
        body.extend(to.iter().map(|(field, value)| ((*field).to_owned(), value.clone())));
        let path = format!("/api/v1/nodes/{}", word(&node, "id"));
        let tag = format!("\"{}\"", node["revision"]);
        let body = Value::Object(body);
        tries += 1;
        match client.send(Method::PUT, &path, Some(&body), &[("if-match", &tag)]).await {
            Ok(_) => return Ok(()),
            Err(error) if error.code() == "stale" && tries < TRIES => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Enables, drains or disables a node.
pub(super) async fn set_state(context: &Context, name: &str, state: &str) -> Result<Exit> {
    change(&super::profile::client()?, name, &[("state", state.into())]).await?;
    told(context, name, state)
}

/// Removes a node.
pub(super) async fn remove(context: &Context, name: &str) -> Result<Exit> {
    let client = super::profile::client()?;
    let id = word(&one(&client, name).await?, "id");
    client.send(Method::DELETE, &format!("/api/v1/nodes/{id}"), None, &[]).await?;
    told(context, name, "removed")
}

fn told(context: &Context, name: &str, change: &str) -> Result<Exit> {
    if context.global.json {
        output::json(&json!({"name": name, "change": change}))?;
    } else if !context.global.quiet {
        note(format_args!("{name}: {change}"));
    }
    Ok(Exit::Done)
}
