//! Managing nodes.

use anyhow::Result;
use serde_json::Value;
use sluice_node_api::Client;

use super::{all, word};
use crate::error::advise;

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
