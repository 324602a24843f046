//! Nodes that start again with what was installed there.

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use super::records::Records;
use super::{all, node_configs, nodes, profile, until, word};
use crate::args::NodeUpgradeArgs;
use crate::context::Context;
use crate::error::{Exit, advise};
use crate::output::{self, note};

/// Asks for it, or takes it back.
pub(super) async fn run(context: &Context, args: NodeUpgradeArgs) -> Result<Exit> {
    let client = profile::client()?;
    let wanted = chosen(&client, &args).await?;
    let method = if args.cancel { Method::DELETE } else { Method::POST };
    let mut told = Vec::new();
    for node in &wanted {
        let path = format!("/api/v1/nodes/{}/upgrade", word(node, "id"));
        let answer = client.send(method.clone(), &path, None, &[]).await?;
        told.push(answer.body);
    }
    if args.wait {
        told = back(&client, &wanted).await?;
    }
    let mut exit = Exit::Done;
    for node in &told {
        let (name, upgrade) = (word(node, "name"), &node["upgrade"]);
        if args.wait && upgrade.is_object() {
            exit = Exit::Failed;
        }
        if !context.global.json && !context.global.quiet {
            let version = word(&node["capabilities"], "version");
            let state = match upgrade["state"].as_str() {
                Some(state) => format!("upgrade {state}: {}", word(upgrade, "message")),
                None if args.wait => format!("upgraded, {version}"),
                None => "no upgrade".to_owned(),
            };
            note(format_args!("{name}: {state}"));
        }
    }
    if context.global.json {
        output::json(&json!({ "items": told }))?;
    }
    Ok(exit)
}

/// The nodes that are meant.
async fn chosen(client: &Client, args: &NodeUpgradeArgs) -> Result<Vec<Value>> {
    if !args.names.is_empty() {
        let mut named = Vec::new();
        for name in &args.names {
            named.push(nodes::one(client, name).await?);
        }
        return Ok(named);
    }
    let config = match &args.config {
        Some(name) => {
            Some(Records::load(client, node_configs::KIND).await?.one(name)?["id"].clone())
        }
        None => None,
    };
    let mut found = all(client, "/api/v1/nodes").await?;
    found.retain(|node| config.as_ref().is_none_or(|config| node["config"] == *config));
    found.retain(|node| match args.cancel {
        true => node["upgrade"].is_object(),
        false => node["capabilities"]["installed"].is_object(),
    });
    if found.is_empty() && args.cancel {
        let text = "no node is being upgraded";
        return Err(advise("not-found", text, "sluice node list shows how far upgrades are"));
    }
    if found.is_empty() {
        let text = "on no node something else is installed than runs";
        return Err(advise("not-found", text, "install the package there; see sluice node show"));
    }
    Ok(found)
}

/// The nodes, once they are back or it is known that they are not.
async fn back(client: &Client, wanted: &[Value]) -> Result<Vec<Value>> {
    let mut done = Vec::new();
    for node in wanted {
        let path = format!("/api/v1/nodes/{}", word(node, "id"));
        let settled =
            |now: &Value| matches!(now["upgrade"]["state"].as_str(), None | Some("failed"));
        done.push(until(client, &path, settled).await?);
    }
    Ok(done)
}
