//! Managing nodes.

use anyhow::Result;
use http::Method;
use serde_json::{Map, Value, json};
use sluice_node_api::Client;

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
